"""How fast the loop is: tokens per second beside Hugging Face's Trainer and beside a bare loop, and what growth costs.

    python tests/benchmarks/bench_loop.py [--case tiny bert-base] [--rounds 5] [--steps 30]

All three train the same model from the same weights on the same batches, in turn, each time in a fresh process; that
they end at the same loss is checked. Steps are told apart by one clock, a hook that PyTorch runs after every
optimizer's step, so nothing before the first update or after the last is counted. Ours does all that a run does between
two evaluations: it logs losses, rates and gradient norms, to TensorBoard, as Hugging Face's does every 10 steps.

Growth: a layer is inserted half-way, and the step with the insertion is set against the others, without and with the
checkpoints around it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch.optim.optimizer import register_optimizer_step_post_hook

from pli_train import anatomy, config, corpus, launch, optimizer, trainer
from pli_train import model as models
from pli_train.batches import Batches
from pli_train.corpus.blocks import Blocks
from pli_train.learning_rate import at_step
from pli_train.objective import Objective
from pli_train.randomness import derive
from pli_train.sections import RunConfig

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
    """A run to be done by each loop.

    Attributes:
        config: of the run.
        text: its corpus.
        batches: of its steps, each (inputs, labels as Hugging Face's models take them).
    """

    config: RunConfig
    text: Any
    batches: list[tuple[torch.Tensor, torch.Tensor]]

    def model(self) -> torch.nn.Module:
        """The model as our loop begins with it."""
        train, seed = self.config.train, derive(self.config.seed, "model")
        return models.build(self.config.model, self.text.tokenizer, train.block_size, seed)[0]

    def rates(self) -> list[float]:
        """The learning rate of each step."""
        return [at_step(step, len(self.batches), self.config.optim) for step in range(len(self.batches))]


def prepared(name: str, steps: int, *more: str) -> Case:
    """A case's config, and its batches as our loop makes them."""
    preset, overrides = CASES[name]
    settings = config.load(preset, [*STILL, *overrides, f"train.steps={steps}", *more])
    text = corpus.load(settings.data, settings.tokenizer, lambda told: None)
    blocks = Blocks(text.train, settings.train.block_size, derive(settings.seed, "order"))
    task = anatomy.family(settings.model.family).task
    objective = Objective(task, text.tokenizer, settings.train.mlm_probability)
    made = Batches(blocks, objective, settings.train.batch_size, settings.seed)
    batches = [made.make(step, settings.train.block_size) for step in range(steps)]
    # Hugging Face's own losses shift a causal model's labels themselves.
    return Case(settings, text, [(b.inputs, b.inputs if task == "causal-lm" else b.labels) for b in batches])


@contextlib.contextmanager
def clock() -> Iterator[list[float]]:
    """When each optimizer step was done, whoever did it."""
    times: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()


def ours(case: Case, folder: Path) -> float:
    """Our loop; returns the loss of the last step."""
    made = launch.begin(case.config, folder / "run")
    made.run()
    return next(entry["loss"] for entry in reversed(made.progress.history) if "loss" in entry)


def bare(case: Case, folder: Path) -> float:
    """The least a loop can do: loss, gradients, clipping, AdamW. No logs, nothing remembered."""
    model = case.model().train()
    adam = optimizer.build(model, case.config.optim)
    for (inputs, labels), rate in zip(case.batches, case.rates(), strict=True):
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), case.config.train.clip_norm)
        optimizer.set_lr(adam, rate)
        adam.step()
        adam.zero_grad()
    return loss.item()


def hugging_face(case: Case, folder: Path) -> float:
    """Hugging Face's Trainer as it comes, with our run's settings."""
    optim, curve = case.config.optim, case.rates()
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
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: object) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(rows)

        def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> object:
            def shape(step: int) -> float:
                return curve[min(step, len(curve) - 1)] / optim.lr

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, shape)
            return self.lr_scheduler

    last: list[float] = []
    model = case.model()
    model.register_forward_hook(lambda *args: last.append(args[-1].loss.detach()))
    with contextlib.redirect_stdout(None):
        InOrder(model=model, args=arguments, train_dataset=rows).train()
    return last[-1].item()


