"""The tokens that models are evaluated on: a run's held-out blocks, or a text.

The labels of held-out blocks are read from the run, so that analysis predicts the same tokens as the run's evaluations.
A text is split into blocks and masked by the same rules.
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
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from pli_analysis.runs.run import Run

SEED = 0
"""Seed of a text's masks and of the choice of its blocks: the same at every checkpoint."""
KEPT = {"inputs", "labels", "block", "document", "stratum", "strata"}


class Sample(NamedTuple):
    """Blocks drawn from a text, in random order.

    Attributes:
        tokens: (blocks, block_size) int64, inputs of models.
        labels: (blocks, block_size) int64, tokens to predict; −100 where nothing is predicted.
        design: how the blocks were sampled.
        documents: (blocks,) int: the document in which each block begins.
    """

    tokens: Tensor
    labels: Tensor
    design: Design
    documents: np.ndarray

    @property
    def content(self) -> bytes:
        """Everything that a result on these blocks depends on, as bytes for a hash."""
        arrays = self.tokens.numpy(), self.labels.numpy(), self.design.stratum, self.design.sizes, self.documents
        return b"".join(array.tobytes() for array in arrays)

    def to(self, device: torch.device) -> Sample:
        """Return the blocks with their tensors on a device: that of the model that reads them."""
        return self._replace(tokens=self.tokens.to(device), labels=self.labels.to(device))

    def first(self, blocks: int) -> Sample:
        """Return the first blocks, which are a random sample as well."""
        kept = self.tokens[:blocks], self.labels[:blocks]
        return Sample(*kept, self.design.first(blocks), self.documents[:blocks])

    def halves(self) -> tuple[Sample, Sample]:
        """Return the first and the second half of the blocks, which are random samples as well."""
        middle = len(self.tokens) // 2
        kept = self.tokens[middle:], self.labels[middle:]
        design = Design.simple(len(kept[0]), int(self.design.sizes.sum()))
        return self.first(middle), Sample(*kept, design, self.documents[middle:])


class Text(NamedTuple):
    """A text given by the user, to evaluate on instead of the held-out blocks of a run.

    Attributes:
        path: a text file or a folder of text files: see `pli_train.core.texts`.
        column: the column or field of its records that contains the text.
        tokenizer: a tokenizer folder or file; None for the run's own.
    """

    path: Path
    column: str = "text"
    tokenizer: Path | None = None

    def __str__(self) -> str:
        return str(self.path)


def sample_of(run: Run, text: Path | Text | None, blocks: int | None = None) -> Sample:
    """Return the blocks on which a run's models are evaluated.

    Args:
        text: split into blocks of the run's training length; None for the held-out blocks that the run keeps.
        blocks: maximum number of blocks, a random sample; None for all.

    Raises:
        BadInput: if text, blocks or tokenizer cannot be read, the text is shorter than one block, or only weights of
            the run's model family can be measured.
    """
    require_outputs(run.checkpoints[-1])
    if text is not None:
        return _cut(run, text if isinstance(text, Text) else Text(text), blocks)
    sample = _kept(run)
    return sample if blocks is None else sample.first(blocks)


def halves_of(run: Run, text: Path | Text | None, blocks: int, needs: str) -> tuple[Sample, Sample]:
    """Return the two halves of the blocks of `sample_of`: one to choose or fit something on, one to measure it on.

    Args:
        needs: what needs two blocks, with its verb, for the error: `pruning needs`.

    Raises:
        BadInput: as `sample_of`, and if there is only one block.
    """
    sample = sample_of(run, text, blocks)
    if len(sample.tokens) < 2:
        raise BadInput(f"{text or run.path}: has one block of text, and {needs} two; give more, or more --blocks")
    return sample.halves()


def batch_of(run: Run, text: Path | Text | None, blocks: int) -> tuple[Tensor, Tensor]:
    """Return tokens and labels of `sample_of`."""
    sample = sample_of(run, text, blocks)
    return sample.tokens, sample.labels


def missing_blocks(run: Run) -> str | None:
    """Return why a run has no held-out blocks to read, in a few words; None if it has them.

    Raises:
        BadInput: if they cannot be read.
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
    """Return all held-out blocks that the run keeps."""
    from pli_analysis.runs.safetensors_file import open_weights

    path = run.held_out
    if lack := missing_blocks(run):
        raise BadInput(f"{run.path}: {lack} ({run_folder.PROBE}); give a text with --text FILE")
    with open_weights(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys() if name in KEPT}  # noqa: SIM118
    if not _is_whole(arrays):
        raise BadInput(f"{path}: is not a valid file of held-out blocks")
    design = Design(arrays["stratum"], arrays["strata"].astype("int64"))
    return Sample(*ids_in(run, path, arrays), design, arrays["document"])


def ids_in(run: Run, path: Path, arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return `inputs` and `labels` of a file as int64. Raises BadInput if ids are outside the model's vocabulary."""
    import torch

    size = run.checkpoints[-1].config.get("vocab_size")
    tokens, labels = (arrays[name].astype("int64") for name in ("inputs", "labels"))
    predicted = labels[labels != IGNORED]
    if not isinstance(size, int) or not all(((ids >= 0) & (ids < size)).all() for ids in (tokens, predicted)):
        raise BadInput(f"{path}: has token ids outside the model's vocabulary")
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def _is_whole(arrays: dict[str, np.ndarray]) -> bool:
    """Return whether these arrays are valid blocks, with no more blocks drawn from a stratum than it has."""
    if arrays.keys() != KEPT or any(values.dtype != "int32" or not values.size for values in arrays.values()):
        return False
    (blocks, *more), strata = arrays["inputs"].shape, arrays["strata"]
    if len(more) != 1 or arrays["labels"].shape != arrays["inputs"].shape or strata.ndim != 1:
        return False
    if any(arrays[name].shape != (blocks,) for name in ("block", "document", "stratum")):
        return False
    stratum = arrays["stratum"]
    if not 0 <= stratum.min() <= stratum.max() < len(strata):
        return False
    drawn = np.bincount(stratum, minlength=len(strata))
    return bool((drawn > 0).all() and (drawn <= strata).all())


