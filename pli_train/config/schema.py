"""The sections of a configuration: every key with its type, default and meaning.

Fields carry the field's own names (learning rate `optim.lr`, `train.batch_size` per device, `train.mlm_probability`,
…). `config.py` fills them from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pli_train.config.validation import lines_of
from pli_train.core.anatomy import families, family, trainable
from pli_train.core.anatomy.parts import GROUPS, Group
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.growth import schedule as growth_schedule
from pli_train.growth.initial_shape import MOST, InitialShape
from pli_train.growth.operators.base import LearningRate, Operator, OptimizerState
from pli_train.growth.operators.insert import Initialiser
from pli_train.growth.operators.widening import Output, PartInitialiser

if TYPE_CHECKING:
    from pli_train.growth.schedules.adaptive import Adaptive
    from pli_train.growth.schedules.named import NamedSchedule

IMAGES = ("digits",)
"""Sources that hold images."""

Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Which model, and how deep it starts. Either `family` (from a config) or `name_or_path`."""

    family: str | None = Field(None, description="model type to build from a config, e.g. bert")
    config: dict[str, Any] = Field({}, description="fields of that family's Hugging Face config")
    name_or_path: str | None = Field(
        None, description="a run, a checkpoint, a model folder or a hub name, instead of `family`"
    )
    weights: Literal["scratch", "pretrained"] = Field("scratch", description="start fresh, or from those weights")
    initial_layers: int | None = Field(
        None, ge=0, le=MOST, description="layers at step 0; none given: as the config says"
    )
    initial_heads: int | None = Field(None, ge=1, le=MOST, description="heads of each layer at step 0; none given: all")

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.family is None) == (self.name_or_path is None):
            raise ValueError("give exactly one of `family` and `name_or_path`")
        if self.family and self.family not in trainable():
            if self.family in families():
                message = f"'{self.family}' is known for analysis only: its growth in training is not tested"
            else:
                message = f"unknown family '{self.family}'{did_you_mean(self.family, trainable())}"
            raise ValueError(f"{message} (known: {', '.join(trainable())})")
        if self.family and self.weights == "pretrained":
            raise ValueError('`weights = "pretrained"` needs `name_or_path`')
        return self


class TokenizerConfig(_Section):
    """A byte-level BPE trained on the corpus, or somebody's finished tokenizer."""

    vocab_size: int = Field(4096, ge=260, description="size of the BPE trained on the corpus")
    name_or_path: str | None = Field(
        None,
        description="a folder, a tokenizer.json or a hub name to take instead; pretrained weights of a folder bring it",
    )


