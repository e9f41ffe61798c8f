"""`pli-train lag`: candidates are compared some steps after growth, and the run goes on with the best."""

import csv
import json
import math
import shutil

import pytest
from scipy import stats

from pli_train.commands import lag
from pli_train.config import loading
from pli_train.core.errors import BadInput, PliError
from pli_train.core.run_format import run_folder
from pli_train.sweep import objective, space_reading
from pli_train.sweep.lag import comparison, folder, summary
from pli_train.sweep.lag.candidates import grown, values_of
from pli_train.training import launch
from tests.run_files import content
from tests.sweeping import Ended, InProcess, write_config
from tests.thinned import thinned

NOISY = """
base = "{base}"
[space]
"growth.initializer" = ["clone", "clone-noise"]
"growth.noise" = {{ choices = [300.0], when = {{ "growth.initializer" = ["clone-noise"] }} }}
"""
"""A candidate with so much noise that it must lose."""


def compare(base, out, *grid, launcher=None, overrides=(), **options):
    """Return the comparison, its launcher and the lines that were printed."""
    launcher, said = launcher or InProcess(), []
    space = space_reading.from_words(base, grid, 0, overrides)
    done = lag.lag(space, out, launcher, **{"steps": 2, **options}, say=said.append)
    return done, launcher, said


@pytest.fixture(scope="session")
def noisy(mini, tmp_path_factory):
    """The space file with the planted loser."""
    file = tmp_path_factory.mktemp("spaces") / "noisy.toml"
    file.write_text(NOISY.format(base=mini))
    return str(file)


@pytest.fixture(scope="session")
def finished(noisy, tmp_path_factory):
    """A finished comparison with all candidates trained to the end: (folder, comparison, launcher, lines)."""
    out = tmp_path_factory.mktemp("lag") / "noisy"
    return out, *compare(noisy, out, complete=True)


def rows_in(out):
    with (out / folder.TABLE).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_candidate_with_too_much_noise_loses_at_each_event(finished):
    out, _, launcher, said = finished
    rows = rows_in(out)
    assert [(row["event"], row["candidate"], row["order"]) for row in rows] == [
        (event, candidate, order) for event in "12" for candidate in "01" for order in "01"
    ]
    for row in rows:
        assert row["chosen"] == str(row["values"] == "growth.initializer = clone")
        assert row["rank"] == ("1" if row["chosen"] == "True" else "2")
        assert row["steps"] == "2" and not row["error"]
    losses = {number: [float(row["loss"]) for row in rows[:4] if row["candidate"] == number] for number in "01"}
    assert max(losses["0"]) < min(losses["1"])
    assert launcher.started.count("main") == 3  # to each event, and to the end
    assert any("continue with growth.initializer = clone" in line for line in said)
    schedule = loading.load(str(out / "configs/main.toml")).growth.schedule
    assert [event["initializer"] for event in schedule] == ["clone", "clone"]


def test_the_losses_are_those_of_the_candidates_own_evaluations(finished):
    out, done, *_ = finished
    for row in done.rows:
        run = out / "runs" / row.run
        assert row.loss == dict(objective.evaluations(run))[row.step + row.steps]
        assert row.loss_at_birth == dict(objective.scalars(run, run_folder.EVAL_LOSS_AFTER_EVENT))[row.step]
        assert row.final_loss == objective.result(run).loss
    births = {(row.event, row.candidate): row.loss_at_birth for row in done.rows}
    assert all(births[row.event, row.candidate] == row.loss_at_birth for row in done.rows)  # one model, two orders
    assert len({row.loss for row in done.rows}) == len(done.rows)


def test_the_run_is_that_of_its_final_config(finished, tmp_path):
    out = finished[0]
    again = tmp_path / "again"
    launch.begin(loading.load(str(out / "configs/main.toml")), again).run()
    assert content(again) == content(out / "runs/main")


def test_the_chosen_candidate_with_the_order_of_the_run_is_the_run(finished):
    """After the last event, when nothing else is chosen."""
    out, done, *_ = finished
    (row,) = [row for row in done.rows if row.event == 2 and row.chosen and row.order == 0]
    ends = [out / "runs" / name / "checkpoint-12" for name in (row.run, "main")]
    for file in (run_folder.WEIGHTS, run_folder.OPTIMIZER, run_folder.LINEAGE):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    (other,) = [row for row in done.rows if row.event == 2 and row.chosen and row.order == 1]
    other = out / "runs" / other.run / "checkpoint-12"
    assert (ends[1] / run_folder.WEIGHTS).read_bytes() != (other / run_folder.WEIGHTS).read_bytes()


