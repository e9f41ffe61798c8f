import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, TrainerState

from pli_analysis.scalars.reading import read
from pli_train.checkpointing import checkpoint, writer
from pli_train.core.errors import BadInput, PliError
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.training import launch, trainer
from pli_train.training.callback import Callback
from tests.commands import call
from tests.conftest import STEPS
from tests.interrupted import Killed, kill_and_resume
from tests.run_files import content, toml, vouch
from tests.thinned import thinned
from tests.warm import warm

AUTO = {"bert": AutoModelForMaskedLM, "gpt2": AutoModelForCausalLM}


@pytest.mark.parametrize("at", thinned([6, 1, 5, 8, 11]))
def test_a_killed_run_resumes_to_the_same_bytes(config_of, runs, family, tmp_path, at):
    """Insertions lie at steps 3, 6, 6 and 9: before the kill, after it, and on it."""
    run = tmp_path / "run"
    kill_and_resume(config_of(family), run, at)
    assert content(run) == content(runs[family])


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_same_bytes(config_of, runs, family, tmp_path):
    config = config_of(family, {"train.compile": True})
    launch.begin(config, tmp_path / "unbroken").run()
    kill_and_resume(config, tmp_path / "killed", 8)
    unbroken = content(tmp_path / "unbroken")
    assert content(tmp_path / "killed") == unbroken
    other = content(runs[family])[run_folder.LOSS]
    assert unbroken[run_folder.LOSS] == {step: pytest.approx(loss, rel=1e-2) for step, loss in other.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint-6-before", "checkpoint-6"])
def test_a_kill_while_a_checkpoint_is_being_written_costs_only_that_checkpoint(
    config_of, runs, family, tmp_path, monkeypatch, name
):
    run, config = tmp_path / "run", config_of(family)

    def killed(place, file=None):
        if place == "partial-synced" and (run / f"{run_folder.PARTIAL}{name}").exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "boundary", killed)
        with pytest.raises(Killed):
            launch.begin(config, run).run()
    assert not (run / name).exists()
    launch.resume(config, run).run()
    assert content(run) == content(runs[family])
    assert not list(run.glob(f"{run_folder.PARTIAL}*"))


def test_a_kill_before_the_first_checkpoint_starts_over(config_of, runs, family, tmp_path, monkeypatch):
    run, config = tmp_path / "run", config_of(family)

    def killed(place, file=None):
        if place == "partial-synced":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "boundary", killed)
        with pytest.raises(Killed):
            launch.begin(config, run).run()
    launch.resume(config, run).run()
    assert content(run) == content(runs[family])


def test_resume_notices_a_changed_moment(config_of, runs, tmp_path):
    """The negative control of the tests above: one moment moved by a little gives other bytes."""
    from safetensors.torch import load_file, save_file

    run = Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))
    for name, path in run_folder.checkpoints(run):
        if name.step > 4:
            shutil.rmtree(path)
    state = run / "checkpoint-4" / run_folder.OPTIMIZER
    tensors = load_file(state)
    name = next(name for name in tensors if name.startswith("exp_avg/") and "<a>" in name)
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, state)
    vouch(state)
    launch.resume(config_of("gpt2"), run).run()
    final = f"checkpoint-{STEPS}/{run_folder.WEIGHTS}"
    assert content(run)[final] != content(runs["gpt2"])[final]


def test_sigkill_from_outside_and_resume_by_command(config_of, runs, tmp_path, corpus):
    run, file = tmp_path / "run", tmp_path / "gpt2.toml"
    file.write_text(toml(config_of("gpt2").model_dump()))
    with Path(os.devnull).open("r+b") as nothing:
        process = warm().start("pli-train", "run", file, "-o", run, "--quiet", streams=[nothing.fileno()] * 3)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint-6").exists() and process.running() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = call("pli-train", "resume", run, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert content(run) == content(runs["gpt2"])


