"""One checkpoint folder, read lazily and safely, without torch.

Nothing is unpickled and no path outside the folder is opened. Weights come as numpy arrays, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.runs.layer_layout import PAGE, Layout, layout_of
from pli_analysis.runs.safetensors_file import Rows, locations_of, names_in, open_weights, read_tensor, slice_of
from pli_analysis.runs.tensor_names import Names, plain_names
from pli_train.core import anatomy
from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

if TYPE_CHECKING:
    from pli_analysis.runs.tensor_location import TensorLocation

CALLED = {"head": "heads", "ffn": "FFNs", "norms": "norms", "attention": "attention"}


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder.

    Attributes:
        name: its place in the run.
        path: of the folder.
        known: of a checkpoint that nobody wrote for us: the lineage that no file of it tells.
        foreign: whether nobody wrote it for us.
        stack: of such a one, where its layers are, if that was asked for: see `pli_analysis.runs.layer_layout`.
        lineage_file: of such a one, the file that `known` was read from, if the user named one.
    """

    name: CheckpointName
    path: Path
    known: Lineage | None = field(default=None, repr=False, compare=False)
    foreign: bool = False
    stack: str | None = None
    lineage_file: Path | None = field(default=None, repr=False, compare=False)

    @property
    def step(self) -> int:
        """Optimizer updates done."""
        return self.name.step

    @cached_property
    def lineage(self) -> Lineage:
        """Who sits where. Raises BadInput when the file does not say."""
        if self.known is not None:
            return self.known
        path = self.path / run_folder.LINEAGE
        try:
            return _lineage(run_folder.read_text(path))
        except BadLineage as error:
            raise BadInput(f"{path}: {error}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's Hugging Face config, as a plain table."""
        return run_folder.read_json(self.path / run_folder.CONFIG)

    @property
    def anatomy(self) -> Anatomy:
        """The family's table; of a checkpoint that nobody wrote for us, the layers alone where no table fits."""
        return self.layout.anatomy

    @cached_property
    def layout(self) -> Layout:
        """Where its layers are, and what is left out. Raises BadInput when there are none."""
        if not self.foreign:
            return Layout(anatomy.family(str(self.config.get("model_type"))))
        try:
            shapes = {name: position.shape for name, position in self.locations.items()}
            return layout_of(self.config, shapes, self.stack)
        except BadInput as error:
            raise BadInput(f"{self.path}: {error}") from None

    @property
    def locations(self) -> dict[str, TensorLocation]:
        """Full tensor name → where it lies, of which type and shape. Raises BadInput when a file cannot be read."""
        found = {path: locations_of(path) for path in dict.fromkeys(self.files.values())}
        return {
            name: found[path][self.stored[name]]
            for name, path in self.files.items()
            if self.stored[name] in found[path]
        }

    @cached_property
    def state(self) -> dict[str, Any]:
        """How far training was, in Hugging Face's words."""
        return run_folder.read_json(self.path / run_folder.TRAINER_STATE)

    @cached_property
    def tokens(self) -> int | None:
        """Tokens trained on so far; None where training did not count them."""
        # The state is not kept: its history grows with the run, and nothing else of it is needed of ours.
        state = run_folder.read_json(self.path / run_folder.TRAINER_STATE)
        tokens = state.get("num_input_tokens_seen", 0)
        if not isinstance(tokens, int):
            raise BadInput(f"{self.path}: {run_folder.TRAINER_STATE} does not say how many tokens were seen")
        return tokens

    @property
    def has_manifest(self) -> bool:
        """Whether a run of ours wrote it."""
        return self.known is None and (self.path / run_folder.MANIFEST).exists()

    def within(self, error: Exception) -> str:
        """What an error says, without the folder's path ahead of it."""
        return str(error).removeprefix(f"{self.path}/").removeprefix(f"{self.path}: ")

    @cached_property
    def flaw(self) -> str | None:
        """What keeps a checkpoint of ours from being used although its files are as long as they were; None mostly."""
        try:
            _ = self.config, self.anatomy, self.tokens, self.names_of_layers
        except BadInput as error:
            return f"cannot be used: {self.within(error)}"
        return None

    @property
    def is_there(self) -> bool:
        """Whether nobody has removed it meanwhile."""
        return (self.path / run_folder.MANIFEST).exists()

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name → the file that holds it, whether the weights are in one file or in shards.

        Names are those of plain transformers: see `pli_analysis.runs.tensor_names`. In the file it is called `stored`.

        Raises:
            BadInput: when the weights are missing or damaged, or an index points outside the folder.
        """
        return {name: self._holders[stored] for name, stored in self.stored.items()}

    @property
    def stored(self) -> dict[str, str]:
        """Tensor name → what it is called in its file."""
        return self.names.stored

    @cached_property
    def names(self) -> Names:
        """Plain names of the tensors, and what was done to those in the files. Raises BadInput as `files` does."""
        found = plain_names(tuple(self._holders), str(self.config.get("model_type")))
        if found.twice is not None:
            one, other = found.twice
            raise BadInput(f"{self.path}: its weights have '{one}' and '{other}', which are names of one tensor")
        return found

    @cached_property
    def _holders(self) -> dict[str, Path]:
        """Name in the file → the file."""
        path = self.path / run_folder.WEIGHTS
        if run_folder.is_sharded(self.path):
            index = self.path / run_folder.WEIGHTS_INDEX
            return {name: self.path / shard for name, shard in run_folder.shards(index).items()}
        return dict.fromkeys(names_in(path), path)

    def tensors(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Read some tensors, each only when its turn comes: (name, array)."""
        homes = {name: self.home(name) for name in names}
        for path in dict.fromkeys(self.files[holder] for holder, _ in homes.values()):
            with open_weights(path) as file:
                for name, (holder, rows) in homes.items():
                    if self.files[holder] == path:
                        whole = read_tensor(file, self.stored[holder], path)
                        yield name, whole if rows is None else whole[rows]

    def tensor_slice(self, name: str, rows: slice) -> np.ndarray:
        """Some rows of one tensor, the only ones that are read. Raises BadInput for a tensor it does not have."""
        if name not in self.files:
            raise BadInput(f"{self.path}: has no tensor '{name}'")
        with open_weights(self.files[name]) as file:
            return slice_of(file, self.stored[name], self.files[name])[rows]

    def slices(self) -> Callable[[str], Any]:
        """A look at tensors by name, of which only the rows and columns that are asked for are read: `[0:8, 3:5]`.

        Raises:
            BadInput: when the weights are missing or damaged; what it returns does for a name that is not there.
        """
        opened = {path: open_weights(path).__enter__() for path in dict.fromkeys(self.files.values())}

        def view(name: str) -> Any:
            holder, rows = self.home(name)
            path = self.files[holder]
            found = slice_of(opened[path], self.stored[holder], path)
            return found if rows is None else Rows(found, rows)

        return view

    @cached_property
    def located(self) -> list[tuple[int, str, str]]:
        """(index of the layer, name within it, full name) of each tensor that lies in a layer.

        A tensor that holds several (`Anatomy.rows`) is seen as those: `….qkv_proj.weight[q]`.
        """
        return _located(self.anatomy, tuple(self.files))

    def home(self, name: str) -> tuple[str, slice | None]:
        """Which stored tensor a full name is of, and which rows of it; None for all.

        Raises:
            BadInput: when it is not there.
        """
        if name in self.files:
            return name, None
        if name not in self._stretches:
            raise BadInput(f"{self.path}: has no tensor '{name}'")
        return self._stretches[name]

    @cached_property
    def _stretches(self) -> dict[str, tuple[str, slice]]:
        """Full name of a tensor that another holds → that one, and the rows there."""
        table, sizes, found = self.anatomy, self.anatomy.sizes(self.config), {}
        shapes = {name: position.shape for name, position in self.locations.items()} if table.rows else {}
        for name, shape in shapes.items():
            position = table.locate(name)
            if position is not None and position[2] in table.rows:
                for inner, ends in table.stretches(position[2], shape[0], sizes).items():
                    found[name + inner[len(position[2]) :]] = (name, slice(*ends))
        return found

    @cached_property
    def names_of_layers(self) -> dict[str, dict[str, str]]:
        """Layer id → {name within the layer: full tensor name}. Raises BadInput when weights and lineage differ."""
        stack, known_only = tuple(self.lineage.stack), self.known is not None
        try:
            return _by_layer(self.anatomy, tuple(self.files), stack, known_only, self.lineage_file)
        except BadInput as error:
            raise BadInput(f"{self.path}: {error}") from None

    def layer(self, id: str) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of a layer by its id: (name within the layer, array)."""
        inner = {full: short for short, full in self.names_of_layers[id].items()}
        for full, array in self.tensors(list(inner)):
            yield inner[full], array


def require_parts(checkpoint: Checkpoint, level: str) -> None:
    """Raise BadInput when parts of a level (`head`, `ffn`, `norms`, `attention`) are asked for and not told apart."""
    table = checkpoint.anatomy
    if table.by_name:
        message = f"no table says where a {table.model_type} has its {CALLED[level]}, only its layers are known"
        raise BadInput(f"{checkpoint.path}: {message}; {PAGE} says how to write a table")
    if level == "head" and "heads" not in table.config:
        raise BadInput(f"{checkpoint.path}: the table of a {table.model_type} does not separate its heads")


@lru_cache(maxsize=8)
def _lineage(text: str) -> Lineage:
    """Checkpoints between two events tell one lineage, and share it: an analysis changes none."""
    return Lineage.from_json(text)


# Checkpoints between two events also have the same tensor names, and hundreds of them share one table.


@lru_cache(maxsize=64)
def _located(table: Anatomy, names: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """What `Checkpoint.located` tells of tensors with these full names."""
    found = []
    for name in names:
        position = table.locate(name)
        if position is not None and position[2] in table.rows:
            found += [(position[1], inner, name + inner[len(position[2]) :]) for inner in table.rows[position[2]]]
        elif position is not None:
            found.append((position[1], position[2], name))
    return found


@lru_cache(maxsize=64)
def _by_layer(
    table: Anatomy, names: tuple[str, ...], stack: tuple[str, ...], known_only: bool, lineage_file: Path | None
) -> dict[str, dict[str, str]]:
    """What `Checkpoint.names_of_layers` tells. Raises BadInput, without a path, when names and stack differ.

    Args:
        table: the family's.
        names: full names of the tensors.
        stack: ids of the layers.
        known_only: whether tensors that the table does not have are passed over: masks and rotary frequencies, which
            older releases saved among the weights.
        lineage_file: where the stack was read, if not from the checkpoint's own file; for messages.
    """
    found: dict[str, dict[str, str]] = {id: {} for id in stack}
    for index, inner, name in _located(table, names):
        if known_only and inner not in table.tensors:
            continue
        if index >= len(stack):
            raise BadInput(f"has a layer {index} that {lineage_file or f'its {run_folder.LINEAGE}'} does not know")
        found[stack[index]][inner] = name
    if lacking := [id for id, tensors in found.items() if not tensors]:
        source = f", which {lineage_file} has" if lineage_file else ""
        raise BadInput(f"its weights have nothing of layer {lacking[0]}{source}")
    return found
