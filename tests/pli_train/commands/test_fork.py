"""Twins: equal to the last bit where nothing differs, and different from the event on where something does."""

import json
import shutil
from pathlib import Path

import pytest

from pli_analysis import api
from pli_analysis.runs.opening import open_run
from pli_analysis.scalars.reading import read
from pli_train.commands.fork import fork
from pli_train.config import loading as configs
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.conftest import STEPS
from tests.run_files import content
from tests.thinned import thinned


def from_step(found, name, step):
    """What a run holds from a checkpoint on, scalars from the step after."""
    kept = {}
    for key, value in found.items():
        message = run_folder.CheckpointName.parse(key.partition("/")[0])
        if message is not None and message >= name:
            kept[key] = value
        elif isinstance(value, dict) and message is None:
            later = {at: number for at, number in value.items() if at > step}
            kept |= {key: later} if later else {}
    return kept


def same_from(parent, twin, name):
    name = run_folder.CheckpointName.parse(name)
    one, other = (from_step(content(run), name, name.step) for run in (parent, twin))
    assert one.keys() == other.keys()
    assert one == other
    return one


@pytest.mark.parametrize("step", thinned([3, 2, 6, 8, 0, 12]))
def test_a_fork_with_nothing_changed_is_its_parent_bit_for_bit(runs, family, tmp_path, step):
    twin = tmp_path / "twin"
    fork(runs[family], step, twin).run()
    same = same_from(runs[family], twin, f"checkpoint-{step}")
    assert f"checkpoint-{STEPS}/{run_folder.WEIGHTS}" in same
    assert (twin / run_folder.LINEAGE).read_bytes() == (runs[family] / run_folder.LINEAGE).read_bytes()
    assert min(name.step for name, _ in run_folder.checkpoints(twin)) == step


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_finished_run_that_kept_little_has_twins_at_every_event(config_of, tmp_path, step):
    """The state of the optimizer is there right before each event, and nowhere else but at the end."""
    parent, twin, still = (tmp_path / name for name in ("parent", "twin", "still"))
    launch.begin(config_of("gpt2", {"checkpoint": {"every": None, "full_last": 1}}), parent).run()
    assert not run_folder.is_full(parent / f"checkpoint-{step}")
    fork(parent, step, twin).run()
    same_from(parent, twin, f"checkpoint-{step}")
    fork(parent, step, still, growth=False).run()
    message = Lineage.from_json((still / run_folder.LINEAGE).read_text())
    assert [event.step for event in message.events] == [at for at in (3, 6, 6, 9) if at < step]


@pytest.mark.parametrize("step", thinned([4, 1, 2, 8, 6]))
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_fork_under_every_operator_is_its_parent_bit_for_bit(unbroken, tmp_path, kind, step):
    parent, twin = unbroken[kind], tmp_path / "twin"
    if not (parent / f"checkpoint-{step}").is_dir():
        pytest.skip("no checkpoint of that step")
    fork(parent, step, twin).run()
    same_from(parent, twin, f"checkpoint-{step}")


def losses(run):
    return {step: value for step, (_, value) in read(run).values[run_folder.LOSS].items()}


@pytest.mark.parametrize("step", [2, 4, 6])
def test_without_growth_a_twin_differs_from_the_event_on_only(runs, family, tmp_path, step):
    twin = tmp_path / "twin"
    fork(runs[family], step, twin, growth=False).run()
    grown, plain = losses(runs[family]), losses(twin)
    event = next(at for at in (3, 6, 9) if at >= step)
    assert sorted(plain) == list(range(step + 1, STEPS + 1))
    assert [at for at in plain if plain[at] == grown[at]] == list(range(step + 1, event + 1))
    assert len(Lineage.read(twin / run_folder.LINEAGE).events) == sum(at < event for at in (3, 6, 6, 9))
    if step == 6:
        assert str(run_folder.checkpoints(twin)[0][0]) == "checkpoint-6-before"


def test_a_twin_without_growth_ends_as_a_run_that_never_had_it(config_of, runs, tmp_path):
    never = tmp_path / "never"
    launch.begin(config_of("gpt2", {"growth.schedule": "3@0"}), never).run()
    twin = tmp_path / "twin"
    fork(runs["gpt2"], 4, twin, growth=False).run()
    end = f"checkpoint-{STEPS}"
    for file in (run_folder.WEIGHTS, run_folder.OPTIMIZER, run_folder.LINEAGE):
        assert (twin / end / file).read_bytes() == (never / end / file).read_bytes()


