"""`pli-train sweep` as people type it: what it prints where, and the code it leaves."""

from functools import partial

import pytest

from pli_train.commands import sweep
from pli_train.core.run_format import study_folder
from tests.sweeping import InProcess, write_config


@pytest.fixture
def call(typed):
    return partial(typed, "sweep")


def test_a_study_is_named_after_its_config_and_printed_on_stdout(call, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "launcher_of", lambda *_: InProcess())
    toml = write_config(tmp_path / "mine.toml", corpus)
    code, out, err = call(toml, "--seeds", 1, "--set", "train.steps=6", "--confirm", 1)
    assert (code, out) == (0, "studies/mine\n"), err
    assert err[0] == "study: studies/mine (1 at a time)"
    assert [line.partition(":")[0] for line in err[-5:]] == [
        "best growth",
        "best baseline",
        "confirmed growth",
        "confirmed baseline",
        "growth - baseline",
    ]
    rows = study_folder.trials(tmp_path / "studies/mine")
    assert [(row["arm"], row["seed"]) for row in rows] == [
        ("growth", 0),
        ("baseline", 0),
        ("confirm", 1),
        ("confirm", 1),
    ]
    assert rows[1]["steps"] == 6 < rows[0]["steps"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["whn"], "error: no space 'whn'; did you mean 'when'? (spaces: all, initializer, placement, seeds, when; "),
        (["tny", "--seeds", 2], "error: no preset 'tny'; did you mean 'tiny'?"),
        (["tiny", "--grid", "optim.lr"], "error: --grid optim.lr: not KEY=VALUE,VALUE"),
        (
            ["when", "--sampler", "tpa"],
            "error: invalid value for '--sampler': 'tpa' is not one of 'tpe', 'rand",
        ),
        (["when", "--sampler", "grid"], "error: when: optim.lr, schedule.first, schedule.last: a grid needs a list"),
        (["when", "--trials", 0], "error: invalid value for '--trials': Input should be greater"),
        (["tiny", "--seeds", 2, "--trials", 7], "error: --trials: cannot be combined with --grid or --seeds"),
        (["when", "--threads", 999], "error: --threads 999: a worker has at most "),
        (["when", "--launcher", "slurm"], "error: --launcher slurm: needs --workers N, the number of parallel runs"),
        (["when", "--set", "optim.lr=1"], "error: --set optim.lr: is searched by when; remove it from --set"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line_and_leaves_nothing(call, tmp_path, words, message):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err[-1].startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_config_is_no_space(call, corpus, tmp_path):
    toml = write_config(tmp_path / "mine.toml", corpus)
    code, _, err = call(toml)
    assert (code, err) == (2, [f"error: {toml}: is a config, not a search space; add --grid KEY=A,B or --seeds K"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "mine.toml"], "error: mine.toml: already exists and is not a study; choose another folder with --out"),
        (["-o", "notes"], "error: notes: already exists and is not a study; choose another folder with --out"),
        (["--storage", "nonsense"], "error: --storage nonsense: not a database URL"),
        (["--storage", "sqlite:///no/such/db"], "error: --storage sqlite:///no/such/db: cannot be reached (unable"),
        (["--grid", "growth.initializr=clone"], "error: mine: growth trial with seed = 0, growth.initializr = 'clone'"),
    ],
)
def test_what_is_wrong_is_found_before_the_corpus_is_read(call, corpus, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("pli_train.data.corpus.load", lambda *_: pytest.fail("the corpus is read"))
    toml = write_config(tmp_path / "mine.toml", corpus)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.md").write_text("mine")
    code, out, err = call(toml, "--seeds", 1, *words)
    assert (code, out) == (2, "")
    assert len(err) == 1 and err[0].startswith(message)
    assert not (tmp_path / "studies").exists()


def test_ctrl_c_outside_the_time_of_workers_is_a_line(call, corpus, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "launcher_of", lambda *_: InProcess())
    toml = write_config(tmp_path / "mine.toml", corpus)
    with monkeypatch.context() as patch:
        patch.setattr("pli_train.data.corpus.load", interrupted)
        code, out, err = call(toml, "--seeds", 1)
    assert (code, out, err[-1]) == (130, "", "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "Coordinator", interrupted)
        code, out, err = call(toml, "--seeds", 1)
    assert (code, out, err[-1]) == (130, "", "stopped; run the same command to resume")
