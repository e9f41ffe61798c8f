"""Linear probes against transformers' hidden states, other fits, Python's tokenizer, and planted labels."""

import io
import itertools
import shutil
import sysconfig
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import pli_analysis
from pli_analysis.inference import checkpoint_model, eval_tokens, token_text
from pli_analysis.metrics.probing import classifier
from pli_analysis.metrics.probing.labels import OF_PYTHON, OF_TEXT, casing_of, labels_of, python_labels
from pli_analysis.metrics.probing.probe import INPUT, probe
from pli_analysis.report.probe import verdict
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.sampling import clustered
from tests.commands import call
from tests.hidden_states import outputs, run_of

BLOCKS = 24


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def case(request, runs, config_of, corpus, tmp_path_factory):
    """(run, the input of its first layer and the output of each layer by transformers, the table)."""
    run, model = run_of(request.param, runs, config_of, tmp_path_factory.mktemp("probe"))
    sample = eval_tokens.sample_of(run, corpus, BLOCKS)
    states = [each.flatten(0, 1).double() for each in outputs(model, sample.tokens)[0]]
    return run, sample, states, probe(run, corpus, BLOCKS)


def logistic(states, classes, others):
    """Log-probabilities at other states by a logistic regression that L-BFGS of torch fits in float64."""
    center, scale = states.mean(0), states.std(0, correction=0)
    states, others = (states - center) / scale, (others - center) / scale
    weights = torch.zeros(states.shape[1] + 1, int(classes.max()) + 1, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS([weights], lr=1, max_iter=3000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss():
        steps.zero_grad()
        fit = cross_entropy(states @ weights[:-1] + weights[-1], classes, reduction="sum")
        total = fit + weights[:-1].square().sum() / 2
        total.backward()
        return total

    steps.step(loss)
    return (others @ weights[:-1] + weights[-1]).log_softmax(-1).detach()


def test_a_probe_is_a_logistic_regression_on_hidden_states(case):
    """Casing at each layer: which tokens, their labels, the fit, the interval over documents, and what layers add."""
    run, sample, states, table = case
    rows = table[table.label == "casing"]
    assert rows.layer.tolist() == [INPUT, *run.lineage.stack]
    texts = token_text.texts_of(run, sample_text(run), token_text.ids_of(run, sample))
    words = [casing_of(text) for block in texts for text in block]
    documents = np.repeat(sample.documents, sample.tokens.shape[1])
    measured = measured_documents(sample, rows.units.iloc[0])
    fit = ~np.isin(documents, measured)
    names = [name for name in sorted(set(words)) if sum(w == name for w, f in zip(words, fit, strict=True) if f) >= 10]
    classes = torch.tensor([names.index(word) if word in names else -1 for word in words])
    known = (classes >= 0).numpy()
    fit, test = torch.from_numpy(fit & known), torch.from_numpy(~fit & known)
    assert (rows.classes == len(names)).all() and (rows.measured_tokens == int(test.sum())).all()
    below = None
    for row, values in zip(rows.itertuples(), states, strict=True):
        read = logistic(values[fit], classes[fit], values[test]).argmax(-1)
        right = (read == classes[test]).double().numpy()
        one = 1.01 / len(right)  # a token between two classes
        assert row.accuracy == pytest.approx(right.mean(), abs=one)
        _, units = np.unique(documents[test.numpy()], return_inverse=True)
        counts = np.bincount(units)
        expected = clustered(np.bincount(units, right), counts, np.arange(len(counts))).interval()
        assert (row.accuracy_low, row.accuracy_high) == pytest.approx(np.clip(expected, 0, 1), abs=0.02)
        if below is not None:
            assert row.gain == pytest.approx(row.accuracy - below, abs=1e-9)
        below = row.accuracy


def sample_text(run):
    """The run's own corpus, whose tokenizer is the run's."""
    return Path(run.record["config"]["data"]["source"])


def measured_documents(sample, count):
    """The documents that are not fitted on: the last ones in random order (the same seed as the metric's)."""
    order = np.random.default_rng(0).permutation(np.unique(sample.documents))
    return order[len(order) - count :]


@pytest.mark.parametrize("number", [3, 5])
def test_code_length_is_what_a_sender_needs(number):
    """Against fits by torch, portion by portion; between the entropy given the states and that of equal classes."""
    chance = np.random.default_rng(number)
    states = chance.normal(size=(640, 6))
    logits = 2 * states @ chance.normal(size=(6, number))
    classes = (logits + chance.gumbel(size=logits.shape)).argmax(1)
    found = classifier.code_length(states, classes, number)
    ends = [20, 40, 80, 160, 320, 640]
    bits = ends[0] * np.log2(number)
    for start, end in itertools.pairwise(ends):
        part = [torch.from_numpy(each) for each in (states[:start], classes[:start], states[start:end])]
        seen, renumbered = part[1].unique(return_inverse=True)
        given = torch.zeros(end - start, number, dtype=torch.float64)
        given[:, seen] = logistic(part[0], renumbered, part[2]).exp()
        sent = given[torch.arange(end - start), torch.from_numpy(classes[start:end])]
        bits -= float((0.99 * sent + 0.01 / number).log2().sum())
    assert found == pytest.approx(bits / 640, rel=1e-3)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    entropy = -(p * np.log2(p)).sum(1).mean()
    assert entropy < found < np.log2(number)


def test_labels_of_python_are_those_of_its_own_tokenizer():
    """Kinds, open brackets and indentation of the first characters of all tokens of a module."""
    text = Path(sysconfig.get_path("stdlib"), "textwrap.py").read_text()
    found = python_labels(list(text))
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    kinds = {tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.COMMENT: "comment"}
    checked, depth = 0, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if not token.string.strip() or token.type == tokenize.DEDENT:
            continue
        at = starts[token.start[0] - 1] + token.start[1]
        line = text.splitlines()[token.start[0] - 1]
        depth -= token.string in (")", "]", "}")
        if token.type in kinds:
            assert found["kind"][at] == kinds[token.type]
        elif token.type == tokenize.NAME:
            assert found["kind"][at] in ("name", "keyword")
            assert (found["kind"][at] == "keyword") >= (token.string in ("def", "if", "return", "for", "in", "not"))
        else:
            assert found["kind"][at] in ("operator", "punctuation")
        assert found["brackets"][at] == (str(depth) if depth < 3 else "3+")
        if token.start[0] > 1:
            steps = (len(line) - len(line.lstrip())) // 4
            assert found["indentation"][at] == (str(steps) if steps < 4 else "4+")
        depth += token.string in ("(", "[", "{")
        checked += 1
    assert checked > 1000


def test_tokens_are_the_text_that_they_stand_for(runs, corpus, family):
    """Whole blocks, with the words below the masks of BERT."""
    run = open_run([runs[family]])
    ids = token_text.ids_of(run, eval_tokens.sample_of(run, corpus, 99))
    written = "".join(file.read_text() for file in sorted(Path(corpus).glob("*.py")))
    texts = token_text.texts_of(run, corpus, ids)
    whole = ["".join(block) for block in texts if "<|endoftext|>" not in block and "�" not in "".join(block)]
    assert len(whole) > 50 and all(block in written for block in whole)


def test_a_label_written_into_one_layer_is_found_there(runs, corpus, monkeypatch, tmp_path):
    """States of random numbers, to which the second layer adds the number of open brackets along one direction."""
    run = open_run([runs["gpt2"]])
    sample = eval_tokens.sample_of(run, corpus, 99)
    ids = token_text.ids_of(run, sample)
    brackets = labels_of(token_text.texts_of(run, corpus, ids), ids, is_python=True)["brackets"]
    layers = len(run.lineage.stack)

    def planted(checkpoint, of, tokens, kept):
        assert of == "states"
        chance = np.random.default_rng(3)
        states = [chance.normal(size=(int(kept.sum()), 16)).astype(np.float32) for _ in range(layers + 1)]
        classes = brackets[kept.numpy()]
        for values in states[2:]:
            values[:, :4] += np.float32(9) * (classes[:, None] == np.arange(4))
        return states

    monkeypatch.setattr(checkpoint_model, "outputs_of", planted)
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))  # what is planted must not be cached for other tests
    table = probe(run, corpus, 99).set_index("label").loc["brackets"]
    second = table[table["index"] == 1].iloc[0]
    assert second.gain > 0.9 * (1 - second.majority) and second.accuracy > 0.99
    others = table[(table["index"] != 1).fillna(False)]
    assert (others.gain.abs() < 0.03).all()
    assert (table.accuracy[table["index"].isna()] <= table.majority.iloc[0] + 0.01).all()
    assert table.code_length[table["index"] == 1].item() < 0.5 * table.code_length[table["index"] == 0].item()
    assert f"layer {second.layer} adds most to 'brackets': +" in verdict(table.reset_index())


