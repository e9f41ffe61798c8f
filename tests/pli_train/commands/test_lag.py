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
        "  no rank correlation with the final loss: 2 candidates",
        "FLOPs: run ",
    ]
    assert all(line.startswith(start) for line, start in zip(err[-4:], starts, strict=True)), err
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


def test_a_config_without_candidates_and_a_foreign_folder_are_refused_before_anything_is_read(call, corpus, tmp_path):
    toml = write_config(tmp_path / "mine.toml", corpus)
    _, _, err = call(toml)
    assert err == [f"error: {toml}: is a config, not a search space; add --grid growth.FIELD=A,B"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.md").write_text("mine")
    code, out, err = call(toml, "--grid", "growth.initializer=random,clone", "-o", "notes")
    line = "error: notes: already exists and is not a comparison; choose another folder with --out"
    assert (code, out, err) == (2, "", [line])


def test_ctrl_c_between_two_tasks_is_a_line_that_says_how_to_resume(call, corpus, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    toml = write_config(tmp_path / "mine.toml", corpus)
    words = (toml, "--grid", "growth.initializer=random,clone", "--lag", 2)
    with monkeypatch.context() as patch:
        patch.setattr("pli_train.data.corpus.load", interrupted)
        code, out, err = call(*words)
    assert (code, out, err[-1]) == (130, "", "stopped")
    monkeypatch.setattr(InProcess, "start", interrupted)
    code, out, err = call(*words)
    assert (code, out, err[-1]) == (130, "", "stopped; run the same command to resume")
