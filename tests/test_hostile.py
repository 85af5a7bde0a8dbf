"""What a hostile caller does between the checks: Python code that runs inside an operation, memory that changes behind its back, geometry
that no longer matches, numbers that make loops endless. Nothing here may crash, hang or read beyond a tensor."""

import contextlib
import copy
import pickle
import threading
import types

import numpy as np
import pytest
import torch

import pydlx as T
from pydlx.nn import functional as F

# ---- Python code that runs while arguments are read ------------------------------------------------------------------------------------


class Index:
    """An integer whose __index__ does something first."""

    def __init__(self, value, action):
        self.value, self.action = value, action

    def __index__(self):
        self.action()
        return self.value


@pytest.mark.parametrize(
    "make_key", [lambda i: (3, slice(i, None), 5), lambda i: (slice(None, None, i), 9), lambda i: (i, 9, 9)]
)
def test_a_tensor_that_shrinks_while_its_index_is_read(make_key):
    x = T.arange(1000.0).reshape(10, 10, 10)

    def shrink():
        x.data = T.zeros(1)

    with pytest.raises(IndexError):
        x[make_key(Index(5, shrink))]
    x = T.arange(1000.0).reshape(10, 10, 10)
    with pytest.raises(IndexError):
        x[make_key(Index(5, shrink))] = 1.0


def test_lists_that_shrink_while_they_are_read():
    sizes = [2] * 200
    sizes[0] = Index(3, sizes.clear)
    assert T.zeros(sizes).shape == (3,)
    sizes = [2, 2]
    sizes[0] = Index(3, sizes.clear)
    with pytest.raises(ValueError, match="output_size"):
        F.adaptive_avg_pool2d(T.ones(1, 1, 4, 4), sizes)


def test_errors_raised_while_arguments_are_read_reach_the_caller():
    class Flag(int):
        def __bool__(self):
            raise KeyError("flag")

    with pytest.raises(KeyError, match="flag"):
        T.ones(3).sum(0, Flag(1))

    class Odd:
        dtype, ndim = "float32", 10**40

        def item(self):
            return 3.0

    with pytest.raises(TypeError):
        T.ones(2) + Odd()
    for call in (T.ones(3).sum, T.add):
        with pytest.raises(TypeError):
            call(**{"\ud800": 1})


@pytest.mark.parametrize(
    "name", ["_to_dlpack", "_to_numpy", "_add_hook", "_remove_hook", "_retain_grad", "_add_post_accumulate_hook"]
)
def test_none_is_not_a_tensor(name):
    with pytest.raises(TypeError):
        getattr(T._C, name)(None, *[None] * {"_to_dlpack": 2, "_retain_grad": 0}.get(name, 1))


def test_none_is_not_a_tensor_on_a_device_either():
    for function in (T._C._cuda.pin_memory, T._C._cuda.is_pinned):
        with pytest.raises(TypeError):
            function(None)


def test_objects_cannot_be_made_without_their_content():
    for cls in (T.dtype, T._C.Node):
        with pytest.raises(TypeError):
            cls.__new__(cls)


CLASSES = sorted(
    {
        value
        for module in (T._C, *(m for m in vars(T._C).values() if isinstance(m, types.ModuleType)))
        for value in vars(module).values()
        if isinstance(value, type)
    },
    key=lambda cls: cls.__name__,
)


def subclass(cls):
    """A class whose instances never see the base class's __init__."""
    try:
        return type("Mine", (cls,), {"__init__": lambda self, *args: None, "__slots__": ()})
    except TypeError:  # final
        return cls


@pytest.mark.parametrize("bound", CLASSES, ids=lambda cls: cls.__name__)
def test_objects_made_without_init_do_no_harm(bound):
    """Whatever is called on them: an ordinary exception or a result."""
    for cls in (bound, subclass(bound)):
        try:
            made = cls.__new__(cls)
        except TypeError:
            continue
        for method in set(dir(cls)) - {"__class__", "__subclasshook__", "__init_subclass__"}:
            with contextlib.suppress(Exception):
                value = getattr(made, method)
                for args in ((), (1,), (made,), ("cpu",), (4,), (None, None)):
                    with contextlib.suppress(Exception):
                        value(*args)
        for call in (repr, hash, copy.copy, copy.deepcopy, pickle.dumps, len, iter, float):
            with contextlib.suppress(Exception):
                call(made)
        for call in (
            lambda x: T.ones(2, device=x),
            lambda x: T.ones(2, dtype=x),
            lambda x: T.rand(2, generator=x),
            lambda x: T.ones(x),
            lambda x: T.ones(2) + x,
            lambda x: T.ones(2).to(x),
        ):
            with contextlib.suppress(TypeError, ValueError, RuntimeError, NotImplementedError):
                call(made)
    assert (T.ones(2) + 1).tolist() == [2.0, 2.0]  # the process stays usable


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_integers_wrap_around(dtype, isa):
    """Sums and products beyond the range, as in NumPy; under the sanitizers signed overflow would end the process."""
    info = np.iinfo(dtype)
    values = np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3], dtype)
    a, b = np.repeat(values, len(values)), np.tile(values, len(values))
    x, y = T.from_numpy(a), T.from_numpy(b)
    with np.errstate(all="ignore"):
        for got, want in (
            (x + y, a + b),
            (x - y, a - b),
            (x * y, a * b),
            (T.addcmul(x, y, x, value=3), a + np.array(3, dtype) * b * a),
            (-x, np.negative(a)),
            (x.abs(), np.abs(a)),
            (x.square(), a * a),
        ):
            np.testing.assert_array_equal(got.numpy(), want)


