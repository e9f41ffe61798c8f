"""Runs and checkpoints on disk, read lazily and safely, without torch.

Nothing is unpickled and no path outside the folder is opened. Weights come as numpy arrays, one tensor at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.runs.tensor_names import Names, plain_names
from pli_analysis.runs.tensor_slices import TYPES, View, locations_of
from pli_train.core import anatomy
from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.layer_layout import Layout
    from pli_analysis.runs.tensor_slices import TensorLocation
    from pli_analysis.scalars.reading import Scalars

_log = logging.getLogger(__name__)

LFS = b"version https://git-lfs"
"""How a file begins that Git LFS left in place of the one it stands for."""
ProgressCallback = Callable[[int, int], None]
"""Told (done, total) of work that takes long."""


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
        from pli_analysis.runs.layer_layout import Layout, layout_of

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
        from pli_analysis.runs.tensor_slices import locations_of

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
        return dict.fromkeys(_names(path), path)

    def tensors(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Read some tensors, each only when its turn comes: (name, array)."""
        homes = {name: self.home(name) for name in names}
        for path in dict.fromkeys(self.files[holder] for holder, _ in homes.values()):
            with open_weights(path) as file:
                for name, (holder, rows) in homes.items():
                    if self.files[holder] == path:
                        whole = _tensor(file, self.stored[holder], path)
                        yield name, whole if rows is None else whole[rows]

    def tensor_slice(self, name: str, rows: slice) -> np.ndarray:
        """Some rows of one tensor, the only ones that are read. Raises BadInput for a tensor it does not have."""
        if name not in self.files:
            raise BadInput(f"{self.path}: has no tensor '{name}'")
        with open_weights(self.files[name]) as file:
            return _slice(file, self.stored[name], self.files[name])[rows]

    def slices(self) -> Callable[[str], Any]:
        """A look at tensors by name, of which only the rows and columns that are asked for are read: `[0:8, 3:5]`.

        Raises:
            BadInput: when the weights are missing or damaged; what it returns does for a name that is not there.
        """
        opened = {path: open_weights(path).__enter__() for path in dict.fromkeys(self.files.values())}

        def view(name: str) -> Any:
            holder, rows = self.home(name)
            path = self.files[holder]
            found = _slice(opened[path], self.stored[holder], path)
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


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor that is only read as far as it is asked for."""

    whole: Any
    rows: slice

    def get_shape(self) -> list[int]:
        """Of these rows."""
        return [self.rows.stop - self.rows.start, *self.whole.get_shape()[1:]]

    def __getitem__(self, asked: Any) -> np.ndarray:
        first, *others = asked if isinstance(asked, tuple) else (asked,)
        start, stop, _ = first.indices(self.rows.stop - self.rows.start)
        return self.whole[(slice(self.rows.start + start, self.rows.start + stop), *others)]


@dataclass(frozen=True)
class Run:
    """A run folder.

    Examples:
        >>> Run.open("/nowhere")
        Traceback (most recent call last):
            ...
        pli_train.core.errors.BadInput: /nowhere: no such folder; `pli-train run` makes runs, under runs/ by default
    """

    path: Path
    hashes: bool = False

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        hashes: bool = False,
        lineage: str | Path | None = None,
        on_progress: ProgressCallback = lambda done, total: None,
        stack: str | None = None,
    ) -> Run:
        """Open a run folder, or what else holds checkpoints: see `pli_analysis.runs.foreign`.

        Args:
            path: its folder, a folder of Hugging Face's Trainer, or one or several folders of models.
            hashes: whether a checkpoint counts as whole only when every file of it has the hash it was written with.
            lineage: for foreign checkpoints, a `lineage.json` to go by.
            on_progress: for foreign checkpoints, called with (done, total) while layers are followed through them.
            stack: for foreign checkpoints, the path of the list of layers to read, where there are several.

        Raises:
            BadInput: when it is none, or a foreign one whose hashes nobody wrote down.
        """
        paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
        if len(paths) == 1:
            paths = [_taken(paths[0])]
        if len(paths) == 1 and ((paths[0] / run_folder.RUN).is_file() or not paths[0].is_dir() or _within(paths[0])):
            if lineage is not None:
                raise BadInput(f"--lineage {lineage}: is for checkpoints without one, and {paths[0]} is a run")
            if stack is not None:
                raise BadInput(f"--stack {stack}: is for checkpoints of others, and {paths[0]} is a run")
            return cls(run_folder.require_run(paths[0]), hashes)
        from pli_analysis.runs.foreign import open_foreign

        if hashes:
            raise BadInput(f"{paths[0]}: no run wrote it, so there are no hashes to --verify it with")
        return open_foreign(paths, None if lineage is None else Path(lineage), on_progress, stack)

    @classmethod
    def newest(cls, root: str | Path = "runs") -> Run:
        """The run under `root` that was begun last. Raises BadInput when there is none."""
        return cls(run_folder.newest_run(Path(root)))

    @cached_property
    def record(self) -> dict[str, Any]:
        """`run.json`: resolved config, versions, seed, command."""
        return run_folder.read_record(self.path)

    @property
    def name(self) -> str:
        """What to call the run."""
        return self.path.resolve().name

    @property
    def training(self) -> dict[str, Any]:
        """The `train` section of its config."""
        config = self.record.get("config", {})
        section = config.get("train", {}) if isinstance(config, dict) else {}
        return section if isinstance(section, dict) else {}

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer."""
        return self.path / run_folder.TOKENIZER

    @property
    def held_out(self) -> Path:
        """The file of held-out blocks, whether or not there is one."""
        return self.path / run_folder.PROBE

    @property
    def beginning(self) -> Lineage:
        """Who sat where when the run began."""
        return self.checkpoints[0].lineage

    @property
    def confidence(self) -> pd.DataFrame | None:
        """How sure an inferred lineage is; None for one that was written down."""
        return None

    @property
    def notes(self) -> list[str]:
        """What whoever reads a table of it should know, a line each."""
        return []

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
        found = Lineage.read(path)
        _log.debug("%s: %d layers, %d events", path, len(found.layers), len(found.events))
        return found

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The whole checkpoints, in order. Raises BadInput when there is none."""
        whole = [checkpoint for checkpoint, flaw in self._checked if flaw is None]
        if not whole:
            raise BadInput(f"{self.path}: holds no whole checkpoint" + "".join(f"; {line}" for line in self.damaged))
        _log.debug("%s: %d whole checkpoints, %d passed over", self.path, len(whole), len(self.damaged))
        return whole

    @cached_property
    def states(self) -> dict[int, Checkpoint]:
        """Step → the state that training went on from there, in order. Raises BadInput when there is none."""
        return {checkpoint.step: checkpoint for checkpoint in self.checkpoints}

    @cached_property
    def damaged(self) -> list[str]:
        """One line for each checkpoint folder that cannot be used."""
        return [f"{checkpoint.path.name} {flaw}" for checkpoint, flaw in self._checked if flaw]

    @cached_property
    def _checked(self) -> list[tuple[Checkpoint, str | None]]:
        """Every checkpoint folder, and what keeps it from being used."""
        found = [(Checkpoint(name, path), flaw) for name, path, flaw in self._found]
        return [(checkpoint, flaw or checkpoint.flaw) for checkpoint, flaw in found]

    @cached_property
    def _found(self) -> list[tuple[CheckpointName, Path, str | None]]:
        found = run_folder.checkpoints(self.path)
        return [(name, path, run_folder.flaw(path, self.hashes)) for name, path in found]

    @cached_property
    def scalars(self) -> Scalars:
        """What training logged."""
        from pli_analysis.scalars.reading import read

        return read(self.path)


def _taken(path: Path) -> Path:
    """The only run of ours in a folder of runs; else the path itself. Raises BadInput where there are several runs."""
    if not path.is_dir() or (path / run_folder.RUN).is_file() or _within(path):
        return path
    from pli_analysis.runs import paths

    only = paths.alone(path) if paths.kind_of(path) is None else None
    return only if only is not None and (only / run_folder.RUN).is_file() else path


def _within(folder: Path) -> bool:
    """Whether a folder lies in a run's, as its checkpoints do: alone it is mostly the run that was meant."""
    return (folder.resolve().parent / run_folder.RUN).is_file()


