"""Load a corpus: select the source and tokenize it.

Each source of text is a module in `sources/` with `read(data) -> Documents`: documents split into train and eval, with
a fingerprint of their content. `source_of` selects it. `tokenization.py` tokenizes the documents once into a
memory-mapped cache, and `blocks.py` returns blocks in an order that is a function of the step. A source of images
(`digits.py`) returns rows that `blocks.py` uses in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core import plugins
from pli_train.core.errors import PliError
from pli_train.core.texts.file_types import KNOWN
from pli_train.data import tokenization
from pli_train.data.config import IMAGES
from pli_train.data.documents import Documents

if TYPE_CHECKING:
    from pli_train.data.config import DataConfig, TokenizerConfig
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText

OWN = ("python", *IMAGES)
"""Sources that are neither files nor on the hub."""


def load(
    data: DataConfig, settings: TokenizerConfig, say: Callable[[str], None] = lambda line: None
) -> TokenizedText | ImageCorpus:
    """Load the corpus of `data.source`, tokenized if it is text.

    Args:
        data: the [data] section.
        settings: the [tokenizer] section.
        say: function that is called with a line before slow steps, and about files left out.

    Raises:
        BadInput, PliError: if the corpus or the tokenizer cannot be loaded.
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
    """Read the documents of `data.source`. Raises BadInput if it is missing or empty."""
    return source_of(data)(data)


def source_of(data: DataConfig) -> Callable[[DataConfig], Documents]:
    """Return the reader of a source: of a known name or a plugin, a local path, or else a name on the hub."""
    from pli_train.data.sources import hub, python, text

    if data.source == "python":
        return python.read
    if plugin := plugins.found(plugins.CORPORA, OWN).get(data.source):
        return partial(_read, plugin)
    path = Path(data.source)
    if path.exists() or data.source.startswith((".", "/", "~")) or path.suffix.lower() in KNOWN:
        return text.read
    return hub.read


def _read(plugin: plugins.Plugin, data: DataConfig) -> Documents:
    """Read a plugin's documents. Raises PliError if the plugin fails, or returns something else."""
    reader = plugin.load(Callable)
    with plugin.calling():
        documents = reader(data)
    if not isinstance(documents, Documents):
        raise PliError(f"{plugin}: returned a {type(documents).__name__}, expected pli_train.Documents")
    return documents
