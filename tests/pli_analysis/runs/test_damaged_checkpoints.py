"""One damaged checkpoint among whole ones, and files that are odd but readable."""

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests.odd import STEPS, UP, expected_drift, measured_drift

# --- one bad checkpoint among good ones -----------------------------------------------------------------------------


def written(name, data):
    return lambda at: (at / name).write_bytes(data)


def cut(at):
    path = at / run_folder.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def longer(at):
    with (at / run_folder.WEIGHTS).open("ab") as file:
        file.write(bytes(16))


def with_header(change):
    """The weights under another header."""

    def damage(at):
        data = (at / run_folder.WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
        (at / run_folder.WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])

    return damage


def without_type(header):
    """As a writer leaves an entry for a tied tensor that it was told of and did not get."""
    return header | {"lm_head.weight": header["lm_head.weight"] | {"dtype": ""}}


def sharded(at):
    AutoModelForCausalLM.from_pretrained(at).save_pretrained(at, max_shard_size="40KB")
    (at / run_folder.WEIGHTS).unlink()
    return json.loads((at / run_folder.WEIGHTS_INDEX).read_text())


def misled(at):
    index = sharded(at)
    wrong = next(shard for shard in index["weight_map"].values() if shard != index["weight_map"][UP])
    index["weight_map"][UP] = wrong
    (at / run_folder.WEIGHTS_INDEX).write_text(json.dumps(index))


def emptied(at):
    """As where a save wrote a file without tensors beside its shards; transformers reads that file."""
    sharded(at)
    save_file({}, at / run_folder.WEIGHTS)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
DAMAGES = {
    "model.safetensors: is truncated (": cut,
    "16 bytes more than its header states": longer,
    "model.safetensors: is empty": written(run_folder.WEIGHTS, b""),
    "get the file with `git lfs pull`": written(run_folder.WEIGHTS, LFS),
    "header too large": written(run_folder.WEIGHTS, struct.pack("<Q", 132_095_296) + b"{}" * 99),
    "unknown variant": with_header(without_type),
    "config.json: not readable as JSON": written(run_folder.CONFIG, b"{"),
    "config.json: holds a list": written(run_folder.CONFIG, b"[]"),
    "gives num_attention_heads = None": written(run_folder.CONFIG, b'{"model_type": "llama"}'),
    "lineage.json: ": written(run_folder.LINEAGE, b"{"),
    "is missing, although model.safetensors.index.json lists it": misled,
    "model.safetensors holds no tensors; delete it": emptied,
}


@pytest.mark.parametrize("message", DAMAGES)
def test_one_bad_checkpoint_is_passed_over_by_name_and_the_others_are_read(message, plain, tmp_path):
    folder = shutil.copytree(plain["llama"], tmp_path / "out")
    DAMAGES[message](folder / "checkpoint-2")
    run = open_run(folder)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1, 3]
    assert len(run.damaged) == 1 and run.damaged[0].startswith("checkpoint-2: ") and message in run.damaged[0]
    assert str(folder) not in run.damaged[0] and "\n" not in run.damaged[0]
    np.testing.assert_allclose(measured_drift(run), expected_drift(plain["llama"], "llama")[::2], rtol=1e-6)
    for step in (1, 3):
        DAMAGES[message](folder / f"checkpoint-{step}")
    with pytest.raises(BadInput) as error:
        api.drift(open_run(folder))
    assert all(f"checkpoint-{step}" in str(error.value) for step in STEPS) and message in str(error.value)


@pytest.mark.parametrize("name", [run_folder.CONFIG, run_folder.LINEAGE, run_folder.TRAINER_STATE])
def test_a_checkpoint_of_ours_that_cannot_be_read_is_passed_over_too(name, runs, tmp_path):
    folder = shutil.copytree(runs["gpt2"], tmp_path / "run")
    at = open_run(folder).checkpoints[-2]
    data = (at.path / name).read_bytes()
    (at.path / name).write_bytes(b"[" * len(data))  # as long as its manifest says
    run = open_run(folder)
    assert [line.split(":")[0] for line in run.damaged] == [at.path.name] and name in run.damaged[0]
    whole = api.drift(open_run(runs["gpt2"]))
    rest = whole[whole["checkpoint"] != str(at.name)]
    columns = ["part", "checkpoint", "relative_l2", "cosine_distance"]
    assert api.drift(run)[columns].equals(rest[columns].reset_index(drop=True))


def test_weights_of_ours_under_names_of_no_layer_are_passed_over(runs, tmp_path):
    folder = shutil.copytree(runs["gpt2"], tmp_path / "run")
    at = open_run(folder).checkpoints[-1].path
    data = (at / run_folder.WEIGHTS).read_bytes()
    (at / run_folder.WEIGHTS).write_bytes(data.replace(b"transformer.h.", b"transformer.k."))
    run = open_run(folder)
    assert run.damaged == [
        f"{at.name}: weights contain no tensor of layer {run.lineage.stack[0]}, which lineage.json lists"
    ]


# --- headers and shards that are odd and good -----------------------------------------------------------------------


def padded(at):
    """A header of exactly 100,000 bytes, filled up with blanks."""
    data = (at / run_folder.WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].ljust(100_000)
    (at / run_folder.WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def without_metadata(at):
    save_file(load_file(at / run_folder.WEIGHTS), at / run_folder.WEIGHTS)


def in_another_order(at):
    """Entries of the header in another order than the numbers lie in."""
    with_header(lambda header: dict(reversed(header.items())))(at)


def beside_a_stale_index(at):
    """As when a model in one file is saved where one in shards was: transformers reads the file."""
    data = (at / run_folder.WEIGHTS).read_bytes()
    for shard in set(sharded(at)["weight_map"].values()):
        (at / shard).write_bytes(b"")
    (at / run_folder.WEIGHTS).write_bytes(data)


@pytest.mark.parametrize("change", [padded, without_metadata, in_another_order, beside_a_stale_index, sharded])
def test_odd_files_that_transformers_reads_are_read(change, plain, tmp_path):
    folder = shutil.copytree(plain["llama"], tmp_path / "out")
    change(folder / "checkpoint-2")
    run = open_run(folder)
    assert run.damaged == []
    np.testing.assert_allclose(measured_drift(run), expected_drift(folder, "llama"), rtol=1e-6)
