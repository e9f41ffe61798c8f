"""Weights at reading speed: the numbers are those of a plain computation in float64, and no file is missed."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from safetensors.numpy import save_file

from pli_analysis import api
from pli_analysis.metrics.drift.displacement import Sums
from pli_analysis.runs.file_reader import Files
from pli_analysis.runs.opening import open_run
from pli_analysis.runs.safetensors_file import locations_of
from pli_analysis.runs.tensor_slices import TensorView
from pli_analysis.weights import blocks, numba_kernel
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.moments import Squares
from pli_analysis.weights.trajectory import TensorTrajectory, Visit
from pli_train.core.anatomy import family
from pli_train.core.errors import BadInput
from tests.drifting import grown

WIDTH, HEADS, VISITS = 512, 4, 7


@pytest.fixture(scope="module")
def kernel():
    return numba_kernel.kernel(numba_kernel.WORTH)


class Written:
    """GPT-2's c_attn in files, and its donor from the third visit on; what they are in float64 too."""

    def __init__(self, folder, dtype=np.float32, scale=1.0):
        random = np.random.default_rng(0)
        self.now = [random.normal(size=(WIDTH, 3 * WIDTH))]
        for _ in range(VISITS - 1):
            self.now.append(self.now[-1] + 1e-3 * random.normal(size=self.now[0].shape))
        self.donors = [None if n < 2 else random.normal(size=self.now[0].shape) for n in range(VISITS)]
        sizes = family("gpt2").sizes({"n_embd": WIDTH, "n_head": HEADS, "n_layer": 1, "n_inner": None})
        straight, visits = tuple((True, n) for n in range(HEADS)), []
        for number, (now, donor) in enumerate(zip(self.now, self.donors, strict=True)):
            path = folder / f"{number}.safetensors"
            arrays = {"now": now} if donor is None else {"now": now, "donor": donor}
            # Of a length that leaves no tensor at a page's begin.
            save_file({"a": np.zeros(4 + number), **{n: (scale * a).astype(dtype) for n, a in arrays.items()}}, path)
            sights = {n: TensorView(position, sizes, HEADS, None) for n, position in locations_of(path).items()}
            more = {} if donor is None else {"donor": sights["donor"], "donor_parts": straight}
            visits.append(Visit(**vars(sights["now"]), number=number, wanted=True, **more))
        self.track = TensorTrajectory(family("gpt2"), "a", "attn.c_attn.weight", tuple(visits))

    def expected(self):
        """(visits, parts, 7)."""

        def squares(array):
            return np.square(array.reshape(WIDTH, 3, HEADS, -1)).sum(axis=(0, 1, 3))

        nothing, count = np.full(HEADS, np.nan), np.full(HEADS, 3 * WIDTH * WIDTH // HEADS)
        return np.array(
            [
                [
                    squares(now),
                    squares(self.now[0]),
                    squares(now - self.now[0]),
                    squares(now - self.now[max(number - 1, 0)]),
                    nothing if donor is None else squares(now - donor),
                    nothing if donor is None else squares(donor),
                    count,
                ]
                for number, (now, donor) in enumerate(zip(self.now, self.donors, strict=True))
            ]
        ).transpose(0, 2, 1)

    def asking(self, wanted):
        """The track when only some visits are asked for."""
        visits = [dataclasses.replace(visit, wanted=visit.number in wanted) for visit in self.track.visits]
        return dataclasses.replace(self.track, visits=tuple(visits))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return Written(tmp_path_factory.mktemp("written"))


def near(numbers):
    """Float32 files: what a rounding of 2⁻²⁵ does to a difference of 1e-3 is a few 1e-5 of it at most."""
    return pytest.approx(numbers, rel=2e-6, nan_ok=True)


@pytest.mark.parametrize("files", [2, 5, 64])
def test_the_compiled_loop_sums_as_float64_does_however_few_files_are_open(written, kernel, files):
    found = np.stack(Sums(written.track, kernel).run(BufferPool(files)))
    assert found == near(written.expected())
    assert np.array_equal(found, np.stack(Sums(written.track, kernel).run(BufferPool(100))), equal_nan=True)
    assert found == pytest.approx(np.stack(Sums(written.track).run(BufferPool(files))), rel=1e-7, nan_ok=True)


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("wanted", [{0}, {6}, {2, 3}, {0, 6}])
def test_what_is_asked_for_is_as_when_all_is(written, kernel, loop, wanted):
    found = Sums(written.asking(wanted), kernel if loop else None).run(BufferPool(64))
    assert len(found) == len(wanted)
    assert np.stack(found) == near(written.expected()[sorted(wanted)])


@pytest.mark.parametrize(("dtype", "scale", "close"), [(np.float64, 1, 1e-12), (np.float16, 1, 1e-3)])
def test_other_types_are_summed_by_numpy(tmp_path, kernel, dtype, scale, close):
    made = Written(tmp_path, dtype, scale)
    assert numba_kernel.sums(made.track, BufferPool(64), kernel) is None
    found = np.stack(Sums(made.track, kernel).run(BufferPool(64)))
    assert found[:, :, :2] == pytest.approx(made.expected()[:, :, :2], rel=close)
    assert found[:, :, 4] == pytest.approx(made.expected()[:, :, 4], rel=close, nan_ok=True)


def test_squares_beyond_float32_are_summed_in_float64(tmp_path, kernel):
    made = Written(tmp_path, scale=1e25)
    assert numba_kernel.sums(made.track, BufferPool(64), kernel) is None
    found = np.stack(Sums(made.track, kernel).run(BufferPool(64)))
    assert found[:, :, :6] == near(made.expected()[:, :, :6] * 1e50)


@pytest.mark.parametrize("loop", [True, False])
def test_a_file_that_was_cut_or_removed_is_reported(tmp_path, kernel, loop):
    made = Written(tmp_path)
    path = made.track.visits[4].position.path
    task, whole = Sums(made.track, kernel if loop else None), path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(BadInput, match=r"4\.safetensors: became shorter while it was read$"):
        task.run(BufferPool(64))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        task.run(BufferPool(64))
    path.mkdir()
    with pytest.raises(BadInput, match=r"4\.safetensors: cannot be read \(Is a directory\)$"):
        task.run(BufferPool(64))


def as_of_gigabytes(run, monkeypatch, cache, kernel, **sizes):
    """Its drift when every tensor goes through the compiled loop, which is told what it was asked."""
    asked = []
    monkeypatch.setenv("PLI_CACHE", str(cache))
    for name, value in {"EXACT": 0, "WORTH": 0, **sizes}.items():
        monkeypatch.setattr(numba_kernel, name, value)
    monkeypatch.setattr(numba_kernel, "compiled", lambda: lambda *message: (asked.append(message), kernel(*message))[1])
    return api.drift(run, "all"), asked


@pytest.mark.parametrize("model", ["bert", "gpt2", "llama", "modernbert"])
def test_drift_of_gigabytes_is_that_of_less(tmp_path, model, monkeypatch, kernel):
    run = open_run(grown(tmp_path / "run", model))
    expected = api.drift(run, "all")
    table, asked = as_of_gigabytes(run, monkeypatch, tmp_path / "cache", kernel, BLOCK=100)
    assert_frame_equal(table, expected, rtol=1e-4, atol=1e-6)
    assert len(asked) > 50 and any((message[2] >= 0).any() for message in asked)


def test_drift_of_a_trained_run_of_gigabytes_is_that_of_less(runs, family, tmp_path, monkeypatch, kernel):
    run = open_run(runs[family])
    expected = api.drift(run, "all")
    table, asked = as_of_gigabytes(run, monkeypatch, tmp_path, kernel)
    assert_frame_equal(table, expected, rtol=1e-4, atol=1e-6)
    assert asked


@given(st.tuples(*[st.integers(0, 9)] * 3), st.integers(1, 40))
def test_blocks_are_a_tensor_cut_in_stretches(folds, most):
    owners = np.broadcast_to(np.arange(folds[1])[:, None], folds).ravel()
    at = 0
    for block in blocks.blocks(folds, most):
        assert block.start == at and 0 < block.size <= max(most, 1)
        own = np.broadcast_to(np.arange(block.folds[1])[:, None] + block.part, block.folds).ravel()
        assert (own == owners[at : at + block.size]).all()
        at += block.size
    assert at == math.prod(folds)


FOLDS = [(1, 1, 300_000), (1, 12, 20_001), (97, 12, 64 * 3), (300_000, 1, 1)]


@pytest.mark.parametrize("folds", FOLDS)
def test_long_float32_sums_are_those_of_float64(folds):
    random = np.random.default_rng(0)
    birth = random.normal(size=(1, math.prod(folds))).astype(np.float32)
    now = birth + np.float32(1e-3) * random.normal(size=(2, birth.size)).astype(np.float32)
    a, b = (array.astype(np.float64).reshape(-1, *folds) for array in (now, birth))
    squares = Squares(BufferPool())
    exact = np.stack([(a * a).sum((1, 3)), ((a - b) ** 2).sum((1, 3))])
    assert squares(now, [birth], folds) == pytest.approx(exact, rel=1e-7)
    assert squares(now, [birth, now, birth], folds) == pytest.approx(
        exact[[0, 1, 1, 1]] * np.array([1, 1, 0, 1])[:, None, None], rel=1e-7
    )
    assert (squares(now, [now], folds)[1] == 0).all()
    assert squares(now * np.float32(1e25), [], folds) == pytest.approx(exact[:1] * 1e50, rel=1e-5)


@pytest.mark.parametrize("folds", FOLDS)
def test_long_sums_of_the_compiled_loop_are_those_of_float64(folds, kernel, tmp_path):
    """At birth, moved, unmoved, and back at birth; from the second visit on its donor is what it was at birth."""
    random = np.random.default_rng(0)
    birth = random.normal(size=folds).astype(np.float32)
    moved = birth + np.float32(1e-3) * random.normal(size=folds).astype(np.float32)
    sights = []
    for name, array in {"birth": birth, "moved": moved}.items():
        save_file({"x": array}, tmp_path / name)
        sights.append(TensorView(locations_of(tmp_path / name)["x"], {}, 0, None))
    (old, new), more = sights, {"donor": sights[0], "donor_parts": tuple((True, n) for n in range(folds[1]))}
    message = [
        Visit(**vars(view_of), number=n, wanted=True, **(more if n else {}))
        for n, view_of in enumerate([old, new, new, old])
    ]

    class Folded(TensorTrajectory):
        axes = ""

        def folds(self, visit, shape):
            return folds

    a, b = (array.astype(np.float64) for array in (moved, birth))
    of_a, of_b, between = (np.square(array).sum((0, 2)) for array in (a, b, a - b))
    nothing = np.zeros(folds[1])
    found = numba_kernel.sums(Folded(family("gpt2"), "a", "x", tuple(message)), BufferPool(64), kernel)
    expected = [
        [of_b, of_a, of_a, of_b],
        [nothing, between, between, nothing],
        [nothing, between, nothing, between],
        [nothing, between, between, nothing],
        [nothing, of_b, of_b, of_b],
    ]
    assert found == pytest.approx(np.array(expected), rel=1e-7)
    assert (found[np.array(expected) == 0] == 0).all()


def test_the_last_files_asked_for_are_open(tmp_path):
    paths = [tmp_path / str(number) for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number] * 8))
    with Files(3) as files:
        first = [files.handle(path) for path in paths[:3]]
        assert files.handle(paths[0]) == first[0]
        files.handle(paths[3])
        assert files.handle(paths[0]) == first[0] and files.handle(paths[2]) == first[2]
        into = np.zeros(4, np.uint8)
        files.read(paths[1], 4, into)
        assert into.tolist() == [1] * 4