def test_the_cost_of_candidates_is_the_flops_that_their_runs_counted(finished):
    out, done, _, said = finished

    def flops(run, name):
        state = run_folder.read_json(run / name / run_folder.TRAINER_STATE)
        return next(iter(state["stateful_callbacks"].values()))["flops"]

    main = out / "runs/main"
    assert done.main_flops() == flops(main, "checkpoint-12")
    for row in done.rows:
        counted = dict(objective.scalars(out / "runs" / row.run, run_folder.FLOPS))[row.step + row.steps]
        assert row.flops == pytest.approx(counted - flops(main, f"checkpoint-{row.step}-before"), rel=1e-5)
    ends = sum(flops(out / "runs" / row.run, "checkpoint-12") for row in done.rows)
    total = ends - sum(flops(main, f"checkpoint-{row.step}-before") for row in done.rows)
    assert done.completion_flops() + sum(row.flops for row in done.rows) == total
    assert said[-1].startswith(f"FLOPs: run {done.main_flops():.3g}, candidates ")


def test_the_same_command_repeats_nothing_and_chooses_the_same(finished, noisy):
    out, done, *_ = finished
    before, table = content(out / "runs/main"), rows_in(out)
    again, launcher, said = compare(noisy, out, complete=True)
    assert launcher.started == []
    assert f"{out}: the run is finished; its choices are read again" in said
    assert "event 1, step 3: 2 candidates were trained for 2 steps" in said
    assert again.rows == done.rows and rows_in(out) == table and content(out / "runs/main") == before
    compare(noisy, out, launcher=launcher)
    assert launcher.started == [] and rows_in(out) == table  # final losses stay in it


class Killed(InProcess):
    """Is killed when it starts its n-th task, as all of the program would be."""

    def __init__(self, after):
        super().__init__()
        self._after = after

    def start(self, task, slot):
        if len(self.started) == self._after:
            raise KeyboardInterrupt
        return super().start(task, slot)


@pytest.mark.parametrize("after", thinned([5, 1, 4, 6, 10]))
def test_a_comparison_killed_at_any_task_ends_as_if_it_was_not(finished, noisy, tmp_path, after):
    whole, done, *_ = finished
    out = tmp_path / "noisy"
    with pytest.raises(KeyboardInterrupt):
        compare(noisy, out, launcher=Killed(after))
    again, rest, _ = compare(noisy, out)
    without_final = [vars(row) | {"final_loss": None} for row in done.rows]
    assert [vars(row) for row in again.rows] == without_final
    assert content(out / "runs/main") == content(whole / "runs/main")
    assert after + len(rest.started) == 11  # three parts of the run, and four candidates at each event


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_a_failed_candidate_is_left_out(noisy, tmp_path):
    class Dying(InProcess):
        def start(self, task, slot):
            if task.name == "event-1-00-0":
                self.started.append(task.name)
                if self.started.count(task.name) < 3:
                    return Ended(-9)
            if task.name == "event-2-00-1":
                task.log.write_text("error: the loss is nan\n")
                return Ended(1)
            return super().start(task, slot)

    done, launcher, said = compare(noisy, tmp_path / "noisy", launcher=Dying())
    assert launcher.started.count("event-1-00-0") == 3 + 1  # once counted by each class
    assert [row.error for row in done.rows if row.error] == ["the loss is nan"]
    chosen = {row.event: row.candidate for row in done.rows if row.chosen}
    assert chosen == {1: 0, 2: 1}
    assert {row.rank for row in done.rows if row.event == 2 and row.candidate == 0} == {None}
    assert "event-2-00-1: failed: the loss is nan" in said


def test_if_all_candidates_fail_the_comparison_stops(noisy, tmp_path):
    class Failing(InProcess):
        def start(self, task, slot):
            return Ended(1) if task.name.startswith("event") else super().start(task, slot)

    with pytest.raises(PliError, match="event 1: all candidates failed: its worker ended with exit code 1"):
        compare(noisy, tmp_path / "noisy", launcher=Failing())


