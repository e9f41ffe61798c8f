"""The [data] and [tokenizer] sections."""

from __future__ import annotations

from pydantic import Field

from pli_train.section import Section

IMAGES = ("digits",)
"""Sources of images."""


class TokenizerConfig(Section):
    """A byte-level BPE trained on the corpus, or an existing tokenizer."""

    vocab_size: int = Field(4096, ge=260, description="size of the BPE trained on the corpus")
    name_or_path: str | None = Field(
        None,
        description="folder, tokenizer.json or hub name to use instead; pretrained weights use their folder's",
    )


class DataConfig(Section):
    """The corpus of text or images."""

    source: str = Field(
        "python",
        description="`python` (its standard library), a file, a folder, a hub name, or `digits` (images)",
    )
    subset: str | None = Field(None, description="hub: the data set's configuration")
    revision: str | None = Field(None, description="hub: the revision, e.g. refs/convert/parquet")
    split: str = Field("train", description="hub: the slice, in the hub's own syntax, e.g. train[:10%]")
    text_column: str = Field(
        "text", description="records: the column that holds text; if there is no `text`: the only column of text"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of the documents to use")
    test_share: float = Field(0.05, gt=0, lt=1, description="share of the documents kept for evaluation")
    processes: int | None = Field(None, ge=1, description="tokenizing threads; default: all cores")
