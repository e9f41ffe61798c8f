"""Training progress, and its form in Hugging Face's `trainer_state.json`."""

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
    """How far a run is: updates, tokens seen, FLOPs and seconds of training (evaluations and checkpoints left out)."""

    step: int = 0
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, state: TrainerState) -> Progress:
        """What `to_trainer_state` was made of."""
        callbacks: Any = state.stateful_callbacks
        ours = callbacks[OURS]
        return cls(state.global_step, ours["tokens"], ours["flops"], ours["seconds"], state.log_history)

    def to_trainer_state(self, config: RunConfig, total_steps: int, epochs: float) -> TrainerState:
        """Hugging Face's form, which shares nothing that changes later. `epochs` are those of one step."""
        ours: Any = {OURS: {"tokens": self.tokens, "flops": self.flops, "seconds": self.seconds}}
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
            stateful_callbacks=ours,
        )
