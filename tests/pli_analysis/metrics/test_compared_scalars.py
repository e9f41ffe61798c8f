"""What is compared: several scalars, epochs, points that are not finite, and losses that hardly differ."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from pli_analysis.cli import app
from pli_analysis.metrics.comparison import compare, tables
from pli_analysis.metrics.comparison import curves as curve_metric
from pli_analysis.report import compare as report
from pli_train.core.errors import BadInput
from tests.curves import curve


def table(path, **columns):
    """A CSV log of some columns."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def answer(*words):
    """(rows, lines on stderr) of `compare`."""
    done = CliRunner().invoke(app, ["compare", *map(str, words), "--format", "json"])
    assert done.exit_code == 0, done.output or done.exception
    return json.loads(done.stdout), done.stderr.splitlines()


def refusal(*words):
    done = CliRunner().invoke(app, ["compare", *map(str, words)])
    assert isinstance(done.exception, BadInput) and "\n" not in str(done.exception)
    return str(done.exception)


ENDS = {"x": ([1.0, 1.2, 1.1], [2.5, 2.9, 2.6]), "y": ([0.9, 0.8, 1.0], [2.6, 2.2, 2.7])}
"""Group → the last train and validation loss of each of its runs."""


@pytest.fixture
def two_scalars(tmp_path):
    return [
        f"{group}={table(tmp_path / f'{group}{n}.csv', step=[0, 100], train_loss=[2, one], val_loss=[5, other])}"
        for group, ends in ENDS.items()
        for n, (one, other) in enumerate(zip(*ends, strict=True))
    ]


def test_each_scalar_is_compared_by_itself_and_the_unit_stays_the_run(two_scalars):
    rows, message = answer(*two_scalars, "--tag", "*_loss")
    assert len(rows) == 4
    for number, scalar in enumerate(("train_loss", "val_loss")):
        base, mine = ENDS["x"][number], ENDS["y"][number]
        of = {row["group"]: row for row in rows if row["scalar"] == scalar}
        assert [of[group]["runs"] for group in "xy"] == [3, 3]
        assert [of[group]["loss at 100"] for group in "xy"] == pytest.approx([np.mean(base), np.mean(mine)])
        welch = stats.ttest_ind(mine, base, equal_var=False)
        interval = welch.confidence_interval(0.95)
        assert (of["y"]["difference_low"], of["y"]["difference_high"]) == pytest.approx((interval.low, interval.high))
        exact = stats.permutation_test((mine, base), lambda a, b: np.mean(a) - np.mean(b), n_resamples=np.inf)
        assert of["y"]["p"] == pytest.approx(exact.pvalue) and of["y"]["min_p"] == pytest.approx(0.1)
        assert message[number].startswith(f"In {scalar} at equal steps (100), x has a mean loss of ")
        assert message[number].count("(3 runs)") == 2


def test_each_scalar_has_its_own_reference_without_groups(tmp_path):
    one = table(tmp_path / "a.csv", step=[0, 100], train_loss=[2, 1], val_loss=[5, 3])
    other = table(tmp_path / "b.csv", step=[0, 100], train_loss=[2, 0.5], val_loss=[5, 1])
    rows, message = answer(one, other, "--tag", "*_loss")
    differences = {row["scalar"]: row["difference"] for row in rows if row["group"] == "b"}
    assert differences == {"train_loss": pytest.approx(0.5 - 1), "val_loss": pytest.approx(1 - 3)}
    assert len(message) == 2 and all(line.count("a difference of") == 1 for line in message)
    ups, _ = answer(one, other, "--tag", "*_loss", "--levels", "1.5,4", "--speed-ups")
    found = {(row["scalar"], row["loss_level"]): row["speed_up"] for row in ups if row["group"] == "b"}
    # Straight lines: train 2 → 1.5 takes 50 and 100/3 steps, validation 5 → 4 takes 50 and 25, and a never has 1.5.
    assert found["train_loss", 1.5] == pytest.approx(1.5) and found["val_loss", 4] == pytest.approx(2)
    assert found["val_loss", 1.5] is None and found["train_loss", 4] is None
    assert {row["run"] for row in answer(one, other, "--tag", "*_loss", "--runs")[0]} == {"a", "b"}


def test_the_page_has_a_section_for_each_scalar(two_scalars, tmp_path):
    page = tmp_path / "page.html"
    _, message = answer(*two_scalars, "--tag", "*_loss", "--html", page)
    text = page.read_text()
    assert "Comparison of train_loss" in text and "Comparison of val_loss" in text
    assert all(line in text for line in message[:2])
    curves = curve_metric.read(two_scalars, "*_loss")
    built = report.build([compare.compared(each) for each in compare.by_scalar(curves)])
    ids = [figure.id for section in built.sections for figure in section.figures]
    assert len(ids) == len(set(ids)) == 4 and built.title == "Comparison of 6 runs"
    for section, losses in zip(built.sections, ENDS["x"], strict=True):
        assert sorted(section.figures[0].table.query("run == 'x0'")["loss"])[0] == losses[0]


