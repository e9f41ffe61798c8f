"""Report section: similarity of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import similarity as figures
from pli_analysis.metrics.similarity.cka import neighbors_of
from pli_analysis.metrics.similarity.similarity import unknown
from pli_analysis.report.parts import Figure, Report, Section, distinct_digits, equal, sample, sentences, span

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame, over_time: bool) -> str:
    """Describe the most similar layers in one or two sentences.

    Args:
        table: result of `pli_analysis.metrics.similarity.similarity`.
        over_time: whether it compares layers with themselves at birth.
    """
    whole, table = table, table.dropna(subset=col.CKA)  # NaN for outputs that are not finite or do not vary
    if not len(table):
        return "No two layers have finite outputs that vary, so nothing can be compared."
    if over_time:
        last = table[table[col.CHECKPOINT_A] == table[col.CHECKPOINT_A].iloc[-1]].sort_values(col.CKA)
        values = ", ".join(f"{row.layer_a} {row.cka:.2f}" for row in last.itertuples())
        return f"CKA of each layer with itself at birth, at step {last[col.STEP_A].iloc[0]:,}: {values}."
    if (table[col.RUN_A] != table[col.RUN_B]).any() or not _within(table):
        best = table.loc[table.groupby(col.LAYER_A, sort=False)[col.CKA].idxmax()]
        matches = ", ".join(f"{row.layer_a} with {row.layer_b} {row.cka:.2f}" for row in best.itertuples())
        a, b = table[col.RUN_A].iloc[0], table[col.RUN_B].iloc[0]
        return f"For each layer of {a}, the layer of {b} with the highest CKA: {matches}."
    pairs = table[table[col.LAYER_A] != table[col.LAYER_B]].sort_values(col.CKA)
    if not len(pairs):
        return f"Only one layer {'exists' if len(whole) == 1 else 'can be compared'}, so there is no pair."
    most, least = pairs.iloc[-1], pairs.iloc[0]
    if len(pairs) == 1:
        return f"Layers {most[col.LAYER_A]} and {most[col.LAYER_B]} have a CKA of {most[col.CKA]:.2f}."
    if equal(most[col.CKA], least[col.CKA]):
        return f"All pairs of layers are equally similar, with a CKA of {most[col.CKA]:.2f}."
    high, low = distinct_digits(most[col.CKA], least[col.CKA])
    words = f"The most similar layers are {most[col.LAYER_A]} and {most[col.LAYER_B]}, with a CKA of {high}"
    return f"{words}; the least similar are {least[col.LAYER_A]} and {least[col.LAYER_B]}, with {low}."


def build(table: pd.DataFrame, over_time: bool) -> Report:
    """Build the report: a figure for each measure, and the methods.

    Args:
        table: result of `pli_analysis.metrics.similarity.similarity`.
        over_time: whether it compares layers with themselves at birth.
    """
    draw = figures.curves if over_time else figures.heat_map
    finding = verdict(table, over_time)
    captions = {col.CKA: finding} | {measure: _range(table, measure) for measure in (col.PROCRUSTES, col.NEIGHBORS)}
    counts = sample(*_text(table), runs=len({*table[col.RUN_A], *table[col.RUN_B]}))
    shown = [
        Figure(measure, f"{name[0].upper()}{name[1:]}", f"{captions[measure]} {counts}", draw(table, measure), table)
        for measure, name in figures.NAMES.items()
    ]
    words = sentences(unknown(table))
    section = Section("similarity", "Similarity", words, figures=shown, method=_method(table))
    name = table[col.RUN_A].iloc[0] if _within(table) else f"{table[col.RUN_A].iloc[0]} and {table[col.RUN_B].iloc[0]}"
    return Report(str(name), finding, [section])


def _text(table: pd.DataFrame) -> tuple[str, str]:
    """Return how many tokens and sequences the outputs were compared on."""
    return f"{int(table[col.COMPARED_TOKENS].iloc[0]):,} tokens", f"{int(table[col.SEQUENCES].iloc[0]):,} sequences"


def _method(table: pd.DataFrame) -> list[tuple[str, str]]:
    sequences, tokens = int(table[col.SEQUENCES].iloc[0]), int(table[col.COMPARED_TOKENS].iloc[0])
    k = neighbors_of(sequences)
    return [
        (
            "outputs",
            f"Of each layer on {tokens:,} tokens of {sequences} sequences, in batches of one token per sequence.",
        ),
        (
            "CKA",
            "HSIC₁(K, L) ÷ √(HSIC₁(K, K) · HSIC₁(L, L)) of linear kernels, debiased (Song et al. 2012; Kornblith et "
            "al. 2019; Nguyen et al. 2021, arXiv:2010.15327). Unrelated layers have values around 0.",
        ),
        (
            "Procrustes",
            "1 if an orthogonal map takes the outputs of one layer to those of the other (Schönemann 1966; Ding et al. "
            "2021). High by chance if there are few tokens relative to the width.",
        ),
        (
            "shared neighbors",
            f"The share of the {k} nearest neighbors of a token that both layers have in common (Huh et al. 2024, "
            f"arXiv:2405.07987); {k / (sequences - 1):.2f} by chance.",
        ),
        ("one text", "Measured on one text: a description, not a test."),
    ]


def _within(table: pd.DataFrame) -> bool:
    """Return whether each pair of layers has only one row, as within one run."""
    pairs = set(zip(table[col.LAYER_A], table[col.LAYER_B], strict=True))
    return (
        not any(a != b and (b, a) in pairs for a, b in pairs) and table[col.RUN_A].iloc[0] == table[col.RUN_B].iloc[0]
    )


def _range(table: pd.DataFrame, measure: str) -> str:
    pairs = table[(table[col.LAYER_A] != table[col.LAYER_B]) | (table[col.CHECKPOINT_A] != table[col.CHECKPOINT_B])]
    values = (pairs if len(pairs) else table)[measure].dropna()
    if not len(values):
        return "No pair has a value."
    low, high = values.min(), values.max()
    if equal(low, high):
        return f"{low:.2f} for every pair."
    return f"{span(low, high)}, with a median of {values.median():.2f}."
