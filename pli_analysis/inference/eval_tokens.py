"""The tokens that models are evaluated on: a run's held-out blocks, or a text.

What is to be predicted is read from the run too, so that analysis asks what its evaluations asked. A text is cut and
masked by the same rules.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis.inference.checkpoint_model import require_outputs
from pli_train.core import texts, tokenizer
from pli_train.core.cli.console import say
from pli_train.core.errors import BadInput, PliError, last_line, panics_as_errors
from pli_train.core.masking import IGNORED, masked, next_token
from pli_train.core.run_format import run_folder
from pli_train.core.sampling import Design

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from pli_analysis.runs.run import Run

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


class Text(NamedTuple):
    """A text of the user's to read, instead of the blocks that a run keeps.

    Attributes:
        path: a file, or a folder of them: see `pli_train.core.texts`.
        column: of its records, which holds the text.
        tokenizer: a folder or file; None for the run's own.
    """

    path: Path
    column: str = "text"
    tokenizer: Path | None = None

    def __str__(self) -> str:
        return str(self.path)


def sample_of(run: Run, text: Path | Text | None, blocks: int | None = None) -> Sample:
    """Blocks to compare a run's models on.

    Args:
        text: cut into blocks of the length that the run trained on; None for the held-out blocks that the run keeps.
        blocks: how many at most, a random draw; all of them if None.

    Raises:
        BadInput: when text, blocks or tokenizer cannot be read, the text has not one block, or only the weights of the
            run's models are measured.
    """
    require_outputs(run.checkpoints[-1])
    if text is not None:
        return _cut(run, text if isinstance(text, Text) else Text(text), blocks)
    found = _kept(run)
    return found if blocks is None else found.first(blocks)


def batch_of(run: Run, text: Path | Text | None, blocks: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of `sample_of`."""
    found = sample_of(run, text, blocks)
    return found.tokens, found.labels


def missing_blocks(run: Run) -> str | None:
    """Why there are no held-out blocks of a run to read, in a few words; None where it keeps them.

    Raises:
        BadInput: when they cannot be read.
    """
    from pli_analysis.runs.safetensors_file import open_weights

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

    from pli_analysis.runs.safetensors_file import open_weights

    path = run.held_out
    if lack := missing_blocks(run):
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


def _cut(run: Run, text: Text, blocks: int | None) -> Sample:
    """A text in blocks as the run trained on, in random order: so many of them at most."""
    import torch

    length, size = _trained_with(run, "block_size", int), _vocabulary(run)
    made, where = _tokenizer(run, text)
    ids, starts = _ids(made, where, text)
    count = len(ids) // length
    if not count:
        raise BadInput(f"{text}: has {len(ids)} tokens, and a block of this run takes {length}")
    if made.vocab_size > size or ids.max() >= size:
        raise BadInput(
            f"{where}: has {tokenizer.size(made)} tokens, and the model of {run.path} knows {size}: name the model's "
            "own with --tokenizer"
        )
    order = np.random.default_rng(SEED).permutation(count)[:blocks]
    tokens = torch.from_numpy(ids[: count * length].reshape(count, length)[order].astype(np.int64))
    inputs, labels = _labeled(run, made, where, tokens, order)
    documents = np.searchsorted(starts, order * length, side="right") - 1
    return Sample(inputs, labels, Design.simple(count, count).first(len(order)), documents)


def _ids(made: PreTrainedTokenizerBase, where: Path, text: Text) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all documents, an end token between them as in training; and where each document starts."""
    found = texts.of_path(text.path, text.column, "--text-column")
    say(*found.notes)
    segments = (segment for document in found.documents(~found.is_blank) for segment in document)
    ids, starts, end = array("i"), [0], tokenizer.end_token(made)
    try:
        with panics_as_errors():
            for some, is_end in tokenizer.ids_of(made, segments):
                ids.extend(some)
                if is_end:
                    ids.extend([] if end is None else [end])
                    starts.append(len(ids))
    except PliError:
        raise
    except Exception as error:  # the library's own kind of error is a bare Exception
        raise BadInput(f"{where}: cannot read {text} ({last_line(error)})") from None
    if end is not None:
        ids.pop()  # between documents only
    return np.frombuffer(ids, dtype=np.int32), np.array(starts[:-1])


def _labeled(
    run: Run, made: PreTrainedTokenizerBase, where: Path, tokens: Tensor, locations: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Inputs and labels as training makes them: the next token, or masked ones but no special ones.

    A block's masks are a function of its place in the text, so that it is asked the same whoever draws it.
    """
    import torch

    if run.checkpoints[-1].anatomy.task != "masked-lm":
        return next_token(tokens)
    share = _trained_with(run, "mlm_probability", float)
    mask, known, special = tokenizer.masking_rule(made)
    if mask is None or mask >= _vocabulary(run):
        raise BadInput(f"{where}: names no mask token that the model knows")
    rule = share, mask, min(known, _vocabulary(run)), special
    seeds = (int(np.random.SeedSequence([SEED, int(position)]).generate_state(1)[0]) for position in locations)
    each = [masked(block[None], *rule, seed) for block, seed in zip(tokens, seeds, strict=True)]
    return torch.cat([inputs for inputs, _ in each]), torch.cat([labels for _, labels in each])


def _vocabulary(run: Run) -> int:
    """How many tokens a run's models know."""
    size = run.checkpoints[-1].config.get("vocab_size")
    if not isinstance(size, int):
        raise BadInput(f"{run.checkpoints[-1].path}: its {run_folder.CONFIG} does not say how many tokens it knows")
    return size


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


def _tokenizer(run: Run, text: Text) -> tuple[PreTrainedTokenizerBase, Path]:
    """The tokenizer to read a text with, and where it is: the one given, else the run's own."""
    if text.tokenizer is not None:
        if not text.tokenizer.exists():
            raise BadInput(f"--tokenizer {text.tokenizer}: no such file or folder")
        return tokenizer.local(text.tokenizer), text.tokenizer
    files = tokenizer.files_of(run.tokenizer)
    if not files:
        raise BadInput(f"{run.tokenizer}: holds no tokenizer: name one with --tokenizer")
    for file in files:
        if file.is_symlink():
            raise BadInput(f"{file}: is a link, which may lead out of the run: name it with --tokenizer")
    return tokenizer.local(run.tokenizer), run.tokenizer