def test_bases_of_bound_classes_cannot_be_instantiated():
    for cls in (T.Generator, T.device, T.dtype, T._C.Node):
        with pytest.raises(TypeError):
            cls.__mro__[1]()
    for protocol in (0, 1):
        with contextlib.suppress(TypeError):
            T.Generator().__reduce_ex__(protocol)


def test_generators_copy_with_their_state():
    g = T.Generator().manual_seed(5)
    T.rand(3, generator=g)
    twins = [copy.copy(g), copy.deepcopy(g), pickle.loads(pickle.dumps(g))]
    expected = T.rand(4, generator=g).tolist()
    assert [T.rand(4, generator=t).tolist() for t in twins] == [expected] * 3


# ---- gradients that do not fit ---------------------------------------------------------------------------------------------------------


def normalised():
    x = T.randn(4, 1000, requires_grad=True)
    weight = T.ones(1000, requires_grad=True)
    return x, weight, F.layer_norm(x * 1, (1000,), weight)


@pytest.mark.parametrize(
    "change", [lambda g: g[:1, :1].clone(), lambda g: g.to(T.uint8), lambda g: g.double(), lambda g: g.sum()]
)
def test_hooks_may_not_change_the_shape_or_dtype_of_a_gradient(change):
    x, _, y = normalised()
    y.register_hook(change)
    with pytest.raises(T.GradientError, match="expected a gradient"):
        y.sum().backward()
    x, _, y = normalised()
    y.grad_fn.register_prehook(lambda grads: (change(grads[0]),))
    with pytest.raises(T.GradientError, match="expected gradients"):
        y.sum().backward()
    x = T.randn(4, 1000, requires_grad=True)
    x.register_hook(change)
    with pytest.raises(T.GradientError, match="expected a gradient"):
        (x * 2).sum().backward(inputs=[x])


def test_a_node_hook_may_not_return_gradients_that_do_not_fit_the_inputs():
    x, _, y = normalised()
    z = y * 2
    z.grad_fn.register_hook(lambda inputs, outputs: tuple(None if g is None else g[:1, :1].clone() for g in inputs))
    with pytest.raises(T.GradientError, match="layer_norm"):
        z.sum().backward()


def test_hooks_may_register_hooks():
    x = T.ones(3, requires_grad=True)
    y = x * 2
    node, seen = y.grad_fn, []

    def more(*_):
        seen.append(1)
        for _ in range(200):
            node.register_hook(lambda *_: None)
            node.register_prehook(lambda *_: None)

    node.register_prehook(more)
    node.register_hook(more)
    y.sum().backward()
    assert len(seen) == 2
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_results_of_recorded_operations_keep_their_geometry():
    _, _, y = normalised()
    for data in (T.zeros(1), T.zeros(4, 1000, dtype=T.float64), T.zeros(1000, 4)):
        with pytest.raises(T.GradientError, match="data"):
            y.data = data
    y.data = T.zeros(4, 1000)
    with T.no_grad(), pytest.raises(T.GradientError, match="transpose_"):
        y.transpose_(0, 1)
    empty = F.layer_norm(T.ones(0, 3, requires_grad=True), (3,))
    with T.no_grad(), pytest.raises(ValueError, match="out"):
        T.add(T.ones(5), 1, out=empty)


@pytest.mark.parametrize("data", [T.zeros(1), T.zeros(1000, dtype=T.float16), T.zeros(2000)[::2]])
def test_a_leaf_that_is_given_other_data_before_backward(data):
    x, weight, y = normalised()
    weight.data = data
    if data.shape == (1000,) and data.dtype == T.float32:  # the new values are used, as in PyTorch
        y.sum().backward()
        assert float(x.grad.abs().max()) == 0.0
    else:
        with pytest.raises(T.GradientError, match="another shape or dtype"):
            y.sum().backward()


