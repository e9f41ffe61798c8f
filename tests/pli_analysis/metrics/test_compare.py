"""Runs against each other: levels and speed-ups against curves whose answers are known on paper."""

import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from pli_analysis.cli import app
from pli_analysis.metrics.comparison import compare, tables
from pli_analysis.metrics.comparison import curves as curve_metric
from pli_analysis.metrics.comparison.curves import Curve
from pli_analysis.report import compare as report
from pli_analysis.scalars import downloads, reading
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

EXPORTS = Path(__file__).parents[4] / "shared" / "data" / "tensorboard-exports"


def curve(name, steps, losses, group=None):
    return Curve(name, group or name, pd.DataFrame({"step": steps, "loss": losses}))


def powers(name, rate, group=None):
    """A loss of 10 · (1 + rate · step)^-0.5: of two such runs, one needs the ratio of their rates as many steps."""
    steps = np.arange(0, 20_001)
    return curve(name, steps, 10 * (1 + rate * steps) ** -0.5, group)


@given(st.floats(0.5, 4), st.floats(1.0, 8.0))
def test_the_speed_up_between_curves_of_known_pace(rate, level):
    table = compare.speed_ups([powers("one", 0.01), powers("other", 0.01 * rate)], [level], reference="one")
    assert table["speed_up"].iloc[0] == 1
    assert table["speed_up"].iloc[1] == pytest.approx(rate, rel=1e-3)
    assert table["speed_up_low"].isna().all()  # one run each has no interval


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=60), st.floats(0.1, 100))
def test_reaching_a_level_against_a_search_by_hand(losses, level):
    at, found = curve_metric.reached(curve("r", np.arange(len(losses)), losses), level, "step"), math.nan
    for step in range(1, len(losses)):
        if losses[0] > level and losses[step] <= level:
            found = step - 1 + (losses[step - 1] - level) / (losses[step - 1] - losses[step])
            break
    assert at == pytest.approx(found, nan_ok=True)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.sampled_from([1, 3, 5, 9]))
def test_smoothing_is_a_centered_mean(losses, width):
    half, count = width // 2, len(losses)
    expected = []
    for at in range(count):
        reach = min(half, at, count - 1 - at)
        expected.append(np.mean(losses[at - reach : at + reach + 1]))
    assert curve_metric.smoothed(np.array(losses), width) == pytest.approx(expected, abs=1e-9)


def test_a_level_not_reached_or_passed_at_the_start_is_missing():
    table = compare.speed_ups([curve("a", [0, 9], [5, 1]), curve("b", [0, 9], [4, 3])], [4.5, 3.5, 2.0])
    assert table[table["group"] == "b"]["reached"].tolist() == [0, 1, 0]
    assert table[table["group"] == "b"]["speed_up"].isna().tolist() == [True, False, True]


def seeded(group, rates, seeds=None, shared=None):
    """Runs of one group, with seeds of their own."""
    named = zip(rates, range(len(rates)) if seeds is None else seeds, strict=True)
    return [replace(powers(f"{group}{n}", rate, group), seed=n, shared=shared or {}) for rate, n in named]


RATES = [0.01, 0.012, 0.009]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((0, 1, 2), stats.ttest_rel), ((3, 4, 5), partial(stats.ttest_ind, equal_var=False))],
    ids=["one seed", "seeds apart"],
)
def test_the_interval_of_a_speed_up_is_of_a_t_test_on_logarithms(numbers, expected):
    doubled = [0.021, 0.0235, 0.0175]
    row = compare.speed_ups(seeded("a", RATES) + seeded("b", doubled, numbers), [2.0]).iloc[1]
    logs = np.log(doubled), np.log(RATES)
    assert row["speed_up"] == pytest.approx(np.exp(logs[0].mean() - logs[1].mean()), rel=1e-3)
    assert (row["speed_up_low"], row["speed_up_high"]) == pytest.approx(
        np.exp(expected(*logs).confidence_interval(0.95)), rel=1e-3
    )
    assert (row["pairing"], row["pairs"]) == (("seed", 3) if numbers[0] == 0 else ("none", 0))


def test_runs_are_paired_where_seeds_decide_the_same():
    base = seeded("a", RATES)
    paired = [(0, 0), (1, 1), (2, 2)]
    assert compare.pairs_of(base, seeded("b", RATES)) == paired
    assert compare.pairs_of(base, seeded("b", RATES, (2, 1, 0))) == [(2, 0), (1, 1), (0, 2)]
    assert compare.pairs_of(base, seeded("b", RATES[:2], (2, 0))) == [(2, 0), (0, 1)]
    for other in (
        seeded("b", RATES, (0, 1, 3)),  # one has no partner
        seeded("b", RATES[:1]),  # one pair has no interval
        seeded("b", RATES, (0, 1, 1)),  # which of the two?
        seeded("b", RATES, shared={"corpus": "another"}),  # other batches
        [powers(f"b{n}", rate, "b") for n, rate in enumerate(RATES)],  # seeds unknown
    ):
        assert compare.pairs_of(base, other) == []


