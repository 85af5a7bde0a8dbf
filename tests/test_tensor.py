"""The tensor object: interchange, printing, copying, truth, identity, views and versions."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

import pydlx as T

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


# ---- NumPy, DLPack, buffers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_shares_memory_both_ways(dtype):
    a = np.arange(12).reshape(3, 4).astype(dtype)
    t = T.from_numpy(a)
    assert str(t.dtype) == f"pydlx.{dtype}"
    assert np.shares_memory(t.numpy(), a)
    a[1, 2] = 0
    assert np.array_equal(t.numpy(), a)
    back = t.t().numpy()
    assert back.strides == a.T.strides
    assert back.base is not None


def test_numpy_memory_outlives_either_side():
    a = np.ones(1000)
    t = T.from_numpy(a)
    del a
    gc.collect()
    assert t.sum().item() == 1000
    view = T.ones(1000).numpy()
    gc.collect()
    T.zeros(1000)
    assert view.sum() == 1000


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.ones(3)[::-1], "non-negative strides"),
        (np.ones(3, dtype=complex), "expected bool"),
        (np.array(["a"]), "expected bool"),
        (np.ones(3, dtype=">f4"), "native byte order"),
        (np.frombuffer(b"\0" * 33, dtype=np.uint8)[1:].view(np.float32), "aligned"),
    ],
)
def test_arrays_that_cannot_be_shared_are_refused(array, match):
    with pytest.raises((ValueError, TypeError), match=match):
        T.from_numpy(array)


def test_read_only_memory_is_respected():
    a = np.ones(3)
    a.flags.writeable = False
    t = T.from_numpy(a)
    with pytest.raises(RuntimeError, match="read-only"):
        t.add_(1)
    assert not t.numpy().flags.writeable
    assert (t + 1).sum().item() == 6


def test_numpy_operands_and_conversion():
    t = T.ones(3)
    assert isinstance(np.float32(2) * t, T.Tensor)
    assert (t * np.float64(2)).dtype == T.float32
    assert np.asarray(t).dtype == np.float32
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    with pytest.raises(RuntimeError, match="detach"):
        T.ones(3, requires_grad=True).numpy()
    with pytest.raises(TypeError, match="bfloat16"):
        T.ones(3).bfloat16().numpy()


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_dlpack_round_trip_with_torch(dtype):
    t = T.ones(3, 4).to(getattr(T, dtype))
    theirs = torch.from_dlpack(t)
    assert theirs.dtype == getattr(torch, dtype)
    assert theirs.data_ptr() == t.data_ptr()
    back = T.from_dlpack(theirs.t())
    assert back.data_ptr() == t.data_ptr()
    assert tuple(back.shape) == (4, 3)
    assert back.dtype == t.dtype


def test_dlpack_capsules_are_consumed_once_and_freed():
    t = T.ones(1 << 16)
    before = T.memory_stats()["in_use"]
    capsule = T.ones(1 << 16).__dlpack__()
    made = T.from_dlpack(capsule)
    assert made.sum().item() == 1 << 16
    with pytest.raises(ValueError, match="consumed already"):
        T.from_dlpack(capsule)
    del made, capsule
    unused = t.__dlpack__(max_version=(1, 0))
    del unused
    gc.collect()
    assert T.memory_stats()["in_use"] <= before
    with pytest.raises(TypeError, match="expected an object"):
        T.from_dlpack(3)
    read_only = np.ones(3)
    read_only.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        T.from_dlpack(T.from_numpy(read_only)).add_(1)


def test_buffer_protocol():
    t = T.tensor([[1.0, 2.0], [3.0, 4.0]])
    view = memoryview(t)
    assert (view.format, view.shape, view.strides, view.readonly) == ("f", (2, 2), (8, 4), False)
    view[1, 0] = 9.0
    assert t[1, 0].item() == 9.0
    t.data = T.zeros(1)  # the exported memory stays alive
    assert view[1, 0] == 9.0
    with pytest.raises(BufferError, match="detach"):
        memoryview(T.ones(2, requires_grad=True))


# ---- printing ------------------------------------------------------------------------------------------------------------------------

PRINTED = {
    "floats": lambda L: L.tensor([1.5, -2.25, 1e-3]),
    "whole": lambda L: L.tensor([1.0, 2.0, 300.0]),
    "scientific": lambda L: L.tensor([1e-9, 1.0, 1e9]),
    "specials": lambda L: L.tensor([float("nan"), float("inf"), -float("inf"), 1.0]),
    "matrix": lambda L: L.arange(12).reshape(3, 4),
    "cube": lambda L: L.arange(24.0).reshape(2, 3, 4),
    "summary": lambda L: L.arange(2000),
    "matrix summary": lambda L: L.arange(40000).reshape(200, 200),
    "wrapped": lambda L: L.arange(40),
    "bools": lambda L: L.tensor([True, False]),
    "empty": lambda L: L.empty(0),
    "empty matrix": lambda L: L.empty(3, 0),
    "scalar": lambda L: L.tensor(3.5),
    "double": lambda L: L.tensor([1.5], dtype=L.float64),
    "half": lambda L: L.tensor([1.5, 2.0], dtype=L.float16),
    "bytes": lambda L: L.tensor([1, 2], dtype=L.uint8),
    "leaf": lambda L: L.tensor([1.0], requires_grad=True),
    "result": lambda L: L.tensor([1.0], requires_grad=True) * 2,
    "negative": lambda L: L.tensor([[-1.0, 22.5], [333.25, -0.125]]),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printing_matches_pytorch(name):
    make = PRINTED[name]
    assert repr(make(T)).replace("pydlx.", "torch.") == repr(make(torch))


def test_print_options():
    x = [1.23456789, 1e-7]
    for options in ({"precision": 2}, {"sci_mode": False}, {"precision": 6, "sci_mode": True}, {"profile": "short"}):
        T.set_printoptions(profile="default")
        torch.set_printoptions(profile="default")
        T.set_printoptions(**options)
        torch.set_printoptions(**options)
        assert repr(T.tensor(x)) == repr(torch.tensor(x)), options
    T.set_printoptions(profile="default")
    torch.set_printoptions(profile="default")
    assert f"{T.tensor(2.5):.3f}" == "2.500"


# ---- copying and identity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_pickle_and_deepcopy(dtype):
    t = T.arange(6).reshape(2, 3).to(getattr(T, dtype)).t()
    for other in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert other.dtype == t.dtype
        assert other.data_ptr() != t.data_ptr()
        assert (other == t).all()
    empty = pickle.loads(pickle.dumps(T.empty(0, 3, dtype=t.dtype)))
    assert tuple(empty.shape) == (0, 3)


def test_copies_keep_gradients_and_attributes():
    x = T.ones(3, requires_grad=True)
    (x * 2).sum().backward()
    x.note = ["kept"]
    other = copy.deepcopy(x)
    assert other.requires_grad
    assert other.note == ["kept"]
    assert (other.grad == 2).all()
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(x * 2)
    memo = {}
    assert copy.deepcopy([x, x], memo)[0] is copy.deepcopy(x, memo)
    assert pickle.loads(pickle.dumps(T.float32)) is T.float32
    assert pickle.loads(pickle.dumps(T.device("cuda:1"))) == T.device("cuda:1")


def test_identity_hash_and_weak_references():
    x = T.ones(3, requires_grad=True)
    (x * 2).sum().backward()
    assert x.grad is x.grad
    assert len({x, x, T.ones(3)}) == 2
    ref = weakref.ref(x)
    del x
    assert ref() is None


def test_size_is_a_tuple_that_prints_and_slices_like_pytorch():
    ours, theirs = T.empty(2, 3, 4).shape, torch.empty(2, 3, 4).shape
    assert isinstance(ours, tuple) and ours == (2, 3, 4) and hash(ours) == hash((2, 3, 4))
    assert repr(ours) == repr(theirs).replace("torch.", "pydlx.")
    assert (ours[0], ours[-1], ours.numel()) == (theirs[0], theirs[-1], theirs.numel())
    for make in (lambda s: s[1:], lambda s: s[::-2], lambda s: s.__add__((5,)), lambda s: s * 2, lambda s: s[3:]):
        assert type(make(ours)) is T.Size and tuple(make(ours)) == tuple(make(theirs))
    for copied in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), T.Size([2, 3, 4])):
        assert type(copied) is T.Size and copied == ours
    assert T.Size().numel() == 1 and T.empty(()).shape == T.Size([])
    with pytest.raises(TypeError, match=r"\[Size\] sizes: expected integers, got float at position 1"):
        T.Size([1, 2.5])
    with pytest.raises(IndexError):
        ours[3]


def test_truth_and_numbers():
    assert T.tensor([2.0])
    assert not T.tensor(0)
    with pytest.raises(ValueError, match="any.*all"):
        bool(T.ones(2))
    assert int(T.tensor(3.9)) == 3
    assert float(T.tensor(3)) == 3.0
    assert [10, 20, 30][T.tensor(1)] == 20
    with pytest.raises(TypeError, match="index"):
        [1][T.tensor(0.0)]
    assert 2.0 in T.tensor([1.0, 2.0])
    assert [r.item() for r in T.arange(3)] == [0, 1, 2]
    with pytest.raises(TypeError, match="0-d"):
        len(T.tensor(1))
    with pytest.raises(ValueError, match="one element"):
        T.ones(2).item()


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        ([1, 2], "int64"),
        ([1.0, 2], "float32"),
        ([True], "bool"),
        (3, "int64"),
        ([[1], [2.5]], "float32"),
        ([], "float32"),
    ],
)
def test_tensor_infers_dtypes(data, dtype):
    t, expected = T.tensor(data), torch.tensor(data)
    assert str(t.dtype) == f"pydlx.{dtype}"
    assert tuple(t.shape) == tuple(expected.shape)
    assert t.tolist() == expected.tolist()


@pytest.mark.parametrize("data", [[[1], [1, 2]], [1, [2]], "text", [object()], [None], {"a": 1}])
def test_tensor_refuses_other_data(data):
    with pytest.raises((ValueError, TypeError), match=r"\["):
        T.tensor(data)


def test_promotion_matches_pytorch():
    names = [*DTYPES, "bfloat16"]
    for a in names:
        for b in names:
            ours = T.ones(2, dtype=getattr(T, a)) * T.ones(2, dtype=getattr(T, b))
            theirs = torch.ones(2, dtype=getattr(torch, a)) * torch.ones(2, dtype=getattr(torch, b))
            assert str(ours.dtype)[6:] == str(theirs.dtype)[6:], (a, b)
            zero_d = T.ones(2, dtype=getattr(T, a)) * T.ones((), dtype=getattr(T, b))
            expected = torch.ones(2, dtype=getattr(torch, a)) * torch.ones((), dtype=getattr(torch, b))
            assert str(zero_d.dtype)[6:] == str(expected.dtype)[6:], (a, b)
        for number in (True, 2, 2.5):
            ours, theirs = T.ones(2, dtype=getattr(T, a)) * number, torch.ones(2, dtype=getattr(torch, a)) * number
            assert str(ours.dtype)[6:] == str(theirs.dtype)[6:], (a, number)


def test_views_share_versions():
    x = T.zeros(2, 3)
    v = x[0]
    before = x._version
    v.add_(1)
    assert x._version == v._version == before + 1
    assert v._base is x
    x.data.add_(1)
    assert x._version == before + 1


def test_out_arguments():
    a, b = T.ones(3), T.ones(3)
    out = T.empty(3)
    assert T.add(a, b, out=out) is out
    assert out.tolist() == [2.0] * 3
    T.add(out[:2], out[1:], out=out[1:])  # overlapping memory
    assert out.tolist() == [2.0, 4.0, 4.0]
    grown = T.empty(0)
    T.add(a, b, out=grown)
    assert tuple(grown.shape) == (3,)
    with pytest.raises(ValueError, match="out: expected shape"):
        T.add(a, b, out=T.empty(4))
    with pytest.raises(TypeError, match="out: expected a dtype"):
        T.add(a, b, out=T.empty(3, dtype=T.int64))
    with pytest.raises(RuntimeError, match="out"):
        T.add(a.requires_grad_(True), b, out=out)
    with pytest.raises(RuntimeError, match="distinct in memory"):
        T.ones(1).expand(3).add_(1)
