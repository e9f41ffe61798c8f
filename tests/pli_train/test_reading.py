"""Broken and hostile files: reading gives content or one named error, and nothing else happens on the way.

An audit hook watches what Python itself is asked to do meanwhile: open a path outside the run's folder, import,
unpickle, execute. What libraries load lazily is loaded before it looks.
"""

import copy
import json
import os
import random
import resource
import shutil
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from pli_analysis.run import Run
from pli_train import anatomy, checkpoint, run_folder, stored, trainer
from pli_train import config as configs
from pli_train.anatomy import TABLES, families
from pli_train.errors import BadInput, PliError
from pli_train.lineage import BadLineage
from pli_train.model import AUTO_CLASS
from pli_train.verify import verify
from tests.pli_train.test_trainer import content, vouch

NAMED = (PliError, BadLineage)
RUNS_CODE = {"import", "pickle.find_class", "exec", "compile", "os.system", "subprocess.Popen", "socket.connect"}
SECONDS, MEMORY = 2.0, 2**30


class Watch:
    """What the interpreter was asked to do while it looked."""

    def __init__(self):
        self.root, self.seen = None, []
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        if self.root is None:
            return
        if event in ("open", "os.scandir", "os.listdir") and isinstance(args[0], str | os.PathLike):
            path = os.path.realpath(args[0])
            if not path.startswith((self.root, str(TABLES))):
                self.seen.append((event, path))
        elif event in (
            "import",
            "pickle.find_class",
            "exec",
            "compile",
            "os.system",
            "subprocess.Popen",
            "socket.connect",
        ):
            self.seen.append((event, str(args[0])[:200]))

    def during(self, root, work):
        self.root, self.seen = os.path.realpath(root), []
        try:
            return work()
        finally:
            self.root = None


@pytest.fixture(scope="session")
def watch():
    return Watch()


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    """A small part of a finished run: two steps, one event."""
    run = tmp_path_factory.mktemp("reading") / "run"
    shutil.copytree(runs["gpt2"], run)
    for name, path in run_folder.checkpoints(run):
        if name.step not in (0, 3):
            shutil.rmtree(path)
    for name in families():  # what a config that names another family would load
        stored.declared(name)
        with torch.device("meta"):
            kind = getattr(transformers, AUTO_CLASS[anatomy.family(name).task])
            kind.from_config(transformers.AutoConfig.for_model(name))
    return run


def read_everything(run, at="checkpoint-3"):
    """All that reads a run's files; each gives content or a named error. Returns how many gave content."""
    readers = (
        lambda: Run.open(run).record,
        lambda: Run.open(run).parent,
        lambda: str(Run.open(run).lineage),
        lambda: Run.open(run).drift(),
        lambda: [c.tokens for c in Run.open(run, hashes=True).checkpoints],
        lambda: list(verify(run)),
        lambda: checkpoint.newest(run, lambda line: None),
        lambda: checkpoint.read(run / at),
        lambda: configs.of_run(run),
    )
    gave = 0
    for reader in readers:
        try:
            reader()
            gave += 1
        except NAMED as error:
            assert (str(error) and "\n" not in str(error)) or isinstance(error, BadInput), error
    return gave


HOSTILE = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "..", "../x", "/etc/passwd", "a\0b", "x" * 5000, "gpt2", "bert", "a", "b", "a.h0", "builtins.exec"),
    *([], {}, [[]], [None], [1, 2], ["a", "a"], {"": ""}, {"a": {}}, {"auto_map": {"AutoModel": "x.Y"}}),
)
KEYS = ("auto_map", "_attn_implementation", "quantization_config", "num_labels", "dtype", "to_dict", "__class__")
KEYS += ("trust_remote_code", "base_model_tp_plan", "../x", "n_layer", "vocab_size", "step", "stack", "heads")


