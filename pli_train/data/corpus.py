"""Load a corpus: choose the source and tokenize it.

A corpus of text is one file here that offers `read(data) -> Documents`: documents split into train and eval, and a
fingerprint that changes when they do. `source_of` picks it. From there on all is common: `tokenization.py` tokenizes
once into a memory-mapped cache and `blocks.py` serves blocks in an order that is a function of the step. Images come
from a file of their own each (`digits.py`), in rows that `blocks.py` serves in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.texts.file_types import KNOWN
from pli_train.data import tokenization
from pli_train.data.config import IMAGES
from pli_train.data.documents import Documents

if TYPE_CHECKING:
    from pli_train.data.config import DataConfig, TokenizerConfig
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText


def load(
    data: DataConfig, settings: TokenizerConfig, say: Callable[[str], None] = lambda line: None
) -> TokenizedText | ImageCorpus:
    """Load what `data.source` names, ready to be served in blocks.

    Args:
        data: the [data] section.
        settings: the [tokenizer] section.
        say: called with a line before work that takes time, and with what is left out.

    Raises:
        BadInput, PliError: when the corpus or the tokenizer cannot be had.
    """
    from pli_train.data.sources import digits

    if data.source in IMAGES:
        return digits.load(data, say)
    if data.processes:
        os.environ["RAYON_NUM_THREADS"] = str(data.processes)
    say(f"corpus: {data.source}")
    documents = read(data)
    for line in documents.notes:
        say(line)
    return tokenization.tokenize(documents, settings, say)


def read(data: DataConfig) -> Documents:
    """Read the corpus that `data.source` names. Raises BadInput when it is missing or empty."""
    return source_of(data)(data)


def source_of(data: DataConfig) -> Callable[[DataConfig], Documents]:
    """The reader for a source: a known name, else something on this disk, else a name on the hub."""
    from pli_train.data.sources import hub, python, text

    if data.source == "python":
        return python.read
    path = Path(data.source)
    if path.exists() or data.source.startswith((".", "/", "~")) or path.suffix.lower() in KNOWN:
        return text.read
    return hub.read