def test_tabs_and_odd_line_breaks_in_python():
    assert python_labels(["x\n", "\tif", " a", ":\n", "\t\ty"])["indentation"] == [None, "1", "1", "1", "2"]
    assert python_labels(["x\n", "    # \u2028", "y \x0c", "z"])["indentation"] == [None, "1", "1", "1"]


def test_text_has_no_labels_of_python(runs, corpus, tmp_path):
    run, text = open_run([runs["gpt2"]]), tmp_path / "text.txt"
    text.write_text("".join(file.read_text() for file in sorted(Path(corpus).glob("*.py"))))
    assert set(probe(run, text, 16).label) <= set(OF_TEXT)
    assert set(OF_PYTHON[:3]) <= set(probe(run, corpus, BLOCKS).label)
    assert set(probe(run).label) & set(OF_PYTHON)  # its own corpus is a folder of Python files


def test_results_are_kept(runs, corpus, monkeypatch):
    run = open_run([runs["bert"]])
    first = pli_analysis.probe(run, corpus, 16)
    monkeypatch.setattr(checkpoint_model, "outputs_of", lambda *_: pytest.fail("was measured again"))
    assert pli_analysis.probe(run, corpus, 16).equals(first)


def test_the_command_writes_a_table_and_a_page(runs, corpus, tmp_path):
    words = [
        "probe",
        str(runs["bert"]),
        "--text",
        str(corpus),
        "--blocks",
        "16",
        "-o",
        "table.csv",
        "--html",
        "page.html",
    ]
    done = call("pli-analyze", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "adds most to" in done.stderr and "inserted layers change the accuracy by" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("run,checkpoint,step,label,layer,index,age,is_inserted")
    assert "What each layer adds" in (tmp_path / "page.html").read_text()


def test_too_little_text_is_refused(runs, tmp_path):
    run = open_run([runs["gpt2"]])
    with pytest.raises(BadInput, match="has one block of text, and probes need two"):
        probe(run, blocks=1)
    text = tmp_path / "text.txt"
    text.write_text("." * 4000)
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / run_folder.TOKENIZER)
    with pytest.raises(BadInput, match="has no tokenizer, to tell what tokens stand for; give --text and --tokenizer"):
        probe(open_run([tmp_path / "run"]))
    with pytest.raises(BadInput, match="no label of its tokens has two classes with 10 tokens"):
        probe(run, text, blocks=2)
