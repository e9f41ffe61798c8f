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

from pli_analysis import api
from pli_analysis.inference import checkpoint_model
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.runs.opening import open_run
from pli_train.core import anatomy
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.integrations import GrowthCallback
from tests import families
from tests.commands import call, refused
from tests.trainers import EVERY, STEPS, train, trainer_of

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
    assert all(
        float(row["relative_update_rate"]) > 0 for row in rows if row["step"] != "4"
    )  # Trainer's own learning rates


def test_the_other_commands_read_it_too(made, text, tmp_path):
    message = call("pli-analyze", "lineage", made, "--format", "csv")
    assert [row.split(",")[0] for row in message.stdout.splitlines()] == ["layer", "a", "b"]
    assert message.stdout.splitlines()[0].endswith(",confidence") and message.stderr.startswith(INFERRED)
    alike = call("pli-analyze", "similarity", made, "--text", text, "--format", "csv")
    assert [float(row["cka"]) == pytest.approx(1) for row in csv.DictReader(io.StringIO(alike.stdout))][::2] == [
        True
    ] * 2
    for words in (
        ["similarity", made, "--over-time", "--text", text],
        ["similarity", made / "checkpoint-4", made / "checkpoint-12", "--text", text],
        ["embed", made, "--of", "head"],
        ["grad-norms", made, "--recompute", "--text", text],
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
    logged = loss_metric.loss(open_run(made).scalars)
    shutil.rmtree(output / "runs")
    message = loss_metric.loss(open_run(output).scalars)
    assert list(logged["step"]) == list(message["step"]) == list(range(2, STEPS + 1, 2))
    np.testing.assert_allclose(logged["loss"], message["loss"], rtol=1e-6)
    assert logged["tokens"].isna().all()
    for checkpoint in output.glob("checkpoint-*"):
        (checkpoint / run_folder.TRAINER_STATE).unlink()
    silent = open_run(output)
    assert not silent.scalars.columns and len(api.drift(silent)) == 6


def test_a_second_call_reads_nothing_and_what_was_rewritten_is_measured_anew(output, monkeypatch):
    from pli_analysis.weights import trajectory

    first = api.drift(open_run(output))
    with monkeypatch.context() as patch:
        patch.setattr(trajectory.TensorLocation, "read", None)
        assert api.drift(open_run(output)).equals(first)
    path = output / "checkpoint-12" / run_folder.WEIGHTS
    save_file({name: 2 * array for name, array in load_file(path).items()}, path)
    second = api.drift(open_run(output))
    assert second[second["step"] < 12].equals(first[first["step"] < 12])
    assert second[second["step"] == 12]["relative_l2"].min() == pytest.approx(1, abs=0.2)


def test_shards_are_read_like_one_file(made, output):
    for checkpoint in output.glob("checkpoint-*"):
        sharded(checkpoint)
        assert not (checkpoint / run_folder.WEIGHTS).exists()
    columns = ["part", "step", "relative_l2", "cosine_distance", "path_length"]
    assert api.drift(open_run(output))[columns].equals(api.drift(open_run(made))[columns])


def test_masks_that_older_releases_saved_among_the_weights_are_no_part_of_a_layer(made, output):
    for checkpoint in output.glob("checkpoint-*"):
        path = checkpoint / run_folder.WEIGHTS
        masks = {f"transformer.h.{n}.attn.bias": np.ones((1, 1, 64, 64), dtype=np.float32) for n in range(2)}
        save_file(load_file(path) | masks, path)
        config = json.loads((checkpoint / run_folder.CONFIG).read_text())
        (checkpoint / run_folder.CONFIG).write_text(json.dumps(config | {"n_ctx": 64, "auto_map": {"x": "y.Z"}}))
    assert api.drift(open_run(output), "all").equals(api.drift(open_run(made), "all"))


# --- several folders, one folder ------------------------------------------------------------------------------------


def test_folders_in_any_order_are_put_in_the_order_of_their_steps(made):
    paths = [made / f"checkpoint-{step}" for step in (12, 4, 8)]
    assert api.drift(open_run(paths)).equals(api.drift(open_run(made)))
    done = call("pli-analyze", "drift", *paths, "--format", "csv")
    assert done.stdout == call("pli-analyze", "drift", made, "--format", "csv").stdout


def test_steps_come_from_the_state_where_the_name_has_none_and_else_from_the_order(made, tmp_path):
    copies = [Path(shutil.copytree(made / f"checkpoint-{n}", tmp_path / f"at-{n}")) for n in (8, 4)]
    by_state = open_run(copies)
    assert [(str(c.name), c.step) for c in by_state.checkpoints] == [("at-4", 4), ("at-8", 8)]
    for copy in copies:
        (copy / run_folder.TRAINER_STATE).unlink()
    numbered = open_run(copies)
    assert [(str(c.name), c.step) for c in numbered.checkpoints] == [("at-8", 0), ("at-4", 1)]
    assert numbered.notes[0].startswith("steps are numbers in the order given")
    same = [Path(shutil.copytree(copies[0], tmp_path / parent / "model")) for parent in ("x", "y")]
    assert [str(c.name) for c in open_run(same).checkpoints] == ["x/model", "y/model"]


def test_one_model_is_a_run_of_one_checkpoint(made):
    opened = open_run(made / "checkpoint-8")
    assert [(c.step, str(c.lineage)) for c in opened.checkpoints] == [(8, "a b")]
    assert opened.notes == [] and (api.drift(opened)["relative_l2"] == 0).all()


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Trainer's output that grew at steps 2 and 6, of whose checkpoints rotation left those of 8 and 10."""
    growth = GrowthCallback("2@1 6@0", initializer="clone")
    trainer = trainer_of("gpt2", tmp_path_factory.mktemp("grown") / "out", growth, save_steps=2, save_total_limit=2)
    trainer.train()
    return Path(trainer.args.output_dir)


def test_what_growth_callback_saved_goes_by_its_own_lineage(grown):
    opened = open_run(grown)
    assert opened.confidence is None and opened.notes == []
    assert [str(c.name).removeprefix("checkpoint-") for c in opened.checkpoints] == (
        ["0", "2-before", "2", "6-before", "6", "8", "10"]
    )
    assert [str(c.lineage) for c in opened.checkpoints] == ["a b"] * 2 + ["a c b"] * 2 + ["d a c b"] * 3
    assert opened.lineage.to_json() == Lineage.read(grown / "lineage.json").to_json()
    table = api.drift(opened)
    assert set(table[table["age"] == 0]["step"]) == {0, 2, 6} and (table[table["age"] == 0]["relative_l2"] == 0).all()
    at_the_end = table[(table["step"] == 10) & (table["part"] == "c")]["relative_l2"].item()
    birth, last = grown / "_growth" / "checkpoint-2", grown / "checkpoint-10"
    assert at_the_end == pytest.approx(relative_l2_of(birth, 1, last, 2), rel=1e-6)
    assert table["tokens"].isna().all()


def relative_l2_of(start, index, end, later):
    """Of a layer that sits at one index and later at another, by hand."""
    old, new = load_file(start / run_folder.WEIGHTS), load_file(end / run_folder.WEIGHTS)
    names = [name for name in old if f".h.{index}." in name]
    was, now = (
        np.concatenate([tensors[name.replace(f".h.{index}.", f".h.{at}.")].ravel() for name in names]).astype(float)
        for tensors, at in ((old, index), (new, later))
    )
    return np.linalg.norm(now - was) / np.linalg.norm(was)


def test_without_the_states_around_events_nothing_is_reported_for_a_wrong_step(grown, tmp_path):
    bare = Path(shutil.copytree(grown, tmp_path / "out", ignore=shutil.ignore_patterns("_growth")))
    opened = open_run(bare)
    assert [event.step for event in opened.lineage.events] == [2, 6]
    assert {id: layer.birth.step for id, layer in opened.lineage.layers.items()} == {"a": 0, "b": 0, "c": 2, "d": 6}
    assert opened.notes[0].startswith("no checkpoint at birth, drift is measured from step 8: d (born at step 6), ")
    assert "no checkpoints right before and after step 2, 6" in opened.notes[1]
    found = api.disturbance(opened)
    assert (
        found.events["step"].tolist() == [2, 6] and found.events["loss_change"].isna().all() and not len(found.layers)
    )
    table = api.drift(opened)
    assert (table[table["step"] == 8]["relative_l2"] == 0).all() and set(table[table["part"] == "c"]["age"]) == {6, 8}
    page = call("pli-analyze", "report", bare).stdout
    assert "grew from 2 to 4 layers over 10 steps" in page and "no checkpoint has the birth weights" in page.lower()


def test_heads_and_units_that_came_between_checkpoints_are_reported(tmp_path):
    events = [{"at": 2, "operator": "heads", "to": 4}, {"at": 2, "operator": "ffn", "to": 56}]
    growth = GrowthCallback(events, initial_heads=2, keep=0)
    trainer_of("gpt2", tmp_path / "out", growth, save_steps=4, max_steps=4).train()
    message = open_run(tmp_path / "out").notes[0]
    assert "a (born at step 0), heads of a (born at step 2), FFN units of a (born at step 2), b (born" in message


def test_models_that_lost_their_steps_are_no_earlier_than_their_last_events(grown, tmp_path):
    """As `pli-train export` makes them: with a lineage, without a state of training."""
    for name, source in (("a", "_growth/checkpoint-2"), ("b", "_growth/checkpoint-6"), ("c", "checkpoint-10")):
        shutil.copytree(grown / source, tmp_path / name, ignore=shutil.ignore_patterns(run_folder.TRAINER_STATE))
    alone = open_run(tmp_path / "b")
    assert [(c.step, str(c.lineage)) for c in alone.checkpoints] == [(6, "d a c b")]
    assert [event.step for event in alone.lineage.events] == [2, 6]
    opened = open_run([tmp_path / name for name in "abc"])
    assert [checkpoint.step for checkpoint in opened.checkpoints] == [2, 6, 7]
    assert opened.notes[0].startswith("steps are numbers in the order given")
    assert api.drift(opened)["age"].min() == 0


def test_a_state_that_trainer_saved_at_an_event_is_the_one_before_it(grown, tmp_path):
    growth = GrowthCallback("2@1", initializer="random", keep=0)
    trainer_of("gpt2", tmp_path / "out", growth, save_steps=1, max_steps=4).train()
    assert not (tmp_path / "out" / "_growth").exists()
    opened = open_run(tmp_path / "out")
    names = [str(checkpoint.name) for checkpoint in opened.checkpoints]
    assert names == ["checkpoint-1", "checkpoint-2-before", "checkpoint-3", "checkpoint-4"]
    found = api.disturbance(opened, window=1)
    assert found.events["loss_change"].isna().all() and not len(found.layers)  # only one side of the event is there


def test_lineage_lost_in_one_checkpoint_is_read_from_later_ones(grown, tmp_path):
    copy = Path(shutil.copytree(grown, tmp_path / "out"))
    whole = [(str(c.name), c.lineage.to_json()) for c in open_run(grown).checkpoints]
    for lost in ("_growth/checkpoint-2", "_growth/checkpoint-6-before", "checkpoint-8"):
        (copy / lost / run_folder.LINEAGE).unlink()
    opened = open_run(copy)
    assert opened.confidence is None
    assert [(str(c.name), c.lineage.to_json()) for c in opened.checkpoints] == whole
    assert opened.notes == [
        "no lineage.json in checkpoint-2, checkpoint-6-before, checkpoint-8: lineage taken from later checkpoints"
    ]


def test_a_state_at_an_event_that_lost_its_lineage_is_placed_by_its_layers(tmp_path):
    growth = GrowthCallback("2@1", initializer="random", keep=0)
    trainer_of("gpt2", tmp_path / "out", growth, save_steps=1, max_steps=4).train()
    (tmp_path / "out" / "checkpoint-2" / run_folder.LINEAGE).unlink()
    opened = open_run(tmp_path / "out")
    names = [(str(checkpoint.name), str(checkpoint.lineage)) for checkpoint in opened.checkpoints]
    assert names[1:3] == [("checkpoint-2-before", "a b"), ("checkpoint-3", "a c b")]


def test_after_the_last_lineage_that_is_there_layers_are_followed_by_weights(grown, tmp_path):
    bare = Path(shutil.copytree(grown, tmp_path / "out"))
    for lost in ("_growth/checkpoint-6", "checkpoint-8", "checkpoint-10"):
        (bare / lost / run_folder.LINEAGE).unlink()
    opened = open_run(bare)
    assert [str(c.lineage) for c in opened.checkpoints][:4] == ["a b"] * 2 + ["a c b"] * 2
    # The newborn is equal to its donor at first: only that both are there can be known.
    assert all(sorted(c.lineage.stack) == ["a", "b", "c", "d"] for c in opened.checkpoints[4:])
    found = Lineage.read(grown / "lineage.json").layers
    assert opened.lineage.layers["c"] == found["c"] and opened.lineage.layers["d"].birth.step == 6
    lost = "checkpoint-6, checkpoint-8, checkpoint-10"
    assert f"no lineage.json in {lost}: lineage after checkpoint-6-before inferred from weights" in opened.notes
    assert set(opened.confidence["step"]) == {6, 8, 10}


def test_a_damaged_state_costs_neither_weights_nor_the_older_history(made, output):
    (output / "checkpoint-12" / run_folder.TRAINER_STATE).write_text('{"global_step": 12, "log_')
    shutil.rmtree(output / "runs")
    history = json.loads((made / "checkpoint-8" / run_folder.TRAINER_STATE).read_text())["log_history"]
    last = next(entry["loss"] for entry in reversed(history) if "loss" in entry)
    damaged = f"{output / 'checkpoint-12' / run_folder.TRAINER_STATE}: not readable as JSON"
    used = f"{output / 'checkpoint-12'}: has no usable trainer_state.json: the history is read from checkpoint-8"
    for command in ("compare", "drift", "lineage"):
        done = call("pli-analyze", command, output, "--format", "csv")
        assert done.returncode == 0 and damaged in done.stderr and used in done.stderr, done.stderr
        if command == "drift":
            row = next(row for row in csv.DictReader(io.StringIO(done.stdout)) if row["step"] == "12")
            assert float(row["relative_l2"]) == pytest.approx(relative_l2(made, EVERY, 12, 0), rel=1e-6)
        if command == "compare":
            assert float(next(csv.DictReader(io.StringIO(done.stdout)))["train/loss at 8"]) == pytest.approx(last)


def test_a_newest_checkpoint_without_a_state_is_named(output):
    (output / "checkpoint-12" / run_folder.TRAINER_STATE).unlink()
    line = f"{output / 'checkpoint-12'}: has no usable trainer_state.json: the history is read from checkpoint-8"
    assert line in open_run(output).notes and open_run(output).damaged == []
    for step in (4, 8):
        (output / f"checkpoint-{step}" / run_folder.TRAINER_STATE).unlink()
    assert line not in open_run(output).notes  # models without any state: nothing is missing


def test_a_lineage_of_the_users_own_overrides_what_weights_say(made, tmp_path):
    path = tmp_path / "mine.json"
    done = call("pli-analyze", "lineage", made, "--save", path)
    assert done.returncode == 0 and str(Lineage.read(path)) == "a b"
    lineage = Lineage.read(path)
    lineage.swap(0, 1, step=7)
    path.write_text(lineage.to_json())
    opened = open_run(made, lineage=path)
    assert [str(c.lineage) for c in opened.checkpoints] == ["a b", "b a", "b a"]
    assert [event.step for event in opened.lineage.events] == [7]
    born = "a (born at step 0), b (born at step 0)"
    assert opened.notes[0] == f"no checkpoint at birth, drift is measured from step 4: {born}"
    assert api.drift(opened)["relative_l2"].max() > 1
    assert "b" in call("pli-analyze", "drift", made, "--lineage", path).stdout
    refused(call("pli-analyze", "drift", made, "--lineage", tmp_path / "none.json"), "none.json: no such file")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["a"], "weights have a layer with index 1, but {path} lists only 1 layer"),
        (["a", "b", "c"], "weights contain no tensor of layer c, which {path} lists"),
    ],
)
def test_a_lineage_that_does_not_fit_is_named(made, tmp_path, layers, message):
    path = tmp_path / "mine.json"
    path.write_text(Lineage.begin(len(layers), 4).to_json())
    with pytest.raises(BadInput) as error:
        _ = [checkpoint.names_of_layers for checkpoint in open_run(made, lineage=path).checkpoints]
    assert str(error.value).endswith(message.format(path=path)) and run_folder.LINEAGE not in str(error.value)


