"""Gradient norms by part in Hugging Face's Trainer.

Trainer clips gradients before it calls `on_pre_optimizer_step`, and has no callback between the backward pass and
clipping. So on a measured step each parameter gets a hook that autograd calls when the parameter's gradient is
accumulated; with gradient accumulation, the call in the last batch has the sum over all batches. On other steps there
are no hooks. The norms are therefore those of unclipped gradients for every `max_grad_norm`.
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
"""Substrings in the names of optimizers that consume each gradient during the backward pass."""


class GradNormCallback(TrainerCallback):
    """Log gradient norms of heads, FFNs, layers, norm layers and embeddings of a Trainer's model.

        trainer = Trainer(model, args, train_dataset=data, callbacks=[GradNormCallback(every=10)])
        trainer.train()     # then: tensorboard --logdir OUTPUT_DIR, or pli-analyze grad-norms OUTPUT_DIR

    With growth, so that each part keeps its id:

        growth = GrowthCallback("0.25@1 0.5@2")
        Trainer(model, args, train_dataset=data, callbacks=[growth, GradNormCallback(growth=growth)])

    Families with a parameter table have norms of heads and FFNs; other models, whose blocks are one ModuleList, have
    norms of layers. The scalars, such as `grad_norm/head/c.h3`, go to an event file in the output folder. Their step is
    the number of updates done when the gradient was used.

    Args:
        every: number of updates between measurements.
        groups: those of `pli_train.core.anatomy.parts.GROUPS` to log.
        updates: whether to log ‖update‖ ÷ ‖weights‖ too, as `update_ratio/…`. This keeps a copy of all weights.
        growth: the GrowthCallback of the same Trainer, if there is one.
        stack: dotted path of the list of blocks, needed if the model has more than one.
        folder: folder of the event file (default: Trainer's `output_dir`).

    Raises:
        BadInput: when an argument is invalid; when the Trainer is created or training begins, if its settings or model
            are not supported.
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

    # --- called by Trainer --------------------------------------------------------------------------------------------

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check the settings and the model early."""
        self._check(args, kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open an event file. Readers drop what an earlier process logged from this step on."""
        self._check(args, kwargs["model"])
        self._unhook()
        self._norms = None
        folder = Path(str(args.output_dir)) if self._folder is None else Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._scalars = ScalarWriter(folder, from_step=state.global_step + 1 if state.global_step else 0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Register hooks on all parameters if this step is measured."""
        if self._growth is not None:
            self._growth.on_step_begin(args, state, control, **kwargs)  # it may be called after this callback
        if self._norms is None:
            self._norms = self._begun(kwargs["model"])
        if not self._norms.due(state.global_step):
            return
        self._norms.begin(state.global_step)
        for number, (parameter, *_) in enumerate(self._norms.plan.parameters):
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(_measuring(self._norms, number)))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the hooks after the backward pass, and start the copy of the norms."""
        if self._hooks and self._norms is not None:
            self._unhook()
            self._norms.end()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the update."""
        if self._norms is not None:
            self._norms.updated()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the measurements. Trainer has just waited for the device, so this adds no wait."""
        self._write()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the measurements, so that those before this checkpoint are on disk."""
        self._write()
        self._scalars.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the remaining measurements and close the file."""
        self._write()
        self._scalars.flush()
        self._scalars.close()

    # --- helpers ------------------------------------------------------------------------------------------------------

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
        """Raise BadInput for settings under which hooks do not get the complete, unscaled gradients of a step."""
        optim = str(getattr(args.optim, "value", args.optim))
        unsupported = {
            "fp16 scales gradients while they are measured; train in bf16": (
                args.fp16 or AcceleratorState().mixed_precision == "fp16"
            ),
            "DeepSpeed does not expose gradients": args.deepspeed,
            "FSDP has only a shard of each gradient on each device": args.fsdp,
            "several processes or GPUs are not supported (use `pli-train run`, or set CUDA_VISIBLE_DEVICES)": (
                args.world_size > 1 or args.n_gpu > 1
            ),
            f"optim='{optim}' consumes each gradient during the backward pass": any(word in optim for word in FUSED),
        }
        wrong = [f"GradNormCallback: {line}" for line, true in unsupported.items() if true]
        if wrong:
            raise BadInput(*wrong)
        check_bare(model)
        anatomy_of(model, self._stack)


def _measuring(norms: GradNorms, number: int) -> Callable[[Any], None]:
    return lambda parameter: norms.measure_one(number)
