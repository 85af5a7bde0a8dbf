"""Integers and bools: kernels of their own width against NumPy, and numbers that a dtype cannot hold."""

import numpy as np
import pytest

import pydlx

INTEGERS = ["uint8", "int8", "int16", "int32", "int64"]
SHAPES = [(0,), (1,), (67,), (130, 33), (5, 1031)]


def integers(dtype, shape, seed=0):
    """Numbers of the whole range, its ends among them."""
    range_ = np.iinfo(dtype)
    x = np.random.default_rng(seed).integers(range_.min, range_.max, shape, dtype=dtype, endpoint=True)
    if x.size > 2:
        x.reshape(-1)[[0, -1]] = range_.min, range_.max
    return x


def views(x):
    """The array as a tensor, transposed, and every other element of a wider one."""
    wide = np.repeat(x, 2, -1)
    return [(pydlx.from_numpy(x), x), (pydlx.from_numpy(x).T, x.T), (pydlx.from_numpy(wide)[..., ::2], x)]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_clamp_between_numbers(dtype, isa):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    for shape in SHAPES:
        for t, x in views(integers(dtype, shape)):
            for a, b in [
                (3, 50),
                (50, 3),
                (low, high),
                (None, 7),
                (7, None),
                (low - 1, 9),
                (9, high + 1),
                (high, high),
                (True, 7),
            ]:
                if dtype == "int64" and (a, b) in ((low - 1, 9), (9, high + 1)):
                    continue  # no Python number that fits 64 bits
                want = x if a is None else np.maximum(x, np.array(max(a, low), dtype))
                want = want if b is None else np.minimum(want, np.array(min(b, high), dtype))
                np.testing.assert_array_equal(t.clamp(a, b).numpy(), want, err_msg=f"{shape} {a} {b}")
                written = t.clone().clamp_(a, b)
                assert written.dtype == t.dtype
                np.testing.assert_array_equal(written.numpy(), want)
    wide = pydlx.tensor([2**62 + 1, 2**62 + 3])
    assert wide.clamp(2**62 + 2).tolist() == [2**62 + 2, 2**62 + 3]  # no detour over a double
    assert pydlx.tensor([1, 9], dtype=pydlx.int32).clamp(1.5, 8).tolist() == [1.5, 8]


def test_clamp_compares_in_the_result_dtype():
    """-1 is no uint8, but a float32 beside an infinite bound and an int16 in a tensor."""
    x = pydlx.tensor([0, 6, 255], dtype=pydlx.uint8)
    assert x.clamp(-1, float("inf")).tolist() == [0.0, 6.0, 255.0]
    assert x.clamp(min=-1.5).tolist() == [0.0, 6.0, 255.0]
    assert x.clamp(pydlx.tensor([-1] * 3, dtype=pydlx.int16)).tolist() == [0, 6, 255]


