"""Training progress, and its conversion to Hugging Face's `trainer_state.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers import TrainerState

from pli_train.checkpointing.checkpoint import OURS

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig


@dataclass
class Progress:
    """Updates, tokens, FLOPs and seconds of training so far, without evaluations and checkpoints."""

    step: int = 0
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, state: TrainerState) -> Progress:
        """Convert from Hugging Face's `TrainerState`: the inverse of `to_trainer_state`."""
        callbacks: Any = state.stateful_callbacks
        counts = callbacks[OURS]
        return cls(state.global_step, counts["tokens"], counts["flops"], counts["seconds"], state.log_history)

    def to_trainer_state(self, config: RunConfig, total_steps: int, epochs: float) -> TrainerState:
        """Convert to Hugging Face's `TrainerState`, a copy. `epochs` is the fraction of an epoch per step."""
        counts: Any = {OURS: {"tokens": self.tokens, "flops": self.flops, "seconds": self.seconds}}
        return TrainerState(
            epoch=self.step * epochs,
            global_step=self.step,
            max_steps=total_steps,
            num_train_epochs=math.ceil(total_steps * epochs),
            train_batch_size=config.train.batch_size,
            logging_steps=config.train.log_every,
            eval_steps=config.train.eval_every,
            save_steps=config.checkpoint.every or total_steps,
            num_input_tokens_seen=self.tokens,
            total_flos=float(self.flops),
            log_history=list(self.history),
            stateful_callbacks=counts,
        )