def test_sigterm_checkpoints_and_says_how_to_go_on(config_of, runs, tmp_path):
    run, config = tmp_path / "run", config_of("gpt2")

    class AskToStop(Callback):
        def on_gradients(self, state):
            if state.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(trainer.Interrupted, match=f"step 5; resume with: pli-train resume {run}"):
        launch.begin(config, run, callbacks=[AskToStop()]).run()
    assert signal.getsignal(signal.SIGTERM) is before
    launch.resume(config, run).run()
    shutil.rmtree(run / "checkpoint-5")
    assert content(run) == content(runs["gpt2"])


def test_every_checkpoint_loads_in_plain_transformers_to_the_trainers_logits(config_of, family, tmp_path, monkeypatch):
    probe, seen = torch.arange(64).reshape(2, 32), {}
    save = writer.Writer.save

    def spied(self, name, model, *rest):
        model.eval()
        with torch.no_grad():
            seen[str(name)] = model(input_ids=probe).logits
        return save(self, name, model, *rest)

    monkeypatch.setattr(writer.Writer, "save", spied)
    launch.begin(config_of(family), tmp_path / "run").run()
    assert len(seen) == len(list((tmp_path / "run").glob("checkpoint-*"))) == 12
    depths = []
    for name, expected in seen.items():
        loaded = AUTO[family].from_pretrained(tmp_path / "run" / name).eval()
        depths.append(loaded.config.num_hidden_layers)
        with torch.no_grad():
            assert (loaded(input_ids=probe).logits - expected).abs().max() <= 1e-5, name
    assert sorted(set(depths)) == [1, 2, 4, 5]


def test_inserted_layers_are_logged_at_everybodys_learning_rate(runs, family):
    scalars, lineage = read(runs[family]), Lineage.read(runs[family] / run_folder.LINEAGE)
    everybody = {step: value for step, (_, value) in scalars.values[run_folder.LR].items()}
    assert sorted(everybody) == list(range(1, STEPS + 1))
    for id, layer in lineage.layers.items():
        own = {step: value for step, (_, value) in scalars.values[run_folder.LR_OF_LAYER + id].items()}
        assert own == {step: rate for step, rate in everybody.items() if step > layer.birth.step}


def test_scalars_add_up(runs, family, config_of):
    scalars, config = read(runs[family]), config_of(family)
    last = {tag: points[STEPS][1] for tag, points in scalars.values.items() if STEPS in points}
    per_step = config.train.batch_size * config.train.accumulation * config.train.block_size
    assert last[run_folder.TOKENS] == STEPS * per_step
    assert last[run_folder.LAYERS] == 5
    assert last[run_folder.FLOPS] == pytest.approx(
        sum(per_step * _flops(family, depth) for depth in [1] * 3 + [2] * 3 + [4] * 3 + [5] * 3)
    )
    assert sorted(scalars.values[run_folder.LOSS]) == list(range(1, STEPS + 1))
    assert sorted(scalars.values[run_folder.EVAL_LOSS]) == [0, 3, 4, 6, 8, 9, 12]
    assert sorted(scalars.values[run_folder.EVAL_LOSS_AFTER_EVENT]) == [3, 6, 9]


def test_training_learns(runs, family):
    evals = read(runs[family]).values[run_folder.EVAL_LOSS]
    assert evals[STEPS][1] < evals[0][1] - 0.3


def test_accumulation_changes_memory_and_not_the_result(config_of, tmp_path):
    """Eight blocks as 2 × 4 and as 1 × 8: the same mean over the step's targets, up to the order of sums."""
    finals = []
    for batch_size, accumulation in ((4, 2), (8, 1)):
        overrides = {"train.steps": 3, "train.eval_every": 9, "growth.schedule": "1@0"}
        config = config_of(
            "bert",
            {
                "model.config": dict(config_of("bert").model.config, hidden_dropout_prob=0.0)
                | {"attention_probs_dropout_prob": 0.0},
                **overrides,
            },
        )
        train = config.train.model_copy(update={"batch_size": batch_size, "accumulation": accumulation})
        config = config.model_copy(update={"train": train})
        run = tmp_path / f"{batch_size}"
        launch.begin(config, run).run()
        finals.append([read(run).values[run_folder.LOSS][step][1] for step in (1, 2, 3)])
    assert finals[0] == pytest.approx(finals[1], rel=1e-4)