def test_indices_changed_in_place_are_noticed():
    def cases(x):
        yield x.topk(2)
        yield x.sort()
        yield x.max(0)
        yield x.median(0)
        yield x.cummax(0)
        yield F.max_pool1d(x[None, None], 2, return_indices=True)

    for k in range(6):
        x = T.arange(6.0, requires_grad=True)
        values, index = list(cases(x * 1))[k]
        index.zero_()
        with pytest.raises(T.GradientError, match="modified by an in-place operation: (zero_|copy_)"):
            values.sum().backward()


def test_class_weights_changed_in_place_are_noticed():
    for loss in (F.cross_entropy, F.nll_loss):
        x, weight = T.randn(4, 3, requires_grad=True), T.ones(3)
        value = loss(x, T.tensor([0, 1, 2, 0]), weight=weight)
        weight.mul_(100)
        with pytest.raises(T.GradientError, match="in-place"):
            value.backward()


def test_indices_changed_through_numpy_do_not_leave_the_tensor():
    at = np.zeros(10, np.int64)
    x = T.randn(5, 4, requires_grad=True)
    for y in (x[T.from_numpy(at)], F.embedding(T.from_numpy(at), x), x.gather(0, T.from_numpy(at[:, None] + 0))):
        at[:] = 10**9
        with contextlib.suppress(IndexError):
            y.sum().backward()
        at[:] = 0
    y, index = F.max_pool1d(x[None], 2, return_indices=True)
    index.numpy()[:] = 10**10
    with pytest.raises(IndexError):
        y.sum().backward()


