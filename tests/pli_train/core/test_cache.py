import numpy as np
import pytest

from pli_train.core import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
def test_an_array_comes_back_to_the_bit(dtype):
    array = np.random.default_rng(0).normal(size=(3, 2)).astype(dtype)
    cache.put_array("some/name", array, dtype)
    for shape in ((3, 2), (-1, 2)):
        found = cache.get_array("some/name", shape, dtype)
        assert found.dtype == dtype and np.array_equal(found, array)


def test_an_array_of_another_shape_or_damaged_is_none(folder):
    assert cache.get_array("some/name", (3, 2)) is None
    cache.put_array("some/name", np.zeros((3, 2)))
    assert cache.get_array("some/name", (3, 3)) is None and cache.get_array("some/name", (-1, 4)) is None
    path = folder / "some" / "name"
    path.write_bytes(path.read_bytes()[:-8])
    assert cache.get_array("some/name", (-1, 1)) is None


def test_a_cache_that_cannot_be_written_is_no_error(folder):
    (folder / "some").write_text("a file where a folder would be")
    cache.put_array("some/name", np.zeros(2))
    assert cache.get_array("some/name", (2,)) is None
