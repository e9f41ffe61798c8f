"""Single-step growth (Bu 2025): from zero or one layer to all layers at once, late.

At about 0.8 of training, 0 or 1 layer becomes `layers`. From one layer, each new layer is a copy of it, or random; from
none, all are random. The method is made for the WSD learning rate: if the learning rate has decayed before growth, the
new layers never catch up.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.growth.schedules.named import Moment, NamedSchedule, When, check_deepens
from pli_train.models.config import MOST

RANDOM = "random"


class SingleShot(NamedSchedule):
    """Insert all layers at once, late in training."""

    cites: ClassVar[str] = "Bu 2025, arXiv 2511.04981"

    name: Literal["single-shot"] = "single-shot"
    layers: int = Field(ge=1, le=MOST, description="final depth")
    at: When = Field(0.8, description="growth moment")
    initializer: str | None = Field(
        None, description="how new layers are initialized (default: random from no layer, else growth.initializer)"
    )

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return the one moment. Raises BadInput when there is more than one layer, or no donor."""
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
        fields: dict[str, Any] = {} if initializer is None else {"initializer": initializer}
        if initializer != RANDOM:
            fields["donor"] = "a"  # the only layer
        growth = [{"operator": "insert", "index": index, **fields} for index in range(depth, self.layers)]
        return [Moment({"at": self.at}, growth)]
