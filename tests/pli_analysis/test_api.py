"""The Python API: every measurement as a method, tables that pandas users know, and the figure of each."""

import pickle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import pli_analysis as pli
from pli_analysis import cli
from pli_analysis.metrics.drift import drift as drift_metric
from pli_train.core.errors import BadInput

PAGES = {"doctor", "figures", "ls", "report", "watch"}
"""Commands that print no measurements."""
METHODS = {"scalars"}
"""Commands that are methods of a run only: the package has a subpackage of the same name."""


@pytest.fixture
def run(runs):
    return pli.open(runs["gpt2"])


def test_every_measuring_command_is_a_function_of_the_same_name():
    commands = {(of.name or of.callback.__name__).replace("-", "_") for of in cli.app.registered_commands}
    commands -= {"gradnorms"}
    assert {"drift", "grad_norms", "compare"} <= commands
    assert commands - PAGES - METHODS <= set(pli.__all__)
    assert all(callable(getattr(pli.AnalyzedRun, name)) for name in METHODS)
    assert all(callable(getattr(pli, name)) for name in pli.__all__)


def test_methods_and_functions_return_the_table_of_the_metric(run):
    expected = drift_metric.drift(pli.open_run(run.run.path))
    for table in (run.drift(), pli.drift(run), pli.drift(run.run)):
        assert isinstance(table, pd.DataFrame) and table.equals(expected) and expected.equals(table)
    assert run.scalars(["eval/loss"])["tag"].unique().tolist() == ["eval/loss"]
    assert run.lineage()["layer"].tolist() == list("abcde")
    assert run.lineage(events=True)["step"].tolist() == [event.step for event in run.run.lineage.events]


@pytest.mark.parametrize(
    "measure",
    [
        *(pli.AnalyzedRun.drift, pli.AnalyzedRun.lineage, pli.AnalyzedRun.grad_norms, pli.AnalyzedRun.embed),
        *(pli.AnalyzedRun.disturbance, pli.AnalyzedRun.similarity, pli.AnalyzedRun.attribution),
        lambda run: run.drift("head"),
        lambda run: run.embed(of="head", since_birth=True),
        lambda run: run.similarity(over_time=True),
        lambda run: pli.compare([run.run.path], by="flops"),
    ],
)
def test_a_table_draws_the_figure_of_its_metric(run, measure):
    try:
        drawn = measure(run).plot()
    except BadInput as error:  # this run is too short for a response of the loss
        assert "nothing to draw" in str(error) and measure is pli.AnalyzedRun.disturbance
        return
    assert isinstance(drawn, go.Figure) and len(drawn.data)


def test_what_pandas_makes_of_a_table_can_be_drawn_and_stored(run):
    table = run.drift()
    part = table.query("part in ['a', 'c']").sort_values("step")
    assert {trace.name for trace in part.plot().data} == {"a", "c"}
    again = pickle.loads(pickle.dumps(table))
    assert again.equals(table) and len(again.plot().data) == len(table.plot().data)
    assert "<table" in table._repr_html_()
    assert pd.DataFrame(table).plot is not table.plot and type(pd.DataFrame(table)) is pd.DataFrame


def test_a_table_without_a_figure_says_so(run):
    with pytest.raises(BadInput, match="no figure of its own"):
        run.scalars().plot()
    with pytest.raises(BadInput, match="nothing to draw"):
        run.drift().query("part == 'z'").plot()
    with pytest.raises(BadInput, match="no such folder"):
        pli.open("/nowhere")


def test_the_figure_of_drift_has_the_numbers_of_the_table(run):
    table = run.drift()
    for trace in table.plot().data:
        rows = table[table["part"] == trace.name].drop_duplicates("step", keep="last")
        np.testing.assert_array_equal(trace.y, rows["relative_l2"])