def test_losses_are_compared_at_equal_flops():
    steps, losses = [0, 10, 20, 30], [5.0, 4.0, 3.0, 2.0]
    cheap, dear = (
        Curve(name, name, pd.DataFrame({"step": steps, "flops": np.multiply(steps, each), "loss": losses}))
        for name, each in (("cheap", 1.0), ("dear", 2.0))
    )
    at_steps, at_flops = compare.compared([cheap, dear]), compare.compared([cheap, dear], "flops")
    assert (at_steps.at, at_flops.at) == (30, 30)
    assert at_steps.groups["loss"].tolist() == [2.0, 2.0]
    assert at_flops.groups["loss"].tolist() == [2.0, 3.5]  # 30 FLOPs are 15 steps of the dear one
    assert compare.compared([cheap, dear], "flops", at=20).groups["difference"].iloc[1] == pytest.approx(1.0)


def test_default_levels_begin_with_what_all_runs_end_at():
    curves = [curve("a", [0, 20, 40], [6, 3, 2.00004]), curve("b", [0, 10, 20, 40], [5, 4.5, 4, 3.12345])]
    assert compare.default_levels(curves) == [3.124, 4.0, 4.5]
    table = compare.speed_ups(curves, compare.default_levels(curves))
    assert (table["reached"] == 1).all()
    assert compare.levels_down(curves, 40)[-1] == 3.124 and len(compare.levels_down(curves, 40)) == 40
    assert compare.default_levels([*curves, curve("low", [0, 1], [3, 2])]) == []


def test_a_level_that_some_runs_of_a_group_reach_has_no_speed_up():
    curves = [*seeded("a", RATES), curve("b0", [0, 9], [5, 1], "b"), curve("b1", [0, 9], [5, 4], "b")]
    row = compare.speed_ups(curves, [3.0]).iloc[1]
    assert (row["runs"], row["reached"]) == (2, 1) and row[["at", "speed_up", "speed_up_low"]].isna().all()


def test_the_verdict_is_one_sentence_on_groups():
    made = seeded("a", RATES) + seeded("b", [0.02, 0.022, 0.019]) + [powers("c", 0.03)]
    message = report.verdict(compare.compared(made))
    assert message.count(".") == len(re.findall(r"\d\.\d", message)) + 1 and message.endswith(".")
    assert message.startswith("At equal steps (20,000), a has a mean loss of ") and "(3 runs)" in message
    assert "paired by seed, 3 pairs" in message and "no interval: too few runs" in message
    single = report.verdict(compare.compared([powers("a", 0.01), powers("b", 0.02)]))
    assert "mean" not in single and single.count("(one run)") == 2 and "no interval: one run each" in single
    alone = report.verdict(compare.compared([powers("a", 0.01)], at=10))
    assert alone == f"At 10 steps, a has a loss of {10 * 1.1**-0.5:.3f} (one run)."
    many = report.verdict(compare.compared([powers(name, 0.01) for name in "abcdef"]))
    assert many.endswith("; 2 more groups in the table.")


def test_a_band_is_drawn_where_there_is_an_interval_alone():
    made = seeded("a", RATES) + seeded("b", [0.021, 0.0235, 0.0175]) + [powers("c", 0.03)]
    [figure] = report.sooner({"step": compare.compared(made)})
    drawn = {trace.name: trace for trace in figure.drawing.data}
    assert set(drawn) == {"b, 95 % interval", "b (3 runs)", "c (one run)"}
    band, last = drawn["b, 95 % interval"], figure.table[figure.table["group"] == "b"].iloc[-1]
    bounds = sorted(y for x, y in zip(band.x, band.y, strict=True) if x == last["loss_level"])
    assert bounds == pytest.approx([last["speed_up_low"], last["speed_up_high"]])
    low, high = figure.drawing.layout.yaxis.range
    assert low < min(1, *drawn["b (3 runs)"].y) and high > max(drawn["c (one run)"].y)
    assert f"{last['loss_level']:.4g}, b (3 runs) has a speed-up of {last['speed_up']:.3g} in steps" in figure.caption


