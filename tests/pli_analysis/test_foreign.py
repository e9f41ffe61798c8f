"""Checkpoints that no run of ours wrote: found, put in order, measured, and refused in one line where they must be."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from pli_analysis import live
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.run import Run
from pli_train import anatomy, run_folder
from pli_train.errors import BadInput
from pli_train.integrations import GrowthCallback
from pli_train.lineage import Lineage
from tests import families
from tests.pli_train.test_integrations import trainer_of
from tests.test_cli import call, refused
from tests.trainers import EVERY, STEPS, train

INFERRED = "lineage inferred from weights; lowest confidence 1.00 at checkpoint-"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What Trainer left behind. Not to be written to."""
    return train(tmp_path_factory.mktemp("trainer") / "out")


@pytest.fixture
def output(made, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Something to read, of letters that the tokenizer of these models knows."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the stack grows, and who was there keeps its name. " * 80)
    return path


def relative_l2(folder, start, end, layer):
    """By hand: ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖ of a layer of GPT-2."""
    one, other = (load_file(folder / f"checkpoint-{step}" / run_folder.WEIGHTS) for step in (start, end))
    names = [name for name in one if name.startswith(f"transformer.h.{layer}.")]
    assert len(names) == 12
    moved = sum(float(((other[n].astype(float) - one[n].astype(float)) ** 2).sum()) for n in names)
    return (moved / sum(float((one[n].astype(float) ** 2).sum()) for n in names)) ** 0.5


