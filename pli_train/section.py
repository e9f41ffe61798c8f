"""Base class of config sections, and the error lines for their mistakes, with the nearest valid key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from pli_train.core.errors import did_you_mean, nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

ELSEWHERE_CALLED = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "max_grad_norm": "clip_norm",
    "lr_scheduler_type": "schedule",
    "num_hidden_layers": "initial_layers",
    "n_layer": "initial_layers",
    "num_proc": "processes",
    "test_size": "test_share",
    "max_length": "block_size",
    "eval_steps": "eval_every",
    "save_steps": "every",
    "logging_steps": "log_every",
}
"""What Hugging Face's trainer and the seed call some of our keys: for suggestions only."""


class Section(BaseModel):
    """A section of a configuration: unknown keys are mistakes, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def lines_of(error: ValidationError, model: type[BaseModel], prefix: str) -> list[str]:
    """One line for each thing pydantic found."""
    lines = []
    for found in error.errors():
        where = ".".join(str(step) for step in found["loc"] if step not in ("int", "float", "str"))
        if found["type"] == "extra_forbidden":
            line = f"{where}: unknown key{nearest_key(where, model)}"
        elif found["type"] == "missing":
            line = f"{where}: is missing"
        elif found["type"] == "value_error":
            line = f"{where}: {found['ctx']['error']}" if where else str(found["ctx"]["error"])
        else:
            line = f"{where}: {found['msg'][0].lower()}{found['msg'][1:]}, got {found['input']!r}"
        if prefix + line not in lines:
            lines.append(prefix + line)
    return lines


def nearest_key(where: str, model: type[BaseModel]) -> str:
    """`; did you mean '…'?` with the valid key that was probably meant.

    Tried in turn: the same name in another section, what other trainers call it, the nearest spelling.
    """
    known = keys(model)
    section, _, name = where.rpartition(".")
    leaf = {key.rpartition(".")[2]: key for key in known}
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    meant = leaf.get(ELSEWHERE_CALLED.get(name, name)) or leaf.get(nearest(name, siblings) or "")
    return f"; did you mean '{meant}'?" if meant else did_you_mean(where, known)


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of the config in dotted form, sections included."""
    found = []
    for name, message in model.model_fields.items():
        found.append(prefix + name)
        kind = message.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{prefix}{name}.")
    return found