def test_a_run_of_ours_beside_a_download_of_it(runs, family, tmp_path):
    whole = reading.read(runs[family])
    points = [[wall, step, value] for step, (wall, value) in sorted(whole.values[run_folder.EVAL_LOSS].items())]
    (tmp_path / "mine.json").write_text(json.dumps(points))
    lines = "\n".join(f"{wall!r},{step},{value!r}" for wall, step, value in points)
    (tmp_path / "again.csv").write_text(f"Wall time,Step,Value\n{lines}\n")
    [event_file] = runs[family].glob("events.out.tfevents.*")
    paths = (runs[family], tmp_path / "mine.json", tmp_path / "again.csv")
    ours, json_, csv_ = curve_metric.read([str(path) for path in paths])
    [file] = curve_metric.read([str(event_file)])
    for other in (json_, csv_, file):
        assert other.table[["step", "loss"]].equals(ours.table[["step", "loss"]])
    assert ours.events == [3, 6, 9] and ours.table["flops"].is_monotonic_increasing
    assert json_.table["flops"].isna().all() and json_.table["seconds"].iloc[0] == 0
    assert file.table["tokens"].equals(ours.table["tokens"])


BROKEN = {
    "[[1, 2]]": "not a list of",
    '[[1, 2, "x"]]': "not three numbers",
    '[["inf", 2, 3]]': "a step is not an integer or a time is not finite",
    "[[1, 2.5, 3]]": "a step is not an integer or a time is not finite",
    "[[1, 1e300, 3]]": "a step is too large",
    "[[1, 2, [3]]]": "not three numbers",
    "{}": "not a list of",
    "[" * 100_000: "is not a TensorBoard download",
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:12])
def test_a_broken_download_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=BROKEN[text]):
        reading.read(path)
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + text)
    with pytest.raises(BadInput, match="first line is not"):
        reading.read(path)


def test_nan_and_infinity_of_a_download_stay(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[[1, 1, NaN], [2, 2, "Infinity"], [3, 3, null], [4, 4, 0.5]]')
    assert np.array_equal(downloads.read(path)[:, 2], [math.nan, math.inf, math.nan, 0.5], equal_nan=True)
    [made] = curve_metric.read([str(path)])
    assert made.table["loss"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["nowhere"], "no such file or folder"),
        (["RUN", "RUN"], "is given twice"),
        (["RUN", "--tag", "nothing*"], "no scalar matches"),
        (["RUN", "--levels", "4,x"], "is not a list of losses; write numbers separated by commas"),
        (["RUN", "--smooth", "4"], "an odd number of points; use 3 or 5"),
        (["RUN", "--reference", "other"], "no run or group has this name; use one of"),
        (["RUN", "--at", "13"], "no run has a loss there; the last step that all runs reached is 12"),
        (["RUN", "--at", "nan"], "no run has a loss there"),
        (["RUN", "--runs", "--speed-ups"], "use one of them"),
    ],
)
def test_mistakes_are_one_line(runs, asked, message):
    answered = CliRunner().invoke(app, ["compare", *(str(runs["gpt2"]) if word == "RUN" else word for word in asked)])
    assert isinstance(answered.exception, BadInput) and message in str(answered.exception)


def test_an_unknown_axis_is_refused():
    with pytest.raises(BadInput, match="--by moons: is not an axis; use one of step, tokens, flops, seconds"):
        compare.compared([curve("a", [0, 1], [2.0, 1.0])], by="moons")
    answered = CliRunner().invoke(app, ["compare", "nowhere", "--by", "moons"])
    assert answered.exit_code == 2 and "moons" in answered.output


def test_the_page_of_a_comparison(runs, tmp_path):
    page = tmp_path / "page.html"
    asked = ["compare", *map(str, runs.values()), "--by", "flops", "--html", str(page), "--format", "json"]
    answered = CliRunner().invoke(app, asked)
    assert answered.exit_code == 0, answered.output
    assert {row["group"] for row in json.loads(answered.stdout)} == set(runs)
    first = page.read_bytes()
    CliRunner().invoke(app, asked)
    assert page.read_bytes() == first and b"losses" in first


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the published runs are not here")
def test_the_published_placements():
    asked = ["compare", *map(str, sorted(EXPORTS.glob("placement-*.json"))), "--at", "6500", "--format", "json"]
    lowest = json.loads(CliRunner().invoke(app, asked).stdout)[0]
    assert lowest["group"] == "placement-middle" and round(lowest["loss at 6500"], 3) == 5.302


def test_copies_of_runs_are_reported_as_not_varying():
    groups = {"a": [4.1, 2.771], "b": [4.0, 2.671]}
    found = compare.compared([curve(f"{g}{i}", [0, 10], groups[g], g) for g in groups for i in range(3)], levels=[3])
    for words in (report.verdict(found), report.speed_up_words(found)):
        assert "no interval: runs do not differ" in words


# --- several scalars, epochs, points that are not finite, small losses -----------------------------------------------


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
