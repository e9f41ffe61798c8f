"""Read one checkpoint folder lazily and safely, without torch.

Nothing is unpickled and no path outside the folder is opened. Weights are numpy arrays, read one tensor at a time.
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
from pli_train.core.errors import BadInput, counted
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

if TYPE_CHECKING:
    from pli_analysis.runs.tensor_location import TensorLocation

LEVEL_NAMES = {"head": "heads", "ffn": "FFNs", "norms": "norms", "attention": "attention"}
"""Level of parts → its name in messages."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder.

    Attributes:
        name: step, and whether the checkpoint is from before or after the events of that step.
        path: of the folder.
        known: lineage of a foreign checkpoint, inferred or given by the user; None to read it from the folder.
        foreign: whether another library wrote it.
        stack: for a foreign checkpoint, path of the list of layers to read: see `pli_analysis.runs.layer_layout`.
        lineage_file: file that the user gave for `known`, for error messages.
    """

    name: CheckpointName
    path: Path
    known: Lineage | None = field(default=None, repr=False, compare=False)
    foreign: bool = False
    stack: str | None = None
    lineage_file: Path | None = field(default=None, repr=False, compare=False)

    @property
    def step(self) -> int:
        """Number of optimizer updates done."""
        return self.name.step

    @cached_property
    def lineage(self) -> Lineage:
        """Layer ids by index, and their history. Raises BadInput if the file cannot be read."""
        if self.known is not None:
            return self.known
        path = self.path / run_folder.LINEAGE
        try:
            return _lineage(run_folder.read_text(path))
        except BadLineage as error:
            raise BadInput(f"{path}: {error}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's Hugging Face config as a dictionary."""
        return run_folder.read_json(self.path / run_folder.CONFIG)

    @property
    def anatomy(self) -> Anatomy:
        """The model family's table; for a foreign checkpoint without a matching table, one that only has layers."""
        return self.layout.anatomy

    @cached_property
    def layout(self) -> Layout:
        """Where the layers are, and which tensors are not measured. Raises BadInput if there are no layers."""
        if not self.foreign:
            return Layout(anatomy.family(str(self.config.get("model_type"))))
        try:
            shapes = {name: location.shape for name, location in self.locations.items()}
            return layout_of(self.config, shapes, self.stack)
        except BadInput as error:
            raise BadInput(f"{self.path}: {error}") from None

    @property
    def locations(self) -> dict[str, TensorLocation]:
        """Full tensor name → location in its file, type and shape. Raises BadInput if a file cannot be read."""
        by_file = {path: locations_of(path) for path in dict.fromkeys(self.files.values())}
        return {
            name: by_file[path][self.stored[name]]
            for name, path in self.files.items()
            if self.stored[name] in by_file[path]
        }

    @property
    def heads(self) -> list[int]:
        """Number of heads of each layer, bottom to top: that of the config if the lineage does not record heads."""
        return [self.lineage.shape(id)[0] or self.anatomy.sizes(self.config)["head"] for id in self.lineage.stack]

    @cached_property
    def state(self) -> dict[str, Any]:
        """The `trainer_state.json` of Hugging Face's Trainer."""
        return run_folder.read_json(self.path / run_folder.TRAINER_STATE)

    @cached_property
    def tokens(self) -> int | None:
        """Number of tokens trained on so far; None if training did not count them."""
        # The state is not cached: its history grows with the run, and only this number is needed.
        state = run_folder.read_json(self.path / run_folder.TRAINER_STATE)
        tokens = state.get("num_input_tokens_seen", 0)
        if not isinstance(tokens, int):
            raise BadInput(f"{self.path / run_folder.TRAINER_STATE}: num_input_tokens_seen is not an integer")
        return tokens

    @property
    def has_manifest(self) -> bool:
        """Whether `pli-train` wrote it."""
        return self.known is None and (self.path / run_folder.MANIFEST).exists()

    def within(self, error: Exception) -> str:
        """Return the text of an error without the folder's path in front."""
        return str(error).removeprefix(f"{self.path}/").removeprefix(f"{self.path}: ")

    @cached_property
    def flaw(self) -> str | None:
        """Why the checkpoint cannot be used although its files match the manifest; None if it can."""
        try:
            _ = self.config, self.anatomy, self.tokens, self.names_of_layers
        except BadInput as error:
            return self.within(error)
        return None

    @property
    def is_there(self) -> bool:
        """Whether the folder still exists."""
        return (self.path / run_folder.MANIFEST).exists()

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name → the file that holds it, for one weight file or shards.

        Names are those of plain transformers: see `pli_analysis.runs.tensor_names`. `stored` has the names in the file.

        Raises:
            BadInput: if the weights are missing or damaged, or an index points outside the folder.
        """
        return {name: self._holders[stored] for name, stored in self.stored.items()}

    @property
    def stored(self) -> dict[str, str]:
        """Tensor name → its name in the file."""
        return self.names.stored

    @cached_property
    def names(self) -> Names:
        """Plain names of the tensors, and how they differ from those in the files. Raises BadInput as `files` does."""
        names = plain_names(tuple(self._holders), str(self.config.get("model_type")))
        if names.twice is not None:
            one, other = names.twice
            raise BadInput(f"{self.path}: weights contain '{one}' and '{other}', two names of the same tensor")
        return names

    @cached_property
    def _holders(self) -> dict[str, Path]:
        """Name in the file → path of the file."""
        path = self.path / run_folder.WEIGHTS
        if run_folder.is_sharded(self.path):
            index = self.path / run_folder.WEIGHTS_INDEX
            return {name: self.path / shard for name, shard in run_folder.shards(index).items()}
        return dict.fromkeys(names_in(path), path)

    def tensors(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Read tensors one after another, as (name, array)."""
        homes = {name: self.home(name) for name in names}
        for path in dict.fromkeys(self.files[holder] for holder, _ in homes.values()):
            with open_weights(path) as file:
                for name, (holder, rows) in homes.items():
                    if self.files[holder] == path:
                        whole = read_tensor(file, self.stored[holder], path)
                        yield name, whole if rows is None else whole[rows]

    def tensor_slice(self, name: str, rows: slice) -> np.ndarray:
        """Read some rows of one tensor. Raises BadInput if there is no such tensor."""
        if name not in self.files:
            raise BadInput(f"{self.path}: tensor '{name}' is missing")
        with open_weights(self.files[name]) as file:
            return slice_of(file, self.stored[name], self.files[name])[rows]

    def slices(self) -> Callable[[str], Any]:
        """Return a function from tensor name to a lazy slice, which reads only the selected part: `[0:8, 3:5]`.

        Raises:
            BadInput: if the weights are missing or damaged. The returned function raises it for an unknown name.
        """
        opened = {path: open_weights(path).__enter__() for path in dict.fromkeys(self.files.values())}

        def view(name: str) -> Any:
            holder, rows = self.home(name)
            path = self.files[holder]
            tensor = slice_of(opened[path], self.stored[holder], path)
            return tensor if rows is None else Rows(tensor, rows)

        return view

    @cached_property
    def located(self) -> list[tuple[int, str, str]]:
        """(layer index, name within the layer, full name) of each tensor of a layer.

        A fused tensor (`Anatomy.rows`) is listed as its parts: `….qkv_proj.weight[q]`.
        """
        return _located(self.anatomy, tuple(self.files))

    def home(self, name: str) -> tuple[str, slice | None]:
        """Return the stored tensor that holds a tensor, and its rows there; None for all rows.

        Raises:
            BadInput: if there is no such tensor.
        """
        if name in self.files:
            return name, None
        if name not in self._rows_of_fused:
            raise BadInput(f"{self.path}: tensor '{name}' is missing")
        return self._rows_of_fused[name]

    @cached_property
    def _rows_of_fused(self) -> dict[str, tuple[str, slice]]:
        """Full name of a part of a fused tensor → the fused tensor, and the rows of the part there."""
        table, sizes, found = self.anatomy, self.anatomy.sizes(self.config), {}
        shapes = {name: location.shape for name, location in self.locations.items()} if table.rows else {}
        for name, shape in shapes.items():
            position = table.locate(name)
            if position is not None and position[2] in table.rows:
                for inner, ends in table.stretches(position[2], shape[0], sizes).items():
                    found[name + inner[len(position[2]) :]] = (name, slice(*ends))
        return found

    @cached_property
    def names_of_layers(self) -> dict[str, dict[str, str]]:
        """Layer id → {name within the layer: full tensor name}. Raises BadInput if weights and lineage disagree."""
        stack, known_only = tuple(self.lineage.stack), self.known is not None
        try:
            return _by_layer(self.anatomy, tuple(self.files), stack, known_only, self.lineage_file)
        except BadInput as error:
            raise BadInput(f"{self.path}: {error}") from None

    def layer(self, id: str) -> Iterator[tuple[str, np.ndarray]]:
        """Read the tensors of a layer, given by id, as (name within the layer, array)."""
        inner = {full: short for short, full in self.names_of_layers[id].items()}
        for full, array in self.tensors(list(inner)):
            yield inner[full], array


