"""Operators, schedules and corpora of other packages, by their names in a config."""

import json
import sys

import pytest
from safetensors.numpy import load_file

from pli_train import Documents, train
from pli_train.config import loading
from pli_train.core import plugins
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import run_folder
from pli_train.data import corpus
from pli_train.data.config import DataConfig
from pli_train.growth import schedules
from pli_train.growth.initial_shape import InitialShape
from tests.plugging import example, installed, on_path

MODEL = {"family": "gpt2", "config": {"n_embd": 8, "n_head": 2}, "initial_layers": 1}
SMALL = {"tokenizer": {"vocab_size": 260}, "train": {"steps": 8, "block_size": 8, "batch_size": 2, "eval_blocks": 2}}
PERTURB = {"operator": "perturb", "at": 6, "layer": "b", "noise": 0.5}


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    on_path(monkeypatch, example(tmp_path / "packages"))


def table(**growth):
    return {"model": MODEL, "data": {"source": "sums"}, "growth": growth, **SMALL}


def broken(tmp_path, monkeypatch, source="import nowhere_to_be_found\n"):
    groups = {
        plugins.OPERATORS: {"shake": "Shake"},
        plugins.SCHEDULES: {"slow": "Slow"},
        plugins.CORPORA: {"hum": "hum"},
    }
    on_path(monkeypatch, installed(tmp_path / "broken", "broken-one", source, **groups))


def test_a_run_uses_the_schedule_operator_and_corpus_of_a_package_and_records_them(plugged, tmp_path, monkeypatch):
    out = tmp_path / "run"
    schedule = [{"operator": "insert", "at": 4, "index": 1}, PERTURB]
    train(MODEL, "sums", growth=schedule, out=out, quiet=True, **SMALL)
    record = json.loads((out / run_folder.RUN).read_text())
    assert [(each["name"], each["package"], each["version"]) for each in record["plugins"]] == [
        ("sums", "pli-example-plugin", "0.1.0"),
        ("perturb", "pli-example-plugin", "0.1.0"),
    ]
    assert "sums of two numbers" in record["corpus"]["about"]
    # The weights right before and after the event: matrices of layer b alone changed, by the noise that was asked for.
    before, after = (load_file(out / name / run_folder.WEIGHTS) for name in ("checkpoint-6-before", "checkpoint-6"))
    ratios = {name: (after[name] - before[name]).std() / before[name].std() for name in before if before[name].ndim > 1}
    changed = {name for name, ratio in ratios.items() if ratio}
    assert changed == {name for name in ratios if name.startswith("transformer.h.1.")}
    assert all(ratio == pytest.approx(0.5, rel=0.25) for name, ratio in ratios.items() if name in changed)
    assert all((after[name] == before[name]).all() for name in before if name not in changed)
    # Without the package, the run says what it needs; with another version, it says so when it goes on.
    assert loading.of_run(out).data.source == "sums" and plugins.changed(record["plugins"]) == []
    assert plugins.changed([record["plugins"][0] | {"version": "0.0.9"}]) == [
        "the run began with corpus 'sums' of pli-example-plugin 0.0.9, and now uses pli-example-plugin 0.1.0"
    ]
    monkeypatch.setattr("sys.path", [path for path in sys.path if path != str(tmp_path / "packages")])
    with pytest.raises(BadInput) as caught:
        loading.of_run(out)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"{out / run_folder.RUN}: corpus 'sums' is of pli-example-plugin 0.1.0, which is not installed; "
        "install it with: pip install pli-example-plugin"
    )
    assert "operator 'perturb' is of pli-example-plugin 0.1.0" in lines[1] and len(lines) == 2


def test_a_named_schedule_of_a_package(plugged):
    config = loading.check(table(schedule={"name": "on-top", "layers": 3, "every": 2}), "page")
    assert [(each.at, each.index) for each in config.growth.events(InitialShape(1))] == [(2, 1), (4, 2)]
    assert schedules.every()["on-top"].about() == "Insert a layer on top at regular intervals."
    with pytest.raises(BadInput, match=r"growth\.schedule: layres: unknown key; did you mean 'layers'\?"):
        loading.check(table(schedule={"name": "on-top", "layres": 3, "every": 2}), "page")