def test_ldexp_beyond_the_range_of_powers():
    """The scaled number is representable where the power of two is not; NumPy has the C library's."""
    for dtype in ("float32", "float64"):
        info = np.finfo(dtype)
        x = np.array([info.smallest_subnormal, info.max, 1.0, -3.0, 0.0, np.inf, 1.1], dtype)
        for n in (-5000, -1100, -1050, -300, -150, -1, 0, 7, 149, 277, 1000, 2097, 5000):
            with np.errstate(over="ignore", under="ignore"):
                want = np.ldexp(x, n)
            got = pydlx.ldexp(pydlx.from_numpy(x), pydlx.tensor([n])).numpy()
            np.testing.assert_array_equal(got, want, err_msg=f"{dtype} {n}")
    x = pydlx.tensor([1.5, 2.5]).requires_grad_()
    pydlx.ldexp(x, pydlx.tensor([3, -2])).sum().backward()
    assert x.grad.tolist() == [8.0, 0.25]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_extrema(dtype, isa):
    for shape in SHAPES[1:]:
        for t, x in views(integers(dtype, shape, 1)):
            for axis in (None, *range(x.ndim)):
                np.testing.assert_array_equal(t.amax(axis if axis is not None else ()).numpy(), x.max(axis))
                np.testing.assert_array_equal(t.amin(axis if axis is not None else ()).numpy(), x.min(axis))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_sums_wrap_around(dtype, isa):
    for shape in SHAPES:
        for t, x in views(integers(dtype, shape, 2)):
            for axis in (None, *range(x.ndim)):
                got = t.sum() if axis is None else t.sum(axis)
                np.testing.assert_array_equal(got.numpy(), x.sum(axis, dtype="int64"))
                got = t.prod() if axis is None else t.prod(axis)
                np.testing.assert_array_equal(got.numpy(), x.prod(axis, dtype="int64"))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts_of_any_count(dtype, isa):
    """Counts below 0 or of the width and more leave nothing, or the sign."""
    bits, x = 8 * np.dtype(dtype).itemsize, integers(dtype, (67,), 3)
    for n in (-1, 0, 1, bits - 1, bits, bits + 1, 100):
        if n < np.iinfo(dtype).min:
            continue
        inside = 0 <= n < bits
        left = np.array([(int(v) << n) % 2**bits if inside else 0 for v in x], f"uint{bits}").astype(dtype)
        right = np.array([int(v) >> n if inside else -int(v < 0) for v in x], dtype)
        for count in (n, pydlx.full((67,), n, dtype=getattr(pydlx, dtype))):
            np.testing.assert_array_equal((pydlx.from_numpy(x) << count).numpy(), left, err_msg=f"<< {n}")
            np.testing.assert_array_equal((pydlx.from_numpy(x) >> count).numpy(), right, err_msg=f">> {n}")


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "float32"])
def test_logic(dtype, isa):
    generator = np.random.default_rng(4)
    x, y = (generator.integers(0, 3, (7, 131)).astype(dtype) for _ in "xy")
    a, b = pydlx.from_numpy(x), pydlx.from_numpy(y)
    for name in ("logical_and", "logical_or", "logical_xor"):
        for s, t, u, v in ((a, b, x, y), (a.T, b.T, x.T, y.T), (a[:, ::2], b[:, ::2], x[:, ::2], y[:, ::2])):
            got = getattr(pydlx, name)(s, t)
            assert got.dtype == pydlx.bool
            np.testing.assert_array_equal(got.numpy(), getattr(np, name)(u, v))
    np.testing.assert_array_equal(pydlx.logical_not(a).numpy(), np.logical_not(x))
    np.testing.assert_array_equal(pydlx.maximum(a, b).numpy(), np.maximum(x, y))
    np.testing.assert_array_equal(pydlx.minimum(a[:, ::2], b[:, ::2]).numpy(), np.minimum(x, y)[:, ::2])


def test_bytes_that_are_true():
    """Any byte but 0 is true, whatever made it."""
    raw = np.arange(200, dtype="uint8")
    t, x = pydlx.from_numpy(raw).view(pydlx.bool), raw != 0
    other = pydlx.from_numpy(raw[::-1].copy()).view(pydlx.bool)
    for name in ("logical_and", "logical_or", "logical_xor", "maximum", "minimum"):
        np.testing.assert_array_equal(
            getattr(pydlx, name)(t, other).numpy(), getattr(np, name)(x, x[::-1]), err_msg=name
        )
    np.testing.assert_array_equal(pydlx.logical_not(t).numpy(), ~x)