@lru_cache(maxsize=8)
def _lineage(text: str) -> Lineage:
    """Checkpoints between two events tell one lineage, and share it: an analysis changes none."""
    return Lineage.from_json(text)


# So do the names of tensors: checkpoints between two events have the same, and hundreds of them share one table.


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


def open_weights(path: Path) -> Any:
    """A safetensors file, its header checked by the library. Raises BadInput when it is none, or a link."""
    import ml_dtypes  # noqa: F401  teaches numpy what bfloat16 is
    from safetensors import SafetensorError, safe_open

    if run_folder.leads_out(path):
        raise BadInput(f"{path}: is a link, which may lead out of the run")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: {_instead(path) or f'not readable as safetensors ({error})'}") from None


def _instead(path: Path) -> str | None:
    """What a file is that is no safetensors file, where its first bytes tell and there is something to be done."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begins = file.read(len(LFS))
            if not begins:
                return "is empty"
            if begins == LFS:
                return "is a pointer of Git LFS, not the file itself: `git lfs pull` gets it"
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < min(size, run_folder.LARGEST_TEXT) else {}
        ends = [message["data_offsets"][1] for name, message in header.items() if name != "__metadata__"]
        due = 8 + length + max(ends, default=size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if ends and due > size:
        return f"has {size} bytes of {due}: it was cut short"
    return f"has {size - due} bytes more than its header states" if ends and due < size else None


def _tensor(file: Any, name: str, path: Path) -> np.ndarray:
    from safetensors import SafetensorError

    try:
        return file.get_tensor(name) if _is_known(file.get_slice(name)) else locations_of(path)[name].read()
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: tensor '{name}' cannot be read ({error})") from None


def _slice(file: Any, name: str, path: Path) -> Any:
    """A look at a tensor. Types that the library knows and numpy does not are read by place."""
    found = file.get_slice(name)
    return found if _is_known(found) else View(locations_of(path)[name])


def _is_known(tensor: Any) -> bool:
    """Whether the library gives its numbers to numpy."""
    return tensor.get_dtype() in ("BF16", *TYPES)


def _names(path: Path) -> list[str]:
    with open_weights(path) as file:
        return list(file.keys())
