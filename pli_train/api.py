"""Python API: train a whole run in one call, or grow a model inside your own loop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.config import loading as configs
from pli_train.core import openmp
from pli_train.core.anatomy import families, to_train, trainable
from pli_train.core.anatomy.discovery import discover
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.data.documents import Documents as Documents
from pli_train.growth import schedule as growth_schedule
from pli_train.growth.initial_shape import InitialShape, start_of
from pli_train.growth.operators.base import Operator as Operator
from pli_train.growth.schedules.named import Moment as Moment
from pli_train.growth.schedules.named import NamedSchedule as NamedSchedule
from pli_train.training.callback import Callback

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from pli_train.config.schema import RunConfig
    from pli_train.core.anatomy import Anatomy
    from pli_train.growth.grower import Grower

Schedule = str | list[dict[str, Any]] | dict[str, Any]


class Growth:
    """The growth of a model: the [growth] section of a config as an object.

    Examples:
        >>> Growth("0.25@1 0.5@1", initializer="identity")
        Growth('0.25@1 0.5@1', initializer='identity')

    Args:
        schedule: as in a config: `"0.25@1 500@2"`, a list of event tables, or `{"name": "stackbert", …}`.
        seed: random seed of new parts; None uses the seed of the training loop (Trainer's or the run's), or 0.
        fields: the other fields of [growth]: `initializer`, `donor`, `noise`, `optimizer_state`, `learning_rate`, …

    Raises:
        BadInput: if a field is invalid, or an event of a schedule given as text or a list; one line per mistake.
    """

    def __init__(self, schedule: Schedule = "", *, seed: int | None = None, **fields: Any) -> None:
        self.seed = seed
        self.table: dict[str, Any] = run_folder.with_current_keys({"schedule": schedule, **fields})
        self.config = configs.growth_alone(self.table)
        if not isinstance(schedule, dict):
            self.config.events(InitialShape(depth=1))

    def __repr__(self) -> str:
        fields = {key: value for key, value in {**self.table, "seed": self.seed}.items() if value is not None}
        return f"Growth({', '.join([repr(fields.pop('schedule')), *(f'{key}={fields[key]!r}' for key in fields)])})"

    def on(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        total_steps: int | None = None,
        stack: str | None = None,
        initial_heads: int | None = None,
        scheduler: object = None,
        warmup_steps: int = 0,
    ) -> Grower:
        """Return a Grower for one model, for a training loop that calls its `step` before each update.

        Args:
            model: a module with a ModuleList of equal blocks, not wrapped (by DDP, for example). It grows in place.
                Heads, FFN units and `identity` need a Hugging Face model of a family with a table.
            optimizer: optimizer of its parameters. It grows in place without new groups. If None, `attach` it later.
            total_steps: total number of updates, for events at a share of training.
            stack: dotted path of the list of blocks, if there is more than one candidate.
            initial_heads: number of heads to which each layer is reduced now, so that heads can be added later.
            scheduler: a LambdaLR, only for `learning_rate="rewind"`.
            warmup_steps: number of warm-up steps of that scheduler.

        Raises:
            BadInput: if the model cannot grow, or not by this schedule; one line per mistake.
        """
        from pli_train.growth import grower
        from pli_train.models import build as models

        grower.check_bare(model)
        anatomy = anatomy_of(model, stack)
        grower.check_even(model, anatomy)
        depth = len(models.stack_of(model, anatomy))
        start = start_of(model, anatomy, depth, initial_heads, None)
        result = grower.Grower(model, anatomy, start, self.planned(start, total_steps), self.seed or 0)
        if optimizer is not None:
            result.attach(optimizer, grower.rewound(scheduler, warmup_steps, total_steps) if scheduler else None)
        if initial_heads is not None:
            result.shrink(initial_heads)
        return result

    def planned(self, start: InitialShape, total_steps: int | None) -> list[growth_schedule.ScheduledEvent]:
        """Return the events with their steps.

        Raises:
            BadInput: if an event is impossible, or supported by `pli-train run` only.
        """
        planned = growth_schedule.plan(self.config.events(start, total_steps), start, total_steps)
        wrong = ["swapping is supported by `pli-train run` only"] if self.config.swapping.probability else []
        for number, each in enumerate(planned, 1):
            where = f"event {number} ({each.event})"
            if each.event.when == "plateau":
                wrong.append(f"{where}: waiting for a plateau is supported by `pli-train run` only: give `at`")
            elif each.step is None:
                wrong.append(f"{where}: a share of training needs total_steps=…")
            if each.event.operator == "context":
                wrong.append(f"{where}: the context length is set by your own data: remove this event")
        if wrong:
            raise BadInput(*(f"growth: {line}" for line in wrong))
        return planned


def anatomy_of(model: nn.Module, stack: str | None = None) -> Anatomy:
    """Return the anatomy of a model: its family's table, or the result of `discover`. Raises BadInput if none."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return to_train(model_type) if model_type in trainable() and stack is None else discover(model, stack)