def nodes(document):
    """Every (container, key) of a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from nodes(document[key])


def bent(document, chance):
    """A JSON document with one thing in it changed."""
    document = copy.deepcopy(document)
    places = list(nodes(document))
    if not places:
        return chance.choice(HOSTILE)
    box, key = chance.choice(places)
    what = chance.randrange(5)
    if what == 0:
        del box[key]
    elif what == 1 and isinstance(box, dict):
        box[chance.choice(KEYS)] = chance.choice(HOSTILE)
    elif what == 2:
        other, from_ = chance.choice(places)
        box[key] = (
            copy.deepcopy(other[from_]) if from_ in (other if isinstance(other, dict) else range(len(other))) else 0
        )
    elif what == 3 and isinstance(box[key], int | float):
        box[key] = box[key] * chance.choice((-1, 2, 10, 10**6, 10**12)) + chance.choice((-1, 0, 1))
    else:
        box[key] = chance.choice(HOSTILE)
    return document


def torn(data, chance):
    """Bytes with something torn, flipped or thrown in."""
    at, end = sorted((chance.randrange(len(data) + 1), min(len(data), chance.randrange(len(data) + 1))))
    what = chance.randrange(7)
    if what == 0:
        return data[:at]
    if what == 1:
        flipped = bytearray(data)
        for _ in range(chance.randrange(1, 9)):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if what == 2:
        return data[:at] + data[end:]
    if what == 3:
        return data[:at] + chance.randbytes(chance.randrange(1, 64)) + data[at:]
    if what == 4:
        return data[:at] + data[at:end][:4096] * 2 + data[end:]
    if what == 5:
        return chance.choice((b"[", b'{"a":', b'{"files":{"a":')) * chance.choice((10, 1000, 200_000))
    return chance.choice(
        (b"", b"null", b"[]", b"{}", b"\xff\xfe", b"\0" * 64, b"1e999999", b"9" * 10_000, b'"\\ud800"')
    )


def bent_header(data, chance):
    """A safetensors file with another header, or another length of it."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    what = chance.randrange(3)
    if what == 0:
        size = chance.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + data[8:]
    if what == 1:
        header = torn(header, chance)
    else:
        header = json.dumps(bent(json.loads(header), chance)).encode()
    return struct.pack("<Q", len(header)) + header + rest


def mutated(path, data, chance):
    if path.suffix == ".safetensors":
        return bent_header(data, chance) if chance.random() < 0.7 else torn(data, chance)
    return json.dumps(bent(json.loads(data), chance)).encode() if chance.random() < 0.7 else torn(data, chance)


AT = "checkpoint-3"
FILES = [
    *(run_folder.RUN, run_folder.LINEAGE),
    *(f"{AT}/{name}" for name in (run_folder.MANIFEST, run_folder.LINEAGE, run_folder.CONFIG, stored.GENERATION)),
    *(f"{AT}/{name}" for name in (run_folder.TRAINER_STATE, run_folder.WEIGHTS, run_folder.OPTIMIZER)),
]


def attack(run, file, cases, seed, watch, read=read_everything):
    """Read a run with one of its files changed, again and again; returns how often it still gave all content."""
    path, chance = run / file, random.Random(f"{file} {seed}")
    good, manifest = path.read_bytes(), (run / AT / run_folder.MANIFEST).read_bytes()
    before, whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0
    everything = read(run)
    for number in range(cases):
        bad = mutated(path, good, chance)
        path.write_bytes(bad)
        believed = path.parent.name == AT and path.name != run_folder.MANIFEST and chance.random() < 0.8
        if believed:
            vouch(path)
        began = time.process_time()  # work, and not waiting for a busy machine
        try:
            gave = watch.during(run, lambda: read(run))
        except Exception as error:
            raise AssertionError(f"{file}, case {number} of seed {seed}: {error!r}: {bad[:2000]!r}") from error
        finally:
            path.write_bytes(good)
            (run / AT / run_folder.MANIFEST).write_bytes(manifest)
        assert not watch.seen, (number, watch.seen[:3], bad[:2000])
        assert time.process_time() - began < SECONDS, (number, bad[:2000])
        whole += gave == everything
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
    return whole


@pytest.mark.parametrize("file", FILES)
def test_a_broken_file_is_a_named_error_and_nothing_else_happens(run, file, watch):
    attack(run, file, 40, "warm", watch=_Blind())
    attack(run, file, 250, 0, watch)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_broken_files_at_length(run, file, watch):
    """A thousand changes of each file; PLI_FUZZ asks for another number."""
    attack(run, file, 300, "warm", watch=_Blind())
    attack(run, file, int(os.environ.get("PLI_FUZZ", "1000")), 1, watch)


class _Blind:
    seen = ()

    def during(self, root, work):
        return work()


@pytest.mark.parametrize("file", [*FILES[2:7], FILES[8]])
def test_resuming_from_a_broken_file_is_a_named_error_or_goes_on(config_of, run, file, watch):
    """One update is done where the trainer takes the state."""

    def resumed(folder):
        try:
            made = trainer.resume(config_of("gpt2"), folder)
            made._grow = lambda: None
            made._update()
        except NAMED:
            return 0
        return 1

    attack(run, file, 25, "resume", _Blind(), resumed)


