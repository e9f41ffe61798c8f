"""Start a run from the weights of another run or model.

`model.name_or_path` may be a run folder (its newest complete checkpoint is used), a checkpoint folder of a run, or an
exported model. Each is resolved to a plain model folder. The lineage beside it has the number of heads in use (others
are padding), and the run has the tokenizer that the weights were trained with.
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
    """The run or model that a run's weights come from, as recorded in `run.json`.

    Attributes:
        path: folder of the parent run or exported model.
        checkpoint: name of its checkpoint; None for an exported model.
        name: the parent's name.
    """

    path: str
    checkpoint: str | None
    name: str

    @property
    def record(self) -> dict[str, str | None]:
        """The parent as recorded in `run.json`."""
        return asdict(self)


def resolve_parent(
    config: RunConfig, say: Callable[[str], None] = lambda line: None
) -> tuple[RunConfig, Parent | None]:
    """Replace a run folder in `model.name_or_path` by its checkpoint, heads and tokenizer.

    Args:
        config: as the user wrote it. A tokenizer or number of heads that it sets is not changed.
        say: called with one line that names the checkpoint.

    Returns:
        The config, which does not change when it is resolved again, and the parent if weights come from one.

    Raises:
        BadInput: when there is no complete checkpoint, or its layers differ in heads or FFN units.
    """
    named = config.model.name_or_path
    folder = Path(named) if named else None
    if folder is None or not folder.is_dir():
        return config, None
    parent, source, tokenizer = _parent_of(folder.resolve(), say)
    if parent is None:
        return _with_tokenizer_of(tokenizer, config, say), None
    say(f"{KEY}: {source}")
    heads = _live_heads(source, config.model) if config.model.weights == "pretrained" else None
    # Absolute paths, so that a run can be resumed from any working directory.
    model = {"name_or_path": str(source), "initial_heads": config.model.initial_heads or heads}
    parents = None if config.data.source in IMAGES else str(tokenizer)
    tokenizer_update = {"name_or_path": config.tokenizer.name_or_path or parents}
    resolved = config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "tokenizer": config.tokenizer.model_copy(update=tokenizer_update),
        }
    )
    return resolved, parent if config.model.weights == "pretrained" else None


def _with_tokenizer_of(folder: Path, config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """Return the config with the tokenizer of a model folder, if the config has none and the folder has one."""
    named, begins = config.tokenizer.name_or_path, config.model.weights == "pretrained"
    if named or not begins or config.data.source in IMAGES or not files_of(folder):
        return config
    say(f"tokenizer: using that of {folder}")
    resolved = config.tokenizer.model_copy(update={"name_or_path": str(folder)})
    return config.model_copy(update={"tokenizer": resolved})


def _parent_of(folder: Path, say: Callable[[str], None]) -> tuple[Parent | None, Path, Path]:
    """Return (parent, model folder, tokenizer folder) for `folder`; parent is None if this project did not write it."""
    if (folder / run_folder.RUN).is_file():
        source = run_folder.newest_checkpoint(folder, lambda line: say(f"{KEY}: {line}"))
        if source is None:
            raise BadInput(f"{KEY}: {folder}: holds no whole checkpoint to start from")
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
    """Return the number of heads in use per layer; None if the family's parameter table has no heads."""
    try:
        lineage = Lineage.read(source / run_folder.LINEAGE)
    except BadInput as error:
        raise BadInput(f"{KEY}: {error}") from None
    shapes = set(lineage.shapes()[: wanted.initial_layers]) or {lineage.founding}
    if len(shapes) > 1:
        differing = ", ".join(f"{id} {_describe(*lineage.shape(id))}" for id in lineage.stack[: wanted.initial_layers])
        raise BadInput(f"{KEY}: {source}: initial layers must have one size, but these differ: {differing}")
    ((heads, _),) = shapes
    if wanted.initial_heads and heads and wanted.initial_heads > heads:
        raise BadInput(f"model.initial_heads: {wanted.initial_heads} is more than the {heads} of {source}")
    return heads or None


def _describe(heads: int, units: int | None) -> str:
    return f"{heads} heads" + (f" and {units} FFN units" if units else "")
