"""Lenses against transformers' own hidden states, and slow references."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from torch.nn.functional import cross_entropy, kl_div

import pli_analysis
from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.lens import RIDGE, decisions, lens
from pli_analysis.report import lens as report
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call
from tests.hidden_states import outputs, run_of
from tests.run_files import vouch

BLOCKS = 8


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def case(request, runs, config_of, tmp_path_factory):
    """(run, its last model in transformers, what the model's head makes of hidden states, the table)."""
    run, model = run_of(request.param, runs, config_of, tmp_path_factory.mktemp("lens"))
    head = {
        "bert": lambda hidden: model.cls(hidden),
        "gpt2": lambda hidden: model.lm_head(model.transformer.ln_f(hidden)),
        "llama": lambda hidden: model.lm_head(model.model.norm(hidden)),
    }[request.param]
    return run, model, head, lens(run, blocks=BLOCKS)


def halves(run):
    return eval_tokens.sample_of(run, None, BLOCKS).halves()


def check(rows, read, logits, sample):
    """Compare rows of the table, bottom to top, with the logits that were read from each layer."""
    predicted = sample.labels != -100
    labels, p = sample.labels[predicted], logits[predicted].log_softmax(-1)
    agrees = []
    for row, logits_of_layer in zip(rows.itertuples(), read, strict=True):
        q = logits_of_layer[predicted].log_softmax(-1)
        agrees.append((q.argmax(-1) == p.argmax(-1)).numpy())
        assert row.loss == pytest.approx(float(cross_entropy(q, labels)), abs=1e-5)
        assert row.kl == pytest.approx(float(kl_div(q, p, log_target=True, reduction="batchmean")), abs=1e-5)
        assert row.agreement == pytest.approx(agrees[-1].mean(), abs=1e-9)
        assert (row.predicted_tokens, row.blocks) == (int(predicted.sum()), len(sample.tokens))
    depths = [
        next(d for d in range(len(agrees)) if all(agree[token] for agree in agrees[d:])) for token in range(len(labels))
    ]
    assert rows.decided.to_numpy() == pytest.approx(
        [np.mean([depth == layer for depth in depths]) for layer in range(len(agrees))]
    )


def test_the_logit_lens_is_the_models_own_head(case):
    run, model, head, table = case
    _, sample = halves(run)
    (_, *hidden), logits = outputs(model, sample.tokens)
    with torch.no_grad():
        check(table[table.lens == "logit"], [head(layer) for layer in hidden], logits, sample)


def test_the_tuned_lens_is_a_ridge_regression(case):
    run, model, head, table = case
    fitted_on, sample = halves(run)
    (_, *before), _ = outputs(model, fitted_on.tokens)
    (_, *hidden), logits = outputs(model, sample.tokens)
    last = before[-1].flatten(0, 1).double().numpy()
    read = []
    for seen, layer in zip(before[:-1], hidden[:-1], strict=True):
        x = seen.flatten(0, 1).double().numpy()
        penalty = RIDGE * ((x - x.mean(0)) ** 2).sum(0).mean()
        mapped = Ridge(alpha=penalty).fit(x, last).predict(layer.flatten(0, 1).double().numpy())
        with torch.no_grad():
            read.append(head(torch.from_numpy(mapped).float().view(layer.shape)))
    check(table[table.lens == "tuned"], [*read, logits], logits, sample)


def test_the_last_layer_is_the_model(case):
    run, model, _, table = case
    _, sample = halves(run)
    logits = outputs(model, sample.tokens)[1]
    loss = float(cross_entropy(logits.flatten(0, 1), sample.labels.flatten()))
    last = table[table["index"] == len(run.lineage.stack) - 1]
    assert len(last) == 2
    assert last.loss.to_numpy() == pytest.approx(loss, abs=1e-5)
    assert last.kl.to_numpy() == pytest.approx(0, abs=1e-9)
    assert (last.agreement == 1).all()
    assert table.groupby("lens").decided.sum().to_numpy() == pytest.approx(1)


def test_an_identity_layer_adds_nothing(config_of, tmp_path):
    event = {"at": 2, "index": 1, "initializer": "identity"}
    launch.begin(config_of("gpt2", {"train.steps": 3, "growth.schedule": [event]}), tmp_path / "run").run()
    table = lens(open_run([tmp_path / "run"]), blocks=BLOCKS, at=2)
    first, second = (table[(table.layer == id) & (table.lens == "logit")].iloc[0] for id in "ab")
    assert (first.loss, first.agreement) == pytest.approx((second.loss, 1), abs=1e-6)
    assert first.kl == pytest.approx(0, abs=1e-9)


def test_prediction_depth_needs_all_layers_above():
    agrees = np.array([[True, False, True, False], [False, True, True, False], [True, True, True, True]])
    assert decisions(agrees).tolist() == [0.25, 0.25, 0.5]


def test_one_layer_has_no_gain(config_of, tmp_path):
    launch.begin(config_of("gpt2", {"train.steps": 2, "growth.schedule": ""}), tmp_path / "run").run()
    table = lens(open_run([tmp_path / "run"]), blocks=BLOCKS)
    assert (
        report.verdict(table) == f"There is one layer, whose output predicts with a loss of {table.loss.iloc[0]:.3f}."
    )


def test_the_command_writes_a_table_and_a_page(runs, tmp_path):
    words = ["lens", str(runs["bert"]), "--blocks", "4", "-o", "table.csv", "--html", "page.html"]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "By the tuned lens, the loss is" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,lens,layer,index,age,loss")
    assert "Where predictions are decided" in (tmp_path / "page.html").read_text()


def test_one_block_is_refused(runs):
    with pytest.raises(BadInput, match="has one block of text, and lenses need two"):
        pli_analysis.lens(open_run([runs["gpt2"]]), blocks=1)


def test_outputs_that_are_all_the_same_predict_nothing(runs, tmp_path):
    """A model whose embeddings and positions are zero, so that each layer has one output for all tokens."""
    folder = shutil.copytree(runs["gpt2"], tmp_path / "run")
    path = open_run([folder]).checkpoints[-1].path / run_folder.WEIGHTS
    weights = load_file(path)
    for name, values in weights.items():
        if "wte" in name or "wpe" in name:
            values.zero_()
    save_file(weights, path, metadata={"format": "pt"})
    vouch(path)
    table = lens(open_run([folder]), blocks=BLOCKS)
    assert np.isfinite(table.loss).all()
    assert table.kl.to_numpy() == pytest.approx(0, abs=1e-6)
