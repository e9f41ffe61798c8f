"""Attention statistics against slow loops over the attention weights that transformers returns."""

import math
import resource
import shutil

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pli_analysis.inference import checkpoint_model, eval_tokens
from pli_analysis.metrics import attention as metric
from pli_analysis.metrics.attention import attention, pattern_of, rollout
from pli_analysis.report import attention as report
from pli_analysis.report import page
from pli_analysis.report.parts import of_checkpoint
from pli_analysis.runs.opening import open_run
from pli_train.core import tokenizer
from pli_train.core.errors import BadInput
from pli_train.training import launch
from tests.commands import call, refused
from tests.families import tiny

BLOCKS = 3
GROWTH = [{"operator": "heads", "at": 1, "to": 4, "layers": ["a"]}, {"at": 2, "index": 1}]


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def case(request, runs, config_of, tmp_path_factory):
    """(run, attention of each block and layer as transformers returns it, the table)."""
    if request.param == "llama":  # shared keys and values, and heads that only one of two layers gained
        wanted = {"train.steps": 3, "model.initial_heads": 2, "growth.schedule": GROWTH}
        folder = tmp_path_factory.mktemp("attention") / "llama"
        launch.begin(config_of("llama", wanted), folder).run()
    else:
        folder = runs[request.param]
    run = open_run([folder])
    auto = AutoModelForMaskedLM if request.param == "bert" else AutoModelForCausalLM
    model = auto.from_pretrained(run.checkpoints[-1].path, attn_implementation="eager").eval()
    tokens = eval_tokens.sample_of(run, None, BLOCKS).tokens
    with torch.no_grad():
        weights = [model(input_ids=block[None], output_attentions=True).attentions for block in tokens]
    return run, [[layer[0].double().numpy() for layer in block] for block in weights], attention(run, blocks=BLOCKS)


def slow(weights):
    """The statistics of one head in one block, query by query."""
    length, found = len(weights), {}
    found["entropy"] = np.mean([-sum(p * math.log(p) for p in row if p > 0) for row in weights])
    found["attention_distance"] = np.mean(
        [sum(p * abs(i - j) for j, p in enumerate(row)) for i, row in enumerate(weights)]
    )
    for name, offset in (("previous", -1), ("self", 0), ("next", 1)):
        found[name] = sum(weights[i][i + offset] for i in range(length) if 0 <= i + offset < length) / length
    found["first"] = np.mean([row[0] for row in weights])
    found["top"] = sum(sorted(np.mean([row[j] for row in weights]) for j in range(length))[-3:])
    return found


def test_every_statistic_is_that_of_a_slow_loop(case):
    run, weights, table = case
    heads = table[table["part_type"] == "head"]
    assert len(heads) == sum(run.checkpoints[-1].heads)
    for row in heads.itertuples():
        head = int(row.part.partition(".h")[2])
        expected = [slow(block[run.lineage.stack.index(row.layer)][head]) for block in weights]
        for name in expected[0]:
            assert getattr(row, name) == pytest.approx(np.mean([each[name] for each in expected]), abs=1e-6), (
                row.part,
                name,
            )


def test_relative_entropy_is_that_of_equal_attention_to_what_any_head_can_see(case):
    run, weights, table = case
    for index, id in enumerate(run.lineage.stack):
        heads = range(run.checkpoints[-1].heads[index])
        seen = np.any([block[index][head] > 0 for block in weights for head in heads], axis=0)
        rows = table[(table["layer"] == id) & (table["part_type"] == "head")]
        assert (rows["entropy"] / rows["relative_entropy"]).tolist() == pytest.approx(
            [np.log(seen.sum(axis=1)).mean()] * len(rows)
        )


def test_copied_heads_are_compared_with_those_that_they_were_copied_from(case):
    run, weights, table = case
    stack, layers = run.lineage.stack, run.lineage.layers
    for row in table[table["part_type"] == "head"].itertuples():
        donor, head = layers[row.layer].heads[row.part].donor, int(row.part.partition(".h")[2])
        if donor is None or donor.partition(".h")[0] not in stack:
            assert math.isnan(row.donor_divergence)
            continue
        other = stack.index(donor.partition(".h")[0]), int(donor.partition(".h")[2])
        pairs = [(block[stack.index(row.layer)][head], block[other[0]][other[1]]) for block in weights]
        expected = np.mean([[jensenshannon(p, q) ** 2 for p, q in zip(*pair, strict=True)] for pair in pairs])
        assert row.donor_divergence == pytest.approx(expected, abs=1e-6)
        assert 0 <= row.donor_divergence <= math.log(2)
    assert table["donor_divergence"].notna().any()


def test_heads_that_were_drawn_at_random_have_no_donor(config_of, tmp_path):
    events = [{"at": 1, "index": 1}, {"operator": "heads", "at": 2, "to": 4, "initializer": "random"}]
    launch.begin(
        config_of("llama", {"train.steps": 3, "model.initial_heads": 2, "growth.schedule": events}), tmp_path / "run"
    ).run()
    table = attention(open_run([tmp_path / "run"]), blocks=1)
    copied = table[table["donor_divergence"].notna()]
    assert sorted(copied["part"]) == ["b.h0", "b.h1"]


