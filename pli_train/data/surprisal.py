"""Bigram surprisal of each held-out block, used to draw blocks in strata.

Evaluations draw blocks stratified by surprisal (`core.sampling`). The bigram model need not be accurate, it only has to
rank blocks like trained models.
"""

from __future__ import annotations

import numpy as np

from pli_train.core import cache

FOLDER = "surprisal-1/"
"""Folder of surprisals in the cache; increase the number when their computation changes."""
MOST = 2**23
"""Maximum number of training tokens to count, in evenly spaced segments."""
SEGMENT_TOKENS = 2**12
ROWS = 2**12
"""Blocks processed at a time."""


def of_blocks(train: np.ndarray, blocks: np.ndarray, vocabulary: int, fingerprint: str) -> np.ndarray:
    """Return the mean surprisal of each block, in nats per token, from the cache if possible.

    Args:
        train: the training text, 1-D token ids.
        blocks: the held-out text, (blocks, block_size).
        vocabulary: size of the vocabulary.
        fingerprint: fingerprint of the corpus.

    Returns:
        (blocks,) float32.
    """
    key = f"{FOLDER}{fingerprint}-{blocks.shape[1]}"
    if (cached := cache.get_array(key, (len(blocks),), "<f4")) is not None:
        return cached
    bigrams = Bigrams(spread(train), vocabulary)
    segments = [bigrams.surprisal(blocks[start : start + ROWS]).mean(axis=1) for start in range(0, len(blocks), ROWS)]
    values = np.concatenate(segments).astype(np.float32)
    cache.put_array(key, values, "<f4")
    return values


class Bigrams:
    """Bigram model p(token | previous token), interpolated with p(token) (Witten and Bell 1991).

    Args:
        tokens: 1-D token ids to count.
        vocabulary: size of the vocabulary.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: int) -> None:
        tokens = tokens.astype(np.int64)
        self._vocabulary = vocabulary
        self._single = (np.bincount(tokens, minlength=vocabulary) + 1) / (len(tokens) + vocabulary)
        self._pairs, self._counts = np.unique(tokens[:-1] * vocabulary + tokens[1:], return_counts=True)
        self._seen = np.bincount(tokens[:-1], minlength=vocabulary)
        self._followers = np.bincount(self._pairs // vocabulary, minlength=vocabulary)

    def surprisal(self, blocks: np.ndarray) -> np.ndarray:
        """Return −log p of each token but a block's first, in nats: (blocks, size) to (blocks, size − 1)."""
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
    """Return at most MOST of the tokens, in evenly spaced segments."""
    if len(tokens) <= MOST:
        return np.asarray(tokens)
    starts = np.linspace(0, len(tokens) - SEGMENT_TOKENS, MOST // SEGMENT_TOKENS).astype(np.int64)
    return np.concatenate([tokens[start : start + SEGMENT_TOKENS] for start in starts])