def test_the_watch_sees_what_it_is_there_for(run, watch, tmp_path):
    """The negative control: a path outside, an import and a pickle do not escape it."""
    import pickle

    (tmp_path / "outside").write_bytes(pickle.dumps(Path("/")))

    def sins():
        import this_module_is_not_there  # noqa: F401

    watch.during(run, lambda: pickle.loads((tmp_path / "outside").read_bytes()))
    assert {event for event, _ in watch.seen} == {"open", "pickle.find_class"}
    with pytest.raises(ModuleNotFoundError):
        watch.during(run, sins)
    assert ("import", "this_module_is_not_there") in watch.seen


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("file", TOKENIZER)
def test_a_broken_tokenizer_is_a_named_error(run, file, watch):
    """`auto_map` and classes by name among the changes: no code is looked for."""
    from pli_train.corpus.tokens import _pretrained

    def loaded(folder):
        try:
            _pretrained(str(folder / run_folder.TOKENIZER))
        except PliError:
            return 0
        return 1

    attack(run, f"{run_folder.TOKENIZER}/{file}", 40, "warm", _Blind(), loaded)
    attack(run, f"{run_folder.TOKENIZER}/{file}", 60, 0, watch, loaded)


# --- names that lead out of the folder ------------------------------------------------------------------------------


@pytest.fixture
def mine(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize("file", FILES)
def test_a_link_out_of_the_folder_is_not_followed(mine, file, tmp_path):
    outside = tmp_path / "outside"
    (mine / file).rename(outside)
    (mine / file).symlink_to(outside)
    if file == run_folder.RUN:
        with pytest.raises(BadInput, match="is a link"):
            _ = Run.open(mine).record
        return
    if file == run_folder.LINEAGE:
        with pytest.raises(BadInput, match="is a link"):
            _ = Run.open(mine).lineage
        return
    assert AT not in [str(c.name) for c in Run.open(mine).checkpoints]
    with pytest.raises(BadInput, match=r"is a link|has no readable manifest"):
        checkpoint.read(mine / AT)
    # Nor when no manifest speaks of it.
    told = run_folder.read_json(mine / AT / run_folder.MANIFEST) if file != f"{AT}/{run_folder.MANIFEST}" else None
    if told:
        del told["files"][Path(file).name]
        (mine / AT / run_folder.MANIFEST).write_text(json.dumps(told))
        if Path(file).name == run_folder.OPTIMIZER:  # a checkpoint for analysis only, as far as anybody said
            assert checkpoint.read(mine / AT).optimizer == {}
            return
        with pytest.raises(BadInput, match=r"is a link|or a link"):
            checkpoint.read(mine / AT)


def test_a_checkpoint_that_is_a_link_is_passed_over(mine, tmp_path):
    (mine / AT).rename(tmp_path / "elsewhere")
    (mine / AT).symlink_to(tmp_path / "elsewhere")
    assert Run.open(mine).damaged == [f"{AT} is a link, which may lead out of the run"]


def test_a_pipe_in_place_of_a_file_is_not_waited_for(mine):
    for file in (run_folder.MANIFEST, run_folder.LINEAGE):
        (mine / AT / file).unlink()
        os.mkfifo(mine / AT / file)
        assert run_folder.flaw(mine / AT)


def sharded(folder):
    """Let a checkpoint have its weights in shards, as transformers writes big ones."""
    found = checkpoint.read(folder)
    (folder / run_folder.WEIGHTS).unlink()
    found.model.save_pretrained(folder, max_shard_size="40KB")
    manifest = {"files": {}}
    (folder / run_folder.MANIFEST).write_text(json.dumps(manifest))
    for path in sorted(folder.iterdir()):
        if path.name != run_folder.MANIFEST:
            vouch(path)
    return found


def test_shards_are_read_like_one_file(mine):
    plain = {name: load_file(mine / AT / run_folder.WEIGHTS)[name] for name in Run.open(mine).checkpoints[-1].files}
    drift, found = Run.open(mine).drift(), sharded(mine / AT)
    assert len(list((mine / AT).glob("model-*.safetensors"))) > 1
    opened = Run.open(mine)
    assert opened.drift().equals(drift)
    last = opened.checkpoints[-1]
    for name, tensor in plain.items():
        assert np.array_equal(last.tensor_slice(name, slice(1, 3)), tensor[1:3].numpy())
    with pytest.raises(BadInput, match="has no tensor 'x'"):
        last.tensor_slice("x", slice(None))
    again = checkpoint.read(mine / AT).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in found.model.state_dict().items())


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", "", "a/b", "a\0b", None, 3, ["x"]])
def test_an_index_that_leads_out_is_refused(mine, name):
    sharded(mine / AT)
    index = mine / AT / run_folder.WEIGHTS_INDEX
    document = json.loads(index.read_text())
    document["weight_map"]["transformer.wte.weight"] = name
    index.write_text(json.dumps(document))
    vouch(index)
    for reader in (lambda: checkpoint.read(mine / AT), lambda: Run.open(mine).drift()):
        with pytest.raises(BadInput, match="which is no file of this folder"):
            reader()