def test_growth_does_not_change_what_other_steps_draw(config_of, tmp_path):
    """A run without the event is its twin: equal to the last bit until the event."""
    grown, plain = tmp_path / "grown", tmp_path / "plain"
    launch.begin(config_of("gpt2", {"train.steps": 6, "growth.schedule": "4@1"}), grown).run()
    launch.begin(config_of("gpt2", {"train.steps": 6, "growth.schedule": ""}), plain).run()
    one, other = (read(run).values[run_folder.LOSS] for run in (grown, plain))
    assert [one[step][1] == other[step][1] for step in range(1, 7)] == [True] * 4 + [False] * 2


def test_hugging_face_reads_our_trainer_state(runs, family):
    state = TrainerState.load_from_json(str(runs[family] / f"checkpoint-{STEPS}" / run_folder.TRAINER_STATE))
    assert (state.global_step, state.max_steps) == (STEPS, STEPS)
    assert [entry["step"] for entry in state.log_history if "eval_loss" in entry] == [0, 3, 4, 6, 8, 9, 12]


def test_a_damaged_checkpoint_is_passed_over_with_one_line(config_of, runs, run_folder_of, family):
    (run_folder_of / f"checkpoint-{STEPS}" / run_folder.OPTIMIZER).unlink()
    weights = run_folder_of / "checkpoint-10" / run_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    said = []
    assert checkpoint.newest(run_folder_of, said.append) == run_folder_of / "checkpoint-9"
    assert len(said) == 2
    assert "lacks optimizer.safetensors" in said[0]
    launch.resume(config_of(family), run_folder_of).run()
    assert content(run_folder_of) == content(runs[family])


def test_no_whole_checkpoint_is_said_plainly(config_of, run_folder_of, family):
    for _, path in run_folder.checkpoints(run_folder_of):
        (path / run_folder.MANIFEST).unlink()
    with pytest.raises(BadInput, match="holds no whole checkpoint to resume from"):
        launch.resume(config_of(family), run_folder_of)


def test_a_changed_corpus_is_not_trained_on(config_of, run_folder_of, family, corpus, tmp_path):
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    (other / "more.py").write_text("x = 1\n" * 200)
    with pytest.raises(BadInput, match="the corpus has changed since this run began"):
        launch.resume(config_of(family, {"data.source": str(other)}), run_folder_of)


def test_a_loss_that_is_no_number_stops_the_run_at_its_step(config_of, tmp_path):
    config = config_of("gpt2", {"optim.lr": 1e30, "optim.warmup_ratio": 0.0, "train.clip_norm": 0.0})
    with pytest.raises(PliError, match="the loss is nan at step 2, before any growth"):
        launch.begin(config, tmp_path / "run").run()
    assert checkpoint.newest(tmp_path / "run", lambda line: None).name == "checkpoint-0"


def test_growth_can_begin_from_a_folder_with_weights(config_of, runs, family, tmp_path):
    source = runs[family] / f"checkpoint-{STEPS}"
    tokenizer = {"name_or_path": str(runs[family] / run_folder.TOKENIZER)}
    model = {"name_or_path": str(source), "weights": "pretrained", "initial_layers": 3}
    overrides = {"model": model, "tokenizer": tokenizer, "growth.schedule": "1@3", "train.steps": 2}
    made = launch.begin(config_of(family, overrides), tmp_path / "run")
    parent = checkpoint.read(source).model.state_dict()
    assert all(torch.equal(value, parent[name]) for name, value in made.state.model.bare.state_dict().items())
    assert made.state.lineage.layers["a"].birth.initializer == "pretrained"
    made.run()
    assert len(made.state.model.layers) == 4


def _flops(family, depth):
    layer = 12 * 32 * 32 if family == "gpt2" else 4 * 32 * 32 + 2 * 32 * 64
    head = 300 * 32 + (32 * 32 if family == "bert" else 0)
    return 6 * (depth * layer + head) + 12 * depth * 32 * 32
