"""Gradient norms by part in Hugging Face's Trainer.

Trainer clips gradients before it calls `on_pre_optimizer_step`, and offers callbacks no moment between that and the
backward pass. So, on a step that is measured, each parameter gets a hook that autograd calls once the parameter's
gradient has been added up; under accumulation the last batch's call finds the sum over all of them. On other steps
there are none. The gradients are thus the raw ones, whatever `max_grad_norm` is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.state import AcceleratorState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pli_train.api import anatomy_of
from pli_train.core.anatomy.parts import GROUPS
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.lineage import Lineage
from pli_train.growth.grower import check_bare
from pli_train.models.build import stack_of
from pli_train.optim.grad_norms import GradNorms
from pli_train.training.tensorboard import ScalarWriter

if TYPE_CHECKING:
    from torch import nn

    from pli_train.integrations.hugging_face import GrowthCallback

FUSED = ("layerwise", "lomo")
"""What is in the names of optimizers that use up each gradient during the backward pass."""


class GradNormCallback(TrainerCallback):
    """Logs the gradient norm of each head, FFN, layer, its norms and the embeddings of a Trainer's model.

        trainer = Trainer(model, args, train_dataset=data, callbacks=[GradNormCallback(every=10)])
        trainer.train()     # then: tensorboard --logdir OUTPUT_DIR, or pli-analyze grad-norms OUTPUT_DIR

    With growth, so that a part is followed by its id:

        growth = GrowthCallback("0.25@1 0.5@2")
        Trainer(model, args, train_dataset=data, callbacks=[growth, GradNormCallback(growth=growth)])

    Families with a table are told by heads and FFNs; of any other model whose blocks are one ModuleList, the layers. An
    event file in the output folder takes the scalars, as `grad_norm/head/c.h3` and the like, under the number of
    updates done once the gradient was used.

    Args:
        every: updates from one that is measured to the next.
        groups: of `pli_train.core.anatomy.parts.GROUPS`, those that are logged.
        updates: whether ‖update‖ ÷ ‖weights‖ is logged too, as `update_ratio/…`. Keeps a copy of all weights.
        growth: the GrowthCallback of the same Trainer, where there is one.
        stack: dotted path of the list of blocks, where more than one could be meant.
        folder: where the event file goes; Trainer's `output_dir` when left out.

    Raises:
        BadInput: for what cannot be read here; when the Trainer is made, or training begins, for what cannot be
            measured right.
    """

    def __init__(
        self,
        every: int = 10,
        *,
        groups: Sequence[str] = GROUPS,
        updates: bool = False,
        growth: GrowthCallback | None = None,
        stack: str | None = None,
        folder: Path | str | None = None,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise BadInput(f"GradNormCallback: every={every!r} is not a whole number from 1")
        for group in [groups] if isinstance(groups, str) else groups:
            if group not in GROUPS:
                raise BadInput(f"GradNormCallback: groups: no {group!r}{did_you_mean(str(group), GROUPS)}")
        self._every, self._groups, self._updates = every, [groups] if isinstance(groups, str) else groups, updates
        self._growth, self._stack, self._folder = growth, stack, folder
        self._norms: GradNorms | None = None
        self._scalars = ScalarWriter(None)
        self._hooks: list[Any] = []

    # --- what Trainer calls -------------------------------------------------------------------------------------------

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Refuse early what cannot be measured right."""
        self._check(args, its["model"])

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Begin an event file; what an earlier process logged from here on no longer counts."""
        self._check(args, its["model"])
        self._unhook()
        self._norms = None
        folder = Path(str(args.output_dir)) if self._folder is None else Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._scalars = ScalarWriter(folder, from_step=state.global_step + 1 if state.global_step else 0)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Hang hooks on all parameters when this step is measured."""
        if self._growth is not None:
            self._growth.on_step_begin(args, state, control, **its)  # it may come after this one in Trainer's list
        if self._norms is None:
            self._norms = self._begun(its["model"])
        if not self._norms.due(state.global_step):
            return
        self._norms.begin(state.global_step)
        for number, (parameter, *_) in enumerate(self._norms.plan.parameters):
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(_measuring(self._norms, number)))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any
    ) -> None:
        """The backward pass is over: send the norms on their way."""
        if self._hooks and self._norms is not None:
            self._unhook()
            self._norms.end()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any
    ) -> None:
        """Measure the update."""
        if self._norms is not None:
            self._norms.updated()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Write what was measured; Trainer has just waited for the device itself."""
        self._write()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Write what was measured, so that it is there whatever happens after this checkpoint."""
        self._write()
        self._scalars.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Write what is left, and let go of the file."""
        self._write()
        self._scalars.flush()
        self._scalars.close()

    # --- what it takes ------------------------------------------------------------------------------------------------

    def _begun(self, model: nn.Module) -> GradNorms:
        anatomy = anatomy_of(model, self._stack)
        lineage = self._growth.lineage if self._growth else Lineage.begin(len(stack_of(model, anatomy)), 0, "given")
        return GradNorms(model, anatomy, lineage, self._every, self._groups, self._updates)

    def _write(self) -> None:
        for step, wall_time, scalars in self._norms.read() if self._norms else ():
            self._scalars.add(step, scalars, wall_time)

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _check(self, args: Any, model: nn.Module) -> None:
        """Refuse what would show us other gradients than those of the whole step, raw and unscaled."""
        optim = str(getattr(args.optim, "value", args.optim))
        against = {
            "fp16 scales gradients while they are measured: train in bf16": (
                args.fp16 or AcceleratorState().mixed_precision == "fp16"
            ),
            "DeepSpeed keeps gradients to itself": args.deepspeed,
            "FSDP has a part of each gradient on each device": args.fsdp,
            "several processes or GPUs are not supported here (`pli-train run` takes them): set CUDA_VISIBLE_DEVICES": (
                args.world_size > 1 or args.n_gpu > 1
            ),
            f"optim='{optim}' uses up each gradient during the backward pass": any(word in optim for word in FUSED),
        }
        wrong = [f"GradNormCallback: {line}" for line, true in against.items() if true]
        if wrong:
            raise BadInput(*wrong)
        check_bare(model)
        anatomy_of(model, self._stack)


def _measuring(norms: GradNorms, number: int) -> Callable[[Any], None]:
    return lambda parameter: norms.measure_one(number)
