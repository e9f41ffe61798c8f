"""Direct logit attribution against transformers' models: sums, single parts, and parts that write nothing."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import pli_analysis
from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics.attribution.attribution import attribution, of_block
from pli_analysis.metrics.attribution.frozen import pulled_back
from pli_analysis.metrics.attribution.passes import Pass
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.training import launch
from tests.commands import call
from tests.families import ANALYZED, TINY, tiny

BLOCKS = 6
ADDED = [
    family
    for family in (*TINY, *ANALYZED)
    if family not in ("vit", "deit", "dinov2", "albert", "t5", "mt5", "bart", "gemma2", "gemma3_text", "olmo2")
]


def checkpoint_of(family, folder, damage=lambda model: None):
    """A tiny random model of a family, whose norms and biases are random too, as the checkpoint of another library."""
    torch.manual_seed(3)
    model = tiny(family).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    damage(model)
    model.save_pretrained(folder)
    return open_run([folder]).checkpoints[-1], type(model).from_pretrained(folder, attn_implementation="eager").eval()


def block():
    """Tokens and labels of one block, some of them without a label."""
    chance = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 60, (20,), generator=chance)
    labels[[2, 7]] = -100
    return torch.randint(3, 60, (1, 20), generator=chance), labels


def values_of(checkpoint, tokens, labels):
    """Part type and part → what it adds."""
    with torch.no_grad():
        found = of_block(checkpoint, checkpoint_model.model_of(checkpoint), tokens, labels)
    return {(part.part_type, part.part): value for part, value in found.items()}


@pytest.mark.parametrize("family", ADDED)
def test_parts_add_up_to_the_logits(family, tmp_path):
    """Of transformers' own model: the sum over layers, embedding and biases is that of the logits."""
    checkpoint, model = checkpoint_of(family, tmp_path / family)
    tokens, labels = block()
    found = values_of(checkpoint, tokens, labels)
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0].double()
    known = labels >= 0
    expected = float((logits[known].gather(1, labels[known, None])[:, 0] - logits[known].mean(1)).sum())
    added = sum(value for (kind, _), value in found.items() if kind in ("layer", "embedding", "bias"))
    assert added == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert found["total", "total"] == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert sum(kind == "head" for kind, _ in found) == 8 and sum(kind == "ffn" for kind, _ in found) == 2


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo2"])
def test_norms_of_single_branches_are_refused(family, tmp_path):
    checkpoint, _ = checkpoint_of(family, tmp_path / family)
    with pytest.raises(BadInput, match=f"this {family} model's logits are not the sum of what its layers add"):
        values_of(checkpoint, *block())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_part_adds_what_a_slow_script_finds(family, tmp_path):
    """The outputs of one head, one FFN and the embedding, through the final norm with the token's scale, by hand."""
    checkpoint, model = checkpoint_of(family, tmp_path / family)
    tokens, labels = block()
    found = values_of(checkpoint, tokens, labels)
    id = checkpoint.lineage.stack[1]
    base = model.transformer if family == "gpt2" else model.model
    layer = (base.h if family == "gpt2" else base.layers)[1]
    out = layer.attn.c_proj if family == "gpt2" else layer.self_attn.o_proj
    ffn = layer.mlp
    kept = {}
    out.register_forward_hook(lambda _, inputs, output: kept.update(z=inputs[0][0]))
    ffn.register_forward_hook(lambda _, inputs, output: kept.update(ffn=output[0]))
    layer.register_forward_hook(
        lambda _, inputs, output: kept.update(last=(output if torch.is_tensor(output) else output[0])[0])
    )
    (base.h if family == "gpt2" else base.layers)[0].register_forward_pre_hook(
        lambda _, inputs: kept.update(first=inputs[0][0])
    )
    with torch.no_grad():
        model(input_ids=tokens)
        width = kept["z"].shape[-1] // 4
        weight = out.weight.T if family == "gpt2" else out.weight  # (out, in)
        parts = {
            ("head", f"{id}.h2"): kept["z"][:, 2 * width : 3 * width] @ weight[:, 2 * width : 3 * width].T,
            ("ffn", id): kept["ffn"],
            ("embedding", "embedding"): kept["first"],
        }
        last = kept["last"].double()
        for key, values in parts.items():
            values = values.double()
            if family == "gpt2":
                scale = (last.var(-1, correction=0) + base.ln_f.eps).sqrt()
                values = (values - values.mean(-1, keepdim=True)) / scale[:, None] * base.ln_f.weight.double()
            else:
                scale = (last.square().mean(-1) + base.norm.variance_epsilon).sqrt()
                values = values / scale[:, None] * base.norm.weight.double()
            logits = values @ model.lm_head.weight.double().T
            known = labels >= 0
            expected = logits[known].gather(1, labels[known, None])[:, 0] - logits[known].mean(1)
            assert found[key] == pytest.approx(float(expected.sum()), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_part_that_writes_nothing_adds_nothing(family, tmp_path):
    """The second head of the first layer, and the FFN of the second one."""

    def damage(model):
        if family == "gpt2":
            first, second = model.transformer.h
            first.attn.c_proj.weight.data[8:16] = 0
            second.mlp.c_proj.weight.data.zero_()
            second.mlp.c_proj.bias.data.zero_()
        else:
            first, second = model.bert.encoder.layer
            first.attention.output.dense.weight.data[:, 8:16] = 0
            second.output.dense.weight.data.zero_()
            second.output.dense.bias.data.zero_()

    checkpoint, _ = checkpoint_of(family, tmp_path / family, damage)
    found = values_of(checkpoint, *block())
    first, second = checkpoint.lineage.stack
    assert found["head", f"{first}.h1"] == pytest.approx(0, abs=1e-9)
    assert found["ffn", second] == pytest.approx(0, abs=1e-9)
    assert abs(found["head", f"{first}.h0"]) > 1e-3 and abs(found["ffn", first]) > 1e-3


@pytest.mark.parametrize(
    "module", [torch.nn.Linear(8, 5), torch.nn.LayerNorm(8), torch.nn.RMSNorm(8), torch.nn.GELU(), torch.nn.Sigmoid()]
)
def test_a_frozen_module_adds_up(module):
    """Direction · output = pulled-back direction · input + bias, for every kind of module."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter)
    with torch.no_grad():
        inputs = torch.randn(6, 8)
        outputs = module(inputs)
        direction = torch.randn(*outputs.shape, dtype=torch.float64)
        below, bias = pulled_back(direction, Pass(module, inputs, outputs))
        added = (below * inputs.double()).sum(-1) + bias
        assert added.numpy() == pytest.approx((direction * outputs.double()).sum(-1).numpy(), abs=1e-4)


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def grown(request, runs, config_of, tmp_path_factory):
    """(run, its last model in transformers, the table): a grown run."""
    if request.param == "llama":
        folder = tmp_path_factory.mktemp("attribution") / "llama"
        schedule = [{"at": 1, "index": 1}, {"at": 2, "operator": "heads", "to": 6}]
        launch.begin(config_of("llama", {"train.steps": 3, "growth.schedule": schedule}), folder).run()
    else:
        folder = runs[request.param]
    run = open_run([folder])
    auto = AutoModelForMaskedLM if request.param == "bert" else AutoModelForCausalLM
    return run, auto.from_pretrained(run.checkpoints[-1].path).eval(), attribution(run, blocks=BLOCKS)


def test_the_total_is_the_mean_logit_of_the_right_tokens(grown):
    run, model, table = grown
    sample = eval_tokens.sample_of(run, None, BLOCKS)
    with torch.no_grad():
        logits = model(input_ids=sample.tokens).logits.double()
    known = sample.labels >= 0
    mine = logits[known].gather(1, sample.labels[known][:, None])[:, 0] - logits[known].mean(1)
    total = table[table.part_type == "total"].iloc[0]
    assert (total.predicted_tokens, total.share) == (int(known.sum()), 1)
    assert total.contribution == pytest.approx(float(mine.mean()), abs=1e-4)
    added = table[table.part_type.isin(["layer", "embedding", "bias"])]
    assert added.contribution.sum() == pytest.approx(total.contribution, abs=1e-4)
    assert added.share.sum() == pytest.approx(1, abs=1e-4)
    assert table[table.part_type == "layer"].layer.tolist() == run.lineage.stack
    assert (table[table.part_type == "head"].groupby("layer").size() > 0).all()


def test_the_command_writes_a_table_and_a_page(runs, tmp_path, monkeypatch):
    words = ["attribution", str(runs["bert"]), "--blocks", "4", "-o", "table.csv", "--html", "page.html"]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The logit of the right token is" in done.stderr and "an inserted layer adds" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,layer,index,age,is_inserted,part_type")
    assert "What each head adds" in (tmp_path / "page.html").read_text()
    monkeypatch.setattr(checkpoint_model, "model_of", lambda _: pytest.fail("was measured again"))
    assert len(pli_analysis.attribution(open_run([runs["bert"]]), blocks=4)) == len(
        np.genfromtxt(tmp_path / "table.csv", delimiter=",", skip_header=1, dtype=str)
    )
