"""Shared fixtures: tiny models, a tiny corpus, and runs that train in seconds."""

import gc
import os
import shutil
import stat
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# Set before torch is imported, here and in the commands that tests start: these models are too small for several
# threads, and tests run in parallel.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("tests", deadline=None)  # a busy machine is no failure
settings.load_profile("tests")

# Helpers whose asserts say what they compared, as those of tests do.
HELPERS = (
    "commands",
    "foreign_logs",
    "interrupted",
    "run_files",
    "trainers",
    "watched",
    "crash.kills",
    "crash.studies",
    "pli_analysis.conftest",
)
pytest.register_assert_rewrite(*(f"tests.{name}" for name in HELPERS))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests of families that share the layout of another family as slow."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if ALIKE & {value for value in parameters.values() if isinstance(value, str)}:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
    """Exempt all that imports and collection made from garbage collection, which `Trainer` runs at each training."""
    gc.collect()
    gc.freeze()


FAMILIES = ("bert", "gpt2")
ALIKE = {"camembert", "roberta", "xlm-roberta", "mistral", "qwen2", "qwen3"}
"""Families whose layers are those of BERT or Llama, with other norms or sizes at most."""
MODELS = {
    "bert": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32},
    "gpt2": {"n_embd": 32, "n_head": 2, "n_positions": 32},
    "llama": {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    | {"max_position_embeddings": 32, "attention_dropout": 0.1},
}
STEPS = 12
SCHEDULE = "3@0 6@2 6@1 9@4"
UMAP = pytest.param("umap", marks=pytest.mark.slow)  # its first fit compiles for a minute


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Keep token caches of the tests separate from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLI_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_disks():
    """Do not wait until files are on the disk. Commands that tests start, to kill them for example, do wait."""
    fsync = os.fsync

    def written(handle):
        mode = os.fstat(handle).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            fsync(handle)  # refuses what cannot be synced

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", written)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Return a function that makes a folder once for all workers: `once("corpus", make)` → the folder."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def made(name, make):
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def corpus(once):
    """A folder of eight source files."""

    def make(folder):
        folder.mkdir()
        library = Path(sysconfig.get_path("stdlib"))
        for name in ("abc", "bisect", "contextlib", "copy", "heapq", "keyword", "queue", "textwrap"):
            shutil.copy(library / f"{name}.py", folder)

    return once("corpus", make)


@pytest.fixture(scope="session")
def config_of(corpus):
    """Return a function that makes the config of a tiny growing run: `config_of("bert", {"train.steps": 3})`."""
    from pli_train.config import loading

    def make(family="gpt2", overrides=None):
        table = {
            "name": family,
            "model": {"family": family, "config": MODELS[family], "initial_layers": 1},
            "tokenizer": {"vocab_size": 300},
            "data": {"source": str(corpus), "test_share": 0.2},
            "train": {"steps": STEPS, "block_size": 32, "batch_size": 4, "accumulation": 2, "log_every": 1}
            | {"eval_every": 4, "eval_blocks": 8, "eval_full": 100},
            "optim": {"lr": 1e-2, "warmup_ratio": 0.25},
            "growth": {"schedule": SCHEDULE, "initializer": "clone-noise", "noise": 0.1},
            "checkpoint": {"every": 2, "full_last": 99},
        }
        for key, value in (overrides or {}).items():
            section, _, name = key.rpartition(".")
            (table.setdefault(section, {}) if section else table)[name] = value
        return loading.check(table, "test")

    return make


@pytest.fixture(scope="session")
def runs(config_of, once):
    """One finished run of each family, grown from 1 to 5 layers: family → folder. Tests must not change them."""
    from pli_train.training import launch

    return {
        family: once(family, lambda folder: launch.begin(config_of(folder.name), folder).run()) for family in FAMILIES
    }


@pytest.fixture(scope="module")
def small_run(runs, tmp_path_factory):
    """A part of a finished run that is read quickly: two checkpoints with one event between them."""
    from pli_train.core.run_format import run_folder

    run = tmp_path_factory.mktemp("small") / "run"
    shutil.copytree(runs["gpt2"], run)
    for name, path in run_folder.checkpoints(run):
        if name.step not in (0, 3):
            shutil.rmtree(path)
    return run


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server that is up: `postgres.url()` → the URL of a new database."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'pli[postgres]'")
    from tests.postgres import Server, programs

    if programs() is None:
        pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=[5, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "long"])
def fuzz_cases(request):
    """Number of changes to try on a file: 5 by default, the first of those of the slow tests: PLI_FUZZ, or 1000."""
    return request.param or int(os.environ.get("PLI_FUZZ", "1000"))


@pytest.fixture(params=["gpt2", pytest.param("bert", marks=pytest.mark.slow)])
def family(request):
    """A model family: GPT-2, and with the slow tests BERT."""
    return request.param


@pytest.fixture
def run_folder_of(runs, family, tmp_path):
    """A copy of a finished run that a test may damage."""
    return Path(shutil.copytree(runs[family], tmp_path / family))
