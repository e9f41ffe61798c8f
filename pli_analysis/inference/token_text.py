"""The text of each token of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis.inference.eval_tokens import Sample, Text, tokenizer_of
from pli_analysis.inference.train_sample import TrainSample
from pli_train.core import tokenizer
from pli_train.core.errors import BadInput
from pli_train.core.masking import IGNORED

if TYPE_CHECKING:
    import numpy as np

    from pli_analysis.runs.run import Run

EXCERPT = 60
"""Maximum number of characters of an excerpt."""
ANCHOR = "a"
"""A text before the token, as some decoders remove the space before the first token of a text."""


def ids_of(run: Run, sample: Sample | TrainSample) -> np.ndarray:
    """Return the tokens of the text, (blocks, block_size): those below the masks of a masked model."""
    if run.checkpoints[-1].anatomy.task != "masked-lm":
        return sample.tokens.numpy()
    return sample.labels.where(sample.labels != IGNORED, sample.tokens).numpy()


def texts_of(run: Run, text: Path | Text | None, ids: np.ndarray) -> list[list[str]]:
    """Return the text of each token; a character of several tokens is a replacement character in each.

    Args:
        text: as for `pli_analysis.inference.eval_tokens.sample_of`; its tokenizer is used.
        ids: (blocks, block_size) int.

    Raises:
        BadInput: if the tokenizer cannot be read.
    """
    import numpy as np

    if text is None and not tokenizer.files_of(run.tokenizer):
        raise BadInput(f"{run.tokenizer}: has no tokenizer, to tell what tokens stand for; give --text and --tokenizer")
    loaded, _ = tokenizer_of(run, text if isinstance(text, Text) else Text(text or run.path))
    anchor = loaded.encode(ANCHOR, add_special_tokens=False)
    before = len(loaded.decode(anchor, clean_up_tokenization_spaces=False))
    known = {
        id: str(loaded.decode([*anchor, id], clean_up_tokenization_spaces=False))[before:]
        for id in np.unique(ids).tolist()
    }
    return [[known[id] for id in block] for block in ids.tolist()]


def excerpts_of(run: Run, ids: np.ndarray) -> list[str]:
    """Return the beginning of each block in one line, without characters that cannot be printed.

    Args:
        ids: (blocks, block_size) int, of the run's own tokenizer.

    Raises:
        BadInput: if the run has no tokenizer that can be read.
    """
    loaded, _ = tokenizer_of(run, Text(run.path))
    whole = (" ".join(str(loaded.decode(block, clean_up_tokenization_spaces=False)).split()) for block in ids)
    printable = ("".join(filter(str.isprintable, text)) for text in whole)
    return [text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…" for text in printable]
