"""Growth in Hugging Face's Trainer.

The model and the optimizer grow in place between two updates, and no parameter group is added, so that Trainer's
scheduler, clipping, accumulation and logging keep working. State dicts of the model always have the padded form (see
`pli_train.models.padding`), so everything that Trainer saves can be loaded with plain `from_pretrained`.

Trainer loads a checkpoint's weights before it calls any callback, so the model must have the checkpoint's shape before:
call `prepared` for that.

An event is applied right before the first update after its step. So Trainer logs, evaluates and saves at that step the
model before the event; the state after it is in the folder of `growth_states`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from pli_train.api import Growth, Schedule, anatomy_of
from pli_train.checkpointing import checkpoint as checkpoints
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.growth import grower as in_place
from pli_train.integrations.growth_states import States, readable
from pli_train.models import padding

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import Trainer

    from pli_train.growth.grower import Grower

NAMES = "optimizer_names.json"
"""File with the parameter names, with layer ids, in the order of Trainer's `optimizer.pt`; one list per group."""

logger = logging.getLogger("pli_train")


class GrowthCallback(TrainerCallback):
    """Grow the model of a Trainer while it trains.

        growth = GrowthCallback("0.25@1 0.5@2", initializer="identity")
        trainer = Trainer(model, args, train_dataset=data, callbacks=[growth])
        trainer.train()                                                             # or, to resume a run:
        trainer.train(resume_from_checkpoint=growth.prepared(trainer))

    Every checkpoint gets a `lineage.json`. Families with a parameter table grow in layers, heads and FFN units; other
    models whose blocks are one ModuleList grow in layers.

    For models of a family with a table, `OUTPUT_DIR/_growth` has the input of `pli-analyze` for any `save_total_limit`:
    held-out tokens from the first evaluation, and the weights at the start and before and after each step with events,
    so that n such steps use 1 + 2 n times the size of the weights on disk. See `growth_states`.

    Args:
        schedule: a Growth, or a schedule in any form that a config accepts.
        seed: seed of new parts (default: Trainer's).
        stack: dotted path of the list of blocks, needed if the model has more than one.
        initial_heads: number of heads of each layer at step 0; the others are removed, to be added by growth later.
        keep: number of newest steps with events whose states are kept on disk; all if None. With 0 the folder is not
            written.
        held_out: maximum number of rows of the evaluation data set to keep; 0 for none.
        fields: other fields of [growth]: `initializer`, `optimizer_state`, `learning_rate`, `freeze_steps`, …

    Raises:
        BadInput: when an argument is invalid; when the Trainer is created or training begins, if its settings or model
            are not supported.
    """

    def __init__(
        self,
        schedule: Growth | Schedule = "",
        *,
        seed: int | None = None,
        stack: str | None = None,
        initial_heads: int | None = None,
        keep: int | None = None,
        held_out: int = 256,
        **fields: Any,
    ) -> None:
        for name, count in (("keep", keep), ("held_out", held_out)):
            if count is not None and (type(count) is not int or count < 0):
                raise BadInput(f"GrowthCallback: {name}={count!r} is not a whole number from 0")
        if isinstance(schedule, Growth) and (fields or seed is not None):
            raise BadInput(f"GrowthCallback: {', '.join(fields) or 'seed'}: pass it to Growth(…) itself")
        self.growth = schedule if isinstance(schedule, Growth) else Growth(schedule, seed=seed, **fields)
        self._stack, self._heads = stack, initial_heads
        self._keep, self._held_out = keep, held_out
        self._states: States | None = None
        self._growing: Grower | None = None
        self._prepared: Path | None = None
        self._standard_form: nn.Module | None = None

    @property
    def lineage(self) -> Lineage:
        """The current lineage: layer ids by index, and the events. Raises RuntimeError before training."""
        return self._now().lineage

    def prepared(self, trainer: Trainer, checkpoint: Path | str | None = None) -> str:
        """Grow a new Trainer's model to the shape of a checkpoint. Return the path for `resume_from_checkpoint`.

        Args:
            trainer: created as for the run that wrote the checkpoint, with the same initial model.
            checkpoint: a folder that Trainer wrote (default: the newest in `args.output_dir`).

        Raises:
            BadInput: when there is no such checkpoint, or its lineage is missing or differs from this schedule's.
        """
        path = checkpoint or get_last_checkpoint(trainer.args.output_dir)
        if path is None:
            raise BadInput(f"{trainer.args.output_dir}: holds no checkpoint to resume from")
        if trainer.model_init is not None:
            raise BadInput("GrowthCallback: model_init would make a new model at every start; pass model=… to Trainer")
        if self._growing is not None:
            raise BadInput("GrowthCallback: has grown a model already; resume with a new model, callback and Trainer")
        folder = Path(path)
        try:
            lineage = Lineage.read(folder / run_folder.LINEAGE)
        except BadInput as error:
            raise BadInput(f"{error} (was it stopped while it was being written? use an earlier one)") from None
        steps = run_folder.read_json(folder / run_folder.TRAINER_STATE).get("max_steps")
        growing = self._begun(trainer.args, trainer.model, trainer.optimizer, steps)
        growing.catch_up(lineage)
        if isinstance(trainer.model, PreTrainedModel):
            # Trainer loads tensors by the names in the file, but some families (gpt_neox) are saved under names that
            # differ from those of the model: it would not load these.
            dtype = next(trainer.model.parameters()).dtype
            trainer.model.load_state_dict(type(trainer.model).from_pretrained(folder, dtype=dtype).state_dict())
        self._growing, self._prepared = growing, folder
        return str(folder)

    # --- called by Trainer --------------------------------------------------------------------------------------------

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the model save its weights in padded form."""
        self._check(args, state)
        self._stand_by(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a lineage, or resume that of a checkpoint."""
        self._check(args, state)
        self._stand_by(kwargs["model"])
        growing = self._growing
        if self._prepared is not None and growing is not None:
            growing.planned = self.growth.planned(growing.start, state.max_steps)
        else:
            if growing is not None:
                growing.close()
            growing = self._growing = self._begun(args, kwargs["model"], kwargs["optimizer"], state.max_steps)
            missed = [planned for planned in growing.planned if (planned.step or 0) <= state.global_step]
            if state.global_step and (missed or self._heads is not None):
                raise BadInput(
                    "GrowthCallback: to resume a run that has grown, call "
                    "trainer.train(resume_from_checkpoint=growth.prepared(trainer, checkpoint))"
                )
        warmup = args.get_warmup_steps(state.max_steps)
        curve = in_place.rewound(kwargs["lr_scheduler"], warmup, state.max_steps) if growing.rewinds else None
        growing.attach(kwargs["optimizer"], curve)
        self._check_names(growing)
        self._prepared = None
        self._states = None
        if self._grows and self._keep != 0 and readable(growing.model, self._stack):
            self._states = States(Path(str(args.output_dir)), self._keep, self._held_out)
            self._states.begin(growing, state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Apply the events that are due before this update."""
        self._step(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep some rows of the evaluation data set."""
        if self._states is not None and (read := kwargs.get("eval_dataloader")) is not None:
            self._states.draw(self._now(), read.dataset, kwargs.get("processing_class"), self._now().seed)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the lineage and the order of the optimizer's parameters into the checkpoint of Trainer."""
        growing, folder = self._now(), Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if not args.save_only_model:
            checkpoints.write_text(folder / NAMES, json.dumps(growing.names(), indent=0))
        growing.save(folder / run_folder.LINEAGE)
        growing.save(Path(str(args.output_dir)) / run_folder.LINEAGE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach from the optimizer. Events that are due at the last step are applied if training is resumed."""
        self._now().close()
        if self._states is not None:
            self._states.close()

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _now(self) -> Grower:
        if self._growing is None:
            raise RuntimeError("training has not begun")
        return self._growing

    def _begun(self, args: Any, model: nn.Module, optimizer: Optimizer | None, total_steps: int | None) -> Grower:
        growing = self.growth.on(
            model, optimizer, total_steps=total_steps, stack=self._stack, initial_heads=self._heads
        )
        if self.growth.seed is None:
            growing.seed = args.seed
        return growing

    def _step(self, state: TrainerState) -> None:
        growing, step = self._now(), state.global_step
        due = growing.due(step)
        if due:
            self._keep_side(state, after=False)
        growing.step(step)
        if due:
            self._keep_side(state, after=True)
            logger.info("step %d: %d layers (%s)", step, len(growing.lineage.stack), growing.lineage)

    def _keep_side(self, state: TrainerState, after: bool) -> None:
        """Save the model before or after the events of a step."""
        if self._states is not None:
            self._states.save(self._now(), state, after)
            self._states.note(self._now(), state.global_step, after)

    def _stand_by(self, model: nn.Module) -> None:
        if self._grows and self._standard_form is not model:
            in_place.check_bare(model)
            padding.always_padded(model, anatomy_of(model, self._stack))
            self._standard_form = model

    @property
    def _grows(self) -> bool:
        return bool(self.growth.config.schedule) or self._heads is not None

    def _check(self, args: Any, state: TrainerState) -> None:
        """Raise BadInput for settings that do not work with a model that grows."""
        best = "load_best_model_at_end would load weights of an earlier shape; load the best checkpoint yourself"
        many = "several processes or GPUs are not supported (use `pli-train run`, or set CUDA_VISIBLE_DEVICES)"
        unsupported = {
            "torch_compile would keep using the graph of the model before growth": args.torch_compile,
            "DeepSpeed keeps references to the model's parameters": args.deepspeed,
            "FSDP keeps references to the model's parameters": args.fsdp,
            many: args.world_size > 1 or args.n_gpu > 1,
            "auto_find_batch_size would restart with a grown model": args.auto_find_batch_size,
            "a hyper-parameter search would restart with a grown model": state.is_hyper_param_search,
            best: args.load_best_model_at_end,
        }
        wrong = [f"GrowthCallback: {line}" for line, true in unsupported.items() if true]
        if wrong and self._grows:
            raise BadInput(*wrong)

    def _check_names(self, growing: Grower) -> None:
        """Raise BadInput if Trainer, which loads optimizer state by position, loads it into other parameters."""
        if self._prepared is None or not (self._prepared / NAMES).is_file():
            return
        if json.loads((self._prepared / NAMES).read_text(encoding="utf-8")) != growing.names():
            raise BadInput(f"{self._prepared}: its optimizer has other parameters, or another order of parameters")