def test_fields_of_an_operator_come_from_its_table_and_from_growth(plugged):
    late = {**PERTURB, "layer": "a"}
    [event] = loading.check(table(schedule=[late], learning_rate="rewarm", rewarm_steps=7), "page").growth.events(
        InitialShape(1)
    )
    assert (event.layer, event.noise, event.learning_rate, event.rewarm_steps) == ("a", 0.5, "rewarm", 7)
    for wrong, line in (
        ({"layer": "z"}, "there is no layer 'z' at that step"),
        ({"nois": 1}, "unknown key; did you mean 'noise'?"),
        ({"operator": "perturbs"}, "unknown operator 'perturbs'; did you mean 'perturb'?"),
    ):
        with pytest.raises(BadInput) as caught:
            loading.check(table(schedule=[late | wrong]), "page")
        assert line in str(caught.value)


def test_a_broken_package_is_named_in_one_line_and_only_where_it_is_used(tmp_path, monkeypatch, caplog):
    broken(tmp_path, monkeypatch)
    line = (
        r"^operator 'shake' of broken-one 1\.0: cannot be imported \(ModuleNotFoundError: No module named 'nowhere_to_"
    )
    with pytest.raises(PliError, match=line):
        loading.check(table(schedule=[{"operator": "shake", "at": 1}]), "page")
    with pytest.raises(PliError, match="schedule 'slow' of broken-one"):
        loading.check(table(schedule={"name": "slow"}), "page")
    with pytest.raises(PliError, match="corpus 'hum' of broken-one"):
        corpus.read(DataConfig(source="hum"))
    loading.check(table(schedule="2@1"), "page")
    assert set(schedules.every()) == set(schedules.SCHEDULES)
    assert [r.message for r in caplog.records if "slow" in r.message and "broken-one 1.0" in r.message]


def test_an_object_of_another_class_and_a_reader_that_fails(tmp_path, monkeypatch):
    broken(tmp_path, monkeypatch, "class Shake: pass\nSlow = 3\ndef hum(data): return data.nothing\n")
    with pytest.raises(
        PliError, match=r"operator 'shake' of broken-one 1\.0: broken_one:Shake is not of the class Operator"
    ):
        loading.check(table(schedule=[{"operator": "shake", "at": 1}]), "page")
    with pytest.raises(
        PliError, match=r"corpus 'hum' of broken-one 1\.0 failed \(AttributeError: .*; --verbose shows where"
    ):
        corpus.read(DataConfig(source="hum"))


def test_names_that_a_plugin_cannot_have_are_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    names = {"insert": "it", "No Name": "it", "twice": "it"}
    on_path(monkeypatch, installed(tmp_path / "one", "named-one", "it = 1\n", **{plugins.OPERATORS: names}))
    on_path(monkeypatch, installed(tmp_path / "two", "named-two", "it = 2\n", **{plugins.OPERATORS: {"twice": "it"}}))
    found = plugins.found(plugins.OPERATORS, ["insert"])
    assert {name: plugin.package for name, plugin in found.items()} == {"twice": "named-one"}
    warned = "\n".join(record.message for record in caplog.records)
    assert "operator 'insert' of named-one 1.0: left out, as pli itself uses this name" in warned
    assert "operator 'No Name' of named-one 1.0: left out, as its name is not made of" in warned
    assert (
        "operator 'twice' of named-two 1.0: left out, as operator 'twice' of named-one 1.0 has the same name" in warned
    )


@pytest.mark.parametrize("recorded", [None, 3, [3], [{}], [{"group": []}], [{"group": "pli_train.none", "name": "x"}]])
def test_a_record_of_anything_else_names_no_plugin(recorded):
    assert plugins.missing(recorded) == plugins.changed(recorded) == []


def test_documents_in_memory_are_split_by_content():
    texts = [f"text {number}" for number in range(40)]
    data = DataConfig(source="x", test_share=0.25)
    made, reordered = Documents.of(texts, data, "x"), Documents.of([*texts[::-1], "  "], data, "x")
    assert made == reordered and made.about == "x: 40 documents"
    sides = [[segment.text for segment in side] for side in (made.train, made.eval)]
    assert sorted(sides[0] + sides[1]) == sorted(texts) and len(sides[1]) == 10
    more = Documents.of([*texts, "another"], data, "x")
    assert len({s.text for s in more.train} & set(sides[1])) <= 1 and more.fingerprint != made.fingerprint
    half = Documents.of(texts, data.model_copy(update={"fraction": 0.5}), "x")
    assert len([*half.train, *half.eval]) == 20 and half.fingerprint != made.fingerprint
    with pytest.raises(BadInput, match=r"data\.source: x: has 1 document, and needs two or more"):
        Documents.of(["one"], data, "x")
