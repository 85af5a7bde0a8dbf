"""tril_indices and triu_indices against NumPy: every offset of small shapes, and numbers far outside of them."""

import numpy as np
import pytest

import pydlx

LOWER, UPPER = (pydlx.tril_indices, np.tril), (pydlx.triu_indices, np.triu)


@pytest.mark.parametrize(("function", "reference"), [LOWER, UPPER], ids=["lower", "upper"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4)], ids=str)
def test_every_offset(function, reference, shape):
    far = [-(2**63), -(2**62), 2**62, 2**63 - 1]
    for offset in [*range(-max(shape) - 2, max(shape) + 3), *far]:
        got = function(*shape, offset).numpy()
        k = int(np.clip(offset, -100, 100))
        want = np.array(np.nonzero(reference(np.ones(shape), k)))
        assert got.shape == want.shape and got.dtype == np.int64
        np.testing.assert_array_equal(got, want, err_msg=str(offset))


@pytest.mark.parametrize(("function", "reference"), [LOWER, UPPER], ids=["lower", "upper"])
def test_large_with_any_number_of_threads(function, reference):
    want = np.array(np.nonzero(reference(np.ones((700, 300)), -150)))
    before = pydlx.get_num_threads()
    try:
        for threads in (1, 3):
            pydlx.set_num_threads(threads)
            np.testing.assert_array_equal(function(700, 300, -150, dtype=pydlx.int32).numpy(), want)
    finally:
        pydlx.set_num_threads(before)


def test_few_of_a_huge_rectangle():
    """A corner of a shape whose elements no memory would hold."""
    corner = pydlx.tril_indices(2**31, 2**31, 2 - 2**31)
    assert corner.tolist() == [[2**31 - 2, 2**31 - 1, 2**31 - 1], [0, 0, 1]]
    assert pydlx.triu_indices(2, 2**40, 2**40 - 1).tolist() == [[0], [2**40 - 1]]
    assert pydlx.triu_indices(2**62, 1).tolist() == [[0], [0]]
    assert pydlx.tril_indices(2**62, 1, 1 - 2**62).tolist() == [[2**62 - 1], [0]]
    for function in (pydlx.tril_indices, pydlx.triu_indices):
        assert function(0, 2**62, 2**62).shape == (2, 0)
        with pytest.raises(ValueError, match="overflow"):
            function(2**40, 2**40)


HUGE = [(2**31, 2**32 - 1), (2**32 - 1, 2**31), (1, 2**63 - 1), (2**63 - 1, 1)]


@pytest.mark.parametrize(("function", "all_of_it"), [(pydlx.tril_indices, 2**63 - 1), (pydlx.triu_indices, -(2**63))])
@pytest.mark.parametrize("shape", HUGE, ids=str)
def test_more_than_memory_holds(function, all_of_it, shape):
    with pytest.raises(ValueError, match="overflow"):
        function(*shape, all_of_it)
    assert function(*shape, -1 - all_of_it).shape == (2, 0)  # none of it