def test_a_broken_index_is_a_named_error_too(mine, watch):
    sharded(mine / AT)
    attack(mine, f"{AT}/{run_folder.WEIGHTS_INDEX}", 20, "warm", _Blind())
    attack(mine, f"{AT}/{run_folder.WEIGHTS_INDEX}", 100, 0, watch)


# --- configs --------------------------------------------------------------------------------------------------------

SURPRISES = {
    "auto_map": ({"AutoModelForCausalLM": "evil.Model"}, "'auto_map' is not a key of a gpt2's config"),
    "_attn_implementation": ("kernels-community/x", "'_attn_implementation' is not a key of a gpt2's config"),
    "quantization_config": ({"quant_method": "bitsandbytes"}, "'quantization_config' is not a key of a gpt2's config"),
    "num_labels": (10**9, "'num_labels' is not a key of a gpt2's config"),
    "to_dict": ("x", "'to_dict' is not a key of a gpt2's config"),
    "dtype": ("complex64", "dtype: 'complex64' is none of float32, bfloat16, float16"),
    "model_type": ("evil", "model type 'evil' has no anatomy here"),
    "n_layer": (10**7, "its config says 10000000 layers and its weights have 2"),
    "vocab_size": (10**9, "has shape (300, 32) and its config says (1000000000, 32)"),
    "n_positions": (10**6, "has shape (32, 32) and its config says (1000000, 32)"),
    "activation_function": ("os.system", "make no model"),
}


@pytest.mark.parametrize("key", SURPRISES)
def test_a_config_that_would_choose_code_or_ask_for_too_much_is_one_line(mine, key):
    value, told = SURPRISES[key]
    path = mine / AT / run_folder.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    vouch(path)
    with pytest.raises(BadInput) as caught:
        checkpoint.read(mine / AT)
    assert told in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_missing_weight_is_not_made_up(mine):
    from safetensors.torch import save_file

    path = mine / AT / run_folder.WEIGHTS
    tensors = load_file(path)
    del tensors["transformer.h.1.ln_1.bias"]
    save_file(tensors, path)
    vouch(path)
    with pytest.raises(BadInput, match=r"its weights lack transformer.h.1.ln_1.bias"):
        checkpoint.read(mine / AT)


def test_a_document_beyond_all_measure_is_not_read(mine, monkeypatch):
    path = mine / run_folder.LINEAGE
    path.write_bytes(b" " * (run_folder.LARGEST_TEXT + 1))
    with pytest.raises(BadInput, match="no more than 67108864 are read"):
        _ = Run.open(mine).lineage
    path.write_text("[" + "[]," * (run_folder.MOST_BRACKETS + 1) + "[]]")
    with pytest.raises(BadInput, match="has more than 4000000 lists and tables"):
        _ = Run.open(mine).lineage


def test_keys_of_a_model_from_elsewhere_do_not_make_its_runs_unreadable(config_of, runs, tmp_path):
    """What a folder's config says beyond its family's keys is left behind at the start, not found out on resume."""
    source = Path(shutil.copytree(runs["gpt2"] / "checkpoint-12", tmp_path / "source"))
    (source / run_folder.LINEAGE).unlink()
    config = json.loads((source / run_folder.CONFIG).read_text())
    extra = {"my_note": 1, "task_specific_params": {"text-generation": {"do_sample": True}}, "n_ctx": 32}
    (source / run_folder.CONFIG).write_text(json.dumps(config | extra))
    model = {"name_or_path": str(source), "weights": "pretrained"}
    tokenizer = {"name_or_path": str(runs["gpt2"] / run_folder.TOKENIZER)}
    overrides = {"model": model, "tokenizer": tokenizer, "growth.schedule": "", "train.steps": 4}
    child = tmp_path / "child"
    trainer.begin(config_of("gpt2", overrides), child).run()
    whole = content(child)
    for name in ("checkpoint-4", "checkpoint-2"):
        shutil.rmtree(child / name)
    trainer.resume(configs.of_run(child), child).run()
    assert content(child) == whole


# --- every step -----------------------------------------------------------------------------------------------------


def test_a_run_resumes_from_every_step_to_the_same_bytes(config_of, tmp_path):
    config = config_of("gpt2", {"checkpoint.every": 1})
    whole = tmp_path / "whole"
    trainer.begin(config, whole).run()
    expected = content(whole)
    names = [name for name, _ in run_folder.checkpoints(whole)]
    assert len(names) == 13 + 3
    for last in names[:-1]:
        run = tmp_path / str(last)
        shutil.copytree(whole, run)
        for name, path in run_folder.checkpoints(run):
            if name > last:
                shutil.rmtree(path)
        trainer.resume(config, run).run()
        assert content(run) == expected, last