def test_positions_and_operators_are_candidates_too(corpus, tmp_path):
    base = write_config(tmp_path / "base.toml", corpus, growth={"schedule": "0.25@1 0.5@1"})
    file = tmp_path / "space.toml"
    file.write_text(
        f'base = "{base}"\n[space]\n"growth.operator" = ["insert", "ffn"]\n'
        '"growth.position" = { choices = ["start", "end"], when = { "growth.operator" = ["insert"] } }\n'
        '"growth.to" = { choices = [96], when = { "growth.operator" = ["ffn"] } }\n'
    )
    done, *_ = compare(str(file), tmp_path / "out", orders=1)
    first, second = ([row for row in done.rows if row.event == event] for event in (1, 2))
    schedule = loading.load(str(tmp_path / "out/configs/main.toml")).growth.schedule
    assert [event["at"] for event in schedule] == [0.25, 0.5]
    assert [row.values for row in first] == [
        "growth.operator = insert, growth.position = start",
        "growth.operator = insert, growth.position = end",
        "growth.operator = ffn, growth.to = 96",
    ]
    run = tmp_path / "out/runs"
    stacks = [json.loads((run / row.run / run_folder.LINEAGE).read_text())["stack"] for row in first]
    assert stacks == [["b", "a"], ["a", "b"], ["a"]]
    assert second


def test_events_of_one_step_are_compared_together(corpus, tmp_path):
    base = write_config(tmp_path / "base.toml", corpus, growth={"schedule": "0.25@1 0.25@2 0.5@3"})
    done, *_ = compare(base, tmp_path / "out", "growth.position=start,middle,end", orders=1)
    schedule = loading.load(str(tmp_path / "out/configs/main.toml")).growth.schedule
    assert sorted({(row.event, row.step) for row in done.rows}) == [(1, 3), (2, 6)]
    run = tmp_path / "out/runs"
    stacks = [
        json.loads((run / row.run / run_folder.LINEAGE).read_text())["stack"] for row in done.rows if row.event == 1
    ]
    assert stacks == [["c", "b", "a"], ["a", "c", "b"], ["a", "b", "c"]]
    assert len(schedule) == 3


def test_ties_and_failures_in_the_ranking():
    def rows(*losses):
        return [folder.Row(1, 3, number, "", 0, "", 2, 1, loss=loss) for number, loss in enumerate(losses)]

    tied = rows(2.0, 1.0, 1.0, None, math.nan)
    assert comparison._rank(tied) == 1
    assert [row.rank for row in tied] == [3, 1, 2, None, None]
    assert [row.chosen for row in tied] == [False, True, False, False, False]
    assert comparison._rank(rows(None, math.inf)) is None


def test_rank_correlations_are_scipys_of_the_means_over_orders(finished):
    _, done, _, said = finished
    found = summary.outcomes([row for row in done.rows if row.event == 1])
    assert [each.lagged for each in found] == [
        pytest.approx((done.rows[at].loss + done.rows[at + 1].loss) / 2) for at in (0, 2)
    ]
    earlier, final = [3.0, 1.0, 2.0, 5.0], [2.0, 1.0, 3.0, 4.0]
    measured = summary.correlation(earlier, final)
    ranks = [sorted(values).index(value) for values in (earlier, final) for value in values]
    assert measured.spearman == pytest.approx(
        1 - 6 * sum((a - b) ** 2 for a, b in zip(ranks[:4], ranks[4:], strict=True)) / 60
    )
    assert measured.kendall == pytest.approx(stats.kendalltau(earlier, final).statistic)
    assert str(summary.correlation([1.0, 1.0], [1.0, 2.0])) == "Spearman undefined, Kendall undefined"
    few = "  no rank correlation with the final loss: 2 candidates, and at least 4 are needed"
    assert said.count(few) == 2 and not any("Spearman" in line for line in said)


def test_four_candidates_have_rank_correlations():
    class Finished:
        def __init__(self, count):
            losses = [(3.0, 2.0), (1.0, 1.0), (2.0, 3.0), (5.0, 4.0)][:count]
            self.rows = [
                folder.Row(1, 3, number, str(number), 0, "", 2, 1, 9.0, loss, None, loss == 1.0, final)
                for number, (loss, final) in enumerate(losses)
            ]
            for row in self.rows:
                row.rank = 1 + sorted(loss for loss, _ in losses).index(row.loss)

        def main_flops(self):
            return 10

        def completion_flops(self):
            return 0

    lines = list(summary.summary(Finished(4)))
    assert lines[2] == "  rank correlation of the loss after 2 steps with the final loss: Spearman 0.80, Kendall 0.67"
    assert lines[3].endswith("loss at birth with the final loss: Spearman undefined, Kendall undefined")
    assert "no rank correlation with the final loss: 3 candidates" in list(summary.summary(Finished(3)))[2]


