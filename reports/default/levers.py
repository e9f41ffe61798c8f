"""Train the config depth.toml with one more lever: `python reports/default/levers.py LEVER OUT [KEY=VALUE …]`.

    gate:STEPS         the output projections of a new layer are scaled from 0 to 1 within STEPS steps
    average:DECAY      new layers are copies of an exponential moving average of their donor's weights
    average-all:DECAY  the old layers take their averages too when the model grows

Unlike other callbacks, these change weights. Their averages are not saved, so such a run cannot be resumed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pli_train import Callback
from pli_train.config import loading
from pli_train.models.build import stack_of
from pli_train.training import launch
from pli_train.training.progress import ConsoleReporter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pli_train.core.lineage import Event
    from pli_train.training.state import TrainingState

CONFIG = Path(__file__).with_name("depth.toml")


def layers_of(state: TrainingState) -> dict[str, nn.Module]:
    """Return the layers by id."""
    return dict(zip(state.lineage.stack, stack_of(state.model.bare, state.anatomy), strict=True))


class Gate(Callback):
    """Scale the output projections of new layers linearly from 0 to 1, folded into their weights.

    The scale is (k + 1) / (steps + 1) after k updates.
    """

    def __init__(self, steps: float) -> None:
        self._steps = steps

    @torch.no_grad()
    def _scale(self, state: TrainingState, layer: nn.Module, factor: float) -> None:
        for path in state.anatomy.identity["zero"]:
            for parameter in layer.get_submodule(path).parameters():
                parameter.mul_(factor)

    def on_growth(self, state: TrainingState, event: Event) -> None:
        """Silence the new layer, almost."""
        self._scale(state, layers_of(state)[event.facts["layer"]], 1 / (self._steps + 1))

    def on_step_end(self, state: TrainingState) -> None:
        """Raise the scale of new layers by a step."""
        for id, layer in layers_of(state).items():
            birth = state.lineage.layers[id].birth
            age = state.step - birth.step
            if birth.event is not None and 1 <= age <= self._steps:
                self._scale(state, layer, (age + 1) / age)


class Average(Callback):
    """Keep a moving average of the weights until the model grows, and clone new layers from it.

    Args:
        decay: weight of the old average at each step.
        everywhere: whether old layers take their averages too.
    """

    def __init__(self, decay: float, everywhere: bool = False) -> None:
        self._decay, self._everywhere = decay, everywhere
        self._averages: dict[str, list[Tensor]] = {}
        self._grown = -1

    @torch.no_grad()
    def on_step_end(self, state: TrainingState) -> None:
        """Update the averages. They begin with the weights after the first step."""
        if state.lineage.events:
            return
        decay = min(self._decay, state.step / (state.step + 10))  # so that the first weights are soon forgotten
        for id, layer in layers_of(state).items():
            now = [parameter.detach() for parameter in layer.parameters()]
            averages = self._averages.setdefault(id, [weights.clone() for weights in now])
            torch._foreach_lerp_(averages, now, 1 - decay)

    @torch.no_grad()
    def on_growth(self, state: TrainingState, event: Event) -> None:
        """Give the new layer the averages of its donor."""
        layers, new, donor = layers_of(state), event.facts["layer"], event.facts["donor"]
        taking = [new] if not self._everywhere or self._grown == event.step else [new, *self._averages]
        self._grown, self._averages[new] = event.step, self._averages[donor]
        for id in taking:
            for parameter, average in zip(layers[id].parameters(), self._averages[id], strict=True):
                parameter.copy_(average)


LEVERS = {"gate": Gate, "average": Average, "average-all": lambda decay: Average(decay, everywhere=True)}

if __name__ == "__main__":
    lever, out, *settings = sys.argv[1:]
    name, _, value = lever.partition(":")
    launch.begin(loading.load(str(CONFIG), settings), Path(out), ConsoleReporter(), [LEVERS[name](float(value))]).run()