def train(
    model: str | dict[str, Any] | None = None,
    data: str | dict[str, Any] | None = None,
    *,
    steps: int | None = None,
    growth: Growth | Schedule | None = None,
    out: Path | str | None = None,
    preset: str | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    **sections: Any,
) -> Path:
    """Train a growing model, as `pli-train run` does from a TOML file, and return the run's folder.

        train(model="bert", data="python", steps=1000, growth=Growth("0.25@1 0.5@2"), out="runs/x", seed=1)

    Args:
        model: a family (`"gpt2"`), a local folder or hub name, or the [model] section.
        data: a source (`"python"`, a file, a folder, a hub name), or the [data] section.
        steps: optimizer updates, `train.steps`.
        growth: a Growth, a schedule in any of its forms, or the [growth] section.
        out: folder of the run, which must not exist; by default `runs/NAME`.
        preset: a preset (or TOML file) to start from; the other arguments override it.
        quiet: print nothing on stderr.
        callbacks: callbacks of the run: see `pli_train.Callback`.
        sections: `tokenizer`, `train`, `optim`, `checkpoint`, `tracking` as dicts like TOML tables; `seed`, `name`.

    Raises:
        BadInput: if the config is invalid; the same lines as for a TOML file.
        PliError: if training fails for a reason that the user can act on.
    """
    openmp.wait_briefly()
    config = config_of(model, data, steps, growth, out, preset, sections)
    from pli_train.training import launch
    from pli_train.training.progress import ConsoleReporter, NullReporter

    folder = Path(out) if out is not None else Path("runs") / config.name
    launch.begin(config, folder, NullReporter() if quiet else ConsoleReporter(), callbacks).run()
    return folder


def config_of(
    model: str | dict[str, Any] | None,
    data: str | dict[str, Any] | None,
    steps: int | None,
    growth: Growth | Schedule | None,
    out: Path | str | None,
    preset: str | None,
    sections: dict[str, Any],
) -> RunConfig:
    """Return the config of a call to `train`. Raises BadInput."""
    table = dict(sections)
    table.setdefault("name", re.sub(r"[^\w.\-]", "-", Path(out).name) if out is not None else preset or "run")
    if isinstance(model, str):
        model = {"family" if model in families() else "name_or_path": model}
    if isinstance(growth, Growth):
        if growth.seed is not None and growth.seed != table.setdefault("seed", growth.seed):
            raise BadInput(f"train(): seed: {table['seed']} for the run and {growth.seed} in Growth; give one of them")
        growth = growth.table
    elif growth is not None and not (isinstance(growth, dict) and "name" not in growth):
        growth = {"schedule": growth}
    arguments = {"model": model, "data": {"source": data} if isinstance(data, str) else data, "growth": growth}
    table |= {key: value for key, value in arguments.items() if value is not None}
    if steps is not None:
        table["train"] = {**table.get("train", {}), "steps": steps}
    if preset is not None:
        table["extends"] = preset
    return configs.from_table(table, "train()")