# How a number gets into a tensor of the dtype, and the name in the message.
WRITES = {
    "full": lambda dtype, v: pydlx.full((3,), v, dtype=dtype),
    "full_like": lambda dtype, v: pydlx.full_like(pydlx.zeros(3), v, dtype=dtype),
    "new_full": lambda dtype, v: pydlx.zeros(3).new_full((3,), v, dtype=dtype),
    "scalar_tensor": lambda dtype, v: pydlx.scalar_tensor(v, dtype=dtype),
    "fill_": lambda dtype, v: pydlx.zeros(3, dtype=dtype).fill_(v),
    "setitem": lambda dtype, v: pydlx.zeros(3, dtype=dtype).__setitem__(slice(None), v),
    "setitem mask": lambda dtype, v: pydlx.zeros(3, dtype=dtype).__setitem__(pydlx.tensor([True, False, True]), v),
    "setitem index": lambda dtype, v: pydlx.zeros(3, dtype=dtype).__setitem__([0, 1], v),
    "where": lambda dtype, v: pydlx.where(pydlx.tensor([True]), pydlx.zeros(3, dtype=dtype), v),
    "masked_fill": lambda dtype, v: pydlx.zeros(3, dtype=dtype).masked_fill(pydlx.tensor([True]), v),
    "masked_fill_": lambda dtype, v: pydlx.zeros(3, dtype=dtype).masked_fill_(pydlx.tensor([True]), v),
    "index_fill": lambda dtype, v: pydlx.zeros(3, dtype=dtype).index_fill(0, pydlx.tensor([0]), v),
    "scatter": lambda dtype, v: pydlx.zeros(3, dtype=dtype).scatter(0, pydlx.tensor([0]), v),
    "fill_diagonal_": lambda dtype, v: pydlx.zeros(3, 3, dtype=dtype).fill_diagonal_(v),
    "pad": lambda dtype, v: pydlx.nn.functional.pad(pydlx.zeros(3, dtype=dtype), (1, 1), value=v),
}
UNFIT = [
    ("uint8", 256),
    ("uint8", -256),
    ("int8", 128),
    ("int16", -32769),
    ("int32", 2**31),
    ("float16", 1e6),
    ("float32", 1e39),
]
FIT = [
    ("uint8", -1),
    ("uint8", 255),
    ("int8", -128),
    ("int32", -(2**31)),
    ("float16", -65504.0),
    ("float16", float("inf")),
    ("bfloat16", -1e9),
]


@pytest.mark.parametrize("how", WRITES)
def test_numbers_that_do_not_fit_are_refused(how):
    for dtype, value in UNFIT:
        with pytest.raises(ValueError, match=rf"\[{how.split()[0]}\] \w+: expected a number that fits {dtype}"):
            WRITES[how](getattr(pydlx, dtype), value)
    for dtype, value in FIT:
        WRITES[how](getattr(pydlx, dtype), value)


@pytest.mark.parametrize("how", [how for how in WRITES if how != "where"])
def test_whole_numbers_may_be_floats(how):
    WRITES[how](pydlx.uint8, 7.0)
    WRITES[how](pydlx.int64, -0.0)
    with pytest.raises(ValueError, match="expected a number that fits uint8, got -1"):
        WRITES[how](pydlx.uint8, -1.0)


def test_numbers_that_no_integer_holds():
    for value in (float("nan"), float("inf"), 1e30):
        with pytest.raises(ValueError, match="expected a number that fits int32"):
            pydlx.zeros(3, dtype=pydlx.int32).fill_(value)
    for low, high in ((300, None), (None, -1), (256, 300)):
        with pytest.raises(ValueError, match=r"\[clamp_?\] (min|max): expected a number that fits uint8"):
            pydlx.zeros(3, dtype=pydlx.uint8).clamp(low, high)


def test_powers_that_do_not_fit():
    """256 would wrap to 0, and x to the 0 is 1."""
    with pytest.raises(ValueError, match=r"\[pow\] exponent: expected a number that fits uint8, got 256"):
        pydlx.tensor([3], dtype=pydlx.uint8) ** 256


def test_bools_take_any_number():
    mask = pydlx.tensor([True, False])
    assert mask.masked_fill(mask, 0).tolist() == [False, False]
    assert mask.masked_fill(~mask, 2.5).tolist() == [True, True]
    assert pydlx.nn.functional.pad(mask, (1, 1), value=0.5).tolist() == [True, True, False, True]
    assert mask.clone().fill_(7).tolist() == [True, True]
    assert pydlx.full((2,), 300, dtype=pydlx.bool).tolist() == [True, True]


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS])
def test_reductions_to_a_dtype(dtype):
    """Summed in 64 bits, and given in the dtype that was asked for."""
    x = np.random.default_rng(5).integers(-300, 300, (7, 33))
    t, wanted = pydlx.from_numpy(x), getattr(pydlx, dtype)
    for name in ("sum", "nansum", "prod"):
        for axis in (0, 1):
            got = getattr(t, name)(axis, dtype=wanted)
            assert got.dtype == wanted, name
            as_asked = x.astype(dtype)
            want = (as_asked.prod(axis) if name == "prod" else as_asked.sum(axis)).astype(dtype)
            np.testing.assert_array_equal(got.numpy(), want, err_msg=name)
