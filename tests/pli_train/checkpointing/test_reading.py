"""What reading refuses by name: links and paths that lead out, configs that choose code, files that do not fit.

Random changes of the same files are in `tests/fuzz`.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_train.checkpointing import checkpoint
from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.run_files import AT, FILES, content, sharded, vouch

# --- names that lead out of the folder ------------------------------------------------------------------------------


@pytest.fixture
def mine(small_run, tmp_path):
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.mark.parametrize("file", FILES)
def test_a_link_out_of_the_folder_is_not_followed(mine, file, tmp_path):
    outside = tmp_path / "outside"
    (mine / file).rename(outside)
    (mine / file).symlink_to(outside)
    if file == run_folder.RUN:
        with pytest.raises(BadInput, match="is a link"):
            _ = open_run(mine).record
        return
    if file == run_folder.LINEAGE:
        with pytest.raises(BadInput, match="is a link"):
            _ = open_run(mine).lineage
        return
    assert AT not in [str(c.name) for c in open_run(mine).checkpoints]
    with pytest.raises(BadInput, match=r"is a link|has no readable manifest"):
        checkpoint.read(mine / AT)
    # Nor when no manifest speaks of it.
    message = run_folder.read_json(mine / AT / run_folder.MANIFEST) if file != f"{AT}/{run_folder.MANIFEST}" else None
    if message:
        del message["files"][Path(file).name]
        (mine / AT / run_folder.MANIFEST).write_text(json.dumps(message))
        if Path(file).name == run_folder.OPTIMIZER:  # a checkpoint for analysis only, as far as anybody said
            assert checkpoint.read(mine / AT).optimizer == {}
            return
        with pytest.raises(BadInput, match=r"is a link|or a link"):
            checkpoint.read(mine / AT)


def test_a_checkpoint_that_is_a_link_is_passed_over(mine, tmp_path):
    (mine / AT).rename(tmp_path / "elsewhere")
    (mine / AT).symlink_to(tmp_path / "elsewhere")
    assert open_run(mine).damaged == [f"{AT}: is a link, which may lead out of the run"]


def test_a_pipe_in_place_of_a_file_is_not_waited_for(mine):
    for file in (run_folder.MANIFEST, run_folder.LINEAGE):
        (mine / AT / file).unlink()
        os.mkfifo(mine / AT / file)
        assert run_folder.flaw(mine / AT)


def test_shards_are_read_like_one_file(mine):
    plain = {name: load_file(mine / AT / run_folder.WEIGHTS)[name] for name in open_run(mine).checkpoints[-1].files}
    drift, found = api.drift(open_run(mine)), sharded(mine / AT)
    assert len(list((mine / AT).glob("model-*.safetensors"))) > 1
    opened = open_run(mine)
    assert api.drift(opened).equals(drift)
    last = opened.checkpoints[-1]
    for name, tensor in plain.items():
        assert np.array_equal(last.tensor_slice(name, slice(1, 3)), tensor[1:3].numpy())
    with pytest.raises(BadInput, match="tensor 'x' is missing"):
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
    with pytest.raises(BadInput, match="which is not a file of this folder"):
        checkpoint.read(mine / AT)
    run = open_run(mine)
    assert AT not in [str(one.name) for one in run.checkpoints]
    assert "which is not a file of this folder" in run.damaged[0] and "\n" not in run.damaged[0]


# --- configs --------------------------------------------------------------------------------------------------------

SURPRISES = {
    "auto_map": ({"AutoModelForCausalLM": "evil.Model"}, "'auto_map' is not a key of a gpt2's config"),
    "_attn_implementation": ("kernels-community/x", "'_attn_implementation' is not a key of a gpt2's config"),
    "quantization_config": ({"quant_method": "bitsandbytes"}, "'quantization_config' is not a key of a gpt2's config"),
    "num_labels": (10**9, "'num_labels' is not a key of a gpt2's config"),
    "to_dict": ("x", "'to_dict' is not a key of a gpt2's config"),
    "dtype": ("complex64", "dtype: 'complex64' is not one of float32, bfloat16, float16"),
    "model_type": ("evil", "model type 'evil' has no anatomy table"),
    "n_layer": (10**7, "its config has 10000000 layers, but its weights have 2"),
    "vocab_size": (10**9, "has shape (300, 32), expected (1000000000, 32) from its config"),
    "n_positions": (10**6, "has shape (32, 32), expected (1000000, 32) from its config"),
    "activation_function": ("os.system", "do not make a model"),
}


@pytest.mark.parametrize("key", SURPRISES)
def test_a_config_that_would_choose_code_or_ask_for_too_much_is_one_line(mine, key):
    value, message = SURPRISES[key]
    path = mine / AT / run_folder.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    vouch(path)
    with pytest.raises(BadInput) as caught:
        checkpoint.read(mine / AT)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


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
    with pytest.raises(BadInput, match="more than the limit of 67108864"):
        _ = open_run(mine).lineage
    path.write_text("[" + "[]," * (run_folder.MOST_BRACKETS + 1) + "[]]")
    with pytest.raises(BadInput, match="has more than 4000000 lists and tables"):
        _ = open_run(mine).lineage


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
    launch.begin(config_of("gpt2", overrides), child).run()
    whole = content(child)
    for name in ("checkpoint-4", "checkpoint-2"):
        shutil.rmtree(child / name)
    launch.resume(configs.of_run(child), child).run()
    assert content(child) == whole


# --- every step -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_resumes_from_every_step_to_the_same_bytes(config_of, tmp_path):
    config = config_of("gpt2", {"checkpoint.every": 1})
    whole = tmp_path / "whole"
    launch.begin(config, whole).run()
    expected = content(whole)
    names = [name for name, _ in run_folder.checkpoints(whole)]
    assert len(names) == 13 + 3
    for last in names[:-1]:
        run = tmp_path / str(last)
        shutil.copytree(whole, run)
        for name, path in run_folder.checkpoints(run):
            if name > last:
                shutil.rmtree(path)
        launch.resume(config, run).run()
        assert content(run) == expected, last
