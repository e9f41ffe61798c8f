"""Runs against each other: levels and speed-ups against curves whose answers are known on paper."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pli_analysis import downloads, scalars
from pli_analysis.cli import app
from pli_analysis.metrics import compare
from pli_analysis.metrics.compare import Curve
from pli_train import run_folder
from pli_train.errors import BadInput

EXPORTS = Path(__file__).parents[3] / "shared" / "data" / "tensorboard-exports"


def curve(name, steps, losses, group=None):
    return Curve(name, group or name, pd.DataFrame({"step": steps, "loss": losses}))


def powers(name, pace, group=None):
    """A loss of 10 · (1 + pace · step)^-0.5: of two such runs, one needs the ratio of their paces as many steps."""
    steps = np.arange(0, 20_001)
    return curve(name, steps, 10 * (1 + pace * steps) ** -0.5, group)


@given(st.floats(0.5, 4), st.floats(1.0, 8.0))
def test_the_speed_up_between_curves_of_known_pace(pace, level):
    table = compare.speed_ups([powers("one", 0.01), powers("other", 0.01 * pace)], [level], reference="one")
    assert table["speed_up"].iloc[0] == 1
    assert table["speed_up"].iloc[1] == pytest.approx(pace, rel=1e-3)
    assert table["low"].isna().all()  # one run each has no band


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=60), st.floats(0.1, 100))
def test_reaching_a_level_against_a_search_by_hand(losses, level):
    at, found = compare.reached(curve("r", np.arange(len(losses)), losses), level, "step"), math.nan
    for step in range(1, len(losses)):
        if losses[0] > level and losses[step] <= level:
            found = step - 1 + (losses[step - 1] - level) / (losses[step - 1] - losses[step])
            break
    assert at == pytest.approx(found, nan_ok=True)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.sampled_from([1, 3, 5, 9]))
def test_smoothing_is_a_centred_mean(losses, width):
    half, count = width // 2, len(losses)
    expected = []
    for at in range(count):
        reach = min(half, at, count - 1 - at)
        expected.append(np.mean(losses[at - reach : at + reach + 1]))
    assert compare.smoothed(np.array(losses), width) == pytest.approx(expected, abs=1e-9)


def test_a_level_not_reached_or_passed_at_the_start_is_missing():
    table = compare.speed_ups([curve("a", [0, 9], [5, 1]), curve("b", [0, 9], [4, 3])], [4.5, 3.5, 2.0])
    assert table[table["group"] == "b"]["reached"].tolist() == [0, 1, 0]
    assert table[table["group"] == "b"]["speed_up"].isna().tolist() == [True, False, True]


def test_seeds_have_a_band_that_holds_the_truth_and_narrows():
    widths = []
    for seeds in (3, 24):
        spread = np.exp(0.05 * np.linspace(-1, 1, seeds))
        paces = 0.01 * spread, 0.02 * spread
        named = zip("ab", paces, strict=True)
        runs = [powers(f"{group}{n}", pace, group) for group, of_group in named for n, pace in enumerate(of_group)]
        row = compare.speed_ups(runs, [2.0]).iloc[1]
        assert row["runs"] == seeds and row["low"] < 2 < row["high"]
        ratio = np.exp(np.log(paces[1]).mean() - np.log(paces[0]).mean())
        assert row["speed_up"] == pytest.approx(ratio, rel=1e-3)
        widths.append(row["high"] - row["low"])
    assert widths[1] < widths[0]


def test_a_run_of_ours_beside_a_download_of_it(runs, family, tmp_path):
    whole = scalars.read(runs[family])
    points = [[wall, step, value] for step, (wall, value) in sorted(whole.values[run_folder.EVAL_LOSS].items())]
    (tmp_path / "mine.json").write_text(json.dumps(points))
    lines = "\n".join(f"{wall!r},{step},{value!r}" for wall, step, value in points)
    (tmp_path / "again.csv").write_text(f"Wall time,Step,Value\n{lines}\n")
    [event_file] = runs[family].glob("events.out.tfevents.*")
    paths = (runs[family], tmp_path / "mine.json", tmp_path / "again.csv")
    ours, json_, csv_ = compare.read([str(path) for path in paths])
    [file] = compare.read([str(event_file)])
    for other in (json_, csv_, file):
        assert other.table[["step", "loss"]].equals(ours.table[["step", "loss"]])
    assert ours.events == [3, 6, 9] and ours.table["flops"].is_monotonic_increasing
    assert json_.table["flops"].isna().all() and json_.table["seconds"].iloc[0] == 0
    assert file.table["tokens"].equals(ours.table["tokens"])


BROKEN = {
    "[[1, 2]]": "no list of",
    '[[1, 2, "x"]]': "not three numbers",
    '[["inf", 2, 3]]': "a step or a time",
    "[[1, 2.5, 3]]": "a step or a time",
    "[[1, 1e300, 3]]": "beyond all measure",
    "[[1, 2, [3]]]": "not three numbers",
    "{}": "no list of",
    "[" * 100_000: "is no TensorBoard download",
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:12])
def test_a_broken_download_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=BROKEN[text]):
        scalars.read(path)
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + text)
    with pytest.raises(BadInput, match="first line is not"):
        scalars.read(path)


def test_nan_and_infinity_of_a_download_stay(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[[1, 1, NaN], [2, 2, "Infinity"], [3, 3, null], [4, 4, 0.5]]')
    assert np.array_equal(downloads.read(path)[:, 2], [math.nan, math.inf, math.nan, 0.5], equal_nan=True)
    [made] = compare.read([str(path)])
    assert made.table["loss"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["nowhere"], "no such file or folder"),
        (["RUN", "RUN"], "two runs are called"),
        (["RUN", "--tag", "nothing*"], "no scalar matches"),
        (["RUN", "--by", "moons"], "none of step"),
        (["RUN", "--levels", "4,x"], "give losses"),
        (["RUN", "--smooth", "4"], "an odd number of points: 3 or 5"),
        (["RUN", "--reference", "other"], "no run or group is called"),
    ],
)
def test_mistakes_are_one_line(runs, asked, told):
    answered = CliRunner().invoke(app, ["compare", *(str(runs["gpt2"]) if word == "RUN" else word for word in asked)])
    assert isinstance(answered.exception, BadInput) and told in str(answered.exception)


def test_the_page_of_a_comparison(runs, tmp_path):
    page = tmp_path / "page.html"
    asked = ["compare", *map(str, runs.values()), "--by", "flops", "--html", str(page), "--format", "json"]
    answered = CliRunner().invoke(app, asked)
    assert answered.exit_code == 0, answered.output
    assert {row["run"] for row in json.loads(answered.stdout)} == set(runs)
    first = page.read_bytes()
    CliRunner().invoke(app, asked)
    assert page.read_bytes() == first and b"losses" in first


@pytest.mark.skipif(not EXPORTS.is_dir(), reason="the published runs are not here")
def test_the_published_placements():
    asked = ["compare", *map(str, sorted(EXPORTS.glob("placement-*.json"))), "--at", "6500", "--format", "json"]
    lowest = json.loads(CliRunner().invoke(app, asked).stdout)[0]
    assert lowest["run"] == "placement-middle" and round(lowest["loss at 6500"], 3) == 5.302
