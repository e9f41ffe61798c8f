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
        raise ValueError(f"{at} is neither a fraction of training (0.0 ≤ at < 1.0) nor a whole number of steps")
    return at


def _in_order(moments: list[int | float]) -> list[int | float]:
    if len({type(at) for at in moments}) > 1:
        raise ValueError("use either fractions of training or steps, not both, as their order depends on its length")
    if any(later <= earlier for earlier, later in pairwise(moments)):
        raise ValueError(f"growth moments must increase, got {moments}")
    return moments


When = Annotated[StrictInt | StrictFloat, AfterValidator(_inside)]
"""A whole number of steps, or a fraction of training."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A fraction of training."""

Moments = Annotated[list[When], AfterValidator(_in_order)]
"""Growth moments in order of time, either all fractions or all steps."""


@dataclass(frozen=True)
class Moment:
    """A growth moment.

    Attributes:
        when: `{"at": 0.25}`, or `{"when": "plateau"}`.
        growth: the operator tables, in order, without their time.
    """

    when: Table
    growth: list[Table]


class NamedSchedule(BaseModel):
    """A growth schedule known by its name.

    A subclass sets `name` and `cites`, implements `moments`, and explains the paper's formula in its module's
    docstring.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cites: ClassVar[str] = ""
    """The paper it is from."""

    name: str
    heads: list[Annotated[int, Field(gt=0)]] = Field(
        [], description="increasing numbers of heads of every layer, evenly spread over the growth moments"
    )

    @classmethod
    def about(cls) -> str:
        """Return the first line of its docstring."""
        return (cls.__doc__ or "").splitlines()[0]

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return the growth moments from `depth` layers with FFNs of `units`. Raises BadInput, lines without prefix."""
        raise NotImplementedError

    def events(self, depth: int, heads: int | None, units: int | None, total_steps: int | None) -> list[Table]:
        """Return the schedule as operator tables, in order of time.

        Insertions at the same `at` are one stage. Donors are layer ids as in the lineage. Fields that a table leaves
        out (noise, optimizer state, …) get their values from the config.

        Args:
            depth: layers at step 0.
            heads: attention heads of each layer at step 0; None when not known.
            units: units of each FFN at step 0; None when not known.
            total_steps: optimizer updates of the whole training; None when not known.

        Raises:
            BadInput: with one line for each thing that is impossible from this initial shape.
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
    """Base class of schedules in which each new layer has a chosen donor."""

    initializer: str | None = Field(
        None, description="how a new layer is made from its donor (default: growth.initializer)"
    )

    def grown(self, lineage: Lineage, origins: Sequence[int]) -> list[Table]:
        """Return the insertions that produce a stack with layer `origins[i]` of the old stack at index i.

        The first layer of each origin is the old layer itself and the others are its copies, each with its donor's id.
        Insertions go from bottom to top, so that each index is final. `lineage` is changed in place.
        """
        old = list(lineage.stack)
        kept: set[int] = set()
        chosen = {} if self.initializer is None else {"initializer": self.initializer}
        inserts: list[Table] = []
        for index, origin in enumerate(origins):
            if origin not in kept:
                kept.add(origin)
                continue
            lineage.insert(index, step=0, initializer="clone", donor=old[origin])
            inserts.append({"operator": "insert", "index": index, "donor": old[origin], **chosen})
        return inserts


def check_deepens(depth: int, layers: int, least: int = 1) -> None:
    """Raise BadInput unless `layers` > `depth` ≥ `least`."""
    if depth < least:
        raise BadInput(f"copies layers, so the model must begin with at least {least}, not {depth}")
    if layers <= depth:
        raise BadInput(f"layers is {layers}, but the model begins with {depth} already")


def wrong_number(at: Sequence[int | float], needed: int, what: str) -> str:
    """Return the message that `at` has not the `needed` number of moments; `what` needs them."""
    return f"at has {len(at)} growth moments, but {what} needs {needed}"


def evenly(first: float, last: float, count: int) -> list[float]:
    """Return `count` evenly spaced fractions of training from `first` to `last`; a single one is `first`.

    >>> evenly(0.1, 0.9, 5)
    [0.1, 0.3, 0.5, 0.7, 0.9]
    """
    # Rounded, so that a printed plan has 0.3 and not 0.30000000000000004.
    return [round(first + (last - first) * i / max(count - 1, 1), 12) for i in range(count)]


def spread(values: Sequence[int], moments: int) -> dict[int, int]:
    """Spread `values` evenly over `moments`, the last value at the last moment. Return index of moment → value.

    >>> spread([8, 12], 4)
    {1: 8, 3: 12}
    """
    return {-(-number * moments // len(values)) - 1: value for number, value in enumerate(values, 1)}


def not_rising(name: str, values: Sequence[int], initial: int | None) -> list[str]:
    """Return what is wrong unless `values` increase and exceed `initial` (no lower bound when None)."""
    wrong = []
    if any(later <= earlier for earlier, later in pairwise(values)):
        wrong.append(f"{name} must increase, got {list(values)}")
    if values and initial is not None and min(values) <= initial:
        wrong.append(f"{name} must be above the {initial} that the model begins with, got {list(values)}")
    return wrong


def too_many(name: str, values: Sequence[int], moments: int) -> list[str]:
    """Return what is wrong if there are more `values` than growth moments."""
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
