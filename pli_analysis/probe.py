"""The tokens that models are compared on: the held-out blocks a run keeps beside its checkpoints, or a text.

What is to be predicted is read from the run too, so that analysis asks what its evaluations asked. A text is cut and
masked by the same rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis.live import last_line
from pli_train import run_folder
from pli_train.errors import BadInput, panics_as_errors
from pli_train.sampling import Design

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from pli_analysis.run import Run

IGNORED = -100
"""The label of a position that is not predicted."""
SEED = 0
"""Of a text's masks, and of which of its blocks are read: the same at every checkpoint."""
KEPT = {"inputs", "labels", "block", "document", "stratum", "strata"}


class Sample(NamedTuple):
    """Blocks drawn from a text, in random order.

    Attributes:
        tokens: what models read, (blocks, block_size) int64.
        labels: what they are to predict, alike; −100 where nothing is predicted.
        design: how the blocks were drawn.
        documents: (blocks,) int: the document that each begins in.
    """

    tokens: Tensor
    labels: Tensor
    design: Design
    documents: np.ndarray

    def first(self, blocks: int) -> Sample:
        """The first so many, at most: a random draw too."""
        kept = self.tokens[:blocks], self.labels[:blocks]
        return Sample(*kept, self.design.first(blocks), self.documents[:blocks])


def sample_of(run: Run, text: Path | None, blocks: int | None = None) -> Sample:
    """Blocks to compare a run's models on.

    Args:
        text: a file in UTF-8, cut into blocks of the length that the run trained on; None for the held-out blocks that
            the run keeps.
        blocks: how many at most, a random draw; all of them if None.

    Raises:
        BadInput: when text, blocks or tokenizer cannot be read, or the text has not one block.
    """
    found = _kept(run) if text is None else _cut(run, text)
    return found if blocks is None else found.first(blocks)


def batch_of(run: Run, text: Path | None, blocks: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of `sample_of`."""
    found = sample_of(run, text, blocks)
    return found.tokens, found.labels


def lack_of(run: Run) -> str | None:
    """Why there are no held-out blocks of a run to read, in a few words; None where it keeps them.

    Raises:
        BadInput: when they cannot be read.
    """
    from pli_analysis.run import open_weights

    path = run.held_out
    if not path.is_file():
        return "keeps no held-out blocks"
    with open_weights(path) as file:
        if list(file.keys()) == ["tokens"]:
            return "keeps the held-out blocks of an older version, without labels"
    return None


def _kept(run: Run) -> Sample:
    """The held-out blocks that the run keeps, all of them."""
    import torch

    from pli_analysis.run import open_weights

    path = run.held_out
    if lack := lack_of(run):
        raise BadInput(f"{run.path}: {lack} ({run_folder.PROBE}): give a text with --text FILE")
    size = run.checkpoints[-1].config.get("vocab_size")
    with open_weights(path) as file:
        found = {name: file.get_tensor(name) for name in file.keys() if name in KEPT}  # noqa: SIM118
    if not _is_whole(found):
        raise BadInput(f"{path}: holds no blocks of tokens")
    tokens, labels = (found[name].astype("int64") for name in ("inputs", "labels"))
    predicted = labels[labels != IGNORED]
    if not isinstance(size, int) or not all(((ids >= 0) & (ids < size)).all() for ids in (tokens, predicted)):
        raise BadInput(f"{path}: has tokens that the model does not know")
    design = Design(found["stratum"], found["strata"].astype("int64"))
    return Sample(torch.from_numpy(tokens), torch.from_numpy(labels), design, found["document"])


def _is_whole(found: dict[str, np.ndarray]) -> bool:
    """Whether these are blocks, each drawn from a stratum that has as many."""
    if found.keys() != KEPT or any(values.dtype != "int32" or not values.size for values in found.values()):
        return False
    (blocks, *more), strata = found["inputs"].shape, found["strata"]
    if len(more) != 1 or found["labels"].shape != found["inputs"].shape or strata.ndim != 1:
        return False
    if any(found[name].shape != (blocks,) for name in ("block", "document", "stratum")):
        return False
    stratum = found["stratum"]
    if not 0 <= stratum.min() <= stratum.max() < len(strata):
        return False
    drawn = np.bincount(stratum, minlength=len(strata))
    return bool((drawn > 0).all() and (drawn <= strata).all())


def _cut(run: Run, text: Path) -> Sample:
    """A text in blocks as the run trained on, in random order."""
    import torch

    length = _trained_with(run, "block_size", int)
    try:
        written = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{text}: not readable as text ({error})") from None
    tokenizer = _tokenizer(run)
    try:
        with panics_as_errors():
            ids = torch.tensor(tokenizer.encode(written, add_special_tokens=False).ids)
    except Exception as error:
        raise BadInput(f"{run.tokenizer}: cannot read {text} ({last_line(error)})") from None
    count = len(ids) // length
    if not count:
        raise BadInput(f"{text}: has {len(ids)} tokens, and a block of this run takes {length}")
    tokens, labels = _labelled(run, tokenizer, ids[: count * length].reshape(count, length))
    order = np.random.default_rng(SEED).permutation(count)
    return Sample(tokens[order], labels[order], Design.simple(count, count), np.zeros(count, np.int64))


def _labelled(run: Run, tokenizer: Tokenizer, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels as training makes them: the next token, or masked ones but no special ones."""
    import torch

    from pli_train.masking import masked

    if run.checkpoints[-1].anatomy.task == "masked-lm":
        share, mask = _trained_with(run, "mlm_probability", float), _mask_of(run, tokenizer)
        special = [id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        return masked(tokens, share, mask, tokenizer.get_vocab_size(), special, SEED)
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = tokens[:, 1:]
    return tokens, labels


def _trained_with(run: Run, key: str, kind: type[int] | type[float]) -> Any:
    """A value of the run's `train` section."""
    value = run.training.get(key)
    if not isinstance(value, kind) or value <= 0:
        raise BadInput(f"{run.path}: its {run_folder.RUN} does not say what train.{key} was")
    return value


def spread(tokens: Tensor, most: int) -> Tensor:
    """Which tokens to keep so that there are at most so many: the same positions of every block, evenly spread.

    Returns:
        A bool of the shape of `tokens`, (blocks, block_size).
    """
    import torch

    blocks, length = tokens.shape
    count = max(1, min(length, most // blocks))
    kept = torch.zeros(tokens.shape, dtype=torch.bool)
    # The middles of `count` equal stretches: never the first token alone, which sees nothing before it.
    kept[:, ((torch.arange(count) + 0.5) * length / count).long()] = True
    return kept


def _tokenizer(run: Run) -> Tokenizer:
    from tokenizers import Tokenizer

    path = run.tokenizer / "tokenizer.json"
    written = run_folder.read_text(path)
    try:
        with panics_as_errors():
            return Tokenizer.from_str(written)
    except Exception as error:  # the library's own kind of error is a bare Exception
        raise BadInput(f"{path}: no tokenizer ({last_line(error)})") from None


def _mask_of(run: Run, tokenizer: Tokenizer) -> int:
    path = run.tokenizer / "tokenizer_config.json"
    token: Any = run_folder.read_json(path).get("mask_token")
    token = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if found is None:
        raise BadInput(f"{path}: names no mask token")
    return found
