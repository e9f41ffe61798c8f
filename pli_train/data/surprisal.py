"""N-gram surprisal of each held-out block, used to draw blocks in strata.

Evaluations draw blocks stratified by surprisal (`core.sampling`). The n-gram model need not be accurate, it only has
to rank blocks like trained models.
"""

from __future__ import annotations

import numpy as np

from pli_train.core import cache

FOLDER = "surprisal-2/"
"""Folder of surprisals in the cache; increase the number when their computation changes."""
MOST = 2**23
"""Maximum number of training tokens to count, in evenly spaced segments."""
SEGMENT_TOKENS = 2**12
BYTES = 2**9
"""Largest vocabulary that is counted as trigrams: one byte or character is too little context."""
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
    ngrams = NGrams(spread(train), vocabulary, 3 if vocabulary <= BYTES else 2)
    segments = [ngrams.surprisal(blocks[start : start + ROWS]).mean(axis=1) for start in range(0, len(blocks), ROWS)]
    values = np.concatenate(segments).astype(np.float32)
    cache.put_array(key, values, "<f4")
    return values


class NGrams:
    """N-gram model, each order interpolated with the one below and the first with 1 / vocabulary (Witten, Bell 1991).

    Args:
        tokens: 1-D token ids to count.
        vocabulary: size of the vocabulary.
        order: the n of the n-grams, at least 1.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: int, order: int) -> None:
        self._vocabulary = vocabulary
        self._counts = [Counts(codes(tokens, length, vocabulary), vocabulary) for length in range(1, order + 1)]

    def surprisal(self, blocks: np.ndarray) -> np.ndarray:
        """Return −log p of each token but a block's first, in nats: (blocks, size) to (blocks, size − 1)."""
        p = np.full(blocks.shape, 1 / self._vocabulary)
        for length, counts in enumerate(self._counts, 1):
            here = p[:, length - 1 :]  # tokens with at least length − 1 tokens before them in their block
            here[:] = counts.interpolate(codes(blocks, length, self._vocabulary), here)
        return -np.log(p[:, 1:])


class Counts:
    """Counts of the sequences of one length.

    Args:
        codes: code of the sequence at each place of the text, see `codes`.
        vocabulary: size of the vocabulary.
    """

    def __init__(self, codes: np.ndarray, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._sequences, self._counts = np.unique(codes, return_counts=True)
        self._contexts, first, self._followers = np.unique(
            self._sequences // vocabulary, return_index=True, return_counts=True
        )
        self._seen = np.add.reduceat(self._counts, first) if len(first) else self._counts

    def interpolate(self, codes: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Return p(last token | the ones before), interpolated with `lower`, the probability of the order below."""
        contexts = codes // self._vocabulary
        seen, followers = (_find(contexts, self._contexts, values) for values in (self._seen, self._followers))
        both = (_find(codes, self._sequences, self._counts) + followers * lower) / np.maximum(seen + followers, 1)
        return np.where(seen > 0, both, lower)


def codes(tokens: np.ndarray, length: int, vocabulary: int) -> np.ndarray:
    """Number each sequence of `length` adjacent tokens of the last axis: (…, size) to (…, size − length + 1) int64.

    Sequences without their last token have the code divided by `vocabulary`.
    """
    count = max(tokens.shape[-1] - length + 1, 0)
    codes = np.zeros((*tokens.shape[:-1], count), dtype=np.int64)
    for offset in range(length):
        codes = codes * vocabulary + tokens[..., offset : offset + count]
    return codes


def _find(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the values of the wanted keys, 0 for those that are not among the sorted `keys`."""
    if not len(keys):
        return np.zeros(wanted.shape)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def spread(tokens: np.ndarray) -> np.ndarray:
    """Return at most MOST of the tokens, in evenly spaced segments."""
    if len(tokens) <= MOST:
        return np.asarray(tokens)
    starts = np.linspace(0, len(tokens) - SEGMENT_TOKENS, MOST // SEGMENT_TOKENS).astype(np.int64)
    return np.concatenate([tokens[start : start + SEGMENT_TOKENS] for start in starts])
