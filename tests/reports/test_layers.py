"""Every number in reports/layers is recomputed from its data, by pandas and scipy alone."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reports.pages import interval, row_of

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "layers"
SKIPPED, LENS, TOGETHER = (pd.read_csv(REPORT / f"{name}.csv") for name in ("ablation", "lens", "together"))
REPLACED = SKIPPED[SKIPPED["ablation"] == "donor"]
SKIPPED = SKIPPED[SKIPPED["ablation"] == "skip"]
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
GROWN, TWELVE = "4-to-12", "depth-12"


def by_seed(rows, column="loss_change"):
    """Mean over layers, by seed."""
    return rows.groupby("seed")[column].mean()


def copies_of(donor, rows=SKIPPED):
    return rows[(rows["group"] == GROWN) & (rows["donor"] == donor)]


def at(positions):
    """Layers of the twelve-layer models at some positions, counted from 1."""
    return SKIPPED[(SKIPPED["group"] == TWELVE) & (SKIPPED["index"] + 1).isin(positions)]


def words(values, digits=3):
    mean, low, high = interval(values)
    return f"{mean:.{digits}f}".replace("-", "−"), f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")


def test_both_groups_have_the_same_six_seeds():
    for group, layers in ((GROWN, 12), (TWELVE, 12)):
        found = SKIPPED[SKIPPED["group"] == group]
        assert sorted(found["seed"].unique()) == [1, 2, 3, 4, 5, 6]
        assert len(found) == 6 * layers


def test_the_headline():
    mean, reach = words(by_seed(copies_of("a")))
    others, reach_of_others = words(by_seed(at([2, 3])))
    assert f"raises the loss by {mean} (95 % interval {reach}, n = 6 seeds)" in TEXT
    assert f"of a model that began with twelve layers by {others} ({reach_of_others})" in TEXT


def test_the_table_of_copies():
    wanted = {"a": "2, 3", "b": "5, 6", "c": "8, 9", "d": "11, 12"}
    names = {"a": "first layer", "b": "second layer", "c": "third layer", "d": "fourth layer"}
    for donor, name in names.items():
        skipped, reach = words(by_seed(copies_of(donor)))
        replaced, influence = (
            words(by_seed(copies_of(donor, REPLACED)))[0],
            words(by_seed(copies_of(donor), "block_influence"))[0],
        )
        both, _ = words(TOGETHER[TOGETHER["donor"] == donor].set_index("seed")["loss_change"])
        assert row_of(PAGE, name) == [wanted[donor], f"{skipped} ({reach})", both, replaced, influence]
        positions = copies_of(donor)["index"].unique().astype(int) + 1
        assert ", ".join(map(str, sorted(positions))) == wanted[donor]


def test_the_difference_and_its_test():
    change = by_seed(copies_of("a")) - by_seed(at([2, 3]))
    mean, reach = words(change)
    assert f"differ by {mean} ({reach})" in TEXT
    flipped = [abs(np.mean(np.array(signs) * change)) for signs in product([1, -1], repeat=len(change))]
    p = np.mean(np.array(flipped) >= abs(change.mean()) - 1e-12)
    assert p == pytest.approx(2 / 64)  # the smallest possible one
    assert f"p = {p:.3f}" in TEXT


def test_the_other_copies():
    new = SKIPPED[(SKIPPED["group"] == GROWN) & SKIPPED["donor"].isin(["b", "c", "d"])]
    copies, reach = words(by_seed(new))
    others, reach_of_others = words(by_seed(at(range(4, 13))))
    assert f"raises the loss by {copies} ({reach}) on average" in TEXT
    assert f"positions 4 to 12 of the twelve-layer models by {others} ({reach_of_others})" in TEXT


def test_what_the_lens_shows():
    for group, text in ((GROWN, "in the grown models"), (TWELVE, "in the twelve-layer models")):
        tuned = LENS[(LENS["lens"] == "tuned") & (LENS["group"] == group)].pivot(
            index="seed", columns="index", values="loss"
        )
        mean, reach = words(tuned[0] - tuned[2])
        assert f"by {mean} ({reach}) {text}" in TEXT


def test_the_index():
    index = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    mean, reach = words(by_seed(copies_of("a")))
    others, _ = words(by_seed(at([2, 3])))
    assert f"Skipping a copy of the first layer raises the loss by {mean} ({reach}), a layer at its position" in index
    assert f"by {others}, n = 6 seeds" in index


def test_the_first_page():
    first = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    mean, others = words(by_seed(copies_of("a")))[0], words(by_seed(at([2, 3])))[0]
    assert f"skipping one raises the loss by {mean}, and skipping a layer at the same position" in first
    assert f"twelve layers from the start by {others}." in first


def test_the_first_layer_and_its_copies_stand_out():
    first = SKIPPED[SKIPPED["index"] == 0].groupby("group")["loss_change"].mean()
    assert f"loss by {first[GROWN]:.1f} in the grown models and by {first[TWELVE]:.1f} in the others" in TEXT
    influence = SKIPPED[SKIPPED["group"] == GROWN].groupby("index")["block_influence"].mean()
    assert set(influence.nsmallest(2).index) == {1, 2}