def test_a_log_of_epochs_says_epochs(tmp_path):
    asked = [table(tmp_path / f"{name}.csv", epoch=[0, 1, 2], val_loss=losses) for name, losses in KERAS.items()]
    page = tmp_path / "page.html"
    rows, message = answer(*asked, "--html", page)
    assert {row["group"]: row["val_loss at 2 epochs"] for row in rows} == {"k": 2.2, "l": 2.1}
    assert message[0].startswith("In val_loss at equal epochs (2), k has ") and "steps" not in message[0]
    assert {row["last epoch"] for row in answer(*asked, "--runs")[0]} == {2}
    made = report.build([compare.compared(curve_metric.read(list(map(str, asked))))])
    losses, ups = made.sections[0].figures
    assert losses.drawing.layout.xaxis.title.text == "epochs" and set(ups.table["axis"]) == {"epoch"}
    assert "in epochs over k" in ups.caption and "Epochs that k needs" in dict(made.sections[0].method)["speed-up"]
    assert "at equal epochs (2)" in page.read_text()


KERAS = {"k": [3.5, 2.5, 2.2], "l": [3.4, 2.3, 2.1]}


def test_epochs_and_steps_are_not_compared(tmp_path):
    by_epoch = table(tmp_path / "k.csv", epoch=[0, 1], val_loss=[3, 2])
    by_step = table(tmp_path / "s.csv", step=[0, 1], val_loss=[3, 2])
    expected = "k counts epochs, s counts steps: compare logs with the same unit, or use --by seconds"
    assert refusal(by_epoch, by_step) == expected
    timed = [
        table(tmp_path / f"{unit}.csv", **{unit: [0, 1], "timestamp": [10, 30], "val_loss": [3, 2]})
        for unit in ("epoch", "step")
    ]
    assert {row["val_loss at 20.0 seconds"] for row in answer(*timed, "--by", "seconds")[0]} == {2}
    assert "epoch counts epochs, step counts steps" in refusal(*timed)
    # A step column decides, whatever else is there.
    both = table(tmp_path / "both.csv", epoch=[0, 0], step=[0, 1], val_loss=[4, 3])
    assert answer(both, by_step)[0][0]["val_loss at 1"] == 2


def test_points_that_are_not_finite_are_reported_and_not_bridged(tmp_path):
    broken = table(tmp_path / "g.csv", step=[0, 100, 200, 300], val_loss=[5, "inf", "nan", 2])
    whole = table(tmp_path / "h.csv", step=[0, 100, 200, 300], val_loss=[5, 4, 3, 1])
    rows, message = answer(broken, whole)
    assert message[0] == "passed over: g: 2 points of val_loss not finite, at steps 100, 200"
    assert message[1].endswith(" Not finite and left out: 2 points of g.")
    assert {row["group"]: row["non-finite points"] for row in rows} == {"g": 2, "h": 0}
    of_runs, _ = answer(broken, whole, "--runs")
    assert {row["run"]: row["non-finite points"] for row in of_runs} == {"g": 2, "h": 0}
    at_gap = {row["group"]: row["val_loss at 100"] for row in answer(broken, whole, "--at", "100")[0]}
    assert at_gap == {"g": None, "h": 4}
    assert "g has no loss there" in answer(broken, whole, "--at", "200")[1][1]
    assert "no run has a finite loss there" in refusal(broken, "--at", "200")
    assert "no run has a finite loss there" in refusal(broken, "--at", "150")
    assert "non-finite points" not in answer(whole)[0][0] and len(answer(whole)[1]) == 1


def test_a_gap_is_one_on_every_axis_and_levels_pass_it_by(tmp_path):
    broken = table(tmp_path / "g.csv", step=[0, 25, 50, 100], timestamp=[10, 20, 30, 50], val_loss=[5, 4, "nan", 2])
    [curve] = curve_metric.read([str(broken)])
    assert [curve_metric.loss_at(curve, at, "seconds") for at in (0, 5, 10, 40)] == [5, 4.5, 4, 2]
    for axis, points in (("seconds", (10.5, 20, 39)), ("step", (26, 50, 99))):
        assert all(math.isnan(curve_metric.loss_at(curve, at, axis)) for at in points)
    assert compare.default_levels([curve]) == [2, 4]  # at half of its steps it has no loss


@pytest.mark.parametrize(
    ("base", "mine", "words"),
    [
        (0.00006, 0.00003, ("0.00006", "0.00003", "a difference of -0.00003 ")),
        (4.0011, 4.0014, ("4.0011", "4.0014", "a difference of +0.0003 ")),
        (0.0004, 0.0006, ("0.0004", "0.0006", "a difference of +0.0002 ")),
        (4.0, 3.5, ("4.000", "3.500", "a difference of -0.500 ")),
    ],
)
def test_losses_have_enough_digits_to_differ(base, mine, words):
    message = report.verdict(compare.compared([curve("a", [0, 9], [5, base]), curve("b", [0, 9], [5, mine])]))
    first, second, differences = words
    assert (
        f"a has a loss of {first} (" in message and f"b has a loss of {second} (" in message and differences in message
    )


@pytest.mark.parametrize("level", [2.7182818, 0.00012345, 3])
def test_a_level_has_the_same_digits_everywhere(level):
    found = compare.compared([curve("a", [0, 9], [5, 0]), curve("b", [0, 9], [4, 0])], levels=[level])
    [header] = (name for name in tables.summary(found) if name.startswith("speed-up to "))
    shown = header.removeprefix("speed-up to ")
    assert float(shown) == level and f"To reach a loss of {shown}, b " in report.speed_up_words(found)
