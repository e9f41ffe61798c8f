"""An exported model: what plain transformers makes of it, what its card says, and what hostile names cannot do."""

import json
import re
import shutil

import pytest
import torch
import transformers
import yaml
from transformers import AutoTokenizer

from pli_train.commands import export
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.models.build import AUTO_CLASS
from pli_train.training import launch, warm_start
from tests.conftest import SCHEDULE, STEPS

HOSTILE = 'a|b\n---\n# x <script>alert(1)</script> ``` [y](http://z) {{ 7*7 }} \x1b[31m\u2028$e^x$ "q" \\'


@pytest.fixture(scope="module")
def headed(config_of, tmp_path_factory):
    """Runs whose heads and layers grew, and whose last layer has fewer heads than the config: family → trainer."""
    growth = [
        {"operator": "insert", "at": 1, "index": 1, "initializer": "clone-noise"},
        {"operator": "heads", "at": 2, "to": 2, "layers": ["a"], "initializer": "random", "output": "kept"},
        {"operator": "ffn", "at": 2, "to": 160, "layers": ["b"], "initializer": "random", "output": "kept"},
    ]
    made = {}
    for family in ("gpt2", "bert"):
        more = {"model.initial_heads": 1, "growth.schedule": growth, "train.steps": 4}
        made[family] = launch.begin(config_of(family, more), tmp_path_factory.mktemp("headed") / family)
        made[family].run()
    return made


@pytest.fixture
def rewritten(run_folder_of):
    """Rewrite a document of a run: `rewritten("run.json", change)`."""

    def rewrite(name, change):
        document = json.loads((run_folder_of / name).read_text())
        change(document)
        (run_folder_of / name).write_text(json.dumps(document))
        return run_folder_of

    return rewrite


def sections(card):
    """Title → its lines, headings in code left out."""
    found, title, code = {}, "", False
    for line in card.splitlines():
        code ^= line.startswith("```")
        if line.startswith("#") and not code:
            title = line.lstrip("# ")
        found.setdefault(title, []).append(line)
    return found


