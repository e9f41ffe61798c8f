"""Linear probes: logistic regression from hidden states to labels, and the code length of labels given the states."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PORTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of the tokens after which the online code fits a new probe."""
SMOOTHING = 0.01
"""Weight of the uniform distribution in the online code: the first portions lack some classes."""
ITERATIONS = 1000


def fitted(states: np.ndarray, classes: np.ndarray) -> Pipeline:
    """Fit a multinomial logistic regression on standardized states, with an L2 penalty of ½‖W‖² on its weights.

    Args:
        states: (tokens, width) float.
        classes: (tokens,) int, at least two different ones.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=ITERATIONS)).fit(states, classes)


def code_length(states: np.ndarray, classes: np.ndarray, number: int) -> float:
    """Return the online code length of labels given states, in bits per token (Voita and Titov 2020, arXiv:2003.12298).

    The first portion has at least two tokens for each class and is sent with equal probabilities; each further one with
    those of a probe that was fitted on all portions before it.

    Args:
        states: (tokens, width) float, in the order in which they are sent.
        classes: (tokens,) int below `number`.
    """
    ends = [max(2 * number, round(share * len(classes))) for share in PORTIONS]
    bits = ends[0] * np.log2(number)
    for start, end in itertools.pairwise(sorted(set(ends))):
        sent = classes[start:end]
        bits -= np.log2(_probabilities(states[:start], classes[:start], states[start:end], number, sent)).sum()
    return float(bits / len(classes))


def _probabilities(
    states: np.ndarray, classes: np.ndarray, next_states: np.ndarray, number: int, sent: np.ndarray
) -> np.ndarray:
    """Return the probabilities of the labels sent, by a probe fitted on the tokens before them."""
    known = np.zeros((len(sent), number))
    seen = np.unique(classes)
    known[:, seen] = fitted(states, classes).predict_proba(next_states) if len(seen) > 1 else 1.0
    return (1 - SMOOTHING) * known[np.arange(len(sent)), sent] + SMOOTHING / number