def sharded(checkpoint):
    """The weights in several files, as transformers writes big ones."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    (checkpoint / run_folder.WEIGHTS).unlink()
    model.save_pretrained(checkpoint, max_shard_size="40KB")
    assert (checkpoint / run_folder.WEIGHTS_INDEX).exists()


# --- Trainer's output -----------------------------------------------------------------------------------------------


def test_drift_of_a_trainers_output_is_the_one_computed_by_hand(made):
    done = call("pli-analyze", "drift", made, "--format", "csv")
    assert done.returncode == 0 and done.stderr.startswith(INFERRED) and done.stderr.count("\n") == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["part"], row["checkpoint"], row["age"]) for row in rows] == [
        (part, f"checkpoint-{step}", str(step - EVERY)) for step in (4, 8, 12) for part in "ab"
    ]
    for row in rows:
        by_hand = relative_l2(made, EVERY, int(row["step"]), "ab".index(row["layer"]))
        assert float(row["relative_l2"]) == pytest.approx(by_hand, rel=1e-6)
    assert all(float(row["speed"]) > 0 for row in rows if row["step"] != "4")  # Trainer's own learning rates


def test_the_other_commands_read_it_too(made, text, tmp_path):
    told = call("pli-analyze", "lineage", made, "--format", "csv")
    assert [row.split(",")[0] for row in told.stdout.splitlines()] == ["layer", "a", "b"]
    assert told.stdout.splitlines()[0].endswith(",confidence") and told.stderr.startswith(INFERRED)
    alike = call("pli-analyze", "similarity", made, "--text", text, "--format", "csv")
    assert [float(row["cka"]) == pytest.approx(1) for row in csv.DictReader(io.StringIO(alike.stdout))][::2] == [
        True
    ] * 2
    for words in (
        ["similarity", made, "--over-time", "--text", text],
        ["similarity", made / "checkpoint-4", made / "checkpoint-12", "--text", text],
        ["embed", made, "--of", "head"],
        ["gradnorms", made, "--recompute", "--text", text],
        ["lineage", made, "--confidence"],
    ):
        done = call("pli-analyze", *words)
        assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr
    page = call("pli-analyze", "report", made, "--html", tmp_path / "page.html")
    assert page.returncode == 0, page.stderr
    html = (tmp_path / "page.html").read_text()
    assert "lowest confidence 1.00" in html and "did not grow over 12 steps" in html
    assert "Relative L2 drift of each layer" in html
    assert '"tokens"' not in html  # nobody logged them: no axis


def test_losses_are_those_of_the_event_files_and_of_the_state_alike(made, output):
    logged = loss_metric.loss(Run.open(made).scalars)
    shutil.rmtree(output / "runs")
    told = loss_metric.loss(Run.open(output).scalars)
    assert list(logged["step"]) == list(told["step"]) == list(range(2, STEPS + 1, 2))
    np.testing.assert_allclose(logged["loss"], told["loss"], rtol=1e-6)
    assert logged["tokens"].isna().all()
    for checkpoint in output.glob("checkpoint-*"):
        (checkpoint / run_folder.TRAINER_STATE).unlink()
    silent = Run.open(output)
    assert not silent.scalars.columns and len(silent.drift()) == 6


def test_a_second_call_reads_nothing_and_what_was_rewritten_is_measured_anew(output, monkeypatch):
    from pli_analysis.weights import follow

    first = Run.open(output).drift()
    with monkeypatch.context() as patch:
        patch.setattr(follow.Place, "read", None)
        assert Run.open(output).drift().equals(first)
    path = output / "checkpoint-12" / run_folder.WEIGHTS
    save_file({name: 2 * array for name, array in load_file(path).items()}, path)
    second = Run.open(output).drift()
    assert second[second["step"] < 12].equals(first[first["step"] < 12])
    assert second[second["step"] == 12]["relative_l2"].min() == pytest.approx(1, abs=0.2)


def test_shards_are_read_like_one_file(made, output):
    for checkpoint in output.glob("checkpoint-*"):
        sharded(checkpoint)
        assert not (checkpoint / run_folder.WEIGHTS).exists()
    columns = ["part", "step", "relative_l2", "cosine", "path"]
    assert Run.open(output).drift()[columns].equals(Run.open(made).drift()[columns])


def test_masks_that_older_releases_saved_among_the_weights_are_no_part_of_a_layer(made, output):
    for checkpoint in output.glob("checkpoint-*"):
        path = checkpoint / run_folder.WEIGHTS
        masks = {f"transformer.h.{n}.attn.bias": np.ones((1, 1, 64, 64), dtype=np.float32) for n in range(2)}
        save_file(load_file(path) | masks, path)
        config = json.loads((checkpoint / run_folder.CONFIG).read_text())
        (checkpoint / run_folder.CONFIG).write_text(json.dumps(config | {"n_ctx": 64, "auto_map": {"x": "y.Z"}}))
    assert Run.open(output).drift("all").equals(Run.open(made).drift("all"))


# --- several folders, one folder ------------------------------------------------------------------------------------


def test_folders_in_any_order_are_put_in_the_order_of_their_steps(made):
    paths = [made / f"checkpoint-{step}" for step in (12, 4, 8)]
    assert Run.open(paths).drift().equals(Run.open(made).drift())
    done = call("pli-analyze", "drift", *paths, "--format", "csv")
    assert done.stdout == call("pli-analyze", "drift", made, "--format", "csv").stdout


def test_steps_come_from_the_state_where_the_name_has_none_and_else_from_the_order(made, tmp_path):
    copies = [Path(shutil.copytree(made / f"checkpoint-{n}", tmp_path / f"at-{n}")) for n in (8, 4)]
    by_state = Run.open(copies)
    assert [(str(c.name), c.step) for c in by_state.checkpoints] == [("at-4", 4), ("at-8", 8)]
    for copy in copies:
        (copy / run_folder.TRAINER_STATE).unlink()
    numbered = Run.open(copies)
    assert [(str(c.name), c.step) for c in numbered.checkpoints] == [("at-8", 0), ("at-4", 1)]
    assert numbered.notes[0].startswith("steps are numbers in the order given")
    same = [Path(shutil.copytree(copies[0], tmp_path / parent / "model")) for parent in ("x", "y")]
    assert [str(c.name) for c in Run.open(same).checkpoints] == ["x/model", "y/model"]


def test_one_model_is_a_run_of_one_checkpoint(made):
    opened = Run.open(made / "checkpoint-8")
    assert [(c.step, str(c.lineage)) for c in opened.checkpoints] == [(8, "a b")]
    assert opened.notes == [] and (opened.drift()["relative_l2"] == 0).all()


def test_what_growth_callback_saved_goes_by_its_own_lineage(tmp_path):
    growth = GrowthCallback("2@1 6@0", initialiser="clone")
    trainer_of("gpt2", tmp_path / "out", growth, save_steps=4).train()
    opened = Run.open(tmp_path / "out")
    assert opened.confidence is None
    assert [str(c.lineage) for c in opened.checkpoints] == ["a c b", "d a c b", "d a c b"]
    assert [c.step for c in opened.checkpoints] == [4, 8, 10]
    born = {id: layer.birth.step for id, layer in opened.lineage.layers.items()}
    assert born == {"a": 4, "b": 4, "c": 4, "d": 8}
    table = opened.drift()
    assert set(zip(table["part"], table["step"], strict=True)) >= {("c", 4), ("d", 8)}
    assert (table[table["age"] == 0]["relative_l2"] == 0).all()
    assert "first checkpoint that has a part" in opened.notes[0]


def test_a_lineage_of_the_users_own_overrides_what_weights_say(made, tmp_path):
    path = tmp_path / "mine.json"
    done = call("pli-analyze", "lineage", made, "--save", path)
    assert done.returncode == 0 and str(Lineage.read(path)) == "a b"
    lineage = Lineage.read(path)
    lineage.swap(0, 1, step=7)
    path.write_text(lineage.to_json())
    opened = Run.open(made, lineage=path)
    assert [str(c.lineage) for c in opened.checkpoints] == ["a b", "b a", "b a"]
    assert [event.step for event in opened.lineage.events] == [8]
    assert opened.drift()["relative_l2"].max() > 1
    assert "b" in call("pli-analyze", "drift", made, "--lineage", path).stdout
    refused(call("pli-analyze", "drift", made, "--lineage", tmp_path / "none.json"), "none.json: no such file")


# --- refused --------------------------------------------------------------------------------------------------------


def pickled(folder):
    (folder / run_folder.WEIGHTS).rename(folder / "pytorch_model.bin")


def linked(folder):
    (folder / run_folder.WEIGHTS).rename(folder / "blob")
    (folder / run_folder.WEIGHTS).symlink_to(folder / "blob")


def leading_out(folder):
    sharded(folder)
    index = folder / run_folder.WEIGHTS_INDEX
    told = json.loads(index.read_text())
    told["weight_map"] = dict.fromkeys(told["weight_map"], "../../outside.safetensors")
    index.write_text(json.dumps(told))


def lacking_a_shard(folder):
    sharded(folder)
    next(folder.glob("model-*.safetensors")).unlink()


FLAWS = {
    pickled: "convert it with save_pretrained",
    linked: "is a link",
    leading_out: "is no file of this folder",
    lacking_a_shard: "lacks model-",
    lambda folder: (folder / run_folder.CONFIG).unlink(): "lacks config.json",
    lambda folder: (folder / run_folder.WEIGHTS).unlink(): "lacks model.safetensors",
}


@pytest.mark.parametrize("damage, told", FLAWS.items(), ids=range(len(FLAWS)))
def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_given_by_name_refused(damage, told, output):
    damage(output / "checkpoint-8")
    opened = Run.open(output)
    assert [c.step for c in opened.checkpoints] == [4, 12]
    assert len(opened.damaged) == 1 and told in opened.damaged[0]
    with pytest.raises(BadInput, match="checkpoint-8") as found:
        Run.open([output / f"checkpoint-{step}" for step in (4, 8)])
    assert told in str(found.value) and "\n" not in str(found.value)


def test_what_cannot_be_meant_is_refused_in_one_line(made, output, runs, tmp_path):
    for checkpoint in output.glob("checkpoint-*"):
        pickled(checkpoint)
    checkpoint = made / "checkpoint-4"
    told = (
        "holds no checkpoint to read; checkpoint-4, checkpoint-8, checkpoint-12: has its weights in pytorch_model.bin"
    )
    assert len(refused(call("pli-analyze", "drift", output), told)) == 1
    for words, told in (
        (["drift", tmp_path / "nowhere"], "no such folder"),
        (["drift", made, "--verify"], "no hashes to --verify"),
        (["drift", checkpoint, tmp_path], "lacks config.json"),
        (["drift", checkpoint, checkpoint], "is given twice"),
        (["drift", runs["gpt2"], checkpoint], "is a run"),
        (["drift", runs["gpt2"], "--lineage", "x.json"], "is for checkpoints without one"),
        (["lineage", runs["gpt2"], "--confidence"], "its lineage is written down"),
    ):
        refused(call("pli-analyze", *words), told)


@pytest.mark.parametrize(
    ("family", "flaw"),
    [
        ("rwkv", "no table says where a rwkv has heads"),
        ("t5", "the table of a t5 does not name the tensors there"),
    ],
)
def test_a_family_without_a_table_that_fits_is_read_by_layers(family, flaw, output, made):
    for checkpoint in output.glob("checkpoint-*"):
        config = json.loads((checkpoint / run_folder.CONFIG).read_text())
        (checkpoint / run_folder.CONFIG).write_text(json.dumps(config | {"model_type": family}))
    run = Run.open(output)
    assert flaw in run.notes[0] and "docs/families.md" in run.notes[0]
    mine, theirs = run.drift(), Run.open(made).drift()
    assert list(mine["part"]) == list(theirs["part"])
    np.testing.assert_allclose(mine["relative_l2"], theirs["relative_l2"], rtol=1e-9)
    with pytest.raises(BadInput, match=f"no table says where a {family} has its heads"):
        run.drift("head")


@pytest.mark.parametrize("family", families.TINY)
def test_every_family_is_read_as_transformers_saves_it(family, tmp_path):
    """Some families are saved under other names than they live under."""
    model = families.tiny(family)
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    opened = Run.open(tmp_path)
    assert opened.confidence["confidence"].min() > 0.99
    assert (opened.drift("all")["relative_l2"] == 0).all()
    table = anatomy.family(family)
    living = [place for name in model.state_dict() if (place := table.locate(name)) and place[2] in table.tensors]
    for checkpoint in opened.checkpoints:
        layers = checkpoint.names_of_layers.values()
        assert sorted(inner for layer in layers for inner in layer) == sorted(inner for *_, inner in living)
    if table.task in live.AUTO_CLASS:
        again = live.model_of(opened.checkpoints[-1])
        torch.testing.assert_close(families.logits(again), families.logits(model))
