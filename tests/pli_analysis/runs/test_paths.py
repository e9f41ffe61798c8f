"""What a path is: logs and models of others in the folders that their libraries make."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pli_analysis import api
from pli_analysis.runs import paths, step_names
from pli_analysis.runs.opening import open_run
from pli_analysis.runs.paths import Kind
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests import families
from tests.foreign_logs import asked, falling, log, refusal, rows
from tests.trainers import train


def tags(path):
    """name → its tags, of all runs at a path."""
    found = paths.logged(path)
    named = zip(paths.names([source for source, _ in found]), found, strict=True)
    return {name: sorted(logged.columns) for name, (_, logged) in named}


# --- logs -----------------------------------------------------------------------------------------------------------


def keras(folder, start):
    """As Keras's TensorBoard callback lays them out."""
    log(folder / "train", {"epoch_loss": falling(start), "epoch_learning_rate": {0: 0.1}})
    log(folder / "validation", {"epoch_loss": falling(start + 1)})
    return folder


def test_keras_folders_are_compared_by_the_loss_of_validation(tmp_path):
    for name, start in (("a", 3.0), ("b", 2.0)):
        keras(tmp_path / name, start)
    expected = ["train/epoch_learning_rate", "train/epoch_loss", "validation/epoch_loss"]
    assert tags(tmp_path) == {"a": expected, "b": expected}
    column = "validation/epoch_loss at 16 epochs"
    for given in ([tmp_path], [tmp_path / "a", tmp_path / "b"]):
        assert {row["group"]: row[column] for row in rows("compare", *given)} == {"a": 3.0, "b": 2.0}
    parts = [tmp_path / name / "validation" for name in "ab"]
    assert {row["group"]: row["epoch_loss at 16 epochs"] for row in rows("compare", *parts)} == {
        "a/validation": 3.0,
        "b/validation": 2.0,
    }
    by_step = log(tmp_path / "steps", {"eval_loss": falling(3.0)})
    message = refusal("compare", parts[0], by_step, "--tag", "*_loss")
    assert message.startswith("validation counts epochs, steps counts steps: ")


def test_an_estimators_eval_folder_is_a_part_of_its_run(tmp_path):
    log(tmp_path / "model", {"loss": falling(3)})
    log(tmp_path / "model" / "eval", {"loss": falling(4)})
    assert tags(tmp_path / "model") == {"model": ["eval/loss", "loss"]}


def test_lightning_versions_are_runs_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9):
        version = tmp_path / "lightning_logs" / f"version_{number}"
        version.mkdir(parents=True)
        (version / "hparams.yaml").write_text("lr: 0.1\n")
        (version / "metrics.csv").write_text(f"epoch,step,train_loss,val_loss\n0,9,2.5,\n0,9,,{number}\n")
    log(tmp_path / "lightning_logs" / "version_9", {"val_loss": {9: 5.0}, "lr": {9: 1.0}})
    for path in (tmp_path, tmp_path / "lightning_logs"):
        assert list(tags(path)) == ["version_9", "version_10"]
    assert tags(tmp_path)["version_9"] == ["epoch", "lr", "train_loss", "val_loss"]
    found = {row["group"]: row["val_loss at 9"] for row in rows("compare", tmp_path)}
    assert found == {"version_9": 5.0, "version_10": 10.0}  # event files go before the table


def test_what_hydra_wrote_is_one_run_whatever_logged_in_it(tmp_path):
    for position in ("outputs/2024-01-02/03-04-05", "multirun/2024-01-02/03-04-05/0", "multirun/2024-01-02/03-04-05/1"):
        job = tmp_path / position
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra" / "config.yaml").write_text("lr: 0.1\n")
        log(job / "tensorboard" / "version_0", {"train/loss": falling(3)})
        (job / "csv" / "version_0").mkdir(parents=True)
        (job / "csv" / "version_0" / "metrics.csv").write_text("epoch,step,val/loss\n0,16,2.5\n")
    assert tags(tmp_path / "multirun") == {
        "0": ["epoch", "train/loss", "val/loss"],
        "1": ["epoch", "train/loss", "val/loss"],
    }
    assert list(tags(tmp_path / "outputs")) == ["outputs"]  # one run there: called after what was asked for
    assert len(rows("compare", tmp_path)) == 3


