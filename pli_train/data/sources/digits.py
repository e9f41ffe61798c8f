"""Handwritten digits: 1797 images of 8 × 8 pixels from scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pli_train.core.errors import BadInput
from pli_train.data.documents import fingerprint

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pli_train.data.config import DataConfig

ROW = np.dtype([("pixels", np.float32, (1, 8, 8)), ("label", np.int64)])
"""An image and its label."""


@dataclass(frozen=True)
class ImageCorpus:
    """A corpus of images, with the same interface as a tokenized text.

    Attributes:
        train, eval: 1-D arrays of ROW; pixels from -1 to 1, as (channels, height, width).
        about: one-line description of the corpus.
        fingerprint: hash of content and split.
    """

    train: np.ndarray
    eval: np.ndarray
    about: str
    fingerprint: str

    tokenizer: ClassVar[None] = None
    vocabulary: ClassVar[None] = None
    needs: ClassVar[dict[str, int]] = {"image_size": 8, "num_channels": 1, "num_labels": 10}
    """Config field → the value that these images need."""

    @property
    def counts(self) -> dict[str, int]:
        """Size of the corpus, as recorded in `run.json`."""
        return {"train_images": len(self.train), "eval_images": len(self.eval), "classes": self.needs["num_labels"]}

    def check(self, task: str, config: PretrainedConfig) -> None:
        """Raise BadInput if a model of this task and config cannot learn from these images."""
        if task != "image-classification":
            raise BadInput(f"data.source: 'digits' holds images, and a {config.model_type} learns from text")
        wrong = [field for field, value in self.needs.items() if getattr(config, field) != value]
        if wrong:
            lines = (f"{field}: these images need {self.needs[field]}, got {getattr(config, field)}" for field in wrong)
            raise BadInput(*(f"model.config.{line}" for line in lines))

    def keep(self, folder: Path) -> None:
        """Save nothing, as images need no tokenizer."""


def load(data: DataConfig, say: Callable[[str], None] = lambda line: None) -> ImageCorpus:
    """Load the digits, split into train and eval with a fixed seed."""
    from sklearn.datasets import load_digits

    say("corpus: digits")
    digits = load_digits()
    rows = np.empty(len(digits.target), ROW)
    rows["pixels"], rows["label"] = digits.images[:, None] / 8 - 1, digits.target  # intensities are from 0 to 16
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    rows = rows[: max(2, round(data.fraction * len(rows)))]
    aside = min(max(1, round(data.test_share * len(rows))), len(rows) - 1)
    name = fingerprint("digits", rows.tobytes(), data.test_share)
    about = f"scikit-learn's handwritten digits: {len(rows)} images of 8 × 8 pixels"
    return ImageCorpus(rows[aside:], rows[:aside], about, name)