LOOPS = {"ours": ours, "Hugging Face": hugging_face, "bare": bare}


def alone(loop: str, name: str, steps: int) -> tuple[list[float], float]:
    """Seconds of each step after the first, and the last loss. To be called in a fresh process."""
    case = prepared(name, steps)
    with tempfile.TemporaryDirectory() as folder, clock() as times:
        loss = LOOPS[loop](case, Path(folder))
    return [after - before for before, after in itertools.pairwise(times)], loss


def inserted(name: str, steps: int, compiled: bool, saving: bool) -> float:
    """The step with an insertion before it ÷ the median of the later half of the others.

    The insertion comes half-way, when what is there is compiled. With `saving`, the step has the checkpoints around the
    insertion in it, and their writing beside it; evaluations, which take what one asks of them, are left out.
    """
    case = prepared(name, steps, f"growth.schedule={steps // 2}@1", f"train.compile={str(compiled).lower()}")
    evaluate, elsewhere = trainer.Trainer._evaluate, []

    def timed(self: trainer.Trainer, tag: str) -> float:
        began = time.perf_counter()
        loss = evaluate(self, tag)
        if self.progress.step == steps // 2:
            elsewhere.append(time.perf_counter() - began)
        return loss

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(trainer.Trainer, "_evaluate", timed))
        if not saving:
            stack.enter_context(mock.patch.object(trainer.Trainer, "_save", lambda *_, **__: None))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        times = stack.enter_context(clock())
        ours(case, Path(folder))
    lengths = [after - before for before, after in itertools.pairwise(times)]
    growing = lengths.pop(steps // 2 - 1) - sum(elsewhere)
    return growing / statistics.median(lengths[-(steps // 2) :])


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, called in a process that has done nothing else: loops change memory and kernels."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare(name: str, rounds: int, steps: int, warm: int) -> None:
    """Print tokens per second of each loop."""
    speeds: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    losses: dict[str, float] = {}
    train = config.load(CASES[name][0], CASES[name][1]).train
    tokens = train.batch_size * train.block_size
    for number in range(rounds):
        order = list(LOOPS)
        for loop in order[number % len(order) :] + order[: number % len(order)]:
            seconds, losses[loop] = in_fresh_process(alone, loop, name, steps)
            speeds[loop].append(tokens / statistics.mean(seconds[warm:]))
    told = ", ".join(f"{loop} {loss:.4f}" for loop, loss in losses.items())
    print(f"{name}: {tokens} tokens a step, {torch.get_num_threads()} threads; last losses: {told}")
    if max(losses.values()) - min(losses.values()) > 1e-3 * min(losses.values()):
        raise SystemExit("the loops do not train the same thing")
    for loop, found in speeds.items():
        ratios = sorted(mine / other for mine, other in zip(speeds["ours"], found, strict=True))
        print(
            f"  {loop:<14} {statistics.median(found):>9.0f} tokens/s ({min(found):.0f}–{max(found):.0f}), "
            f"ours ÷ it {statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"
        )


def growth(name: str, rounds: int, steps: int, compiled: bool) -> None:
    """Print what the step of an insertion costs."""
    for what, saving in (("insertion and the step after it", False), ("the same with two checkpoints", True)):
        ratios = sorted(in_fresh_process(inserted, name, steps, compiled, saving) for _ in range(rounds))
        told = f"{name}{', compiled' if compiled else ''}: {what} ÷ a usual step"
        print(f"{told} {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})", flush=True)


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--case", nargs="*", default=list(CASES), choices=CASES)
    asked.add_argument("--what", nargs="*", default=["loops", "growth", "compiled"])
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--steps", type=int, default=30)
    asked.add_argument("--warm", type=int, default=5)
    wanted = asked.parse_args()
    for name in wanted.case:
        if "loops" in wanted.what:
            compare(name, wanted.rounds, wanted.steps, wanted.warm)
        if "growth" in wanted.what:
            growth(name, wanted.rounds, wanted.steps, compiled=False)
        if "compiled" in wanted.what:
            growth(name, wanted.rounds, wanted.steps, compiled=True)


if __name__ == "__main__":
    main()
