"""The plan of a run: everything that is known before its first step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train.checkpointing import disk
from pli_train.checkpointing.retention import Retention
from pli_train.core import plugins
from pli_train.core.randomness import derive
from pli_train.data.blocks import Blocks
from pli_train.data.corpus import OWN
from pli_train.data.objective import Objective
from pli_train.growth import schedule
from pli_train.growth.initial_shape import InitialShape, start_of
from pli_train.growth.schedules import SCHEDULES
from pli_train.growth.swap_regularizer import SwapRegularizer
from pli_train.models import build, flops

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.core.anatomy import Anatomy
    from pli_train.core.run_format.run_folder import CheckpointName
    from pli_train.data.sources.digits import ImageCorpus
    from pli_train.data.tokenization import TokenizedText


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run. It does not change during training.

    Attributes:
        config: the configuration.
        corpus: text or images, tokenized and split.
        blocks: the training blocks, in an order determined by the seed.
        anatomy: parameter table of the model's family.
        start: the model's shape at step 0.
        size: computes parameters and FLOPs of the model at any shape.
        objective: what the model predicts.
        swapping: the layer-swap regularizer.
        events: the growth schedule. An event that waits for a plateau has no step yet.
        total_steps: number of optimizer updates.
        blocks_per_step: blocks per update, over all devices.
        retention: which checkpoints are written and kept.
    """

    config: RunConfig
    corpus: TokenizedText | ImageCorpus
    blocks: Blocks
    anatomy: Anatomy
    start: InitialShape
    size: flops.Size
    objective: Objective
    swapping: SwapRegularizer
    events: tuple[schedule.ScheduledEvent, ...]
    total_steps: int
    blocks_per_step: int
    retention: Retention

    @classmethod
    def make(cls, config: RunConfig, corpus: TokenizedText | ImageCorpus, processes: int) -> RunPlan:
        """Plan a run.

        Args:
            config: the configuration.
            corpus: the corpus of `config.data`.
            processes: number of processes that train together, each with its own batch.

        Raises:
            BadInput: when the model cannot be built from the config or trained on the corpus, or a growth event is
                impossible.
        """
        train = config.train
        depth, skeleton, anatomy = build.skeleton(config.model, corpus.vocabulary, train.block_size)
        corpus.check(anatomy.task, skeleton.config)
        start = start_of(skeleton, anatomy, depth, config.model.initial_heads, train.block_size)
        order = derive(config.seed, "order", *([train.order] if train.order else []))
        blocks = Blocks(corpus.train, train.block_size, order, "training text")
        blocks_per_step = train.batch_size * train.accumulation * processes
        total_steps = train.steps or max(1, math.ceil((train.epochs or 0) * blocks.count / blocks_per_step))
        return cls(
            config=config,
            corpus=corpus,
            blocks=blocks,
            anatomy=anatomy,
            start=start,
            size=flops.measure(skeleton, anatomy),
            objective=Objective(anatomy.task, corpus.tokenizer, train.mlm_probability),
            swapping=SwapRegularizer(config.growth.swapping, config.seed, total_steps, anatomy.first_index),
            events=tuple(schedule.plan(config.growth.events(start, total_steps), start, total_steps)),
            total_steps=total_steps,
            blocks_per_step=blocks_per_step,
            retention=Retention(**config.checkpoint.model_dump(), total_steps=total_steps),
        )

    @property
    def epochs_per_step(self) -> float:
        """Fraction of an epoch per update."""
        return self.blocks_per_step / self.blocks.count

    @property
    def plugins(self) -> list[plugins.Plugin]:
        """The plugins that the run uses: its corpus, named schedule and operators."""
        named = self.config.growth.named()
        names = [
            (plugins.CORPORA, OWN, self.config.data.source),
            *([(plugins.SCHEDULES, SCHEDULES, named.name)] if named else []),
            *((plugins.OPERATORS, schedule.OPERATORS, each.event.operator) for each in self.events),
        ]
        used = (plugins.found(group, own).get(name) for group, own, name in names)
        return list(dict.fromkeys(plugin for plugin in used if plugin))

    def disk_use(self, after: CheckpointName | None = None) -> disk.DiskUse:
        """Compute the disk use of all checkpoints later than `after`."""
        return disk.use(self.retention, disk.stages(self.size, self.start.lineage(), self.events), after=after)