def test_the_name_of_a_custom_function_outlives_it():
    class Doubles(T.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = T.ones(3, requires_grad=True)
    y = x * 1
    kept = y * y  # saves y, which is then changed
    z = Doubles.apply(y)
    del z, y
    with pytest.raises(T.GradientError, match="Doubles"):
        kept.sum().backward()
    with pytest.raises(T.GradientError, match="leaf"):
        Doubles.apply(x)


def test_long_chains_of_gradients_need_no_stack():
    before = T.memory_stats()["in_use"]
    chain = None
    for _ in range(300_000):
        t = T.zeros(8)
        t.grad = chain
        chain = t
    assert T.memory_stats()["in_use"] > before
    del chain, t
    assert T.memory_stats()["in_use"] == before


def test_concurrent_backward_passes_add_up():
    x = T.zeros(400_000, requires_grad=True)

    def work():
        for _ in range(10):
            (x * 1).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert (x.grad == 40).all()


# ---- memory that is not what it should be -----------------------------------------------------------------------------------------------


def test_bools_of_any_byte():
    for mask in (
        T.from_numpy(np.full(5000, 255, np.uint8).view(np.bool_)),
        T.full((5000,), 2, dtype=T.uint8).view(T.bool),
    ):
        mask[::2] = False
        x = T.arange(5000.0)
        assert T.nonzero(mask).flatten().tolist() == list(range(1, 5000, 2))
        assert x[mask].tolist() == x[1::2].tolist()
        assert T.where(mask, x, -x)[:4].tolist() == [0.0, 1.0, -2.0, 3.0]
        assert x.masked_fill(mask, 7.0)[:4].tolist() == [0.0, 7.0, 2.0, 7.0]


def test_masks_that_change_while_they_are_read():
    mask = T.zeros(400_000, dtype=T.bool)
    bytes_of = mask.numpy()
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            bytes_of[:] = ~bytes_of

    thread = threading.Thread(target=flip)
    thread.start()
    x = T.ones(400_000)
    try:
        for _ in range(50):
            picked = x[mask]
            assert picked.ndim == 1 and picked.numel() <= x.numel()
    finally:
        stop.set()
        thread.join()


def test_indices_that_change_while_they_are_read():
    at = np.zeros((2, 400_000), np.int64)
    stop = threading.Event()

    def jump():
        while not stop.is_set():
            at[:] = 10**15
            at[:] = 0

    thread = threading.Thread(target=jump)
    thread.start()
    x, index = T.ones(1000, 3), T.from_numpy(at)
    first, second = index
    calls = [
        lambda: x[first],
        lambda: x[first, second],
        lambda: x.index_add(0, first, T.ones(400_000, 3)),
        lambda: x.gather(0, first[:, None]),
        lambda: T.searchsorted(x[:, 0], T.ones(100_000), sorter=first[:1000]),
    ]
    try:
        for _ in range(100):
            for call in calls:
                with contextlib.suppress(IndexError):
                    call()
    finally:
        stop.set()
        thread.join()
    assert x.sum().item() == 3000  # nothing was written where it does not belong


def test_threads_with_little_stack():
    before = threading.stack_size(256 * 1024)
    done = []
    try:
        x = T.ones(100_000, 7)

        def work():
            done.append((x.sum(0).tolist(), x.std(0)[0].item(), x.argmax(0)[0].item(), (x.T @ x)[0, 0].item()))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done == [([1e5] * 7, 0.0, 0, 1e5)]


def test_history_of_views_on_memory_with_gaps():
    def program(lib):
        a = lib.from_numpy(np.arange(24.0).reshape(4, 6)[:, ::2])
        w = lib.ones(3, dtype=lib.float64, requires_grad=True)
        a[1:2].mul_(w)
        a[0].add_(w)
        (a * a).sum().backward()
        return w.grad.numpy()

    np.testing.assert_allclose(program(T), program(torch))


def test_unaligned_memory_is_refused():
    raw = np.zeros(41, np.uint8)[1:].view(np.float32)
    if raw.ctypes.data % 4 == 0:
        pytest.skip("the allocator gave an odd address")
    for make in (T.from_numpy, T.from_dlpack):
        with pytest.raises(ValueError, match="aligned"):
            make(raw)
    assert T.tensor(raw).sum().item() == 0.0
    fields = np.zeros(3, [("x", "<f8"), ("y", "<i4")])["x"]
    assert T.tensor(fields).shape == T.as_tensor(fields[::-1]).shape == (3,)
    with pytest.raises(ValueError, match="aligned"):
        T.from_numpy(raw.view(np.uint8)).view(T.float32)


def test_buffers_are_given_in_the_order_that_was_asked_for():
    x = T.arange(12.0).reshape(3, 4)
    assert np.asarray(memoryview(x.t())).flags.f_contiguous
    testbuffer = pytest.importorskip("_testbuffer")
    assert testbuffer.ndarray(x.t(), getbuf=testbuffer.PyBUF_F_CONTIGUOUS).strides == (4, 16)
    for flags in (testbuffer.PyBUF_F_CONTIGUOUS, testbuffer.PyBUF_F_CONTIGUOUS | testbuffer.PyBUF_FORMAT):
        with pytest.raises(BufferError, match="column-major"):
            testbuffer.ndarray(x, getbuf=flags)
    with pytest.raises(BufferError, match="contiguous"):
        testbuffer.ndarray(x[:, ::2], getbuf=testbuffer.PyBUF_ANY_CONTIGUOUS)


# ---- numbers that make loops endless and products overflow ------------------------------------------------------------------------------


def test_windows_far_longer_than_the_input_take_no_time():
    x = T.tensor([[[1.0, 5.0, 3.0, 2.0]]])
    assert F.max_pool1d(x, 2**39, padding=2**38).tolist() == [[[5.0]]]
    assert F.max_pool1d(x, 2, stride=2**63 - 1).tolist() == [[[5.0]]]
    assert F.max_pool1d(x, 1, dilation=2**63 - 1).tolist() == x.tolist()
    assert F.avg_pool1d(x, 2**39, padding=2**38, count_include_pad=False).tolist() == [[[2.75]]]


def test_steps_that_are_never_taken_may_be_of_any_length():
    x = T.arange(6.0).reshape(1, 1, 2, 3)
    for step in (2**62, 2**63 - 1):
        assert F.unfold(x, (2, 1), stride=step).tolist() == [[[0.0], [3.0]]]
        assert F.unfold(x, (1, 3), stride=step, dilation=(step, 1)).tolist() == [[[0.0], [1.0], [2.0]]]


def test_gradients_of_windows_on_one_element():
    x = T.ones(3, requires_grad=True)
    x.as_strided((3000, 3000, 2), (0, 0, 1)).sum().backward()
    assert x.grad.tolist() == [9e6, 9e6, 0.0]
    x.grad = None
    (g,) = T.autograd.grad((x.as_strided((2, 3, 2), (1, 0, 1)) ** 2).sum(), x, create_graph=True)
    g.sum().backward()
    assert g.tolist() == [6.0, 12.0, 6.0]
    assert x.grad.tolist() == [6.0, 12.0, 6.0]


def test_differences_of_absurd_order():
    assert T.diff(T.arange(4.0), n=10**12).shape == (0,)


def test_sizes_beside_zero_must_fit_too():
    for make in (T.empty, T.zeros, T.ones):
        with pytest.raises(ValueError, match="overflows"):
            make(0, 2**62, 4)
    assert T.eye(0, 2**63 - 1).shape == (0, 2**63 - 1)


def test_a_nan_bound_makes_everything_nan():
    x, nan = T.tensor([1.0, 2.0]), float("nan")
    for low, high in (
        (nan, None),
        (None, nan),
        (0.0, nan),
        (T.tensor(nan), None),
        (T.tensor([nan, nan]), T.tensor([3.0, 3.0])),
    ):
        assert T.isnan(T.clamp(x, low, high)).all()
        assert T.isnan(x.clone().clamp_(low, high)).all()
