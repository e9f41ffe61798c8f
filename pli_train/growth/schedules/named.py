"""Base class of named schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage

Table = dict[str, Any]


def _inside(at: int | float) -> int | float:
    if at < 0 or (isinstance(at, float) and not at < 1):
        raise ValueError(f"{at} is neither a share of training (0.0 up to, not including, 1.0) nor a whole step")
    return at


def _in_order(moments: list[int | float]) -> list[int | float]:
    if len({type(at) for at in moments}) > 1:
        raise ValueError("give either shares of training or steps, not both: their order would depend on its length")
    if any(later <= earlier for earlier, later in pairwise(moments)):
        raise ValueError(f"growth moments come in order of time, each once, got {moments}")
    return moments


When = Annotated[StrictInt | StrictFloat, AfterValidator(_inside)]
"""A whole number of steps, or a share of training."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A share of training."""

Moments = Annotated[list[When], AfterValidator(_in_order)]
"""Growth moments in order of time, all of them shares or all of them steps."""


@dataclass(frozen=True)
class Moment:
    """A growth moment.

    Attributes:
        when: `{"at": 0.25}`, or `{"when": "plateau"}`.
        growth: what happens then, in order: operator tables without their time.
    """

    when: Table
    growth: list[Table]


class NamedSchedule(BaseModel):
    """A growth schedule known by its name.

    A subclass gives `name` and `cites`, says in its module's docstring what the paper's formula is, and answers
    `moments`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cites: ClassVar[str]

    name: str
    heads: list[Annotated[int, Field(gt=0)]] = Field(
        [], description="heads of every layer, growing: spread evenly over the growth moments, the last at the last"
    )

    @classmethod
    def about(cls) -> str:
        """What it does, in one line: the first of its docstring."""
        return (cls.__doc__ or "").splitlines()[0]

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """The growth moments from `depth` layers with FFNs of `units`. Raises BadInput, its lines unprefixed."""
        raise NotImplementedError

    def events(self, depth: int, heads: int | None, units: int | None, total_steps: int | None) -> list[Table]:
        """The schedule as operator tables, in the order they act.

        Inserts at one `at` are one stage; their donors are layer ids of this project's lineage. What a table leaves
        open (noise, optimizer state, …) is for the config to fill in.

        Args:
            depth: layers at step 0.
            heads: attention heads of each layer at step 0; None when not known.
            units: units of each FFN at step 0; None when not known.
            total_steps: optimizer updates of the whole training; None when not known.

        Raises:
            BadInput: everything that cannot be done from that beginning, one line each.
        """
        wrong: list[str] = []
        moments: list[Moment] | None = None
        try:
            moments = self.moments(depth, units)
        except BadInput as error:
            wrong += error.mistakes
        wrong += not_rising("heads", self.heads, heads)
        if moments is not None:
            wrong += _outside(moments, total_steps)
            wrong += too_many("heads", self.heads, len(moments))
        if wrong or moments is None:
            raise BadInput(*(f"growth.schedule: {self.name}: {mistake}" for mistake in wrong))
        stages = spread(self.heads, len(moments))
        events = []
        for number, moment in enumerate(moments):
            added = [{"operator": "heads", "to": stages[number]}] if number in stages else []
            events += [{"operator": grown["operator"], **moment.when, **grown} for grown in [*moment.growth, *added]]
        return events


class CopySchedule(NamedSchedule):
    """A schedule whose newborn layers are copies of chosen layers."""

    initializer: str = Field("clone", description="how a newborn starts from its donor")

    def grown(self, lineage: Lineage, origins: Sequence[int]) -> list[Table]:
        """The inserts that turn the stack into the one with layer `origins[i]` of the old stack at index i.

        The first layer of each origin is the old one and the others are its copies, each with its donor's id. The
        inserts go from the bottom to the top, so that each index is final. `lineage` is left as they leave it.
        """
        old = list(lineage.stack)
        kept: set[int] = set()
        inserts: list[Table] = []
        for index, origin in enumerate(origins):
            if origin not in kept:
                kept.add(origin)
                continue
            lineage.insert(index, step=0, initializer=self.initializer, donor=old[origin])
            message = {"operator": "insert", "index": index, "initializer": self.initializer, "donor": old[origin]}
            inserts.append(message)
        return inserts


def check_deepens(depth: int, layers: int, least: int = 1) -> None:
    """Raise BadInput unless `layers` is deeper than `depth`, and `depth` at least `least`."""
    if depth < least:
        raise BadInput(f"copies layers, so the model must begin with at least {least}, not {depth}")
    if layers <= depth:
        raise BadInput(f"layers is {layers}, but the model begins with {depth} already")


def wrong_number(at: Sequence[int | float], needed: int, what: str) -> str:
    """That `at` does not name the `needed` growth moments. `what` says why so many."""
    return f"at names {len(at)} growth moments, but {what} takes {needed}"


def evenly(first: float, last: float, count: int) -> list[float]:
    """`count` shares of training from `first` to `last` at equal distances; a single one is `first`.

    >>> evenly(0.1, 0.9, 5)
    [0.1, 0.3, 0.5, 0.7, 0.9]
    """
    # Rounded, so that 0.3 is 0.3 for whoever reads a plan, and not 0.30000000000000004.
    return [round(first + (last - first) * i / max(count - 1, 1), 12) for i in range(count)]


def spread(values: Sequence[int], moments: int) -> dict[int, int]:
    """Which of `moments` (from 0) each of `values` is reached at: evenly, the last at the last.

    >>> spread([8, 12], 4)
    {1: 8, 3: 12}
    """
    return {-(-number * moments // len(values)) - 1: value for number, value in enumerate(values, 1)}


def not_rising(name: str, values: Sequence[int], initial: int | None) -> list[str]:
    """What is wrong unless `values` increase from above `initial` (no lower bound when that is None)."""
    wrong = []
    if any(later <= earlier for earlier, later in pairwise(values)):
        wrong.append(f"{name} must increase, got {list(values)}")
    if values and initial is not None and min(values) <= initial:
        wrong.append(f"{name} must be above the {initial} that the model begins with, got {list(values)}")
    return wrong


def too_many(name: str, values: Sequence[int], moments: int) -> list[str]:
    """What is wrong unless there are at least as many growth moments as `values`."""
    if len(values) <= moments:
        return []
    return [f"{name} has {len(values)} values ({list(values)}), but there are only {moments} growth moments"]


def _outside(moments: Sequence[Moment], total_steps: int | None) -> list[str]:
    steps = [moment.when["at"] for moment in moments if isinstance(moment.when.get("at"), int)]
    return [
        f"step {step} is outside training, which has {total_steps} steps"
        for step in steps
        if total_steps is not None and step >= total_steps
    ]
