"""Report section: similarity of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.figures import similarity as figures
from pli_analysis.metrics.similarity.cka import neighbours_of
from pli_analysis.metrics.similarity.similarity import unknown
from pli_analysis.report.parts import Figure, Report, Section, distinct_digits, equal, sample, sentences, span

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame, over_time: bool) -> str:
    """The finding in one or two sentences.

    Args:
        table: of `pli_analysis.metrics.similarity.similarity`.
        over_time: whether it is of layers with their own first state.
    """
    whole, table = table, table.dropna(subset="cka")  # of outputs that are not finite, or do not vary
    if not len(table):
        return "No two layers have finite outputs that vary, so that nothing can be compared."
    if over_time:
        last = table[table["checkpoint_a"] == table["checkpoint_a"].iloc[-1]].sort_values("cka")
        message = ", ".join(f"{row.layer_a} {row.cka:.2f}" for row in last.itertuples())
        return f"At step {last['step_a'].iloc[0]:,} the layers' CKA with themselves at birth is: {message}."
    if (table["run_a"] != table["run_b"]).any() or not _within(table):
        best = table.loc[table.groupby("layer_a", sort=False)["cka"].idxmax()]
        message = ", ".join(f"{row.layer_a} with {row.layer_b} {row.cka:.2f}" for row in best.itertuples())
        a, b = table["run_a"].iloc[0], table["run_b"].iloc[0]
        return f"Each layer of {a} and the layer of {b} that it has the highest CKA with: {message}."
    pairs = table[table["layer_a"] != table["layer_b"]].sort_values("cka")
    if not len(pairs):
        return f"{'The stack' if len(whole) == 1 else 'What is left'} has one layer, and no pair to compare."
    most, least = pairs.iloc[-1], pairs.iloc[0]
    if len(pairs) == 1:
        return f"Layers {most['layer_a']} and {most['layer_b']} have a CKA of {most['cka']:.2f}."
    if equal(most["cka"], least["cka"]):
        return f"All pairs of layers are equally alike, with a CKA of {most['cka']:.2f}."
    high, low = distinct_digits(most["cka"], least["cka"])
    words = f"Most alike are layers {most['layer_a']} and {most['layer_b']}, with a CKA of {high}"
    return f"{words}; least {least['layer_a']} and {least['layer_b']}, with {low}."


def build(table: pd.DataFrame, over_time: bool) -> Report:
    """The page: a figure for each measure, and how they were measured.

    Args:
        table: of `pli_analysis.metrics.similarity.similarity`.
        over_time: whether it is of layers with their own first state.
    """
    draw = figures.curves if over_time else figures.heat_map
    found = verdict(table, over_time)
    captions = {"cka": found} | {measure: _range(table, measure) for measure in ("procrustes", "neighbours")}
    whence = sample(*_text(table), runs=len({*table["run_a"], *table["run_b"]}))
    shown = [
        Figure(measure, f"{name[0].upper()}{name[1:]}", f"{captions[measure]} {whence}", draw(table, measure), table)
        for measure, name in figures.NAMES.items()
    ]
    words = sentences(unknown(table))
    section = Section("similarity", "Similarity", words, figures=shown, method=_method(table))
    name = table["run_a"].iloc[0] if _within(table) else f"{table['run_a'].iloc[0]} and {table['run_b'].iloc[0]}"
    return Report(str(name), found, [section])


def _text(table: pd.DataFrame) -> tuple[str, str]:
    """How much text outputs were compared on."""
    return f"{int(table['tokens'].iloc[0]):,} tokens", f"{int(table['sequences'].iloc[0]):,} sequences"


def _method(table: pd.DataFrame) -> list[tuple[str, str]]:
    sequences, tokens = int(table["sequences"].iloc[0]), int(table["tokens"].iloc[0])
    k = neighbours_of(sequences)
    return [
        ("outputs", f"Of layers on {tokens:,} tokens of {sequences} sequences, in batches of one token of each."),
        (
            "CKA",
            "HSIC₁(K, L) ÷ √(HSIC₁(K, K) · HSIC₁(L, L)) of linear kernels, debiased (Song et al. 2012; Kornblith et "
            "al. 2019; Nguyen et al. 2021, arXiv:2010.15327): of layers with nothing in common it lies around 0.",
        ),
        (
            "Procrustes",
            "1 where an orthogonal map turns the one into the other (Schönemann 1966; Ding et al. 2021); with few "
            "tokens beside the width it is high by chance.",
        ),
        (
            "shared neighbours",
            f"The share of {k} nearest neighbours that both have (Huh et al. 2024, arXiv:2405.07987); by chance "
            f"{k / (sequences - 1):.2f}.",
        ),
        ("one text", "One run and one text: a description, not a test."),
    ]


def _within(table: pd.DataFrame) -> bool:
    """Whether each pair is told but once, as within one run."""
    pairs = set(zip(table["layer_a"], table["layer_b"], strict=True))
    return not any(a != b and (b, a) in pairs for a, b in pairs) and table["run_a"].iloc[0] == table["run_b"].iloc[0]


def _range(table: pd.DataFrame, measure: str) -> str:
    pairs = table[(table["layer_a"] != table["layer_b"]) | (table["checkpoint_a"] != table["checkpoint_b"])]
    values = (pairs if len(pairs) else table)[measure].dropna()
    if not len(values):
        return "Not known of any pair."
    low, high = values.min(), values.max()
    if equal(low, high):
        return f"{low:.2f} for every pair."
    return f"From {span(low, high)}, {values.median():.2f} in the median."