def test_notes_on_several_runs_name_theirs(made, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(made, tmp_path / name)
    done = call("pli-analyze", "report", tmp_path / "one", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stderr.splitlines() if "lineage inferred from weights" in line]
    assert [line.split(": ")[0] for line in found] == ["one", "two"]


# --- refused --------------------------------------------------------------------------------------------------------


def pickled(folder):
    (folder / run_folder.WEIGHTS).rename(folder / "pytorch_model.bin")


def linked(folder):
    (folder / run_folder.WEIGHTS).rename(folder / "blob")
    (folder / run_folder.WEIGHTS).symlink_to(folder / "blob")


def leading_out(folder):
    sharded(folder)
    index = folder / run_folder.WEIGHTS_INDEX
    message = json.loads(index.read_text())
    message["weight_map"] = dict.fromkeys(message["weight_map"], "../../outside.safetensors")
    index.write_text(json.dumps(message))


def lacking_a_shard(folder):
    sharded(folder)
    next(folder.glob("model-*.safetensors")).unlink()


FLAWS = {
    pickled: "convert it in transformers: from_pretrained(…).save_pretrained(…)",
    linked: "is a link",
    leading_out: "is not a file of this folder",
    lacking_a_shard: ".safetensors is missing",
    lambda folder: (folder / run_folder.CONFIG).unlink(): "config.json is missing; copy it from ",
    lambda folder: (folder / run_folder.WEIGHTS).unlink(): "model.safetensors is missing",
}


@pytest.mark.parametrize("damage, message", FLAWS.items(), ids=range(len(FLAWS)))
def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_given_by_name_refused(damage, message, output):
    damage(output / "checkpoint-8")
    opened = open_run(output)
    assert [c.step for c in opened.checkpoints] == [4, 12]
    assert len(opened.damaged) == 1 and message in opened.damaged[0]
    with pytest.raises(BadInput, match="checkpoint-8") as found:
        open_run([output / f"checkpoint-{step}" for step in (4, 8)])
    assert message in str(found.value) and "\n" not in str(found.value)


def test_what_cannot_be_meant_is_refused_in_one_line(made, output, runs, tmp_path):
    for checkpoint in output.glob("checkpoint-*"):
        pickled(checkpoint)
    checkpoint = made / "checkpoint-4"
    message = (
        "holds no readable checkpoint; checkpoint-4, checkpoint-8, checkpoint-12: has its weights in pytorch_model.bin"
    )
    assert len(refused(call("pli-analyze", "drift", output), message)) == 1
    for words, message in (
        (["drift", tmp_path / "nowhere"], "no such folder"),
        (["drift", made, "--verify"], "no hashes for --verify"),
        (["drift", checkpoint, tmp_path], "config.json is missing"),
        (["drift", checkpoint, checkpoint], "is given twice"),
        (["drift", runs["gpt2"], checkpoint], "is a run"),
        (["drift", runs["gpt2"], "--lineage", "x.json"], "is a run and has its own lineage"),
        (["lineage", runs["gpt2"], "--confidence"], "the lineage is read from a file, not inferred"),
    ):
        refused(call("pli-analyze", *words), message)


@pytest.mark.parametrize(
    ("family", "flaw"),
    [
        ("rwkv", "there is no family table for 'rwkv'"),
        ("t5", "the family table of 't5' names none of these tensors"),
    ],
)
def test_a_family_without_a_table_that_fits_is_read_by_layers(family, flaw, output, made):
    for checkpoint in output.glob("checkpoint-*"):
        config = json.loads((checkpoint / run_folder.CONFIG).read_text())
        (checkpoint / run_folder.CONFIG).write_text(json.dumps(config | {"model_type": family}))
    run = open_run(output)
    assert flaw in run.notes[0] and "docs/families.md" in run.notes[0]
    mine, theirs = api.drift(run), api.drift(open_run(made))
    assert list(mine["part"]) == list(theirs["part"])
    np.testing.assert_allclose(mine["relative_l2"], theirs["relative_l2"], rtol=1e-9)
    with pytest.raises(BadInput, match=f"no family table locates the heads of a '{family}'"):
        api.drift(run, "head")


@pytest.mark.parametrize("family", families.TINY)
def test_every_family_is_read_as_transformers_saves_it(family, tmp_path):
    """Some families are saved under other names than they live under."""
    model = families.tiny(family)
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    opened = open_run(tmp_path)
    assert opened.confidence["confidence"].min() > 0.99
    assert (api.drift(opened, "all")["relative_l2"] == 0).all()
    table = anatomy.family(family)
    living = [
        position for name in model.state_dict() if (position := table.locate(name)) and position[2] in table.tensors
    ]
    for checkpoint in opened.checkpoints:
        layers = checkpoint.names_of_layers.values()
        assert sorted(inner for layer in layers for inner in layer) == sorted(inner for *_, inner in living)
    if table.task in checkpoint_model.TEXT_TASKS:
        again = checkpoint_model.model_of(opened.checkpoints[-1])
        torch.testing.assert_close(families.logits(again), families.logits(model))
