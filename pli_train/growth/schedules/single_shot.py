"""Single-step growth (Bu 2025): from zero or one layer to all layers at once, late.

At a share of about 0.8 of training, 0 or 1 layer becomes `layers`. From one layer each newborn copies it, or is drawn
afresh; from none they are all drawn afresh. It is made for the WSD learning rate: under one that has decayed by then
the newborn layers never catch up.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.growth.schedules.named import Moment, NamedSchedule, When, check_deepens
from pli_train.models.config import MOST

RANDOM = "random"


class SingleShot(NamedSchedule):
    """All layers at once, late."""

    cites: ClassVar[str] = "Bu 2025, arXiv 2511.04981"

    name: Literal["single-shot"] = "single-shot"
    layers: int = Field(ge=1, le=MOST, description="depth at the end")
    at: When = Field(0.8, description="when")
    initializer: str | None = Field(
        None, description="how a newborn starts; none given: random from no layer, else as the rest of the config says"
    )

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """The one moment. Raises BadInput from more than one layer, or when there is none to start from."""
        wrong = []
        if depth > 1:
            wrong.append(f"begins with 0 or 1 layers, not {depth}")
        if depth == 0 and self.initializer not in (None, RANDOM):
            wrong.append(f"initializer is '{self.initializer}', but a model of no layers has no donor: use '{RANDOM}'")
        try:
            check_deepens(depth, self.layers, least=0)
        except BadInput as error:
            wrong += error.mistakes
        if wrong:
            raise BadInput(*wrong)
        initializer = RANDOM if depth == 0 else self.initializer
        start: dict[str, Any] = {} if initializer is None else {"initializer": initializer}
        if initializer != RANDOM:
            start["donor"] = "a"  # the one layer there is
        growth = [{"operator": "insert", "index": index, **start} for index in range(depth, self.layers)]
        return [Moment({"at": self.at}, growth)]
