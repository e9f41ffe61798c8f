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
"""An image and what it shows."""


@dataclass(frozen=True)
class ImageCorpus:
    """A corpus of images, to be used where a tokenized text is.

    Attributes:
        train, eval: 1-D arrays of ROW; pixels from -1 to 1, as (channels, height, width).
        about: one line on the corpus for people.
        fingerprint: names content and split together.
    """

    train: np.ndarray
    eval: np.ndarray
    about: str
    fingerprint: str

    tokenizer: ClassVar[None] = None
    vocabulary: ClassVar[None] = None
    needs: ClassVar[dict[str, int]] = {"image_size": 8, "num_channels": 1, "num_labels": 10}
    """Fields of a model's config, and the value with which it fits these images."""

    @property
    def counts(self) -> dict[str, int]:
        """What `run.json` says of the corpus's size."""
        return {"train_images": len(self.train), "eval_images": len(self.eval), "classes": self.needs["num_labels"]}

    def check(self, task: str, config: PretrainedConfig) -> None:
        """Raise BadInput when a model of this task and config cannot learn from these images."""
        if task != "image-classification":
            raise BadInput(f"data.source: 'digits' holds images, and a {config.model_type} learns from text")
        wrong = [field for field, value in self.needs.items() if getattr(config, field) != value]
        if wrong:
            message = (
                f"{field}: these images need {self.needs[field]}, got {getattr(config, field)}" for field in wrong
            )
            raise BadInput(*(f"model.config.{line}" for line in message))

    def keep(self, folder: Path) -> None:
        """Images need nothing else to be read again."""


def load(data: DataConfig, say: Callable[[str], None] = lambda line: None) -> ImageCorpus:
    """The digits, split into train and eval with a fixed seed."""
    from sklearn.datasets import load_digits

    say("corpus: digits")
    found = load_digits()
    rows = np.empty(len(found.target), ROW)
    rows["pixels"], rows["label"] = found.images[:, None] / 8 - 1, found.target  # intensities lie from 0 to 16
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    rows = rows[: max(2, round(data.fraction * len(rows)))]
    aside = min(max(1, round(data.test_share * len(rows))), len(rows) - 1)
    name = fingerprint("digits", rows.tobytes(), data.test_share)
    about = f"scikit-learn's handwritten digits: {len(rows)} images of 8 × 8 pixels"
    return ImageCorpus(rows[aside:], rows[:aside], about, name)
