"""Tokenize documents once, into memory-mapped arrays in the cache.

The folder below `cache.root()` is named by a hash of the corpus, the split and the tokenizer settings. It appears by
one rename, so it is complete or absent.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_train.core import cache, output, tokenizer
from pli_train.core.errors import BadInput, PliError
from pli_train.core.tokenizer import end_token
from pli_train.data.config import IMAGES
from pli_train.data.documents import Documents, fingerprint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from pli_train.core.texts.reading import Segment
    from pli_train.data.config import TokenizerConfig

_log = logging.getLogger(__name__)
LAYOUT = 1
"""Version of the cached files, part of the cache folder's name; increase it when they change."""
END, PAD, MASK = "<|endoftext|>", "<|pad|>", "<|mask|>"


@dataclass(frozen=True)
class TokenizedText:
    """A tokenized corpus.

    Attributes:
        train, eval: 1-D arrays of token ids, memory-mapped; documents are concatenated, each followed by the end token.
        tokenizer: the tokenizer.
        about: one-line description of the corpus.
        fingerprint: hash of corpus, split and tokenizer.
    """

    train: np.ndarray
    eval: np.ndarray
    tokenizer: PreTrainedTokenizerBase
    about: str
    fingerprint: str

    @property
    def vocabulary(self) -> int:
        """Size of the vocabulary."""
        return tokenizer.size(self.tokenizer)

    def documents(self, block_size: int) -> np.ndarray:
        """Return the index of the held-out document in which each block begins, from 0: (blocks,) int64."""
        return self.documents_at(self.eval, np.arange(len(self.eval) // block_size) * block_size)

    def documents_at(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the index of the document of each position, from 0, within `train` or `eval`.

        Args:
            tokens: `train` or `eval`.
            starts: (n,) increasing positions.

        Returns:
            (n,) int64.
        """
        end, edges = end_token(self.tokenizer), [0, *starts.tolist()]
        ends = [np.count_nonzero(tokens[start:stop] == end) for start, stop in itertools.pairwise(edges)]
        return np.cumsum(ends, dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Size of the corpus, as recorded in `run.json`."""
        return {"train_tokens": len(self.train), "eval_tokens": len(self.eval), "vocabulary": self.vocabulary}

    def check(self, task: str, config: PretrainedConfig) -> None:
        """Raise BadInput if a model of this task cannot learn from this text."""
        if task == "image-classification":
            raise BadInput(f"data.source: a {config.model_type} learns from images: use {', '.join(IMAGES)}")
        if task == "masked-lm" and self.tokenizer.mask_token_id is None:
            raise BadInput(f"tokenizer: has no mask token, which training a {config.model_type} needs")

    def keep(self, folder: Path) -> None:
        """Save the tokenizer, which is needed to decode the tokens."""
        self.tokenizer.save_pretrained(folder)


def tokenize(
    documents: Documents, settings: TokenizerConfig, say: Callable[[str], None] = lambda line: None
) -> TokenizedText:
    """Tokenize documents, or load their tokens from the cache.

    Args:
        documents: the corpus.
        settings: the [tokenizer] section.
        say: function that is called with a line before slow steps.

    Raises:
        BadInput, PliError: if the tokenizer cannot be loaded.
    """
    name = fingerprint(LAYOUT, documents.fingerprint, settings.vocab_size, _identity(settings.name_or_path))
    folder = cache.root() / name
    if folder.is_dir():
        _log.debug("tokens from the cache: %s", folder)
    else:
        say(f"tokenizing {documents.about}")
        _build(folder, documents, settings)
    sizes = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    train, eval = (_map(folder / f"{side}.bin", sizes["dtype"], sizes[side]) for side in ("train", "eval"))
    return TokenizedText(train, eval, tokenizer.local(folder), documents.about, name)


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in Radford et al. 2019) on `texts`.

    The result is deterministic. Its vocabulary is smaller than `vocab_size` if the texts have too few pairs to merge.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=END, eos_token=END, mask_token=MASK, model_max_length=10**9
    )


def _build(folder: Path, documents: Documents, settings: TokenizerConfig) -> None:
    chosen = _ready_made(settings.name_or_path) if settings.name_or_path else None
    if chosen is None:
        chosen = train_bpe((segment.text for segment in documents.train), settings.vocab_size)
    dtype = np.uint16 if tokenizer.size(chosen) <= 2**16 else np.uint32
    try:
        with output.folder(folder, durable=False) as partial:
            sizes = {
                side: _write(partial / f"{side}.bin", segments, chosen, dtype)
                for side, segments in (("train", documents.train), ("eval", documents.eval))
            }
            text = json.dumps({"dtype": np.dtype(dtype).name, **sizes})
            (partial / "tokens.json").write_text(text, encoding="utf-8")
            chosen.save_pretrained(partial)
    except OSError:
        if not folder.is_dir():  # otherwise another process has built it in the meantime
            raise


def _identity(name_or_path: str | None) -> str | None:
    """Return what identifies an existing tokenizer: a hash of its files, because their content may change."""
    if name_or_path is None or not (files := tokenizer.files_of(Path(name_or_path).expanduser())):
        return name_or_path
    main = [file for file in files if file.name in (tokenizer.JSON, tokenizer.SETTINGS)]
    return fingerprint(*(file.read_bytes() for file in (main if len(main) == 2 else files)))


def _ready_made(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        loaded = tokenizer.load(name_or_path)
    except PliError as error:
        message = f"tokenizer.name_or_path: {error}; leave it out to train a tokenizer on the corpus"
        raise type(error)(message) from None
    if end_token(loaded) is None:
        raise BadInput(
            f"tokenizer.name_or_path: {name_or_path}: has no token that ends a document: set eos_token in its "
            f"{tokenizer.SETTINGS}"
        )
    return loaded


def _write(path: Path, segments: Iterable[Segment], chosen: PreTrainedTokenizerBase, dtype: type) -> int:
    end = end_token(chosen)
    count = 0
    with path.open("wb") as file:
        for ids, is_end in tokenizer.ids_of(chosen, segments):
            array: np.ndarray = np.asarray([*ids, end] if is_end else ids, dtype=dtype)
            array.tofile(file)
            count += len(array)
    if count == 0:
        raise BadInput("data.source: tokenizing produced no tokens")
    return count


def _map(path: Path, dtype: str, count: int) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