class DataConfig(_Section):
    """The text, or the images."""

    source: str = Field(
        "python",
        description="`python` (this interpreter's library), a file, a folder, a hub name, or `digits` (images)",
    )
    subset: str | None = Field(None, description="hub: the data set's configuration")
    revision: str | None = Field(None, description="hub: the revision, e.g. refs/convert/parquet")
    split: str = Field("train", description="hub: the slice, in the hub's own syntax, e.g. train[:10%]")
    text_column: str = Field(
        "text", description="of records: the column that holds text; if there is no `text`: the only one of strings"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of the documents to use")
    test_share: float = Field(0.05, gt=0, lt=1, description="share of the documents kept for evaluation")
    processes: int | None = Field(None, ge=1, description="tokenising processes; none given: all cores")


class TrainConfig(_Section):
    """How long, and on what batches."""

    steps: int | None = Field(None, ge=1, description="optimizer updates; give this or `epochs`")
    epochs: float | None = Field(None, gt=0, description="passes over the training text")
    block_size: int = Field(128, ge=8, description="tokens in a block")
    batch_size: int = Field(32, ge=1, description="blocks in a batch, per device")
    accumulation: int = Field(1, ge=1, description="batches added up before an update")
    mlm_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    clip_norm: float = Field(1.0, ge=0, description="gradients are clipped to this global L2 norm; 0: not at all")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, else fp32")
    compile: bool = Field(False, description="compile each layer (torch.compile); inserted layers reuse it")
    log_every: int = Field(10, ge=1, description="steps between scalars other than the loss, which is kept for each")
    grad_norms_every: int = Field(10, ge=0, description="steps between gradient norms by part; 0: none")
    grad_norm_groups: tuple[Group, ...] = Field(GROUPS, min_length=1, description="which of them are logged")
    update_ratios: bool = Field(False, description="then also log norm of the update ÷ norm of the weights")
    eval_every: int = Field(100, ge=1, description="steps between evaluations")
    eval_blocks: int = Field(256, ge=1, description="held-out blocks drawn for evaluations, at most")
    eval_full: float = Field(
        0.3, ge=0, description="at the end all held-out blocks are evaluated, if no more than this ÷ blocks trained on"
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self


class OptimConfig(_Section):
    """AdamW and its learning rate."""

    lr: float = Field(1e-4, gt=0, description="learning rate after warm-up")
    lr_end: float = Field(0.0, ge=0, description="learning rate at the end")
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    warmup_ratio: Share = Field(0.025, description="share of training spent warming up")
    decay_ratio: Share = Field(0.2, description="wsd: share of training spent decaying at the end")
    weight_decay: float = Field(0.01, ge=0, description="of weight matrices; norms and biases have none")
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: float = Field(1e-8, gt=0)

    @model_validator(mode="after")
    def _phases_fit(self) -> OptimConfig:
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError("`warmup_ratio` and `decay_ratio` add up to more than the whole of training")
        if self.lr_end > self.lr:
            raise ValueError("`lr_end` is above `lr`")
        return self


class SwappingConfig(_Section):
    """Swapping two layers for one step at a time, as a regulariser."""

    probability: Share = Field(0.0, description="chance that a step is done with two layers in each other's place")
    pairs: Literal["adjacent", "random"] = Field("adjacent", description="which two")
    anneal: Literal["constant", "linear", "cosine"] = Field("constant", description="how the chance falls to 0")


class GrowthConfig(_Section):
    """When the model grows; what an event leaves open is taken from here."""

    schedule: str | list[dict[str, Any]] | dict[str, Any] = Field(
        "", description='`0.1@1 0.2@1`, [[growth.schedule]] tables, or { name = "stackbert", … }'
    )
    initialiser: Initialiser = Field("clone", description="how a new layer starts")
    donor: str = Field("below", description="whom a new layer is cloned from: `below`, `above`, or a layer id")
    noise: float = Field(0.0, ge=0, description="clone-noise: standard deviation ÷ that of each weight matrix")
    part_initialiser: PartInitialiser = Field("clone", description="how new heads and FFN units start")
    part_output: Output = Field("zero", description="their output columns: zero, split with the donor, or kept")
    optimizer_state: OptimizerState = Field("zero", description="moments of what is newborn, or of everything")
    learning_rate: LearningRate = Field("none", description="what an event does to the learning rate")
    rewarm_steps: int = Field(100, ge=1, description="rewarm, rewarm-new: steps of the climb")
    freeze_steps: int = Field(0, ge=0, description="steps after an event in which only newborn parts learn")
    events_kept: int | None = Field(None, ge=0, description="how many events happen; all if none given")
    swapping: SwappingConfig = SwappingConfig()

    def events(self, start: InitialShape, total_steps: int | None = None) -> list[Operator]:
        """The schedule as events, in the order written, as many as are kept.

        Args:
            start: what the run begins with, as far as it is known.
            total_steps: optimizer updates of the whole training, when known.

        Raises:
            BadInput: for every event that cannot be read.
        """
        if isinstance(self.schedule, str):
            tables: Sequence[dict[str, Any]] = growth_schedule.parse_short(self.schedule)
        elif isinstance(self.schedule, dict):
            tables = self._named(self.schedule).events(start.depth, start.heads or None, start.units, total_steps)
        else:
            tables = self.schedule
        try:
            return growth_schedule.read(tables, self._defaults())[: self.events_kept]
        except growth_schedule.Unreadable as error:
            wrong = list(error.wrong)
            for number, operator, mistakes in error.mistakes:
                wrong += lines_of(mistakes, operator, prefix=f"growth.schedule event {number}: ")
            raise BadInput(*wrong) from None

    def plateau(self) -> Adaptive:
        """What counts as a plateau for events that wait for one."""
        from pli_train.growth import schedules

        table = self.schedule if isinstance(self.schedule, dict) else {}
        return cast("Adaptive", schedules.read(table if table.get("name") == "adaptive" else {"name": "adaptive"}))

    def named(self) -> NamedSchedule | None:
        """The schedule by its name, where it has one. Raises BadInput for what is wrong in its table."""
        return self._named(self.schedule) if isinstance(self.schedule, dict) else None

    @staticmethod
    def _named(table: dict[str, Any]) -> NamedSchedule:
        from pli_train.growth import schedules

        try:
            return schedules.read(table)
        except ValidationError as error:
            raise BadInput(*lines_of(error, schedules.SCHEDULES[table["name"]], "growth.schedule: ")) from None

    def _defaults(self) -> dict[str, dict[str, Any]]:
        """Operator → what its events take from here when they leave it open."""
        common: dict[str, Any] = {"learning_rate": self.learning_rate, "optimizer_state": self.optimizer_state}
        common["rewarm_steps"] = self.rewarm_steps
        newborn = common | {"freeze_steps": self.freeze_steps}
        parts = newborn | {"initialiser": self.part_initialiser, "output": self.part_output, "noise": self.noise}
        layer = newborn | {"initialiser": self.initialiser, "donor": self.donor, "noise": self.noise}
        still = common | {"learning_rate": "none" if self.learning_rate == "rewarm-new" else self.learning_rate}
        return {"insert": layer, "heads": parts, "ffn": parts, "swap": still, "context": still}


class CheckpointConfig(_Section):
    """Which checkpoints beside those at the start, around every growth event, and at the end; and what stays."""

    every: int | None = Field(None, ge=1, description="steps between checkpoints")
    log_spaced: bool = Field(False, description="also at steps 1, 2, 4, 8, …")
    full_last: int = Field(3, ge=1, description="so many of the newest, and those before growth, can be resumed from")
    keep: int | None = Field(
        None, ge=1, description="at most so many of the `every` ones stay, the newest; none given: all"
    )


class TrackingConfig(_Section):
    """Where scalars go."""

    tensorboard: bool = True


class RunConfig(_Section):
    """Everything that decides a run."""

    name: str = Field("run", pattern=r"^[\w.\-]+$", description="the run folder's name")
    description: str = ""
    seed: int = Field(0, ge=0)
    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig
    optim: OptimConfig = OptimConfig()
    growth: GrowthConfig = GrowthConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _model_and_data_meet(self) -> RunConfig:
        images = self.data.source in IMAGES
        if self.model.family and images != (family(self.model.family).task == "image-classification"):
            message = "images, and" if images else f"text, and only {', '.join(IMAGES)} images:"
            raise ValueError(
                f"data.source: '{self.data.source}' holds {message} a {self.model.family} cannot learn from it"
            )
        return self