def test_a_twin_says_whose_it_is_and_resumes_like_any_run(runs, tmp_path):
    parent, twin = runs["gpt2"], tmp_path / "twin"
    fork(parent, 6, twin, growth=False).run()
    opened = open_run(twin)
    assert opened.parent == {"path": str(parent), "checkpoint": "checkpoint-6-before", "name": "gpt2"}
    assert open_run(parent).parent is None
    assert opened.record["config"]["growth"]["events_kept"] == 1
    whole = content(twin)
    for name, path in run_folder.checkpoints(twin):
        if name.step > 8:
            shutil.rmtree(path)
    launch.resume(configs.of_run(twin), twin).run()
    assert content(twin) == whole


NOT_A_TWINS = (
    *("model.initial_layers=2", "data.source=x", "tokenizer.vocab_size=9", "seed=1", "name=x", "train.block_size=8"),
    *("train.batch_size=2", "train.accumulation=1", "train.mlm_probability=0.3"),
)


def test_what_a_twin_may_change_and_what_not(runs, tmp_path):
    twin = tmp_path / "twin"
    changes = [
        "optim.lr=3e-3",
        "growth.schedule=3@0 7@2",
        "train.steps=9",
        "checkpoint.every=4",
        "tracking.tensorboard=false",
    ]
    fork(runs["gpt2"], 4, twin, changes=changes).run()
    assert [str(name) for name, _ in run_folder.checkpoints(twin)] == [
        f"checkpoint-{name}" for name in ("4", "7-before", "7", "8", "9")
    ]
    for change in NOT_A_TWINS:
        with pytest.raises(BadInput, match="a twin has the model and data of its parent") as message:
            fork(runs["gpt2"], 4, tmp_path / "no", changes=[change])
        assert len(message.value.mistakes) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]


REFUSED = {
    "no such step": ({"step": 5}, r"has no checkpoint of step 5; steps with checkpoints: 0, 2, 3, 4, 6, 8, 9, 10, 12"),
    "another past": ({"step": 4, "changes": ["growth.schedule=3@1 6@2"]}, "first 1 events do not result in the layers"),
    "an event in the past": (
        {"step": 8, "changes": ["growth.schedule=3@0 6@2 6@1 7@4"]},
        "due at step 7, before the fork",
    ),
    "an end in the past": (
        {"step": 4, "changes": ["train.steps=3", "growth.schedule=2@0"]},
        "is after the last step, 3",
    ),
    "an unknown key": ({"step": 4, "changes": ["optim.rate=1"]}, "optim.rate: unknown key"),
}


@pytest.mark.parametrize(("asked", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_forked_is_refused_and_leaves_nothing(runs, tmp_path, asked, message):
    with pytest.raises(BadInput, match=message):
        fork(runs["gpt2"], out=tmp_path / "twin", **asked)
    assert not list(tmp_path.iterdir())


def test_damaged_and_weights_only_checkpoints_are_not_forked(runs, tmp_path):
    run = Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))
    weights = run / "checkpoint-4" / run_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BadInput, match="has changed"):
        fork(run, 4, tmp_path / "twin")
    weights_only(run / "checkpoint-8")
    with pytest.raises(BadInput, match="holds only weights"):
        fork(run, 8, tmp_path / "twin")
    shutil.rmtree(run / "checkpoint-6-before")
    with pytest.raises(BadInput, match="no checkpoint of step 6 without the event of that step"):
        fork(run, 6, tmp_path / "twin", growth=False)


def weights_only(folder):
    """Thin a checkpoint out to its weights."""
    (folder / run_folder.OPTIMIZER).unlink()
    manifest = json.loads((folder / run_folder.MANIFEST).read_text())
    del manifest["files"][run_folder.OPTIMIZER]
    (folder / run_folder.MANIFEST).write_text(json.dumps(manifest))


def test_weights_only_serves_analysis_and_is_passed_over_for_resume(config_of, runs, tmp_path):
    run = Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))
    for name in ("checkpoint-12", "checkpoint-10"):
        weights_only(run / name)
    assert api.drift(open_run(run)).equals(api.drift(open_run(runs["gpt2"])))
    assert not open_run(run, hashes=True).damaged
    launch.resume(config_of("gpt2"), run).run()
    assert content(run) == content(runs["gpt2"])
