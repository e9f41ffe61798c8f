"""Broken and hostile checkpoint files: reading returns content or raises one named error, without side effects.

An audit hook records what Python does meanwhile. Lazy imports of libraries are done before.
"""

import functools
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import torch
import transformers

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_train.checkpointing import checkpoint
from pli_train.commands.verify import verify
from pli_train.config import loading as configs
from pli_train.core import anatomy, cache, tokenizer
from pli_train.core.anatomy import families
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import run_folder
from pli_train.models import safe_loading
from pli_train.models.build import AUTO_CLASS
from pli_train.training import launch
from pli_train.training.callback import Callback
from tests.fuzz.changes import mutated
from tests.fuzz.watch import MEMORY, SECONDS, Blind, Watch
from tests.interrupted import Killed
from tests.run_files import AT, FILES, sharded, vouch
from tests.thinned import thinned

INDEX = f"{AT}/{run_folder.WEIGHTS_INDEX}"
TOKENIZER = [f"{run_folder.TOKENIZER}/{name}" for name in ("tokenizer.json", "tokenizer_config.json")]


@pytest.fixture(scope="session")
def on_progress():
    return Watch()


@pytest.fixture(scope="module")
def run(small_run):
    """A run to read, in a process that has already imported the modules of all model families."""
    import einops._torch_specific  # noqa: F401
    import google_crc32c  # noqa: F401

    for name in families():
        safe_loading.declared(name)
        if (task := anatomy.family(name).task) in AUTO_CLASS:
            config = transformers.AutoConfig.for_model(name)
            config.architectures = config.architectures or []  # some classes need them
            with torch.device("meta"):
                getattr(transformers, AUTO_CLASS[task]).from_config(config)
    return small_run


@pytest.fixture(scope="module")
def run_in_shards(run, tmp_path_factory):
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("shards") / "run"))
    sharded(copy / AT)
    return copy


def read_everything(run):
    """All that reads a run's files; each gives content or a named error. Returns how many gave content."""
    opened = functools.cache(lambda: open_run(run))
    readers = (
        lambda: opened().record,
        lambda: opened().parent,
        lambda: str(opened().lineage),
        lambda: api.drift(opened()),
        lambda: [c.tokens for c in open_run(run, hashes=True).checkpoints],
        lambda: list(verify(run)),
        lambda: checkpoint.newest(run, lambda line: None),
        lambda: checkpoint.read(run / AT),
        lambda: configs.of_run(run),
    )
    gave = 0
    for reader in readers:
        try:
            reader()
            gave += 1
        except PliError as error:
            assert (str(error) and "\n" not in str(error)) or isinstance(error, BadInput), error
    return gave


def attack(run, file, cases, seed, on_progress, read=read_everything):
    """Change one of a run's files at random and read the run, `cases` times. Count the cases with all content."""
    path, chance = run / file, random.Random(f"{file} {cases} {seed}")
    good, manifest = path.read_bytes(), (run / AT / run_folder.MANIFEST).read_bytes()
    before, whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0
    everything = read(run)
    for number in range(cases):
        bad = mutated(path, good, chance)
        path.write_bytes(bad)
        believed = path.parent.name == AT and path.name != run_folder.MANIFEST and chance.random() < 0.8
        if believed:
            vouch(path)
        began = time.process_time()  # CPU time, which does not depend on other processes
        try:
            gave = on_progress.during(run, lambda: read(run))
        except Exception as error:
            raise AssertionError(f"{file}, case {number} of seed {seed}: {error!r}: {bad[:2000]!r}") from error
        finally:
            path.write_bytes(good)
            (run / AT / run_folder.MANIFEST).write_bytes(manifest)
        assert not on_progress.seen, (number, on_progress.seen[:3], bad[:2000])
        assert time.process_time() - began < SECONDS, (number, bad[:2000])
        whole += gave == everything
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
    return whole


def load_tokenizer(run):
    cache.root().mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        # The temporary copy must be in a folder that the audit hook allows.
        patch.setattr(tempfile, "tempdir", str(cache.root()))
        try:
            tokenizer.load(str(run / run_folder.TOKENIZER))
        except PliError:
            return 0
    return 1


@pytest.mark.parametrize("file", [*FILES, INDEX, *TOKENIZER])
def test_a_broken_file_is_a_named_error_without_side_effects(run, run_in_shards, file, on_progress, fuzz_cases):
    """The changes include `auto_map`, names of classes, and paths out of the folder."""
    folder = run_in_shards if file == INDEX else run
    read = load_tokenizer if file in TOKENIZER else read_everything
    attack(folder, file, 100 if fuzz_cases >= 1000 else 20, "warm", Blind(), read)
    attack(folder, file, fuzz_cases, 0, on_progress, read)


@pytest.mark.parametrize("file", thinned([*FILES[2:7], FILES[8]]))
def test_resuming_from_a_broken_file_is_a_named_error_or_goes_on(config_of, run, file, tmp_path):
    """One update is done where the trainer takes the state."""

    class DoneWithAnUpdate(Callback):
        def on_step_end(self, state):
            raise Killed

    def resumed(folder):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        try:
            launch.resume(config_of("gpt2"), copy, callbacks=[DoneWithAnUpdate()]).run()
        except PliError:
            return 0
        except Killed:
            return 1
        finally:
            shutil.rmtree(copy)

    attack(run, file, 25, "resume", Blind(), resumed)


def test_the_watch_sees_what_it_is_there_for(run, on_progress, tmp_path):
    """Negative control: the audit hook records a path outside, an import and a pickle."""
    import pickle

    (tmp_path / "outside").write_bytes(pickle.dumps(Path("/")))

    def sins():
        import this_module_is_not_there  # noqa: F401

    on_progress.during(run, lambda: pickle.loads((tmp_path / "outside").read_bytes()))
    assert {event for event, _ in on_progress.seen} == {"open", "pickle.find_class"}
    with pytest.raises(ModuleNotFoundError):
        on_progress.during(run, sins)
    assert ("import", "this_module_is_not_there") in on_progress.seen