def require_parts(checkpoint: Checkpoint, level: str) -> None:
    """Raise BadInput if the family's table does not locate parts of a level (`head`, `ffn`, `norms`, `attention`)."""
    table = checkpoint.anatomy
    if table.by_name:
        missing = f"no family table locates the {LEVEL_NAMES[level]} of a '{table.model_type}'"
        remedy = f"only whole layers can be measured; {PAGE} shows how to write a table"
        raise BadInput(f"{checkpoint.path}: {missing}, so {remedy}")
    if level == "head" and "heads" not in table.config:
        raise BadInput(f"{checkpoint.path}: the family table of '{table.model_type}' does not locate its heads")


@lru_cache(maxsize=8)
def _lineage(text: str) -> Lineage:
    """Parse a lineage. Cached, as all checkpoints between two events have the same; callers must not change it."""
    return Lineage.from_json(text)


# Checkpoints between two events also have the same tensor names, and hundreds of them share one table.


@lru_cache(maxsize=64)
def _located(table: Anatomy, names: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Return `Checkpoint.located` for tensors with these full names."""
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
    """Return `Checkpoint.names_of_layers`. Raises BadInput, without a path, if names and stack disagree.

    Args:
        table: of the model family.
        names: full names of the tensors.
        stack: layer ids by index.
        known_only: whether to skip tensors that the table does not list: masks and rotary frequencies, which older
            releases saved among the weights.
        lineage_file: file that the stack was read from, if not the checkpoint's own; for messages.
    """
    found: dict[str, dict[str, str]] = {id: {} for id in stack}
    for index, inner, name in _located(table, names):
        if known_only and inner not in table.tensors:
            continue
        if index >= len(stack):
            listed = f"{lineage_file or run_folder.LINEAGE} lists only {counted(len(stack), 'layer')}"
            raise BadInput(f"weights have a layer with index {index}, but {listed}")
        found[stack[index]][inner] = name
    if missing := [id for id, tensors in found.items() if not tensors]:
        listed = f"which {lineage_file or run_folder.LINEAGE} lists"
        raise BadInput(f"weights contain no tensor of layer {missing[0]}, {listed}")
    return found
