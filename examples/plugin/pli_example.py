"""Example of a package with plugins for pli: a metric with a figure, a growth operator, a schedule and a corpus."""

from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.express as px
import torch
from pydantic import Field

from pli_analysis import Metric
from pli_train import Documents, Moment, NamedSchedule, Operator
from pli_train.core.lineage import BadLineage
from pli_train.models.build import stack_of


def measure(run):
    """Return the norm of the weights of each layer at each checkpoint: `layer`, `step`, `norm`."""
    rows = []
    for step, checkpoint in run.states.items():
        for id in checkpoint.lineage.stack:
            squares = sum(np.square(array, dtype=float).sum() for _, array in checkpoint.layer(id))
            rows.append({"layer": id, "step": step, "norm": np.sqrt(squares)})
    return pd.DataFrame(rows)


def finding(table):
    """Return the layer with the largest norm at the last checkpoint, in a sentence."""
    last = table[table["step"] == table["step"].max()].sort_values("norm").iloc[-1]
    return f"At step {last['step']}, layer {last['layer']} has the largest norm, {last['norm']:.2f}."


def figure(table):
    """Draw the norm of each layer over steps."""
    return px.line(table, x="step", y="norm", color="layer")


weight_norms = Metric(measure, "Weight norms", figure, finding)


class Perturb(Operator):
    """Add Gaussian noise to the weight matrices of a layer."""

    operator: Literal["perturb"] = "perturb"
    layer: str = Field(description="id of the layer")
    noise: float = Field(0.1, ge=0, description="standard deviation ÷ that of each weight matrix")
    bears: ClassVar[bool] = False  # it adds no parameters

    def record(self, lineage, step):
        """Add the event to the lineage."""
        if self.layer not in lineage.stack:
            raise BadLineage(f"there is no layer '{self.layer}' at that step ({lineage})")
        lineage.note("perturb", step, layer=self.layer, noise=self.noise, **self.policies)

    def grow(self, model, anatomy, lineage, seed):
        """Change the weights in place. There are no new parameters, so the list of their origins is empty."""
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in stack_of(model, anatomy)[lineage.index(self.layer)].parameters():
                if weight.dim() > 1:
                    weight += self.noise * weight.std() * torch.randn(weight.shape, generator=random).to(weight)
        return []

    def outcome(self, lineage):
        """Return what `pli-train plan` prints."""
        return f"{self.layer}: noise {self.noise:g}"


class InsertOnTop(NamedSchedule):
    """Insert a layer on top at regular intervals."""

    name: Literal["on-top"] = "on-top"
    layers: int = Field(ge=2, description="final depth")
    every: int = Field(ge=1, description="steps between two insertions")

    def moments(self, depth, units):
        """Return one insertion at each moment."""
        inserts = [{"operator": "insert", "index": index} for index in range(depth, self.layers)]
        return [Moment({"at": number * self.every}, [insert]) for number, insert in enumerate(inserts, 1)]


def sums(data):
    """Return a corpus of sums of two numbers."""
    lines = [[f"{a} + {b} = {a + b}" for b in range(100)] for a in range(100)]
    return Documents.of(map("\n".join, lines), data, "sums of two numbers")