def test_files_alone(tmp_path):
    (tmp_path / "a.csv").write_text("Wall time,Step,Value\n1,0,3\n2,8,2\n")
    (tmp_path / "b.csv").write_text("step,loss,val_loss\n0,3,3.5\n8,2,2.5\n")
    (tmp_path / "k.csv").write_text("epoch,loss,val_loss\n0,3,3.5\n8,2,2.5\n")
    history = [{"step": 0, "eval_loss": 3.0}, {"step": 8, "eval_loss": 1.5, "epoch": 1.0}]
    (tmp_path / "out").mkdir()
    state = tmp_path / "out" / "trainer_state.json"
    state.write_text(json.dumps({"global_step": 8, "log_history": history}))
    assert tags(tmp_path / "a.csv") == {"a": ["a"]}
    assert tags(state)["out"][0] == "eval/loss"
    assert {row["group"] for row in rows("compare", tmp_path / "a.csv", tmp_path / "b.csv")} == {"a", "b"}
    assert refusal("compare", tmp_path / "a.csv", tmp_path / "k.csv").startswith("a counts steps, k counts epochs: ")
    only = rows("compare", tmp_path / "a.csv", state)
    assert {row["group"]: row["eval/loss at 8"] for row in only} == {"a": 2.0, "out": 1.5}


def test_a_download_called_after_a_loss_is_compared_with_that_loss_alone(tmp_path):
    (tmp_path / "run-x-tag-train_loss.csv").write_text("Wall time,Step,Value\n1,0,3\n2,8,2\n")
    log(tmp_path / "run", {"eval/loss": falling(3), "train/loss": falling(2)})
    found = rows("compare", tmp_path / "run", tmp_path / "run-x-tag-train_loss.csv")
    assert {row["group"]: row["train/loss at 8"] for row in found} == {"run": 1.5, "run-x-tag-train_loss": 2.0}
    log(tmp_path / "evals", {"eval/loss": falling(3)})
    assert "no known loss that all runs have" in refusal(
        "compare", tmp_path / "evals", tmp_path / "run-x-tag-train_loss.csv"
    )


def test_a_run_that_holds_no_logs_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    for command in ("scalars", "compare"):
        assert refusal(command, tmp_path / "empty").endswith("empty: holds no scalars")
    assert "holds logs but no checkpoints" in refusal("drift", keras(tmp_path / "k", 1.0))
    assert "use compare or scalars to read its logs" in refusal("report", tmp_path / "k")
    assert "watch reads only runs of pli-train" in refusal("watch", tmp_path / "k")


def test_files_are_distinguished_by_suffix_as_a_last_resort(tmp_path):
    (tmp_path / "x.csv").write_text("Wall time,Step,Value\n1,0,3\n2,8,2\n")
    (tmp_path / "x.json").write_text("[[1, 0, 3], [2, 8, 2]]")
    found = rows("compare", tmp_path / "x.csv", tmp_path / "x.json")
    assert {row["group"] for row in found} == {"x.csv", "x.json"}


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_a_folder_of_downloads_is_read_again(ending, tmp_path):
    log(tmp_path / "run", {"loss": falling(2), "train/loss": falling(3)})
    done = asked("scalars", tmp_path / "run", "--download", tmp_path / "downloads", "--format", ending)
    assert done.exit_code == 0 and tags(tmp_path / "downloads") == {"loss": ["loss"], "train_loss": ["train_loss"]}


def test_runs_of_which_nothing_can_be_read_are_reported(tmp_path):
    log(tmp_path / "well", {"loss": falling(2)})
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "events.out.tfevents.1.host.1.0").write_bytes(b"\xff" * 50)
    done = asked("compare", tmp_path)
    assert done.exit_code == 0 and "passed over: " in done.stderr and "1 damaged record, and 50 bytes" in done.stderr


