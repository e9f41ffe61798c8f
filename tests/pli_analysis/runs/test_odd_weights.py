"""Weights that are not what they seem: other names, other types, codes, adapters, layers that lack something."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pli_analysis import api
from pli_analysis.inference import checkpoint_model
from pli_analysis.metrics.maps import embedding
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests import families
from tests.odd import STEPS, UP, changed, expected_drift, measured_drift, moved, renamed, saved

# --- names ----------------------------------------------------------------------------------------------------------


def in_layers(name):
    """As FSDP with activation checkpointing names layer 0, and torch.compile layer 1."""
    name = name.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.")
    return name.replace("layers.1.", "layers.1._orig_mod.")


NAMES = {
    ("llama", "module."): lambda name: f"module.{name}",
    ("llama", "_orig_mod."): lambda name: f"_orig_mod.{name}",
    ("llama", "base_model."): lambda name: f"base_model.model.{name}",
    ("llama", "_fsdp_wrapped_module."): in_layers,
    ("llama", "'model.' (a module that contains"): lambda name: f"model.{name}",
    ("llama", "'net.' (a module that contains"): lambda name: f"net.{name}",
    ("bert", "'model.' (a module that contains"): lambda name: f"model.{name}",
    ("bert", "'_orig_mod.' (torch.compile)"): lambda name: f"_orig_mod.module.{name}",
}


@pytest.mark.parametrize(("family", "message"), NAMES, ids=range(len(NAMES)))
def test_names_of_wrapped_models_are_read_as_plain_ones(family, message, plain, tmp_path):
    run = open_run(changed(plain[family], tmp_path / "out", renamed(NAMES[family, message])))
    np.testing.assert_allclose(measured_drift(run), expected_drift(plain[family], family), rtol=1e-6)
    assert any(message in note for note in run.notes)
    with torch.no_grad():
        theirs = families.logits(checkpoint_model.model_of(run.checkpoints[-1]))
        torch.testing.assert_close(
            theirs, families.logits(checkpoint_model.model_of(open_run(plain[family]).checkpoints[-1]))
        )


def test_wrapped_and_plain_checkpoints_are_of_one_run(plain, tmp_path):
    run = open_run(changed(plain["bert"], tmp_path / "out", renamed(lambda name: f"module.{name}"), only=(2,)))
    np.testing.assert_allclose(measured_drift(run), expected_drift(plain["bert"], "bert"), rtol=1e-6)
    assert any(note.endswith("removed from tensor names in checkpoint-2") for note in run.notes)


def test_names_of_early_releases_are_mapped_as_transformers_maps_them(plain, tmp_path):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def early(name):
        return next((name.replace(new, was) for new, was in old.items() if name.endswith(new)), name)

    folder = changed(plain["bert"], tmp_path / "out", renamed(early))
    run = open_run(folder)
    np.testing.assert_allclose(measured_drift(run), expected_drift(folder, "bert"), rtol=1e-6)
    assert "'LayerNorm.gamma' in tensor names read as 'LayerNorm.weight'" in run.notes
    assert {"norms"} <= set(api.drift(run, "norms")["part_type"]) and not api.drift(run, "norms")[
        "relative_l2"
    ].isna().any()


def test_an_old_name_beside_the_new_one_is_no_tensor_to_choose(plain, tmp_path):
    def both(tensors):
        name = "bert.encoder.layer.0.output.LayerNorm."
        return tensors | {f"{name}gamma": 2 * tensors[f"{name}weight"]}

    run = open_run(changed(plain["bert"], tmp_path / "out", both, only=(2,)))
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1, 3]
    assert "two names of the same tensor" in run.damaged[0]


# --- types ----------------------------------------------------------------------------------------------------------

TYPES = ("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float64")


@pytest.mark.parametrize("type", TYPES)
def test_weights_of_other_types_are_the_numbers_that_torch_reads(type, plain, tmp_path):
    def cast(tensors):
        return {
            name: tensor.to(getattr(torch, type)) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()
        }

    folder = changed(plain["llama"], tmp_path / "out", cast)
    states = [load_file(folder / f"checkpoint-{step}" / run_folder.WEIGHTS) for step in STEPS]
    by_hand = np.array([moved(states[0], state, "model.layers") for state in states])
    run = open_run(folder)
    np.testing.assert_allclose(measured_drift(run), by_hand, rtol=1e-6)
    spectra = api.drift(run, "matrix", spectral=True).set_index(["checkpoint", "part"])["relative_spectral_norm"]
    change = (states[2][UP].double() - states[0][UP].double(), states[0][UP].double())
    norms = [float(torch.linalg.matrix_norm(matrix, 2)) for matrix in change]
    assert spectra["checkpoint-3", "b.mlp.up_proj.weight"] == pytest.approx(norms[0] / norms[1], rel=1e-5)
    read = dict(run.checkpoints[1].tensors([UP]))[UP]
    assert (read.astype(np.float64) == states[1][UP].double().numpy()).all()


# --- no weights -----------------------------------------------------------------------------------------------------


def with_codes(*endings):
    """Projections replaced by what a quantized model has in their place."""

    def change(tensors):
        kept = {name: tensor for name, tensor in tensors.items() if "proj" not in name}
        for name, tensor in tensors.items():
            for ending in endings if "proj" in name else ():
                kept[name.replace("weight", ending)] = tensor[:4, :4].to(torch.int8)
        return kept

    return change


def adapted(tensors):
    wrapped = {
        f"base_model.model.{name.replace('q_proj', 'q_proj.base_layer')}": each for name, each in tensors.items()
    }
    return wrapped | {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 32)}


CODES = {
    "bitsandbytes, 8 bits": with_codes("weight", "SCB"),
    "bitsandbytes, 4 bits": with_codes("weight", "weight.absmax", "weight.quant_map"),
    "GPTQ or AWQ": with_codes("qweight", "qzeros", "scales"),
    "MXFP4": with_codes("weight_blocks", "weight_scales"),
    "fp8 with scales": with_codes("weight", "weight_scale_inv"),
    "(I8)": with_codes("weight"),
    "has an unmerged LoRA adapter in its weights; call PEFT's merge_and_unload()": adapted,
    "has type C64, which is not supported": lambda tensors: tensors | {UP: tensors[UP].to(torch.complex64)},
}


@pytest.mark.parametrize("message", CODES)
def test_what_are_no_weights_is_refused_by_name_with_a_way_out(message, plain, tmp_path):
    folder = changed(plain["llama"], tmp_path / "out", CODES[message])
    with pytest.raises(
        BadInput, match="holds no readable checkpoint; checkpoint-1, checkpoint-2, checkpoint-3: "
    ) as error:
        api.drift(open_run(folder))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert any(way in str(error.value) for way in ("dequantize", "merge", "not supported for weights"))


def test_a_config_that_names_the_method_is_believed_and_weights_beside_it_are_read(plain, tmp_path):
    said = {"quantization_config": {"quant_method": "awq"}}
    folder = changed(plain["llama"], tmp_path / "codes", with_codes("qweight", "scales"), **said)
    with pytest.raises(BadInput, match=r"is quantized \(awq\)"):
        api.drift(open_run(folder))
    whole = changed(plain["llama"], tmp_path / "weights", **said)
    np.testing.assert_allclose(measured_drift(open_run(whole)), expected_drift(plain["llama"], "llama"), rtol=1e-6)


FILES = {
    "pytorch_model.bin, a pickle, which can run code": ["pytorch_model.bin"],
    "pytorch_model-00001-of-00002.bin, a pickle": ["pytorch_model-00001-of-00002.bin", "optimizer.bin"],
    "TensorFlow or Flax": ["tf_model.h5"],
    "from_flax=True": ["flax_model.msgpack"],
    "gguf_file=": ["model.Q4_K_M.gguf"],
    "convert_…_weights_to_hf.py": ["original/consolidated.00.pth", "original/params.json"],
    "holds a PEFT adapter, not a full model": ["adapter_config.json", "adapter_model.safetensors"],
    "zero_to_fp32.py . OUT": ["latest", "zero_to_fp32.py", "global_step3/mp_rank_00_model_states.pt"],
    "holds a DeepSpeed state": ["mp_rank_00_model_states.pt"],
    "accelerate merge-weights": ["pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata"],
    "holds a Lightning checkpoint": ["epoch=0-step=10.ckpt"],
    "holds an accelerate state": ["pytorch_model.bin", "random_states_0.pkl", "scheduler.bin"],
    "has its weights in model.pt": ["model.pt", "optimizer.pt"],
    "model.safetensors is missing; if weights.safetensors holds the model's weights": [
        "weights.safetensors",
        "optimizer.safetensors",
    ],
    "model.safetensors is missing": ["optimizer.pt", "rng_state.pth", "training_args.bin"],
}


@pytest.mark.parametrize("message", FILES)
def test_other_formats_are_refused_by_name_and_never_opened(message, plain, tmp_path):
    folder = shutil.copytree(plain["llama"], tmp_path / "out")
    at = folder / "checkpoint-2"
    (at / run_folder.WEIGHTS).unlink()
    for name in FILES[message]:
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).symlink_to("/nowhere")  # whoever opens it fails
    run = open_run(folder)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1, 3]
    assert len(run.damaged) == 1 and message in run.damaged[0] and "\n" not in run.damaged[0]
    with pytest.raises(BadInput, match="checkpoint-2: ") as error:
        api.drift(open_run(at))
    assert message in str(error.value) or message.endswith("is missing")


def test_a_state_of_accelerate_needs_the_config_of_its_model(plain, tmp_path):
    folder = shutil.copytree(plain["llama"], tmp_path / "out")
    at = folder / "checkpoint-2"
    (at / "random_states_0.pkl").symlink_to("/nowhere")
    config = (at / run_folder.CONFIG).rename(folder / "kept")
    assert "config.json is missing; copy it from the model that was trained" in open_run(folder).damaged[0]
    shutil.copy(config, folder / run_folder.CONFIG)
    assert f"config.json is missing; copy it from {folder / run_folder.CONFIG}" in open_run(folder).damaged[0]
    config.rename(at / run_folder.CONFIG)
    np.testing.assert_allclose(measured_drift(open_run(folder)), expected_drift(plain["llama"], "llama"), rtol=1e-6)


def test_other_safetensors_files_beside_the_weights_are_not_read(plain, tmp_path):
    folder = shutil.copytree(plain["llama"], tmp_path / "out")
    for name in ("optimizer.safetensors", "consolidated.safetensors"):
        (folder / "checkpoint-2" / name).write_bytes(b"")
    np.testing.assert_allclose(measured_drift(open_run(folder)), expected_drift(plain["llama"], "llama"), rtol=1e-6)


# --- layers ---------------------------------------------------------------------------------------------------------


def test_what_a_layer_lacks_and_what_no_table_knows_is_reported(plain, tmp_path):
    def other(tensors):
        kept = {name: tensor for name, tensor in tensors.items() if name != UP}
        return kept | {
            "model.layers.0.gate": torch.ones(3),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        }

    run = open_run(changed(plain["llama"], tmp_path / "out", other, only=(2, 3)))
    assert "layer b is measured without mlp.up_proj.weight, missing in checkpoint-2, checkpoint-3" in run.notes
    assert "not in the family table of 'llama' and not measured: gate" in run.notes
    states = [load_file(plain["llama"] / f"checkpoint-{step}" / run_folder.WEIGHTS) for step in STEPS]
    without = [{name: tensor for name, tensor in state.items() if name != UP} for state in states]
    by_hand = [moved(without[0], state, "model.layers") for state in without[1:]]
    np.testing.assert_allclose(measured_drift(run)[1:], by_hand, rtol=1e-6)
    with pytest.raises(BadInput, match=f"its weights lack {UP}"):
        checkpoint_model.model_of(run.checkpoints[-1])


def test_a_map_goes_without_a_tensor_that_is_lacking_at_some_checkpoint(plain, tmp_path):
    def without(tensors):
        return {name: tensor for name, tensor in tensors.items() if name != UP}

    some = embedding.embed(open_run(changed(plain["llama"], tmp_path / "some", without, only=(2,))))
    drawn = some.table[some.table["walk"] == "run"]
    state = {step: load_file(plain["llama"] / f"checkpoint-{step}" / run_folder.WEIGHTS) for step in STEPS}
    names = {
        part: [n for n in state[1] if n.startswith(f"model.layers.{at}.") and n != UP] for at, part in enumerate("ab")
    }
    points = list(zip(drawn["part"], drawn["step"], strict=True))
    for start, end in ((("b", 1), ("b", 2)), (("b", 2), ("b", 3)), (("a", 1), ("a", 3))):
        ways = [
            (state[end[1]][name].double() - state[start[1]][name].double()).square().sum() for name in names[end[0]]
        ]
        first, last = (some.components.values[points.index(point)] for point in (start, end))
        assert np.linalg.norm(last - first) == pytest.approx(float(sum(ways)) ** 0.5, rel=1e-6)


def test_no_line_is_said_of_weights_as_they_should_be(plain):
    for folder in plain.values():
        assert [note for note in open_run(folder).notes if not note.startswith("lineage inferred")] == []


BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize("family", ["t5", "mt5"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_tensor_of_the_bottom_layer_alone_is_not_missed_in_the_others(family, stack, tmp_path):
    folder = saved(tmp_path / "whole", family)
    names = set(load_file(folder / "checkpoint-1" / run_folder.WEIGHTS))
    assert {f"{stack}.{BIAS}"} == {n for n in names if n.startswith(stack) and "relative_attention_bias" in n}

    def lacking(run):
        return [note for note in run.notes if "is measured without" in note]

    assert lacking(open_run(folder, stack=f"{stack}.block")) == []
    without = changed(
        folder,
        tmp_path / "without",
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != f"{stack}.{BIAS}"},
        only=(2,),
    )
    [line] = lacking(open_run(without, stack=f"{stack}.block"))
    assert line.startswith(
        "layer a is measured without layer.0.SelfAttention.relative_attention_bias.weight, missing in checkpoint-2"
    )


@pytest.mark.parametrize("says", [1, 3])
def test_weights_count_where_a_config_states_another_number_of_layers(says, plain, tmp_path):
    run = open_run(changed(plain["llama"], tmp_path / "out", num_hidden_layers=says))
    assert f"config.json states {says} layers, but the weights have 2; those of the weights are measured" in run.notes
    np.testing.assert_allclose(measured_drift(run), expected_drift(plain["llama"], "llama"), rtol=1e-6)
    with torch.no_grad():
        theirs = families.logits(checkpoint_model.model_of(run.checkpoints[0]))
        torch.testing.assert_close(theirs, families.logits(families.tiny("llama")))


def test_a_vocabulary_that_grew_is_no_change_of_a_layer(plain, tmp_path):
    def longer(tensors):
        count = tensors["model.embed_tokens.weight"].shape[0]
        return {
            n: torch.cat([t, t[:8]]) if "layers" not in n and t.shape[0] == count else t for n, t in tensors.items()
        }

    run = open_run(changed(plain["llama"], tmp_path / "out", longer, only=(2, 3), vocab_size=families.VOCABULARY + 8))
    np.testing.assert_allclose(measured_drift(run), expected_drift(plain["llama"], "llama"), rtol=1e-6)
    assert checkpoint_model.model_of(run.checkpoints[-1]).config.vocab_size == families.VOCABULARY + 8


def test_a_tied_head_need_not_be_there(tmp_path):
    folder = saved(tmp_path / "out", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "checkpoint-1" / run_folder.WEIGHTS)
    model = checkpoint_model.model_of(open_run(folder).checkpoints[0])
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_outputs_of_layers_need_no_head(plain, tmp_path):
    folder = changed(
        plain["llama"], tmp_path / "out", lambda t: {n: each for n, each in t.items() if n != "lm_head.weight"}
    )
    checkpoint = open_run(folder).checkpoints[0]
    tokens = torch.arange(12).reshape(1, 12)
    outputs = checkpoint_model.outputs_of(checkpoint, "layers", tokens, torch.ones_like(tokens, dtype=torch.bool))
    model = AutoModelForCausalLM.from_pretrained(plain["llama"] / "checkpoint-1")
    with torch.no_grad():
        first = model(tokens, output_hidden_states=True).hidden_states[1][0]
    np.testing.assert_allclose(outputs[0], first.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(BadInput, match=r"its weights lack lm_head\.weight"):
        checkpoint_model.model_of(checkpoint)


@pytest.mark.parametrize("shape", [(0,), ()])
def test_empty_tensors_and_scalars_end_nothing(shape, plain, tmp_path):
    added = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(0), "model.layers.0.scale": torch.zeros(shape)}
    run = open_run(changed(plain["llama"], tmp_path / "out", lambda tensors: tensors | added))
    np.testing.assert_allclose(measured_drift(run), expected_drift(plain["llama"], "llama"), rtol=1e-6)