def cells(line):
    """The cells of a Markdown table's row, told apart by bars that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_plain_transformers_says_what_the_trainer_says(headed, family, tmp_path):
    run = headed[family]
    assert run.state.lineage.shapes() == [(2, 64 if family == "bert" else 128), (1, 160)]
    folder = export.export(run.saver.folder, tmp_path / "out")
    model = getattr(transformers, AUTO_CLASS[run.state.anatomy.task]).from_pretrained(folder).eval()
    tokens = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        difference = model(input_ids=tokens).logits - run.state.model.bare.eval()(input_ids=tokens).logits
    assert float(difference.abs().max()) <= 1e-5
    mine = AutoTokenizer.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(run.saver.folder / run_folder.TOKENIZER)
    text = "def f(x):\n\treturn 'ä' <|mask|>"
    assert mine(text)["input_ids"] == theirs(text)["input_ids"]
    assert mine.special_tokens_map == theirs.special_tokens_map


def test_an_export_holds_a_model_and_nothing_that_training_needs(runs, family, tmp_path):
    folder = export.export(runs[family], tmp_path / "out")
    found = {path.name for path in folder.iterdir()}
    expected = {"config.json", "model.safetensors", "lineage.json", "README.md", "tokenizer.json"}
    assert found - {"generation_config.json"} == expected | {"tokenizer_config.json"}
    assert ("generation_config.json" in found) == (runs[family] / f"checkpoint-{STEPS}/generation_config.json").exists()
    assert (folder / "lineage.json").read_text() == (runs[family] / run_folder.LINEAGE).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_card_lists_every_event_and_figure(runs, family, tmp_path):
    folder = export.export(runs[family], tmp_path / "out")
    message = sections((folder / "README.md").read_text())
    events = Lineage.read(folder / "lineage.json").events
    rows = [cells(line) for line in message["Growth"] if line.startswith("|")][2:]
    assert [row[1] for row in rows] == [word.split("@")[0] for word in SCHEDULE.split()]
    for row, event in zip(rows, events, strict=True):
        assert row[:3] == [str(event.number), str(event.step), "insert"]
        assert row[3:6] == [event.facts["layer"], "clone-noise", event.facts["donor"]]
        assert row[7] == " ".join(event.stack) and "noise 0.1" in row[6]
    figures = dict(cells(line) for line in message["Figures"] if line.startswith("|"))
    state = json.loads((runs[family] / f"checkpoint-{STEPS}" / run_folder.TRAINER_STATE).read_text())
    losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert float(figures["held-out loss, nats per prediction"]) == pytest.approx(losses[-1], rel=1e-3)
    assert figures["tokens seen"] == f"{STEPS * 4 * 2 * 32:,}" and figures["steps"] == str(STEPS)
    assert float(figures["FLOPs"]) == pytest.approx(state["total_flos"], rel=1e-3)
    record = json.loads((runs[family] / run_folder.RUN).read_text())
    data = dict(cells(line) for line in message["Data"] if line.startswith("|"))
    assert data["fingerprint"] == record["corpus"]["fingerprint"]
    parameters = dict(cells(line) for line in message["Hyper-parameters"] if line.startswith("|"))
    assert parameters["optim.lr"] == "0.01" and parameters[r"train.batch\_size"] == "4"
    assert dict(cells(line) for line in message["Versions"] if line.startswith("|"))["torch"] == torch.__version__
    assert len([line for line in message["Layers"] if line.startswith("|")]) == 2 + 5


def test_the_lines_that_load_it_load_it(runs, family, tmp_path):
    folder = export.export(runs[family], tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) == 3
    names = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    assert names["model"].config.model_type == family and len(names["tokenizer"]) == 300


def test_heads_that_are_padding_are_reported_as_such(headed, runs, family, tmp_path):
    padded = (export.export(headed[family].saver.folder, tmp_path / "padded") / "README.md").read_text()
    assert "padded with zeros" in padded
    layers = [cells(line)[5] for line in sections(padded)["Layers"] if line.startswith("|")][2:]
    assert layers == ["2", "1"]
    assert "padded with zeros" not in (export.export(runs[family], tmp_path / "whole") / "README.md").read_text()


def test_an_export_can_be_grown_from(runs, family, tmp_path, config_of):
    """Heads that are padding stay so, and the tokenizer comes along."""
    folder = export.export(runs[family], tmp_path / "out")
    more = {"model.family": None, "model.config": {}, "model.initial_layers": None, "model.weights": "pretrained"}
    sorted_by_step, found = warm_start.resolve_parent(config_of(family, more | {"model.name_or_path": str(folder)}))
    assert found == warm_start.Parent(str(folder), None, folder.name)
    assert sorted_by_step.tokenizer.name_or_path == str(folder) and sorted_by_step.model.initial_heads == 2


def test_hostile_names_stay_names(rewritten, family, tmp_path):
    def harm(record):
        record["name"] = record["corpus"]["about"] = record["config"]["description"] = HOSTILE
        record["config"][HOSTILE] = record["versions"][HOSTILE] = HOSTILE

    folder = rewritten(run_folder.RUN, harm)
    clean = export.card(folder, folder / f"checkpoint-{STEPS}")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028]", clean)
    assert "<script>" not in clean.replace(r"\<script\>", "") and "49" not in clean.split("## Versions")[1]
    assert clean.count("\n---\n") == 1 and clean.count("```") == 2
    message = sections(clean)
    ours = ["Load it", "Growth", "Layers", "Data", "Figures", "Hyper-parameters", "Versions"]
    assert list(message)[2:] == ours  # before them the head, and the title that the name is
    for title in ("Data", "Hyper-parameters", "Versions"):
        assert {len(cells(line)) for line in message[title] if line.startswith("|")} == {2}


def test_hostile_configs_and_lineages_stay_in_their_cells(run_folder_of, family):
    last = run_folder_of / f"checkpoint-{STEPS}"
    config, lineage = (json.loads((last / name).read_text()) for name in ("config.json", "lineage.json"))
    config["model_type"] = HOSTILE
    lineage["events"][0]["initializer"] = lineage["events"][0]["evil"] = HOSTILE
    (last / "config.json").write_text(json.dumps(config))
    (last / "lineage.json").write_text(json.dumps(lineage))
    card = export.card(run_folder_of, last)
    rows = [cells(line) for line in sections(card)["Growth"] if line.startswith("|")]
    assert {len(row) for row in rows} == {8} and len(rows) == 6
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert front == {"library_name": "transformers", "tags": [HOSTILE, "pli", "growth", "progressive-training"]}


def test_whole_paths_are_not_published(rewritten, family):
    def move(record):
        record["config"]["data"]["source"] = "/home/somebody/secret/texts"
        record["parent"] = {"path": "/home/somebody/runs/mother", "checkpoint": "checkpoint-3"}

    folder = rewritten(run_folder.RUN, move)
    card = export.card(folder, folder / f"checkpoint-{STEPS}")
    assert "somebody" not in card and "secret/texts" in card and "runs/mother checkpoint-3" in card


def test_the_newest_whole_checkpoint_after_growth_is_taken(run_folder_of, family, tmp_path):
    said = []
    for name in (f"checkpoint-{STEPS}", "checkpoint-10", "checkpoint-9"):
        (run_folder_of / name / run_folder.WEIGHTS).unlink()
    folder = export.export(run_folder_of, tmp_path / "out", say=said.append)
    assert said[-1] == f"model: {run_folder_of / 'checkpoint-8'}" and len(said) == 4
    assert len(Lineage.read(folder / "lineage.json").events) == 3


def test_a_named_checkpoint_is_taken_even_one_before_an_event(runs, family, tmp_path):
    folder = export.export(runs[family], tmp_path / "out", "checkpoint-3-before")
    assert not Lineage.read(folder / "lineage.json").events
    assert "It did not grow." in (folder / "README.md").read_text()


def test_the_default_place_is_in_the_run(run_folder_of, family):
    assert export.export(run_folder_of) == run_folder_of / "export"
    with pytest.raises(BadInput, match=r"export: already exists"):
        export.export(run_folder_of)


@pytest.mark.parametrize(
    ("harm", "name", "message"),
    [
        (lambda run: None, "checkpoint-7", r"holds no checkpoint 'checkpoint-7' \(it has checkpoint-9"),
        (lambda run: None, "../gpt2/checkpoint-2", r"holds no checkpoint '../gpt2/checkpoint-2'"),
        (lambda run: (run / "checkpoint-2" / run_folder.WEIGHTS).unlink(), "checkpoint-2", r"lacks model.safetensors"),
        (lambda run: spoil(run / "checkpoint-2" / run_folder.WEIGHTS), "checkpoint-2", r"its hash differs"),
        (lambda run: shutil.rmtree(run / run_folder.TOKENIZER), None, r"holds no tokenizer folder"),
        (lambda run: (run / run_folder.RUN).write_text("{"), None, r"run.json: not readable as JSON"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(run_folder_of, tmp_path, family, harm, name, message):
    harm(run_folder_of)
    with pytest.raises(BadInput, match=message):
        export.export(run_folder_of, tmp_path / "new" / "out", name)
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def spoil(path):
    """Change a byte, and not the size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_an_existing_folder_or_file_is_never_written_to(runs, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("mine")
    for name, message in (("there", "already exists"), ("file", "already exists"), ("file/under", "cannot be written")):
        with pytest.raises(BadInput, match=message):
            export.export(runs["gpt2"], tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "there").iterdir())


def test_an_image_model_is_exported_without_a_tokenizer(tmp_path):
    from pli_train.config import loading

    sets = ["train.steps=2", "growth.schedule=1@1", "train.batch_size=4", "train.eval_blocks=4"]
    run = launch.begin(loading.load("tiny-vit", sets), tmp_path / "run")
    run.run()
    folder = export.export(tmp_path / "run")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    pixels = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        difference = (
            names["model"].eval()(pixel_values=pixels).logits - run.state.model.bare.eval()(pixel_values=pixels).logits
        )
    assert len(code.splitlines()) == 2 and float(difference.abs().max()) <= 1e-5
    sets = [*sets, f"model.name_or_path={tmp_path / 'run'}", "model.weights=pretrained"]
    assert launch.begin(loading.load("tiny-vit", sets), tmp_path / "child").state.lineage.stack == ["a", "b"]
