"""Bigram surprisal of each held-out block, used to draw blocks in strata.

Evaluations draw their blocks in strata of it (`core.sampling`). It need not be a good model, only to rank blocks
as trained models do.
"""

from __future__ import annotations

import numpy as np

from pli_train.core import cache

KEPT = "surprisal-1/"
"""Where surprisals are kept; the number is to be raised when they change."""
MOST = 2**23
"""Tokens of the training text that are counted, at most: pieces of it, evenly spread."""
SEGMENT_TOKENS = 2**12
ROWS = 2**12
"""Blocks looked up at a time."""


def of_blocks(train: np.ndarray, blocks: np.ndarray, vocabulary: int, fingerprint: str) -> np.ndarray:
    """Mean surprisal of each block, in nats a token, or what was kept of it.

    Args:
        train: the training text, 1-D token ids.
        blocks: the held-out text, (blocks, block_size).
        vocabulary: how many tokens there are.
        fingerprint: names the corpus.

    Returns:
        (blocks,) float32.
    """
    key = f"{KEPT}{fingerprint}-{blocks.shape[1]}"
    if (kept := cache.get_array(key, (len(blocks),), "<f4")) is not None:
        return kept
    bigrams = Bigrams(spread(train), vocabulary)
    segments = [bigrams.surprisal(blocks[start : start + ROWS]).mean(axis=1) for start in range(0, len(blocks), ROWS)]
    found = np.concatenate(segments).astype(np.float32)
    cache.put_array(key, found, "<f4")
    return found


class Bigrams:
    """p(token | the one before), interpolated with p(token) as Witten and Bell (1991) do.

    Args:
        tokens: 1-D token ids to count.
        vocabulary: how many tokens there are.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: int) -> None:
        tokens = tokens.astype(np.int64)
        self._vocabulary = vocabulary
        self._single = (np.bincount(tokens, minlength=vocabulary) + 1) / (len(tokens) + vocabulary)
        self._pairs, self._counts = np.unique(tokens[:-1] * vocabulary + tokens[1:], return_counts=True)
        self._seen = np.bincount(tokens[:-1], minlength=vocabulary)
        self._followers = np.bincount(self._pairs // vocabulary, minlength=vocabulary)

    def surprisal(self, blocks: np.ndarray) -> np.ndarray:
        """−log p of each token after a block's first: (blocks, block_size) to (blocks, block_size − 1), in nats."""
        before, token = blocks[:, :-1].astype(np.int64), blocks[:, 1:].astype(np.int64)
        single, seen, followers = self._single[token], self._seen[before], self._followers[before]
        both = (self._count(before * self._vocabulary + token) + followers * single) / np.maximum(seen + followers, 1)
        return -np.log(np.where(seen > 0, both, single))

    def _count(self, pairs: np.ndarray) -> np.ndarray:
        if not len(self._pairs):
            return np.zeros(pairs.shape)
        at = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        return np.where(self._pairs[at] == pairs, self._counts[at], 0)


def spread(tokens: np.ndarray) -> np.ndarray:
    """At most MOST of the tokens, in pieces from everywhere."""
    if len(tokens) <= MOST:
        return np.asarray(tokens)
    starts = np.linspace(0, len(tokens) - SEGMENT_TOKENS, MOST // SEGMENT_TOKENS).astype(np.int64)
    return np.concatenate([tokens[start : start + SEGMENT_TOKENS] for start in starts])
