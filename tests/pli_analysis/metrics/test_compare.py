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
from tests.curves import curve

EXPORTS = Path(__file__).parents[4] / "shared" / "data" / "tensorboard-exports"


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


def test_numbers_with_intervals_as_text_are_those_of_the_tables():
    curves = seeded("a", RATES) + seeded("b", [0.021, 0.0235, 0.0175]) + seeded("c", [0.02])
    found = compare.compared(curves, "step", None, [2.0])
    table = tables.with_intervals(found).set_index("group")
    groups, ups = found.groups.set_index("group"), found.speed_ups.set_index("group")
    expected = [(groups, "loss"), (groups, "difference"), (ups, "speed_up")]
    assert [title.partition(" (")[0] for title in table.columns.drop(["runs", "p"])] == [
        "loss at 20000",
        "difference from a",
        "speed-up to 2",
    ]
    for title, (numbers, column) in zip(table.columns.drop(["runs", "p"]), expected, strict=True):
        assert title.endswith(" (95 % interval)")
        for group, text in table[title].items():
            row = numbers.loc[group]
            if group == "a" and column != "loss":
                assert text == ""
                continue
            shown = [float(number.replace("−", "-")) for number in re.findall(r"[−\d.]+", text)]
            values = [value for end in ("", "_low", "_high") if not math.isnan(value := row[f"{column}{end}"])]
            decimals = {len(number.partition(".")[2]) for number in re.findall(r"[\d.]+", text)}
            assert len(decimals) == 1 and shown == pytest.approx(values, abs=0.51 * 10 ** -decimals.pop())
            assert len(shown) == (1 if group == "c" else 3)
    assert table["p"].tolist() == [f"{p:.3f}" if p == p else "" for p in groups.loc[table.index, "p"]]


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
