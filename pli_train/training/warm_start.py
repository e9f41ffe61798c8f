"""Start a run from the weights of another run or model.

`model.name_or_path` may name a run folder (then its newest whole checkpoint is meant), a checkpoint folder of a run, or
an exported model. All become a plain model folder, with what plain folders cannot say filled in from the lineage
beside it: how many of a layer's heads are alive (the others are padding), and which tokenizer the weights know.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.tokenizer import files_of
from pli_train.data.config import IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pli_train.config.schema import RunConfig
    from pli_train.models.config import ModelConfig

KEY = "model.name_or_path"


@dataclass(frozen=True)
class Parent:
    """Where a run's weights come from, as `run.json` keeps it.

    Attributes:
        path: the parent run's folder, or an exported model's.
        checkpoint: name of the checkpoint in it; None for an exported model.
        name: the parent's name.
    """

    path: str
    checkpoint: str | None
    name: str

    @property
    def record(self) -> dict[str, str | None]:
        """The form kept in `run.json`."""
        return asdict(self)


def resolve_parent(
    config: RunConfig, say: Callable[[str], None] = lambda line: None
) -> tuple[RunConfig, Parent | None]:
    """The config with a run's folder replaced by what it stands for; other configs as they are.

    Args:
        config: as the user wrote it. What it gives itself (a tokenizer, heads) stays.
        say: told in one line which checkpoint is meant.

    Returns:
        The config, which settles to itself from then on, and the parent when weights come from one.

    Raises:
        BadInput: when there is no whole checkpoint, or its layers differ in heads or FFN units.
    """
    named = config.model.name_or_path
    folder = Path(named) if named else None
    if folder is None or not folder.is_dir():
        return config, None
    parent, source, tokenizer = _found(folder.resolve(), say)
    if parent is None:
        return _with_tokenizer_of(tokenizer, config, say), None
    say(f"{KEY}: {source}")
    heads = _live_heads(source, config.model) if config.model.weights == "pretrained" else None
    # Whole paths, so that a resumed run finds them from wherever it is started.
    model = {"name_or_path": str(source), "initial_heads": config.model.initial_heads or heads}
    own = None if config.data.source in IMAGES else str(tokenizer)
    words = {"name_or_path": config.tokenizer.name_or_path or own}
    resolved = config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "tokenizer": config.tokenizer.model_copy(update=words),
        }
    )
    return resolved, parent if config.model.weights == "pretrained" else None


def _with_tokenizer_of(folder: Path, config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """The config with the tokenizer that weights of others know, where it names none and their folder has one."""
    named, begins = config.tokenizer.name_or_path, config.model.weights == "pretrained"
    if named or not begins or config.data.source in IMAGES or not files_of(folder):
        return config
    say(f"tokenizer: that of {folder}, which its weights know")
    taken = config.tokenizer.model_copy(update={"name_or_path": str(folder)})
    return config.model_copy(update={"tokenizer": taken})


def _found(folder: Path, say: Callable[[str], None]) -> tuple[Parent | None, Path, Path]:
    """(parent, its model folder, its tokenizer folder) of what `folder` is; no parent for a foreign folder."""
    if (folder / run_folder.RUN).is_file():
        source = run_folder.newest_checkpoint(folder, lambda line: say(f"{KEY}: {line}"))
        if source is None:
            raise BadInput(f"{KEY}: {folder}: holds no whole checkpoint to begin with")
        return Parent(str(folder), source.name, folder.name), source, folder / run_folder.TOKENIZER
    run = folder.parent
    if (run / run_folder.RUN).is_file() and run_folder.CheckpointName.parse(folder.name):
        if flaw := run_folder.flaw(folder):
            raise BadInput(f"{KEY}: {folder}: {flaw}")
        return Parent(str(run), folder.name, run.name), folder, run / run_folder.TOKENIZER
    if (folder / run_folder.LINEAGE).is_file() and (folder / run_folder.CONFIG).is_file():
        return Parent(str(folder), None, folder.name), folder, folder
    return None, folder, folder


def _live_heads(source: Path, wanted: ModelConfig) -> int | None:
    """How many heads each layer of a model folder really has; None where its family's heads are not told apart."""
    try:
        lineage = Lineage.read(source / run_folder.LINEAGE)
    except BadInput as error:
        raise BadInput(f"{KEY}: {error}") from None
    shapes = set(lineage.shapes()[: wanted.initial_layers]) or {lineage.founding}
    if len(shapes) > 1:
        message = ", ".join(f"{id} {_describe(*lineage.shape(id))}" for id in lineage.stack[: wanted.initial_layers])
        raise BadInput(f"{KEY}: {source}: a run begins with layers of one size, and these differ: {message}")
    ((heads, _),) = shapes
    if wanted.initial_heads and heads and wanted.initial_heads > heads:
        raise BadInput(f"model.initial_heads: {wanted.initial_heads} is more than the {heads} of {source}")
    return heads or None


def _describe(heads: int, units: int | None) -> str:
    return f"{heads} heads" + (f" and {units} FFN units" if units else "")
