"""Report section: attention of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import attention as figures
from pli_analysis.metrics.attention import BOTH, DIAGONAL, HEAD, HETEROGENEOUS, UNIFORM, VERTICAL
from pli_analysis.report import head_view
from pli_analysis.report.parts import Figure, Section, sample
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.head_weights import HeadWeights

WORDS = {UNIFORM: "uniform", DIAGONAL: "diagonal", VERTICAL: "vertical", BOTH: "diagonal and vertical"}
WORDS |= {HETEROGENEOUS: "heterogeneous"}
"""Pattern → its name in a sentence."""


def verdict(table: pd.DataFrame) -> str:
    """Describe in a few sentences where heads attend, and how much copied heads differ from their donors.

    Args:
        table: result of `pli_analysis.metrics.attention.attention`.
    """
    heads = table[table[col.PART_TYPE] == HEAD]
    patterns = heads[col.PATTERN].value_counts()
    kinds = ", ".join(f"{patterns[kind]} {word}" for kind, word in WORDS.items() if kind in patterns)
    far, near = (heads.loc[heads[col.ATTENTION_DISTANCE].agg(end)] for end in ("idxmax", "idxmin"))
    words = (
        f"Patterns of {counted(len(heads), 'head')}: {kinds}. The mean distance is longest for head {far[col.PART]} "
        f"({far[col.ATTENTION_DISTANCE]:.1f} tokens) and shortest for head {near[col.PART]} "
        f"({near[col.ATTENTION_DISTANCE]:.1f})."
    )
    copies = heads[heads[col.DONOR_DIVERGENCE].notna()].sort_values(col.DONOR_DIVERGENCE)
    if not len(copies):
        return words
    least = copies.iloc[0]
    return (
        f"{words} The median divergence of {counted(len(copies), 'copied head')} from the donor's is "
        f"{copies[col.DONOR_DIVERGENCE].median():.2g} nats; that of head {least[col.PART]} is smallest "
        f"({least[col.DONOR_DIVERGENCE]:.2g})."
    )


def section(table: pd.DataFrame, weights: HeadWeights | None = None) -> Section:
    """Build the section: distance and entropy of heads, attention to near tokens, and the methods.

    Args:
        table: result of `pli_analysis.metrics.attention.attention`.
        weights: attention of single heads to one block, to show it too.
    """
    finding = verdict(table)
    heads = table[table[col.PART_TYPE] == HEAD]
    blocks, documents = (int(table[name].iloc[0]) for name in (col.BLOCKS, col.DOCUMENTS))
    counts = sample(counted(blocks, "block"), counted(documents, "document"))
    shaded = "Inserted layers are shaded. " if heads[col.IS_INSERTED].any() else ""
    shown = [
        Figure(
            "distance",
            "Distance of attention",
            f"{finding} {counts}",
            figures.heads(heads, col.ATTENTION_DISTANCE, "mean distance (tokens)"),
            table,
        ),
        Figure(
            "entropy",
            "Entropy of attention",
            f"The mean entropy of a head is {heads[col.ENTROPY].min():.2f} to {heads[col.ENTROPY].max():.2f} nats. "
            f"At 0, each query attends to one token. {counts}",
            figures.heads(heads, col.ENTROPY, "mean entropy (nats)"),
            heads,
        ),
        Figure(
            "masses",
            "Attention to near, first and special tokens",
            f"{_of_masses(heads)} {shaded}{counts}",
            figures.masses(heads),
            heads,
        ),
    ]
    view = None if weights is None else head_view.view(weights)
    method = METHOD if view is None else [*METHOD, *head_view.METHOD]
    return Section("attention", "Attention", view=view, figures=shown, headline=finding, method=method)


def _of_masses(heads: pd.DataFrame) -> str:
    """Describe which tokens get most attention."""
    means = heads[list(figures.SERIES)].mean().dropna().sort_values()
    most, share = figures.SERIES[str(means.index[-1])], means.iloc[-1]
    return f"Of these, most attention goes to the {most} ({share:.0%} on average)."


METHOD = [
    ("means", "Over all queries of all blocks. A causal model has few possible keys at the beginning of a block."),
    ("entropy, distance", "Mean over queries of −Σ p log p in nats, and of Σ p |query − key| in tokens."),
    (
        "pattern",
        "Uniform: the entropy is at least 90 % of that of equal attention to all keys. Else diagonal: at least half of "
        "the attention goes to the previous, the same and the next token. Vertical: to the three tokens of a "
        "block that get most. Diagonal and vertical: to all of these together, and at least a fifth to each group. "
        "Else heterogeneous (after Kovaleva et al. 2019, arXiv:1908.08593).",
    ),
    (
        "donor divergence",
        "Jensen–Shannon divergence between the attention of a head and that of the head that it was copied from, in "
        "nats (0 to log 2), as a mean over queries.",
    ),
    (
        "rollout",
        "Attention from the output of a layer to the tokens of the input: product of (mean over heads + identity) ÷ 2 "
        "over the layers up to it (Abnar and Zuidema 2020, arXiv:2005.00928).",
    ),
]
"""Terms, and how they are measured."""
