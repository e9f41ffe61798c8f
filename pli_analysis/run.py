"""Runs and checkpoints as they lie on disk: read lazily, safely, and without torch.

Nothing is unpickled and no path outside the folder is opened. Weights come as numpy arrays, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_train import anatomy, run_folder
from pli_train.anatomy import Anatomy
from pli_train.errors import BadInput
from pli_train.lineage import BadLineage, Lineage
from pli_train.run_folder import CheckpointName

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars import Scalars


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder of a run."""

    name: CheckpointName
    path: Path

    @property
    def step(self) -> int:
        """Optimizer updates done."""
        return self.name.step

    @cached_property
    def lineage(self) -> Lineage:
        """Who sits where. Raises BadInput when the file does not say."""
        try:
            return Lineage.read(self.path / run_folder.LINEAGE)
        except BadLineage as error:
            raise BadInput(str(error)) from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's Hugging Face config, as a plain table."""
        return run_folder.read_json(self.path / run_folder.CONFIG)

    @cached_property
    def anatomy(self) -> Anatomy:
        """The family's table."""
        return anatomy.family(str(self.config.get("model_type")))

    @cached_property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        state = run_folder.read_json(self.path / run_folder.TRAINER_STATE)
        tokens = state.get("num_input_tokens_seen", 0)
        if not isinstance(tokens, int):
            raise BadInput(f"{self.path}: {run_folder.TRAINER_STATE} does not say how many tokens were seen")
        return tokens

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name → the file that holds it, whether the weights are in one file or in shards.

        Raises:
            BadInput: when the weights are missing or damaged, or an index points outside the folder.
        """
        index = self.path / run_folder.WEIGHTS_INDEX
        if not index.is_file():
            path = self.path / run_folder.WEIGHTS
            return dict.fromkeys(_names(path), path)
        return {name: self.path / shard for name, shard in run_folder.shards(index).items()}

    def tensors(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Read some tensors, each only when its turn comes: (name, array)."""
        for path in dict.fromkeys(self.files[name] for name in names):
            with open_weights(path) as file:
                for name in names:
                    if self.files[name] == path:
                        yield name, _tensor(file, name, path)

    def tensor_slice(self, name: str, rows: slice) -> np.ndarray:
        """Some rows of one tensor, the only ones that are read. Raises BadInput for a tensor it does not have."""
        if name not in self.files:
            raise BadInput(f"{self.path}: has no tensor '{name}'")
        with open_weights(self.files[name]) as file:
            return file.get_slice(name)[rows]

    def slices(self) -> Callable[[str], Any]:
        """A look at tensors by name, of which only the rows and columns that are asked for are read: `[0:8, 3:5]`.

        Raises:
            BadInput: when the weights are missing or damaged; what it returns does for a name that is not there.
        """
        opened = {path: open_weights(path).__enter__() for path in dict.fromkeys(self.files.values())}

        def look(name: str) -> Any:
            if name not in self.files:
                raise BadInput(f"{self.path}: has no tensor '{name}'")
            return opened[self.files[name]].get_slice(name)

        return look

    @cached_property
    def names_of_layers(self) -> dict[str, dict[str, str]]:
        """Layer id → {name within the layer: full tensor name}."""
        found: dict[str, dict[str, str]] = {id: {} for id in self.lineage.stack}
        for name in self.files:
            place = self.anatomy.locate(name)
            if place is not None:
                _, index, inner = place
                if index >= len(self.lineage.stack):
                    raise BadInput(f"{self.path}: has a layer {index} that its {run_folder.LINEAGE} does not know")
                found[self.lineage.stack[index]][inner] = name
        return found

    def layer(self, id: str) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of a layer by its id: (name within the layer, array)."""
        inner = {full: short for short, full in self.names_of_layers[id].items()}
        for full, array in self.tensors(list(inner)):
            yield inner[full], array


@dataclass(frozen=True)
class Run:
    """A run folder.

    >>> Run.open("/nowhere")
    Traceback (most recent call last):
        ...
    pli_train.errors.BadInput: /nowhere: no such folder; `pli-train run` makes runs, under runs/ by default
    """

    path: Path
    hashes: bool = False

    @classmethod
    def open(cls, path: str | Path, hashes: bool = False) -> Run:
        """Open a run folder.

        Args:
            path: its folder.
            hashes: whether a checkpoint counts as whole only when every file of it has the hash it was written with.

        Raises:
            BadInput: when it is none.
        """
        return cls(run_folder.require_run(Path(path)), hashes)

    @classmethod
    def newest(cls, root: str | Path = "runs") -> Run:
        """The run under `root` that was begun last. Raises BadInput when there is none."""
        return cls(run_folder.newest_run(Path(root)))

    @cached_property
    def record(self) -> dict[str, Any]:
        """`run.json`: resolved config, versions, seed, command."""
        return run_folder.read_json(self.path / run_folder.RUN)

    @property
    def name(self) -> str:
        """What to call the run."""
        return self.path.resolve().name

    @property
    def parent(self) -> dict[str, Any] | None:
        """Where its weights come from: `path`, `checkpoint` and `name` of the run it was forked or begun from."""
        parent = self.record.get("parent")
        return parent if isinstance(parent, dict) else None

    @cached_property
    def lineage(self) -> Lineage:
        """Every layer and event so far."""
        path = self.path / run_folder.LINEAGE
        if not path.is_file():
            raise BadInput(f"{self.path}: has no {run_folder.LINEAGE} yet; it appears with the first checkpoint")
        try:
            return Lineage.read(path)
        except BadLineage as error:
            raise BadInput(str(error)) from None

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The whole checkpoints, in order. Raises BadInput when there is none."""
        whole = [Checkpoint(name, path) for name, path, flaw in self._found if flaw is None]
        if not whole:
            raise BadInput(f"{self.path}: holds no whole checkpoint" + "".join(f"; {line}" for line in self.damaged))
        return whole

    @cached_property
    def damaged(self) -> list[str]:
        """One line for each checkpoint folder that cannot be used."""
        return [f"{path.name} {flaw}" for _, path, flaw in self._found if flaw]

    @cached_property
    def _found(self) -> list[tuple[CheckpointName, Path, str | None]]:
        found = run_folder.checkpoints(self.path)
        return [(name, path, run_folder.flaw(path, self.hashes)) for name, path in found]

    @cached_property
    def scalars(self) -> Scalars:
        """What training logged."""
        from pli_analysis.scalars import read

        return read(self.path)

    def drift(
        self, of: str = "layer", *, gauge: bool = False, spectral: bool = False, threads: int = 1
    ) -> pd.DataFrame:
        """How far each part has moved since birth: arguments and columns as in `pli_analysis.metrics.drift`."""
        from pli_analysis.metrics import drift

        return drift.drift(self, of, gauge=gauge, spectral=spectral, threads=threads)


def open_weights(path: Path) -> Any:
    """A safetensors file, its header checked by the library. Raises BadInput when it is none, or a link."""
    import ml_dtypes  # noqa: F401  teaches numpy what bfloat16 is
    from safetensors import SafetensorError, safe_open

    if path.is_symlink():
        raise BadInput(f"{path}: is a link, which may lead out of the run")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not readable as safetensors ({error})") from None


def _tensor(file: Any, name: str, path: Path) -> np.ndarray:
    from safetensors import SafetensorError

    try:
        return file.get_tensor(name)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: tensor '{name}' cannot be read ({error})") from None


def _names(path: Path) -> list[str]:
    with open_weights(path) as file:
        return list(file.keys())
