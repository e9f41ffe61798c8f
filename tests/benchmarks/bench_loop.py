"""How fast the loop is: tokens per second beside Hugging Face's Trainer and beside a bare loop, and what growth costs.

    python tests/benchmarks/bench_loop.py [--case tiny bert-base] [--rounds 5] [--steps 30]

All three train the same model from the same weights on the same batches, in turn, each round anew; that they end at
the same loss is checked. Steps are told apart by one clock, a hook that PyTorch runs after every optimizer's step, so
nothing before the first update or after the last is counted. Ours and Hugging Face's log to TensorBoard every 10 steps.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook

from pli_train import config, trainer
from pli_train.config import RunConfig
from pli_train.randomness import derive

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

STILL = ["growth.schedule=''", "train.eval_every=100000", "train.eval_blocks=4", "checkpoint.every=100000"]
CASES = {
    "tiny": ("tiny", ["model.initial_layers=6"]),
    "bert-base": (
        "tiny-bert",
        [
            "model.config={hidden_dropout_prob = 0.0, attention_probs_dropout_prob = 0.0}",
            "model.initial_layers=12",
            "tokenizer.vocab_size=30522",
            "train.batch_size=4",
            "train.block_size=128",
        ],
    ),
}
"""The default preset at its full depth, and BERT-base on masked tokens, without dropout so that losses can agree."""


@dataclass(frozen=True)
class Case:
    """A run to be done by each loop: its config and the batches of its steps, each (inputs, labels)."""

    config: RunConfig
    batches: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self.batches[0][0].numel()


@contextlib.contextmanager
def clock() -> Iterator[list[float]]:
    """When each optimizer step was done, whoever did it."""
    times: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()


def prepared(name: str, steps: int, folder: Path) -> Case:
    """The case's config, and its batches as our loop would make them."""
    preset, overrides = CASES[name]
    settings = config.load(preset, [*STILL, *overrides, f"train.steps={steps}", "optim.schedule=constant"])
    made = trainer.begin(settings, folder / "batches")
    batches = []
    for step in range(steps):
        blocks = made.blocks.at_step(step, made.step_blocks)
        batch = made.objective.batch(blocks, derive(settings.seed, "mask", step))
        batches.append((batch.inputs, batch.labels))
    made.lock.release()
    return Case(settings, batches)


def fresh(case: Case, folder: Path) -> trainer.Trainer:
    """A trainer at step 0."""
    return trainer.begin(case.config, folder / "run")


def ours(case: Case, folder: Path) -> float:
    """Our loop; returns the loss of the last step."""
    made = fresh(case, folder)
    made.run()
    return made.progress.history[-2]["loss"]


def rates(case: Case) -> list[float]:
    """The learning rate of each step."""
    from pli_train.learning_rate import at_step

    return [at_step(step, len(case.batches), case.config.optim) for step in range(len(case.batches))]


def bare(case: Case, folder: Path) -> float:
    """The least a loop can do: loss, gradients, clipping, AdamW. No logs, nothing remembered."""
    made = fresh(case, folder)
    model, optimizer = made.bare, made.optimizer
    model.train()
    for (inputs, labels), rate in zip(case.batches, rates(case), strict=True):
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), case.config.train.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    made.lock.release()
    return float(loss)


def hugging_face(case: Case, folder: Path) -> float:
    """Hugging Face's Trainer as it comes, with our optimizer's settings."""
    made = fresh(case, folder)
    made.lock.release()
    optim, curve = case.config.optim, rates(case)
    rows = [
        {"input_ids": row, "labels": wanted}
        for inputs, labels in case.batches
        for row, wanted in zip(inputs, labels, strict=True)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=case.config.train.batch_size,
        max_steps=len(case.batches),
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        learning_rate=optim.lr,
        max_grad_norm=case.config.train.clip_norm,
        logging_steps=10,
        save_strategy="no",
        report_to="tensorboard",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: object) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(rows)

        def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> object:
            shape = lambda step: curve[min(step, len(curve) - 1)] / optim.lr  # noqa: E731
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, shape)
            return self.lr_scheduler

    last: list[float] = []

    class Loss(transformers.TrainerCallback):
        def on_log(self, *_: object, logs: dict, **__: object) -> None:
            last.extend([logs["loss"]] if "loss" in logs else [])

    with contextlib.redirect_stdout(None):
        InOrder(model=made.bare, args=arguments, train_dataset=rows, callbacks=[Loss()]).train()
    return last[-1]


def measure(case: Case, loops: dict[str, Callable[[Case, Path], float]], rounds: int, warm: int) -> dict:
    """Seconds a step of each loop, one figure a round: the median of the round's steps after the first `warm`."""
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        order = list(loops)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            with tempfile.TemporaryDirectory() as folder, clock() as times:
                loops[name](case, Path(folder))
            lengths = [after - before for before, after in itertools.pairwise(times)]
            taken[name].append(statistics.mean(lengths[warm:]))
    return taken


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--case", nargs="*", default=list(CASES), choices=CASES)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--steps", type=int, default=30)
    asked.add_argument("--warm", type=int, default=5)
    wanted = asked.parse_args()
    loops = {"ours": ours, "Hugging Face": hugging_face, "bare": bare}
    for name in wanted.case:
        with tempfile.TemporaryDirectory() as folder:
            case = prepared(name, wanted.steps, Path(folder))
        taken = measure(case, loops, wanted.rounds, wanted.warm)
        print(f"{name}: {case.tokens} tokens a step, {torch.get_num_threads()} threads")
        for loop, seconds in taken.items():
            speed = sorted(case.tokens / one for one in seconds)
            ratios = sorted(other / mine for other, mine in zip(seconds, taken["ours"], strict=True))
            print(
                f"  {loop:<14} {statistics.median(speed):>9.0f} tokens/s ({speed[0]:.0f}–{speed[-1]:.0f}), "
                f"ours ÷ it {statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"
            )


if __name__ == "__main__":
    main()
