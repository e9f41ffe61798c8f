"""Growth in Hugging Face's Trainer.

The model and the optimizer grow in place between two updates, and no parameter group is added, so that Trainer's
scheduler, clipping, accumulation and logging go on as they were. A state dict of the model is always its stock form
(see `pli_train.models.padding`): whatever Trainer saves loads with plain `from_pretrained`.

Trainer loads a checkpoint's weights before it asks any callback, so the model must have grown to the checkpoint's shape
by then: that is what `prepared` does.

An event happens right before the first update after its step. So what Trainer logs, evaluates and saves at that step is
of the model before the event, and what comes after it is in the folder of `growth_states`.
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
"""Whose state is at which place of Trainer's `optimizer.pt`: names with the layer's id, a list for each group."""

logger = logging.getLogger("pli_train")


class GrowthCallback(TrainerCallback):
    """Lets the model of a Trainer grow while it trains.

        growth = GrowthCallback("0.25@1 0.5@2", initializer="identity")
        trainer = Trainer(model, args, train_dataset=data, callbacks=[growth])
        trainer.train()                                                             # or, to go on with a stopped run:
        trainer.train(resume_from_checkpoint=growth.prepared(trainer))

    Every checkpoint gets a `lineage.json`. Families with a table grow in layers, heads and FFN units; any other model
    whose blocks are one ModuleList grows in layers.

    `OUTPUT_DIR/_growth` keeps what `pli-analyze` asks for, whatever `save_total_limit` is (models of a family with a
    table): the weights as training began and on both sides of each step with events, so that n such steps take 1 + 2 n
    times a model's weights on disk, and held-out tokens from the first evaluation. See `growth_states`.

    Args:
        schedule: a Growth, or a schedule in any form that a config takes.
        seed: what newborn parts are drawn from; Trainer's own when left out.
        stack: dotted path of the list of blocks, where more than one could be meant.
        initial_heads: heads that each layer is cut down to at step 0, so that more can come later.
        keep: steps with events whose states stay on disk, the newest; all if None. 0 for none of that folder.
        held_out: rows of the evaluation data set that are kept, at most; 0 for none.
        fields: the other fields of [growth]: `initializer`, `optimizer_state`, `learning_rate`, `freeze_steps`, …

    Raises:
        BadInput: for what cannot be read here; when the Trainer is made, or training begins, for what cannot be done.
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
            raise BadInput(f"GrowthCallback: {', '.join(fields) or 'seed'}: give it to Growth(…) itself")
        self.growth = schedule if isinstance(schedule, Growth) else Growth(schedule, seed=seed, **fields)
        self._stack, self._heads = stack, initial_heads
        self._keep, self._held_out = keep, held_out
        self._states: States | None = None
        self._growing: Grower | None = None
        self._prepared: Path | None = None
        self._standard_form: nn.Module | None = None

    @property
    def lineage(self) -> Lineage:
        """Who sits where now. Raises RuntimeError before training."""
        return self._now().lineage

    def prepared(self, trainer: Trainer, checkpoint: Path | str | None = None) -> str:
        """Grow a fresh Trainer's model to the shape of a checkpoint; return the path for `resume_from_checkpoint`.

        Args:
            trainer: made as for the run that wrote the checkpoint, with a model of the same beginning.
            checkpoint: a folder that Trainer wrote; the newest of `args.output_dir` when left out.

        Raises:
            BadInput: when there is no such checkpoint, it has no lineage, or another one than this run comes to.
        """
        found = checkpoint or get_last_checkpoint(trainer.args.output_dir)
        if found is None:
            raise BadInput(f"{trainer.args.output_dir}: holds no checkpoint to resume from")
        if trainer.model_init is not None:
            raise BadInput("GrowthCallback: Trainer makes a new model from model_init at every start: give it model=…")
        if self._growing is not None:
            raise BadInput("GrowthCallback: has grown a model already: resume with a new model, callback and Trainer")
        folder = Path(found)
        try:
            lineage = Lineage.read(folder / run_folder.LINEAGE)
        except BadInput as error:
            raise BadInput(f"{error} (was it stopped while it was being written? use an earlier one)") from None
        steps = run_folder.read_json(folder / run_folder.TRAINER_STATE).get("max_steps")
        growing = self._begun(trainer.args, trainer.model, trainer.optimizer, steps)
        growing.catch_up(lineage)
        if isinstance(trainer.model, PreTrainedModel):
            # Trainer loads tensors by the names in the file, and some families (gpt_neox) are saved under other names
            # than they live under: those it would leave as they are.
            dtype = next(trainer.model.parameters()).dtype
            trainer.model.load_state_dict(type(trainer.model).from_pretrained(folder, dtype=dtype).state_dict())
        self._growing, self._prepared = growing, folder
        return str(folder)

    # --- what Trainer calls -------------------------------------------------------------------------------------------

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """See to it that the model is saved in its stock form."""
        self._check(args, state)
        self._stand_by(its["model"])

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Begin a lineage, or go on with the one of a checkpoint."""
        self._check(args, state)
        self._stand_by(its["model"])
        growing = self._growing
        if self._prepared is not None and growing is not None:
            growing.planned = self.growth.planned(growing.start, state.max_steps)
        else:
            if growing is not None:
                growing.close()
            growing = self._growing = self._begun(args, its["model"], its["optimizer"], state.max_steps)
            missed = [planned for planned in growing.planned if (planned.step or 0) <= state.global_step]
            if state.global_step and (missed or self._heads is not None):
                raise BadInput(
                    "GrowthCallback: to resume a run that has grown, call "
                    "trainer.train(resume_from_checkpoint=growth.prepared(trainer, checkpoint))"
                )
        warmup = args.get_warmup_steps(state.max_steps)
        curve = in_place.rewound(its["lr_scheduler"], warmup, state.max_steps) if growing.rewinds else None
        growing.attach(its["optimizer"], curve)
        self._check_names(growing)
        self._prepared = None
        self._states = None
        if self._grows and self._keep != 0 and readable(growing.model, self._stack):
            self._states = States(Path(str(args.output_dir)), self._keep, self._held_out)
            self._states.begin(growing, state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Let happen what is due before this update."""
        self._step(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Keep some rows of the data set that was read."""
        if self._states is not None and (read := its.get("eval_dataloader")) is not None:
            self._states.draw(self._now(), read.dataset, its.get("processing_class"), self._now().seed)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Put the lineage, and whose optimizer state is where, into the checkpoint that Trainer has just written."""
        growing, folder = self._now(), Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if not args.save_only_model:
            checkpoints.write_text(folder / NAMES, json.dumps(growing.names(), indent=0))
        growing.save(folder / run_folder.LINEAGE)
        growing.save(Path(str(args.output_dir)) / run_folder.LINEAGE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **its: Any) -> None:
        """Let go of the optimizer. What is due at this step waits for an update, of a resumed training."""
        self._now().close()
        if self._states is not None:
            self._states.close()

    # --- what it takes ------------------------------------------------------------------------------------------------

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
        """Keep the model as it is on one side of the events of a step."""
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
        """Refuse what would not notice that the model grows, or would undo it."""
        best = "load_best_model_at_end would load an earlier shape's weights: load the best checkpoint yourself"
        many = "several processes or GPUs are not supported here (`pli-train run` takes them): set CUDA_VISIBLE_DEVICES"
        against = {
            "torch_compile would go on with the graph of the ungrown model": args.torch_compile,
            "DeepSpeed keeps hold of the parameters it was given": args.deepspeed,
            "FSDP keeps hold of the parameters it was given": args.fsdp,
            many: args.world_size > 1 or args.n_gpu > 1,
            "auto_find_batch_size starts over in the middle of growth": args.auto_find_batch_size,
            "a hyper-parameter search starts over with a grown model": state.is_hyper_param_search,
            best: args.load_best_model_at_end,
        }
        wrong = [f"GrowthCallback: {line}" for line, true in against.items() if true]
        if wrong and self._grows:
            raise BadInput(*wrong)

    def _check_names(self, growing: Grower) -> None:
        """Raise BadInput unless Trainer, which loads moments by position, gave each parameter its own."""
        if self._prepared is None or not (self._prepared / NAMES).is_file():
            return
        if json.loads((self._prepared / NAMES).read_text(encoding="utf-8")) != growing.names():
            raise BadInput(f"{self._prepared}: its optimizer holds other parameters, or in another order")
