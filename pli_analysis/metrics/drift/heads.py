"""Q, K, V and O of each head as matrices, for every model family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pli_analysis.metrics.drift.products import bilinear_distance, rotary_distance
from pli_analysis.weights import trajectory
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.measurement import Kind
from pli_analysis.weights.trajectory import TensorTrajectory, Visit
from pli_train.core.anatomy import Anatomy
from pli_train.core.anatomy.axes import factors
from pli_train.core.errors import MISFITS

FUSED = "qkv"


def role(anatomy: Anatomy, name: str) -> str | None:
    """Return the role of a layer's tensor in its heads: `q`, `k`, `v`, `o`, or `qkv` if fused; None for other tensors.

    The output projection is the one that is zeroed to make an identity layer. In every family the names of the modules
    of the others start with their letter, or the three are fused.

    >>> from pli_train.core.anatomy import family
    >>> [role(family("bert"), f"attention.{name}.weight") for name in ("self.query", "self.key", "output.dense")]
    ['q', 'k', 'o']
    """
    if not anatomy.owners(name):
        return None
    module, _, leaf = name.rpartition(".")
    if module in anatomy.identity["zero"]:
        return "o"
    if FUSED in factors(anatomy.tensors[name][1]):
        return FUSED
    if name.endswith("]"):  # part of a tensor that holds several: `….weight[q]`
        return name[-2]
    # DeBERTa has biases that belong to no module: `q_bias`, `v_bias`.
    letter = (module.rpartition(".")[2] if leaf in ("weight", "bias") else leaf)[:1]
    return letter if letter in FUSED else None


@dataclass(frozen=True)
class Gauge:
    """Task that computes distances of the QK and OV products of one layer's heads: see `metrics.drift.products`.

    Attributes:
        tracks: the tensors of the heads.
        rotated: fraction of a head's dimensions that rotary positions rotate.
        normalized: whether queries and keys are normalized before their product.
    """

    tracks: tuple[TensorTrajectory, ...]
    rotated: float = 0.0
    normalized: bool = False

    def run(self, pool: BufferPool) -> list[np.ndarray]:
        """Return an array (heads, 2) for each wanted visit: QK, OV. QK is NaN if queries and keys are normalized."""
        found = []
        for together in zip(*(track.see() for track in self.tracks), strict=True):
            visit = together[0].visit
            try:
                now = self._letters(visit, [seen.now for seen in together])
                birth = self._letters(visit, [seen.birth for seen in together])
                columns = [self._qk(now, birth), bilinear_distance(now["o"], now["v"], birth["o"], birth["v"])]
            except MISFITS as error:
                raise trajectory.misfit(visit.position.path.parent, self.tracks[0].id, error) from None
            found.append(np.stack(columns, axis=1))
        return found

    def _qk(self, now: Mapping[str, np.ndarray], birth: Mapping[str, np.ndarray]) -> np.ndarray:
        heads, dim, _ = now["q"].shape
        if self.normalized:
            return np.full(heads, np.nan)
        turning = 2 * -(-int(dim * self.rotated) // 2)  # rounded up to pairs, as in transformers
        order = np.arange(dim)
        if self.tracks[0].anatomy.rotary_pairs == "adjacent":
            order[:turning] = np.concatenate([order[0:turning:2], order[1:turning:2]])
        q, k, q0, k0 = (side[letter][:, order] for side in (now, birth) for letter in "qk")
        return rotary_distance(q, k, q0, k0, turning)

    def _letters(self, visit: Visit, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return Q, K, V, O as (heads, dim, columns) float64: weights, then biases; K and V repeated if shared."""
        found: dict[str, list[np.ndarray]] = {}
        for track, array in zip(self.tracks, arrays, strict=True):
            for letter, matrices in _matrices(track, visit, array):
                found.setdefault(letter, []).append(matrices.astype(np.float64))
        whole = {
            letter: np.concatenate(sorted(matrices, key=lambda one: -one.shape[2]), axis=2)
            for letter, matrices in found.items()
        }
        return {letter: np.repeat(one, visit.heads // len(one), axis=0) for letter, one in whole.items()}


def gauge(anatomy: Anatomy, config: Mapping[str, Any]) -> Kind:
    """Return the kind of measurement for the heads of a model with this config."""

    def tasks(tracks: list[TensorTrajectory]) -> Sequence[Gauge]:
        layers: dict[str, list[TensorTrajectory]] = {}
        for track in tracks:
            if role(track.anatomy, track.name):
                layers.setdefault(track.id, []).append(track)
        return [Gauge(tuple(found), anatomy.rotated(config), anatomy.normalized(config)) for found in layers.values()]

    return Kind("drift-gauge", 2, 2, tasks)


def _matrices(track: TensorTrajectory, visit: Visit, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a tensor as letters with arrays of (heads or groups, dim, columns); a bias has one column."""
    from einops import rearrange

    axes, sizes, letters = track.axes, visit.own, role(track.anatomy, track.name) or ""
    heads = "(group member)" if "member" in factors(axes) else "group" if "group" in factors(axes) else "head"
    fused, column = FUSED in factors(axes), "model" if "model" in factors(axes) else "1"
    known = {name: sizes[name] for name in factors(axes) if name in sizes}
    turned = rearrange(array, f"{axes} -> {f'{FUSED} ' if fused else ''}{heads} dim {column}", **known)
    yield from zip(letters, turned, strict=True) if fused else [(letters, turned)]
