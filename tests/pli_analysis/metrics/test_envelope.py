"""The envelope of fixed depths: curves whose lowest loss is known on paper, and a search point by point."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pli_analysis.cli import app
from pli_analysis.metrics.comparison import compare, curves, tables
from pli_analysis.metrics.comparison.curves import Curve
from pli_analysis.metrics.comparison.envelope import envelope
from pli_analysis.report import compare as report
from pli_train.core.errors import BadInput


def curve(group, seed, points, losses, by="flops", **more):
    other = "step" if by == "flops" else "flops"
    table = pd.DataFrame({by: points, other: np.arange(len(points)), "loss": losses})
    return Curve(f"{group}-{seed}", group, table.assign(tokens=np.nan, seconds=np.nan), seed=seed, **more)


def crossing(seed=0):
    """A shallow model that is lower at first, and a deep one that is lower from 20 on."""
    return [
        curve("shallow", seed, [0, 10, 20, 30], [5.0, 3.0, 2.5, 2.4]),
        curve("deep", seed, [0, 20, 40], [5.0, 2.5, 1.0]),
    ]


def test_the_envelope_of_two_curves_that_cross():
    bound = envelope(crossing(), ["shallow", "deep"], "flops")
    assert bound.spans == [("shallow", 0.0), ("deep", 30.0)]  # at 20 they are equal
    [made] = bound.curves
    assert made.group == "envelope" and made.seed == 0
    assert dict(zip(made.table["flops"], made.table["loss"], strict=True)) == {0: 5, 10: 3, 20: 2.5, 30: 1.75, 40: 1}


def test_a_shallow_model_that_ends_early_stays_in_the_envelope():
    runs = [curve("short", 0, [0, 10], [5.0, 1.0]), curve("long", 0, [0, 10, 40], [5.0, 4.0, 2.0])]
    [made] = envelope(runs, ["*"], "flops").curves
    assert made.table["loss"].tolist() == [5, 1, 1]


def test_the_group_with_the_lowest_mean_gives_the_loss_of_each_seed():
    """Not the lowest of each seed, which would be biased: over seeds, "a" is lower, and in seed 1 "b" is."""
    runs = [curve("a", 0, [0, 9], [5, 1.0]), curve("a", 1, [0, 9], [5, 2.0])]
    runs += [curve("b", 0, [0, 9], [5, 3.0]), curve("b", 1, [0, 9], [5, 1.9])]
    assert [made.losses[-1] for made in envelope(runs, ["a", "b"], "flops").curves] == [1.0, 2.0]


losses = st.lists(st.floats(0.1, 10), min_size=2, max_size=8)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.tuples(losses, losses), min_size=1, max_size=4), st.integers(0, 10**6))
def test_the_envelope_against_a_search_point_by_point(groups, seed):
    drawn = np.random.default_rng(seed)
    runs = [
        curve(f"d{number}", at, np.cumsum(drawn.integers(1, 9, len(of_seed))).astype(float), of_seed)
        for number, pair in enumerate(groups)
        for at, of_seed in enumerate(pair)
    ]
    bound = envelope(runs, ["d*"], "flops")
    points = sorted({point for run in runs for point in run.table["flops"]})
    for point in points:
        best = (math.inf, None)
        for earlier in (p for p in points if p <= point):
            for number in range(len(groups)):
                of = [curves.loss_at(run, earlier, "flops") for run in runs if run.group == f"d{number}"]
                if not any(map(math.isnan, of)) and np.mean(of) < best[0]:
                    best = (np.mean(of), of)
        of_seeds = [dict(zip(made.table["flops"], made.losses, strict=True)).get(point) for made in bound.curves]
        assert np.mean(of_seeds) == pytest.approx(best[0]) if best[1] else of_seeds == [None, None]


def test_speed_up_over_the_envelope_is_paired_by_seed():
    """Growth needs a quarter of the FLOPs of the deep model in each seed, whose level is its own final loss."""
    runs = [run for seed in range(3) for run in crossing(seed)]
    runs = [replace(run, table=run.table.assign(loss=run.table["loss"] + 0.1 * run.seed)) for run in runs]
    runs += [curve("grown", seed, [0, 5, 10], [5.0 + seed * 0.1, 2.5, 1.0 + seed * 0.1]) for seed in range(3)]
    found = compare.compared(runs, "flops", levels="final", enveloped=["shallow", "deep"])
    row = found.speed_ups.set_index("group").loc["grown"]
    assert found.reference == "envelope" and row["speed_up"] == pytest.approx(4) and row["pairs"] == 3
    assert row["loss_level"] == pytest.approx(1.1)
    assert "Lowest of the groups in the envelope: shallow, deep from 3.00e1 FLOPs." in report.verdict(found)
    words = report.speed_up_words(found)
    assert words.startswith("To reach the final loss of envelope, grown (3 runs) has a speed-up of 4 in FLOPs over")
    assert "shallow" not in words and "speed-up to the final loss" in tables.summary(found)
    assert set(tables.per_run(found)["group"]) == {"shallow", "deep", "grown"}  # the envelope is not a run


def test_final_levels_need_pairs_or_one_run():
    base = [curve("full", seed, [0, 10], [5.0, 1.0 + seed]) for seed in range(2)]
    paired = [curve("grown", seed, [0, 5], [5.0, 1.0 + seed]) for seed in range(2)]
    ups = compare.speed_ups([*base, *paired], "final", "flops").set_index("group")["speed_up"]
    assert ups["full"] == 1 and ups["grown"] == pytest.approx(2)
    others = [replace(run, seed=run.seed + 7) for run in paired]
    with pytest.raises(BadInput, match="--levels final: grown and full are not paired by seed"):
        compare.speed_ups([*base, *others], "final", "flops")
    alone = compare.speed_ups([base[0], *others[:1]], "final", "flops").set_index("group")["speed_up"]
    assert alone["grown"] == pytest.approx(2)


@pytest.mark.parametrize(
    "runs, patterns, words",
    [
        (
            crossing(),
            ["depth*"],
            "--envelope depth*: no group has this name; did you mean 'deep'? (groups: shallow, deep)",
        ),
        ([*crossing(), *crossing(1)[:1]], ["*"], "shallow has the seeds 0, 1 and deep has the seed 0"),
        ([*crossing(), *crossing()], ["*"], "a group needs one run for each seed"),
        ([curve("envelope", 0, [0, 1], [2, 1])], ["*"], "a group is already named 'envelope'"),
    ],
)
def test_groups_without_an_envelope_are_refused(runs, patterns, words):
    with pytest.raises(BadInput) as refused:
        envelope(runs, patterns, "flops")
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_different_batches_leave_the_envelope_unpaired():
    one, other = (curve(name, 0, [0, 9], [5, 1], shared={"batch": size}) for name, size in (("a", 1), ("b", 2)))
    assert envelope([one, other], ["*"], "flops").curves[0].seed is None


def test_groups_that_do_not_reach_the_level_are_named():
    runs = [*crossing(), curve("slow", 0, [0, 40], [5.0, 3.0]), curve("grown", 0, [0, 10], [5.0, 1.0])]
    found = compare.compared(runs, "flops", levels="final", enveloped=["shallow", "deep"])
    assert report.speed_up_words(found).endswith("; not reached by slow.")
    none = compare.compared(runs[:3], "flops", levels="final", enveloped=["shallow", "deep"])
    assert report.speed_up_words(none) == "No group reaches the final loss of envelope."


def test_the_command_draws_the_envelope(tmp_path):
    for name, losses in (("small", "5,3,2.9"), ("large", "5,4,2")):
        values = zip((0, 10, 20), losses.split(","), strict=True)
        (tmp_path / f"{name}.csv").write_text("step,loss\n" + "\n".join(f"{s},{v}" for s, v in values) + "\n")
    (tmp_path / "grown.csv").write_text("step,loss\n0,5\n10,2\n20,1\n")
    page, runs = tmp_path / "page.html", [str(tmp_path / f"{name}.csv") for name in ("small", "large", "grown")]
    asked = ["compare", *runs, "--envelope", "small,large", "--levels", "final", "--html", str(page), "--speed-ups"]
    done = CliRunner().invoke(app, [*asked, "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = {row["group"]: row for row in json.loads(done.stdout)}
    assert rows["grown"]["speed_up"] == pytest.approx(2) and rows["envelope"]["speed_up"] == 1
    assert "Lowest of the groups in the envelope" in done.stderr and "Comparison of 3 runs" in page.read_text()
    points = json.loads(CliRunner().invoke(app, [*asked[:6], "--points", "--format", "json"]).stdout)
    assert [(row["run"], row["step"], row["loss"]) for row in points[:2]] == [("small", 0, 5), ("small", 10, 3)]
    assert len(points) == 9  # of the three runs; the envelope is not one
    with pytest.raises(BadInput, match="--runs and --points: cannot be combined"):
        CliRunner().invoke(app, [*asked[:6], "--runs", "--points"], standalone_mode=False, catch_exceptions=False)