def _cut(run: Run, text: Text, blocks: int | None) -> Sample:
    """Split a text into blocks of the run's training length; return at most `blocks` of them, in random order."""
    import torch

    length, size = _trained_with(run, "block_size", int), _vocabulary(run)
    loaded, where = tokenizer_of(run, text)
    ids, starts = _ids(loaded, where, text)
    count = len(ids) // length
    if not count:
        raise BadInput(f"{text}: has {len(ids)} tokens, and a block of this run needs {length}; give a longer text")
    if loaded.vocab_size > size or ids.max() >= size:
        raise BadInput(
            f"{where}: has {tokenizer.size(loaded)} tokens, and the model of {run.path} has a vocabulary of {size}; "
            "name the model's own tokenizer with --tokenizer"
        )
    order = np.random.default_rng(SEED).permutation(count)[:blocks]
    tokens = torch.from_numpy(ids[: count * length].reshape(count, length)[order].astype(np.int64))
    inputs, labels = _labeled(run, loaded, where, tokens, order)
    documents = np.searchsorted(starts, order * length, side="right") - 1
    return Sample(inputs, labels, Design.simple(count, count).first(len(order)), documents)


def _ids(loaded: PreTrainedTokenizerBase, where: Path, text: Text) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize all documents, with an end token between them as in training; return ids and document starts."""
    files = texts.of_path(text.path, text.column, "--text-column")
    say(*files.notes)
    segments = (segment for document in files.documents(~files.is_blank) for segment in document)
    ids, starts, end = array("i"), [0], tokenizer.end_token(loaded)
    try:
        with panics_as_errors():
            for some, is_end in tokenizer.ids_of(loaded, segments):
                ids.extend(some)
                if is_end:
                    ids.extend([] if end is None else [end])
                    starts.append(len(ids))
    except PliError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception
        raise BadInput(f"{where}: cannot read {text} ({last_line(error)})") from None
    if end is not None:
        ids.pop()  # no end token after the last document
    return np.frombuffer(ids, dtype=np.int32), np.array(starts[:-1])


def _labeled(
    run: Run, loaded: PreTrainedTokenizerBase, where: Path, tokens: Tensor, locations: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Make inputs and labels as in training: the next token, or masked tokens, which are never special tokens.

    The masks of a block depend only on its position in the text, not on the other blocks of the sample.
    """
    import torch

    if run.checkpoints[-1].anatomy.task != "masked-lm":
        return next_token(tokens)
    share = _trained_with(run, "mlm_probability", float)
    mask, known, special = tokenizer.masking_rule(loaded)
    if mask is None or mask >= _vocabulary(run):
        raise BadInput(f"{where}: has no mask token in the model's vocabulary")
    rule = share, mask, min(known, _vocabulary(run)), special
    seeds = (int(np.random.SeedSequence([SEED, int(position)]).generate_state(1)[0]) for position in locations)
    each = [masked(block[None], *rule, seed) for block, seed in zip(tokens, seeds, strict=True)]
    return torch.cat([inputs for inputs, _ in each]), torch.cat([labels for _, labels in each])


def _vocabulary(run: Run) -> int:
    """Return the vocabulary size of a run's models."""
    size = run.checkpoints[-1].config.get("vocab_size")
    if not isinstance(size, int):
        raise BadInput(f"{run.checkpoints[-1].path}: its {run_folder.CONFIG} has no vocab_size")
    return size


def _trained_with(run: Run, key: str, kind: type[int] | type[float]) -> Any:
    """Return a value of the run's [train] section."""
    value = run.training.get(key)
    if not isinstance(value, kind) or value <= 0:
        raise BadInput(f"{run.path}: its {run_folder.RUN} has no valid train.{key}")
    return value


def spread(tokens: Tensor, most: int) -> Tensor:
    """Choose at most `most` tokens: the same, evenly spaced positions of each block.

    Returns:
        (blocks, block_size) bool, the shape of `tokens`.
    """
    import torch

    blocks, length = tokens.shape
    count = max(1, min(length, most // blocks))
    kept = torch.zeros_like(tokens, dtype=torch.bool)
    # The middles of `count` equal intervals, so that a single position is not the first one, which has no context.
    kept[:, ((torch.arange(count) + 0.5) * length / count).long()] = True
    return kept


def tokenizer_of(run: Run, text: Text) -> tuple[PreTrainedTokenizerBase, Path]:
    """Return the tokenizer for a text and its path: the one given, or else the run's own."""
    if text.tokenizer is not None:
        if not text.tokenizer.exists():
            raise BadInput(f"--tokenizer {text.tokenizer}: no such file or folder")
        return tokenizer.local(text.tokenizer), text.tokenizer
    files = tokenizer.files_of(run.tokenizer)
    if not files:
        raise BadInput(f"{run.tokenizer}: has no tokenizer; name one with --tokenizer")
    for file in files:
        if file.is_symlink():
            raise BadInput(f"{file}: is a link, which may lead out of the run; name the tokenizer with --tokenizer")
    return tokenizer.local(run.tokenizer), run.tokenizer
