"""Which losses of several runs are compared: never unlike ones, and a diverged run is a row that says so."""

import json

from tests.foreign_logs import asked, falling, log, refusal, rows


def test_a_loss_of_training_is_never_compared_with_one_of_evaluation(tmp_path):
    one, other = log(tmp_path / "one", {"train/loss": falling(3)}), log(tmp_path / "other", {"eval/loss": falling(2)})
    message = refusal("compare", one, other)
    assert "one has train/loss; other has eval/loss; choose one with --tag" in message
    both = rows("compare", one, other, "--tag", "*/loss")  # asked for by name: both are told
    assert "train/loss of one, eval/loss of other at 16" in both[0]
    log(tmp_path / "third", {"eval/loss": falling(2), "train/loss": falling(3)})
    assert "train/loss at 16" in rows("compare", one, tmp_path / "third")[0]


def test_a_scalar_that_is_no_loss_by_its_name_is_compared_where_it_is_the_only_one(tmp_path):
    """Lightning logs hp_metric = -1 in every run: the only one that all have need not be what is to be compared."""
    log(tmp_path / "a", {"hp_metric": {0: -1.0}, "my_objective": falling(3)})
    log(tmp_path / "b", {"hp_metric": {0: -1.0}, "objective": falling(3)})
    log(tmp_path / "c", {"hp_metric": {0: -1.0}})
    log(tmp_path / "d", {"hp_metric": {0: -1.0}})
    message = refusal("compare", tmp_path)
    assert "a has hp_metric, my_objective; b has hp_metric, objective; c, d have hp_metric; choose one" in message
    assert "hp_metric at 0" in rows("compare", tmp_path / "c", tmp_path / "d")[0]
    assert "hp_metric at 0" in rows("compare", tmp_path, "--tag", "hp_metric")[0]


def test_the_only_loss_that_all_have_is_taken_whatever_it_is_called(tmp_path):
    for name, start in (("a", 3), ("b", 2)):
        log(tmp_path / name, {"hp_metric": {0: -1.0}, "train_loss_batch": falling(start)})
    assert {row["train_loss_batch at 16"] for row in rows("compare", tmp_path)} == {2.0, 1.0}
    log(tmp_path / "a", {"hp_metric": {0: -1.0}, "train_loss_batch": falling(3), "other_loss": falling(3)})
    log(tmp_path / "b", {"hp_metric": {0: -1.0}, "train_loss_batch": falling(3), "other_loss": falling(3)})
    assert "no known loss that all runs have" in refusal("compare", tmp_path)


def test_a_diverged_run_is_a_row_that_says_so(tmp_path):
    nan = float("nan")
    log(tmp_path / "well", {"train/loss": falling(3)})
    log(tmp_path / "never", {"train/loss": dict.fromkeys(range(5), nan)})
    log(tmp_path / "late", {"train/loss": falling(3) | {20: nan, 24: float("inf")}})
    log(tmp_path / "hiccup", {"train/loss": falling(2) | {5: nan}})
    done = asked("compare", tmp_path, "--format", "json", "--html", tmp_path / "page.html")
    found = {row["group"]: row for row in json.loads(done.stdout)}
    column = "train/loss at 16"
    assert {name: row[column] for name, row in found.items()} == {
        "hiccup": 1.0,
        "well": 2.0,
        "never": None,
        "late": None,
    }
    assert found["late"]["diverged"] == "late from step 20 on" and found["never"]["runs"] == 0
    said = "Diverged and left out: late from step 20 on, never from step 0 on."
    assert said in done.stderr and said in (tmp_path / "page.html").read_text()
    each = {row["run"]: row["diverged"] for row in rows("compare", tmp_path, "--runs")}
    assert each["late"] == "from step 20 on" and not each["well"]
    assert "diverged, the last loss is not finite" in refusal("compare", tmp_path / "never")
    assert "--reference late: all its runs diverged; use one of" in refusal("compare", tmp_path, "--reference", "late")
