"""`pli-train lag` as people type it: what it prints where, and the code it leaves."""

from functools import partial

import pytest

from tests.sweeping import InProcess, write_config


@pytest.fixture
def call(typed, monkeypatch):
    monkeypatch.setattr("pli_train.sweep.launchers.local.LocalLauncher", lambda *_: InProcess())
    return partial(typed, "lag")


def test_a_comparison_is_named_after_its_config_and_printed_on_stdout(call, corpus, tmp_path):
    toml = write_config(tmp_path / "mine.toml", corpus)
    words = ("--grid", "growth.initializer=random,clone", "--set", "growth.schedule=0.5@1", "--lag", 2, "--complete")
    code, out, err = call(toml, *words)
    assert (code, out) == (0, "studies/mine-lag\n"), err
    assert err[0] == "comparison: studies/mine-lag (1 at a time)"
    starts = [
        "event 1 (step 6): growth.initializer = ",
        "  final loss: chosen ",
        "  rank correlation of the loss after 2",
    ]
    starts += ["  rank correlation of the loss at birth", "FLOPs: run "]
    assert all(line.startswith(start) for line, start in zip(err[-5:], starts, strict=True)), err
    assert (tmp_path / "studies/mine-lag/runs/main/checkpoint-12").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tny", "--grid", "growth.initializer=random,clone"], "error: no preset 'tny'; did you mean 'tiny'?"),
        (["tiny", "--grid", "growth.initializer"], "error: --grid growth.initializer: not KEY=VALUE,VALUE"),
        (
            ["tiny", "--grid", "growth.initialiser=random,clone"],
            "error: tiny: growth.initialiser: not a field of growth",
        ),
        (["tiny", "--lag", 0], "error: invalid value for '--lag': Input should be greater than or equal to 1"),
        (["tiny"], "error: no space 'tiny'"),
        (["baseline", "--grid", "growth.initializer=random,clone"], "error: baseline: growth.schedule has no events"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(call, tmp_path, words, message):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err[-1].startswith(message), err
    assert not (tmp_path / "studies").exists()
