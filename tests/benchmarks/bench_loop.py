"""Speed of the training loop: tokens per second vs. Hugging Face's Trainer, a bare loop, and matrix products alone.

    python tests/benchmarks/bench_loop.py [--case tiny-gpt2 bert-base] [--what loops growth compiled] [--rounds 5]

All loops train the same model from the same weights on the same batches, in turn, each time in a new process. First the
benchmark checks that they compute the same: gradients and weights of the first step agree to 1e-5 of their norms (later
steps amplify rounding differences). The table is always printed; if they differ, the exit code is 1. All loops use the
same clock, a hook that PyTorch calls after every optimizer step, so time before the first update and after the last is
excluded. `ours` is the loop of this project with everything that a run does between two evaluations: it logs losses,
learning rates and gradient norms to TensorBoard, as Hugging Face's Trainer does every 10 steps. In all loops OpenMP's
threads spin briefly, as in this project's commands.

The limit of the hardware is measured too: the matrix products of one step of `ours` and nothing else, with the same
threads, precision and memory layout. "Weight products" are those with weights, one forward and two backward each. "All
products" include those of plain attention, 2 forward and 4 backward over the whole square, as in model FLOPs
utilization (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). The columns "of" them are a loop's rate ÷ theirs: at
1 a step takes as long as its products. No loop reaches 1 of the weight products, as a step also has those of attention.

Growth: a layer is inserted after half of the steps, and the step with the insertion is compared with the others,
without and with the checkpoints around it.
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
os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # as `pli_train.core.openmp` sets it, before torch is loaded

import torch
import transformers
from machine import machine
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pli_train.config import loading
from pli_train.config.schema import RunConfig
from pli_train.core import anatomy
from pli_train.core.learning_rate import at_step
from pli_train.core.randomness import derive
from pli_train.data import corpus
from pli_train.data.blocks import Blocks
from pli_train.data.objective import IGNORED, Objective, loss_sum
from pli_train.data.prefetch import BatchPrefetcher
from pli_train.models import build as models
from pli_train.optim import optimizer
from pli_train.training import launch, trainer
from pli_train.training.evaluation import Evaluator
from pli_train.training.state import TrainingState

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

STILL = ["growth.schedule=''", "train.eval_every=100000", "train.eval_blocks=4", "checkpoint.every=100000"]
CASES = {
    "tiny-gpt2": ("tiny-gpt2", ["model.initial_layers=6"]),
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
"""tiny-gpt2 at its full depth, and BERT-base on masked tokens, without dropout so that gradients can agree."""
OF_WEIGHTS = {torch.ops.aten.mm, torch.ops.aten.addmm}
PRODUCTS = {"weight products": OF_WEIGHTS, "all products": OF_WEIGHTS | {torch.ops.aten.bmm, torch.ops.aten.baddbmm}}
"""Name → operators of PyTorch that are timed alone."""
ROUNDING = 1e-5
"""Largest allowed ‖difference from ours‖ ÷ ‖ours‖ of gradients and weights of the first step."""


@dataclass(frozen=True)
class Case:
    """The training that each loop does.

    Attributes:
        config: of the run.
        text: the corpus.
        batches: of all steps, each (inputs, labels as for Hugging Face's models).
    """

    config: RunConfig
    text: Any
    batches: list[tuple[torch.Tensor, torch.Tensor]]

    def model(self) -> torch.nn.Module:
        """Return the initial model of our loop."""
        train, seed = self.config.train, derive(self.config.seed, "model")
        return models.build(self.config.model, self.text.tokenizer, train.block_size, seed)[0]

    def rates(self) -> list[float]:
        """Return the learning rate of each step."""
        return [at_step(step, len(self.batches), self.config.optim) for step in range(len(self.batches))]


def prepared(name: str, steps: int, *more: str) -> Case:
    """Return a case with its config, and batches as in our loop."""
    preset, overrides = CASES[name]
    settings = loading.load(preset, [*STILL, *overrides, f"train.steps={steps}", *more])
    text = corpus.load(settings.data, settings.tokenizer, lambda message: None)
    blocks = Blocks(text.train, settings.train.block_size, derive(settings.seed, "order"))
    task = anatomy.family(settings.model.family).task
    objective = Objective(task, text.tokenizer, settings.train.mlm_probability)
    made = BatchPrefetcher(blocks, objective, settings.train.batch_size, settings.seed)
    batches = [made.make(step, settings.train.block_size) for step in range(steps)]
    return Case(
        settings, text, [(b.inputs, _unshifted(b.inputs) if task == "causal-lm" else b.labels) for b in batches]
    )


def _unshifted(tokens: torch.Tensor) -> torch.Tensor:
    """Return labels for a loss that shifts them itself. The first is never a target, but Trainer would count it."""
    labels = tokens.clone()
    labels[:, 0] = IGNORED
    return labels


@contextlib.contextmanager
def clock() -> Iterator[list[float]]:
    """Record the time of each optimizer step."""
    times: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    try:
        yield times
    finally:
        handle.remove()


def ours(case: Case, folder: Path) -> None:
    """The loop of this project."""
    launch.begin(case.config, folder / "run").run()


def bare(case: Case, folder: Path) -> None:
    """A minimal loop: loss, gradients, clipping, AdamW. It logs nothing."""
    model = case.model().train()
    adam = optimizer.build(model, case.config.optim)
    for (inputs, labels), rate in zip(case.batches, case.rates(), strict=True):
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        if case.config.train.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case.config.train.clip_norm)
        optimizer.set_lr(adam, rate)
        adam.step()
        adam.zero_grad()


def hugging_face(case: Case, folder: Path) -> None:
    """Hugging Face's Trainer with the settings of our run."""
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

    with contextlib.redirect_stdout(None):
        InOrder(model=case.model(), args=arguments, train_dataset=rows).train()


LOOPS = {"ours": ours, "Hugging Face": hugging_face, "bare": bare}


def seconds_of(loop: str, name: str, steps: int) -> list[float]:
    """Return seconds of each step after the first. Call this in a new process."""
    case = prepared(name, steps)
    with tempfile.TemporaryDirectory() as folder, clock() as times:
        LOOPS[loop](case, Path(folder))
    return [after - before for before, after in itertools.pairwise(times)]


# --- the first step: do all loops train the same thing? ---------------------------------------------------------------


class Enough(Exception):
    """Raised when the first step is done."""


def first_step(loop: str, case: Case) -> list[list[torch.Tensor]]:
    """Return gradients of the first step, and the weights after it."""
    tensors: list[list[torch.Tensor]] = []

    def before(optimizer: torch.optim.Optimizer, *_: object) -> None:
        tensors.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    def after(optimizer: torch.optim.Optimizer, *_: object) -> None:
        tensors.append([p.detach().clone() for group in optimizer.param_groups for p in group["params"]])
        raise Enough

    hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        LOOPS[loop](case, Path(folder))
    for hook in hooks:
        hook.remove()
    return tensors


def differences(name: str, steps: int) -> dict[str, list[float]]:
    """Return loop → ‖difference from ours‖ ÷ ‖ours‖ of the first step's gradients and weights, over all parameters.

    Without clipping, as PyTorch's norm of a large tensor on a CPU has a relative error of up to 1e-3.
    """
    case = prepared(name, steps, "train.clip_norm=0")
    mine, *others = [first_step(loop, case) for loop in LOOPS]
    return {
        loop: [
            _norm([a - b for a, b in zip(*pair, strict=True)]) / _norm(pair[0]) for pair in zip(mine, its, strict=True)
        ]
        for loop, its in zip(list(LOOPS)[1:], others, strict=True)
    }


def _norm(tensors: list[torch.Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


# --- what the hardware allows -----------------------------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Record all calls of some operators, with operands of the same shapes and layout."""

    def __init__(self, operators: set[Any]) -> None:
        super().__init__()
        self._operators = operators
        self.calls: list[tuple[Any, list[Any], dict[str, Any]]] = []
        self._operands: dict[tuple[Any, ...], torch.Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in self._operators:
            operands = [self._like(position, arg) for position, arg in enumerate(args)]
            self.calls.append((func, operands, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _like(self, position: int, tensor: torch.Tensor) -> torch.Tensor:
        key = position, tensor.shape, tensor.stride(), tensor.dtype
        if key not in self._operands:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
            self._operands[key] = made.normal_()
        return self._operands[key]

    def run(self) -> None:
        """Repeat the recorded calls and nothing else."""
        for func, operands, kwargs in self.calls:
            func(*operands, **kwargs)


def products(which: str, name: str, steps: int) -> tuple[list[float], int]:
    """Return seconds of each repetition of one step's products, and their FLOPs. Call this in a new process."""
    case = prepared(name, 1)
    with tempfile.TemporaryDirectory() as folder:
        made = launch.begin(case.config, Path(folder) / "run")
        made.state.model.bare.set_attn_implementation("eager")  # its products are separate operators
        batch = made._batches.make(0, case.config.train.block_size)
        with Products(PRODUCTS[which]) as found, made.accelerator.autocast():
            loss_sum(made.state.model.bare, batch.rows(0, len(batch.inputs), made.accelerator.device)).backward()
    with FlopCounterMode(display=False) as counter:
        found.run()
    times = [time.perf_counter()]
    for _ in range(steps):
        found.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)], counter.get_total_flops()


# --- growth -----------------------------------------------------------------------------------------------------------


def inserted(name: str, steps: int, compiled: bool, saving: bool) -> float:
    """Return the time of the step with an insertion ÷ the median of the later half of the others.

    The insertion is after half of the steps, when the model is compiled. With `saving`, the time includes the
    checkpoints around the insertion, while a thread writes them. Evaluations are excluded, as their cost depends on
    settings.
    """
    case = prepared(name, steps, f"growth.schedule={steps // 2}@1", f"train.compile={str(compiled).lower()}")
    elsewhere = []

    def timed(method: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
        def evaluate(self: Evaluator, state: TrainingState) -> dict[str, float]:
            began = time.perf_counter()
            values = method(self, state)
            if state.step == steps // 2:
                elsewhere.append(time.perf_counter() - began)
            return values

        return evaluate

    with contextlib.ExitStack() as stack:
        for method in ("evaluate", "after_event"):
            stack.enter_context(mock.patch.object(Evaluator, method, timed(getattr(Evaluator, method))))
        if not saving:
            stack.enter_context(mock.patch.object(trainer.Trainer, "_save", lambda *_, **__: None))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        times = stack.enter_context(clock())
        ours(case, Path(folder))
    lengths = [after - before for before, after in itertools.pairwise(times)]
    growing = lengths.pop(steps // 2 - 1) - sum(elsewhere)
    return growing / statistics.median(lengths[-(steps // 2) :])


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, as loops change memory and kernels. Return its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare(name: str, rounds: int, steps: int, warm: int) -> bool:
    """Print tokens per second of each loop. Return whether all loops compute the same first step."""
    found = in_fresh_process(differences, name, steps)
    train = loading.load(CASES[name][0], CASES[name][1]).train
    tokens = train.batch_size * train.block_size
    speeds: dict[str, list[float]] = {row: [] for row in (*LOOPS, *PRODUCTS)}
    flops: dict[str, int] = {}
    for number in range(rounds):
        order = list(speeds)
        for row in order[number % len(order) :] + order[: number % len(order)]:
            if row in PRODUCTS:
                seconds, flops[row] = in_fresh_process(products, row, name, steps)
            else:
                seconds = in_fresh_process(seconds_of, row, name, steps)
            speeds[row].append(tokens / statistics.mean(seconds[warm:]))
    print(f"{name} on {machine()}: {tokens} tokens a step, {rounds} rounds; median (lowest–highest)")
    show(speeds)
    for which, count in flops.items():
        rate = statistics.median(speeds[which]) / tokens * count
        print(f"  {which}: {count / 1e9:.1f} GFLOP a step, at {rate / 1e9:.0f} GFLOP/s")
    for loop, (gradients, weights) in found.items():
        print(f"  first step, {loop} from ours: gradients {gradients:.1e}, weights {weights:.1e}", flush=True)
    return max(map(max, found.values())) <= ROUNDING


def show(speeds: dict[str, list[float]]) -> None:
    """Print a table of tokens per second in all rounds, and ratios of the same round."""
    row_of = "  {:<16} {:<20} {:<20} {:<20} {:<20}".format
    print(row_of("", "tokens/s", *map("of {}".format, PRODUCTS), "ours ÷ it"))
    for row, found in speeds.items():
        shares = [ratios(found, speeds[which]) for which in PRODUCTS]
        print(row_of(row, spread(found, 0), *map(spread, shares), spread(ratios(speeds["ours"], found))))


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Return ratios round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def spread(numbers: list[float], digits: int = 2) -> str:
    """Return median, minimum and maximum."""
    return f"{statistics.median(numbers):.{digits}f} ({min(numbers):.{digits}f}–{max(numbers):.{digits}f})"


def growth(name: str, rounds: int, steps: int, compiled: bool) -> None:
    """Print the cost of a step with an insertion."""
    for what, saving in (("insertion and the step after it", False), ("the same with two checkpoints", True)):
        ratios = sorted(in_fresh_process(inserted, name, steps, compiled, saving) for _ in range(rounds))
        label = f"{name}{', compiled' if compiled else ''}: {what} ÷ a usual step"
        print(f"{label} {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", default=["tiny-gpt2"], choices=CASES)
    parser.add_argument("--what", nargs="*", default=["loops"], choices=["loops", "growth", "compiled"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm", type=int, default=5)
    wanted, same = parser.parse_args(), True
    for name in wanted.case:
        if "loops" in wanted.what:
            same &= compare(name, wanted.rounds, wanted.steps, wanted.warm)
        if "growth" in wanted.what:
            growth(name, wanted.rounds, wanted.steps, compiled=False)
        if "compiled" in wanted.what:
            growth(name, wanted.rounds, wanted.steps, compiled=True)
    if not same:
        raise SystemExit(f"the loops do not compute the same: first steps differ by more than {ROUNDING}")


if __name__ == "__main__":
    main()