def test_the_default_lag_is_the_recovery_window_cut_at_the_next_event(corpus, tmp_path):
    base = write_config(tmp_path / "base.toml", corpus, growth={"learning_rate": "rewarm", "rewarm_steps": 5})
    done, _, said = compare(base, tmp_path / "out", RANDOM, steps=None, orders=1)
    assert [row.steps for row in done.rows] == [3, 3, 5, 5]
    start = "event 1: candidates are compared after 3 steps instead of 5, because"
    assert f"{start} the next event follows at step 6" in said


RANDOM = "growth.initializer=random,clone"
REFUSED = {
    "no events": (
        {"growth": {"schedule": ""}},
        [RANDOM],
        {},
        "has no events",
    ),
    "a plateau": (
        {"growth": {"schedule": [{"operator": "insert", "when": "plateau", "index": 1}]}},
        [RANDOM],
        {},
        "waits for a plateau",
    ),
    "one candidate": ({}, ["growth.initializer=random"], {}, "has one candidate; a comparison needs at least two"),
    "the same candidates": ({}, ["growth.to=64,96"], {}, "all candidates are the same at each growth event"),
    "an unknown key": ({}, ["growth.initializr=random,clone"], {}, r"did you mean 'growth.initializer'\?"),
    "a key that is no event's": ({}, ["optim.lr=1e-3,2e-3"], {}, "optim.lr: not a field of growth events"),
    "an unknown value": ({}, ["growth.initializer=random,clon"], {}, "clon'; did you mean 'clone'"),
    "an unknown position": ({}, ["growth.position=start,top"], {}, "growth.position is 'top'; it is one of start"),
    "impossible together": (
        {},
        [RANDOM, "growth.optimizer_state=copy,zero"],
        {},
        "needs a donor",
    ),
    "too long a lag": ({}, [RANDOM], {"steps": 4}, "event 1 is at step 3.*give at most 3"),
}


@pytest.mark.parametrize(("sections", "grid", "options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_compared_is_refused_and_leaves_nothing(corpus, tmp_path, sections, grid, options, message):
    base = write_config(tmp_path / "base.toml", corpus, **sections)
    with pytest.raises(BadInput, match=message):
        compare(base, tmp_path / "out", *grid, **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(finished, noisy, mini, tmp_path):
    out = finished[0]
    with pytest.raises(BadInput, match="contains another comparison: it differs in --orders; choose"):
        compare(noisy, out, orders=1)
    with pytest.raises(BadInput, match=r"contains another comparison: it differs in train\.block_size; choose"):
        compare(noisy, out, overrides=["train.block_size=8"])
    with pytest.raises(BadInput, match="is not a comparison"):
        compare(noisy, out / "runs/main")
    file = tmp_path / "range.toml"
    file.write_text(f'base = "{mini}"\n[space]\n"growth.noise" = {{ low = 0.1, high = 0.2 }}\n')
    with pytest.raises(BadInput, match="not a range"):
        compare(str(file), tmp_path / "out")
    (tmp_path / "lag.json").write_text("{}")
    with pytest.raises(BadInput, match="not a file of `pli-train lag`"):
        compare(noisy, tmp_path)
    lock = folder.Lock(out, folder.LOCK)
    with pytest.raises(PliError):
        compare(noisy, out)
    lock.release()


def test_values_apply_to_the_events_whose_operator_has_the_field(config_of):
    from pli_train.sweep.budget import Planner
    from pli_train.sweep.lag.candidates import moments_of, tables_of

    events = [{"operator": "ffn", "at": 3, "to": 200}, {"operator": "insert", "at": 3, "index": 1}]
    plan = Planner().plan(config_of("gpt2", {"growth.schedule": events, "growth.noise": 0.5}))
    (moment,) = moments_of(plan)
    schedule = tables_of(plan)
    changed = grown({"growth.position": "start", "growth.donor": "above"}, schedule, moment, plan.start.lineage(), 0)
    assert changed[0] == schedule[0] and schedule[1]["noise"] == 0.5
    assert changed[1] == {**schedule[1], "index": 0, "donor": "above"}
    assert values_of(space_reading.from_grid("tiny", ["growth.noise=0.1,0.1,0.2"], 1)) == [
        {"growth.noise": 0.1},
        {"growth.noise": 0.2},
    ]


def test_a_removed_twin_is_made_again_from_the_checkpoint_before_its_event(finished, noisy, tmp_path):
    whole, done, *_ = finished
    out = tmp_path / "noisy"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "runs/event-1-01-1")
    again, launcher, _ = compare(noisy, out)
    assert launcher.started == ["event-1-01-1"]
    assert [(row.loss, row.chosen) for row in again.rows] == [(row.loss, row.chosen) for row in done.rows]
