"""Every number in reports/initializers is recomputed from its trials, by pandas and scipy alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tests.reports.pages import assert_differences, assert_table, interval, row_of, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "initializers"
TRIALS = pd.read_csv(REPORT / "trials.csv")
DIFFERENCES = pd.read_csv(REPORT / "differences.csv")
SKIPPED = pd.read_csv(REPORT / "skipped.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
NOISE = TRIALS["growth.noise"].map(lambda noise: f" {noise:g}" if noise == noise else "")
LOSSES = TRIALS.assign(variant=TRIALS["growth.initializer"] + NOISE.str.replace(" 1", " 1.0")).pivot(
    index="seed", columns="variant", values="loss"
)


def differences():
    """Variant → losses minus those of clones with the same seed."""
    return {variant: LOSSES[variant] - LOSSES["clone"] for variant in LOSSES if variant != "clone"}


def test_all_variants_have_the_same_seeds_and_flops():
    assert not LOSSES.isna().any(axis=None)
    assert TRIALS["flops"].between(3.99e12, 4e12).all()
    assert (TRIALS["state"] == "complete").all()
    assert f"{len(LOSSES)} seeds" in TEXT


def test_the_committed_differences_and_the_table():
    assert_differences(DIFFERENCES, LOSSES, "clone")
    results = PAGE[PAGE.index("## Results") : PAGE.index("## Are the new")]
    assert_table(results, DIFFERENCES, LOSSES, "clone", named)


def named(variant):
    name, _, noise = variant.partition(" ")
    return f"`{name}`{f', noise {noise}' if noise else ''}"


def test_the_headline_and_the_index():
    change = differences()["random"]
    low, high = stats.t.interval(0.95, len(change) - 1, change.mean(), stats.sem(change))
    holm = DIFFERENCES.set_index("variant")["holm"]["random"]
    reach = f"{signed(low)} to {signed(high)}"
    assert f"{change.mean():.3f} above that of clones (95 % interval {reach}, paired t, n = 3 seeds" in TEXT
    assert f"adjusted for seven comparisons, p = {holm:.2f})" in TEXT
    assert f"random − clone is {signed(change.mean())} ({reach})" in TEXT
    index = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    assert f"random − clone {signed(change.mean())} (95 % interval {reach}, p = {holm:.2f} after adjustment)" in index
    others = [change.mean() for variant, change in differences().items() if variant != "random"]
    assert f"six others within {max(map(abs, others)):.3f}, n = 3 seeds" in index
    identity = differences()["identity"]
    low, high = stats.t.interval(0.95, len(identity) - 1, identity.mean(), stats.sem(identity))
    assert f"identity − clone is {signed(identity.mean())} ({signed(low)} to {signed(high)})" in TEXT


def test_noise_and_power():
    noisy = DIFFERENCES[DIFFERENCES["variant"].str.startswith("clone-noise")]
    assert noisy["difference"].abs().max() < 0.005
    assert noisy[["low", "high"]].abs().max(axis=None) < 0.035
    spread = np.sqrt(np.mean([change.var() for change in differences().values()]))
    assert f"({spread:.3f} on average)" in TEXT

    def power(n):
        return 1 - stats.nct.cdf(stats.t.ppf(0.975, n - 1), n - 1, 0.01 / spread * n**0.5)

    seeds = next(n for n in range(2, 100) if power(n) >= 0.8)
    assert f"{seeds} seeds would detect a difference of 0.01" in TEXT


def test_how_much_new_layers_are_used():
    new = SKIPPED[SKIPPED["is_inserted"] & (SKIPPED["index"] > 2)]
    assert set(new["index"]) == {4, 5, 7, 8, 10, 11}
    used = new.groupby(["seed", "initializer"])["loss_change"].mean().unstack()
    assert sorted(used.index) == sorted(LOSSES.index)
    section = PAGE[PAGE.index("## Are the new layers used?") :]
    for initializer in used:
        mean, low, high = interval(used[initializer])
        row = row_of(section, f"`{initializer}`")
        assert row[:2] == [f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
        if initializer != "clone":
            mean, low, high = interval(used[initializer] - used["clone"])
            assert row[2:4] == [signed(mean), f"{signed(low)} to {signed(high)}"]
            assert (used[initializer] < used["clone"]).all()
    assert TRIALS["steps"].unique().tolist() == [1868]  # half of them with twelve layers