def test_rollout_is_a_product_of_matrices_whose_rows_sum_to_1(case):
    run, weights, table = case
    count = run.checkpoints[-1].heads
    products = []
    for block in weights:
        through = np.eye(len(block[0][0]))
        for layer, heads in zip(block, count, strict=True):
            through = (layer[:heads].mean(axis=0) / 2 + np.eye(len(through)) / 2) @ through
            assert through.sum(axis=1) == pytest.approx(1)
        products.append(slow(through))
    last = table[table["part_type"] == "rollout"].iloc[-1]
    for name in products[0]:
        assert last[name] == pytest.approx(np.mean([each[name] for each in products]), abs=1e-6)
    made = list(rollout([torch.rand(2, 5, 5, dtype=torch.float64).softmax(-1) for _ in range(3)]))
    assert torch.stack(made).sum(dim=-1) == pytest.approx(torch.ones(3, 5).numpy())


def test_special_tokens_are_those_of_the_tokenizer_but_the_mask_token(runs, tmp_path):
    """The documents of a text are joined by an end token."""
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("def one(): return 1\n" * 2)
    run = open_run([runs["bert"]])
    table, tokens = attention(run, tmp_path, BLOCKS), eval_tokens.sample_of(run, tmp_path, BLOCKS).tokens
    loaded = tokenizer.local(run.tokenizer)
    special = set(loaded.all_special_ids) - {loaded.mask_token_id}
    model = checkpoint_model.model_of(run.checkpoints[-1])
    with torch.no_grad():
        weights = [model(input_ids=block[None], output_attentions=True).attentions[0][0, 0] for block in tokens]
    keys = [[number for number, token in enumerate(block.tolist()) if token in special] for block in tokens]
    mass = [float(each[:, where].sum() / len(each)) for each, where in zip(weights, keys, strict=True)]
    assert min(map(len, keys)) > 0 and loaded.mask_token_id in tokens
    assert table[table["part_type"] == "head"].iloc[0]["special"] == pytest.approx(np.mean(mass), abs=1e-6)


def test_without_a_tokenizer_attention_to_special_tokens_is_unknown(runs, tmp_path):
    shutil.copytree(runs["gpt2"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    assert attention(open_run([tmp_path / "run"]), blocks=1)["special"].isna().all()


@pytest.mark.parametrize(
    ("means", "pattern"),
    [
        ((0.91, 0.9, 0.9, 0.9), "uniform"),
        ((0.5, 0.6, 0.3, 0.7), "diagonal"),
        ((0.5, 0.3, 0.6, 0.7), "vertical"),
        ((0.5, 0.3, 0.3, 0.55), "both"),
        ((0.5, 0.3, 0.3, 0.45), "heterogeneous"),
        ((0.5, 0.45, 0.1, 0.55), "heterogeneous"),
    ],
)
def test_patterns_follow_their_rules(means, pattern):
    assert pattern_of(*means) == pattern


def test_planted_heads_have_their_patterns(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))  # what is planted must not be cached for other tests
    run = open_run([runs["gpt2"]])
    length = eval_tokens.sample_of(run, None, 1).tokens.shape[1]
    diagonal, vertical = torch.eye(length), torch.zeros(length, length)
    vertical[:, 3] = 1
    planted = torch.stack([diagonal, vertical]).double()
    monkeypatch.setattr(metric, "weights_of", lambda checkpoint, *_: [planted for _ in checkpoint.lineage.stack])
    table = attention(run, blocks=1)
    heads = table[table["part_type"] == "head"]
    assert heads["pattern"].tolist() == ["diagonal", "vertical"] * len(run.lineage.stack)
    assert heads["entropy"].tolist() == [0.0] * len(heads) and heads["donor_divergence"].dropna().eq(0).all()
    with pytest.raises(BadInput, match="its attention weights are not finite"):
        monkeypatch.undo()
        broken = checkpoint_model.model_of(run.checkpoints[-1], head=False)
        broken.h[0].attn.c_attn.weight.data[:] = math.nan
        monkeypatch.setattr(checkpoint_model, "model_of", lambda *_, **__: broken)
        attention(run, blocks=1)


@pytest.mark.slow
def test_twelve_layers_with_twelve_heads_and_512_tokens_need_less_than_2_gib(config_of, tmp_path):
    sizes = {"n_embd": 48, "n_head": 12, "n_positions": 512}
    wanted = {"model.config": sizes, "model.initial_layers": 12, "growth.schedule": "", "growth.initializer": "random"}
    wanted |= {"train.steps": 1, "train.block_size": 512, "train.batch_size": 1, "train.accumulation": 1}
    launch.begin(config_of("gpt2", wanted), tmp_path / "run").run()
    done = call("pli-analyze", "attention", tmp_path / "run", "--blocks", 4, "-o", tmp_path / "t.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 12 * 13
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # of all children so far


def test_words_and_page(case, tmp_path):
    *_, table = case
    words = report.verdict(table)
    assert f"Patterns of {(table['part_type'] == 'head').sum()} heads" in words and "copied head" in words
    page.write(of_checkpoint(table, report.verdict(table), report.section(table)), tmp_path / "page.html")
    assert "Distance of attention" in (tmp_path / "page.html").read_text()


def test_the_command_prints_the_table(runs, tmp_path):
    done = call("pli-analyze", "attention", runs["gpt2"], "--blocks", 2, "-o", tmp_path / "t.csv")
    assert done.returncode == 0 and "Patterns of" in done.stderr, done.stderr
    refused(call("pli-analyze", "attention", runs["gpt2"], "--at", 99), "has no checkpoint of step 99")


def test_a_model_that_returns_no_attention_weights_is_one_clear_line(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    run = open_run([runs["gpt2"]])
    model = tiny("gpt2")
    model.forward = lambda **_: object()
    monkeypatch.setattr(checkpoint_model, "model_of", lambda *_, **__: model)
    with pytest.raises(BadInput, match="the gpt2 model of transformers does not return its attention weights"):
        attention(run, blocks=1)