def test_a_table_that_is_no_log_is_passed_by(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.csv").write_text("model,f1\nforest,0.9\n")
    assert refusal("scalars", tmp_path).endswith("holds no scalars")
    log(tmp_path / "logs", {"loss": falling(2)})
    assert list(tags(tmp_path)) == [tmp_path.name]


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = log(tmp_path / "run", {"loss": falling(2)}) / "events.out.tfevents.2.host.1.0"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 75\n")
    done = asked("scalars", tmp_path / "run")
    assert f"passed over: {path}: is a pointer of Git LFS, not the file itself: `git lfs pull` gets it" in done.stderr


# --- Trainer --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two outputs of Trainer called alike. Not to be written to."""
    folder = tmp_path_factory.mktemp("trainers")
    return [train(folder / name / "out", max_steps=8, save_only_model=True) for name in "ab"]


def test_outputs_of_trainer_are_runs_in_every_command(outputs, tmp_path):
    one, other = outputs
    assert [source.kind for source in paths.find(one.parent.parent)] == [Kind.TRAINER] * 2
    found = rows("compare", f"g={one}", f"g={other}", "--runs")
    assert {(row["run"], row["group"]) for row in found} == {("a/out", "g"), ("b/out", "g")}
    history = json.loads((one / "checkpoint-8" / run_folder.TRAINER_STATE).read_text())["log_history"]
    last = next(entry["loss"] for entry in reversed(history) if "loss" in entry)
    assert found[0]["train/loss at 8"] == pytest.approx(last)
    shown = asked("report", f"g={one}", f"g={other}", f"h={one.parent.parent / 'b' / 'out' / 'checkpoint-8'}")
    assert shown.exit_code == 0, (shown.output, shown.exception)
    assert "3 runs in 2 groups side by side" in shown.stdout and "was not recorded" in shown.stdout
    assert "give it alone" in refusal("drift", one, other)
    assert "holds 2 runs; give one of" in refusal("lineage", one.parent.parent)
    assert rows("drift", one.parent)[0]["part"] == "a"  # the only one there
    assert len({row["run"] for row in rows("scalars", one.parent.parent)}) == 2


def test_checkpoints_of_one_output_are_checkpoints_of_one_model(outputs):
    done = asked("report", *outputs[0].glob("checkpoint-*"))
    assert done.exit_code == 0 and "side by side" not in done.stdout


# --- links and folders that hold one run ----------------------------------------------------------------------------


LINK = "is a link, which is not followed; pass its target instead"


def test_a_link_among_runs_is_named_and_not_followed(tmp_path):
    for name in "ab":
        log(tmp_path / "h" / name, {"loss": falling(3)})
    target = log(tmp_path / "elsewhere" / "c", {"loss": falling(2)})
    (tmp_path / "h" / "c").symlink_to(target)
    for command in ("scalars", "compare"):
        done = asked(command, tmp_path / "h", "--format", "csv")
        assert done.exit_code == 0 and done.stderr.count(f"passed over: {tmp_path / 'h' / 'c'}: {LINK}") == 1, (
            done.stderr
        )
        assert "c" not in {line.split(",")[0] for line in done.stdout.splitlines()}
    shutil.rmtree(tmp_path / "h" / "a")
    shutil.rmtree(tmp_path / "h" / "b")
    for command in ("scalars", "compare", "grad-norms", "lineage", "drift", "report"):
        assert f"{tmp_path / 'h' / 'c'}: {LINK}" in command_said(command, tmp_path / "h")
    (tmp_path / "h" / "c").unlink()
    (tmp_path / "h" / "c").symlink_to("c")  # a circle leads to no folder, and ends nothing
    assert "holds no scalars" in refusal("scalars", tmp_path / "h")


def command_said(*words):
    """What a command that failed, or may have, told on stderr."""
    done = asked(*words)
    assert done.exit_code != 0
    return f"{done.stderr}{done.exception}"


def test_a_linked_part_of_a_run_is_named(tmp_path):
    log(tmp_path / "h" / "train", {"loss": falling(3)})
    (tmp_path / "h" / "validation").symlink_to(log(tmp_path / "elsewhere", {"loss": falling(2)}))
    done = asked("scalars", tmp_path / "h")
    assert done.exit_code == 0 and f"passed over: {tmp_path / 'h' / 'validation'}: {LINK}" in done.stderr


def test_linked_checkpoints_are_named_by_every_command(outputs, tmp_path):
    out = shutil.copytree(outputs[0], tmp_path / "out")
    shutil.rmtree(out / "checkpoint-8")
    (out / "checkpoint-8").symlink_to(outputs[0] / "checkpoint-8")
    for command in ("lineage", "drift", "compare", "scalars"):
        done = asked(command, out)
        assert done.exit_code == 0, (done.output, done.exception)
        assert done.stderr.count(f"checkpoint-8: {LINK}") == 1 and "passed over: " in done.stderr


def test_linked_step_folders_are_named_by_every_command(model, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(model, out / "step_100")
    (out / "step_200").symlink_to(model)
    for command in ("lineage", "drift", "embed"):
        done = asked(command, out)
        assert done.exit_code == 0, (done.output, done.exception)
        assert done.stderr.count(f"passed over: step_200: {LINK}") == 1
    shutil.rmtree(out / "step_100")
    assert f"{out / 'step_200'}: {LINK}" in refusal("drift", out)


def test_the_only_run_in_a_folder_is_taken_by_every_command(runs, tmp_path):
    run = shutil.copytree(runs["gpt2"], tmp_path / "h" / "r0")
    for words in (
        ["lineage"],
        ["drift"],
        ["embed"],
        ["grad-norms"],
        ["disturbance"],
        ["similarity", "--space", "weights"],
    ):
        assert rows(*words, tmp_path / "h") == rows(*words, run), words
    assert all(row["age"] is not None for row in rows("grad-norms", tmp_path / "h", "--of", "head"))
    shown = asked("report", tmp_path / "h")
    assert shown.exit_code == 0, (shown.output, shown.exception)
    assert "is a run" in refusal("lineage", tmp_path / "h", "--stack", "transformer.h")
    shutil.copytree(run, tmp_path / "h" / "r1")
    assert "holds 2 runs; give one of" in refusal("lineage", tmp_path / "h")


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    families.tiny("gpt2").save_pretrained(tmp_path_factory.mktemp("model"))
    return next(tmp_path_factory.getbasetemp().glob("model*"))


@pytest.mark.parametrize(
    "pattern", ["step_{}", "step-{}", "step{}", "global_step{}", "ckpt-{}", "{}", "iter_{:07d}", "m-step{}", "epoch_{}"]
)
def test_folders_named_by_steps_come_in_their_order(pattern, model, tmp_path):
    for number in (10, 100, 20):
        shutil.copytree(model, tmp_path / "m" / pattern.format(number))
    shutil.copytree(model, tmp_path / "m" / "best")
    given = sorted(tmp_path.glob("m/*"))  # as a shell lists them
    for opened in (open_run(tmp_path / "m"), open_run([path for path in given if path.name != "best"])):
        assert [(c.step, str(c.name)) for c in opened.checkpoints] == [(n, pattern.format(n)) for n in (10, 20, 100)]
        assert opened.notes[0].startswith("steps are ") == ("step" not in pattern)


def test_names_that_count_different_things_are_refused(model, tmp_path):
    for name in ("step_10", "epoch_2", "best"):
        shutil.copytree(model, tmp_path / name)
    assert "step_10: folder name counts steps, but 'epoch_2' counts epochs" in refusal(
        "drift", tmp_path / "epoch_2", tmp_path / "step_10"
    )
    assert "counts" in refusal("drift", tmp_path)
    opened = open_run([tmp_path / "step_10", tmp_path / "best"])
    assert opened.notes[0].startswith("steps are numbers in the order given")


def test_models_without_steps_are_to_be_given_in_order(model, tmp_path):
    for name in ("base", "tuned"):
        shutil.copytree(model, tmp_path / name)
    assert "holds models whose names have no step; give them in training order:" in refusal("drift", tmp_path)


def test_numbers_that_stand_elsewhere_in_a_name_are_no_steps():
    assert [step_names.numbered(name) for name in ("version_3", "gpt2", "run-7", "step_x", "step_1e3")] == [None] * 5


# --- the hub's cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(model, tmp_path):
    """A model as the hub's cache keeps it: a folder of links to files called after their hashes."""
    cache = tmp_path / "hub" / "models--who--what"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, cache / "blobs" / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"blob{number}")
    return snapshot


def test_the_hubs_cache_is_read_through_its_links(cached, model, tmp_path):
    (tmp_path / "short").symlink_to(cached)
    for path in (cached, cached.parents[1], tmp_path / "short"):
        [checkpoint] = open_run(path).checkpoints
        assert set(checkpoint.files) == set(load_file(model / run_folder.WEIGHTS))
        assert checkpoint.config["model_type"] == "gpt2"
    assert rows("lineage", cached)[0]["layer"] == "a"


@pytest.mark.parametrize("name", [run_folder.CONFIG, run_folder.WEIGHTS])
@pytest.mark.parametrize("where", ["elsewhere", "another model", "through a blob"])
def test_a_link_that_leads_out_of_its_model_is_refused(where, name, cached, model, tmp_path):
    target = model / name
    if where == "another model":
        target = tmp_path / "hub" / "models--x" / "blobs" / "y"
        target.parent.mkdir(parents=True)
        shutil.copy(model / name, target)
    if where == "through a blob":
        (cached.parents[1] / "blobs" / "z").symlink_to(target)
        target = cached.parents[1] / "blobs" / "z"
    (cached / name).unlink()
    (cached / name).symlink_to(target)
    assert f"{name} is a link" in refusal("lineage", cached) and "cp -rL" in refusal("lineage", cached)


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize("word", ["", "a=", "="])
def test_an_empty_path_is_not_the_current_folder(command, word, tmp_path, monkeypatch):
    log(tmp_path / "run", {"loss": falling(2)})
    monkeypatch.chdir(tmp_path)
    assert refusal(command, "run", word) == f"'{word}': has no path of a run; write GROUP=RUN, or RUN alone"


def test_the_only_run_in_a_folder_is_taken(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "runs" / "mine")
    whole = open_run(small_run)
    found = open_run(tmp_path / "runs")
    assert found.path == tmp_path / "runs" / "mine" and found.lineage.to_json() == whole.lineage.to_json()
    assert api.drift(found).equals(api.drift(whole))
    assert asked("report", tmp_path / "runs").stdout.startswith("mine:")
    shutil.copytree(small_run, tmp_path / "runs" / "other")
    with pytest.raises(BadInput, match="holds 2 runs; give one of"):
        open_run(tmp_path / "runs")
