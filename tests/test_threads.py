"""Tensors that get other memory or another shape while operations of other threads are in the middle of a kernel."""

import sys
import threading

import pytest

import pydlx as T
from pydlx.nn import functional as F


def beside(work, change, rounds=8):
    """Runs ``work`` over and over in a thread while this one calls ``change``; returns what ``work`` returned."""
    results, errors, over = [], [], threading.Event()

    def run():
        try:
            while not over.is_set():
                results.append(work())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        worker.start()
        for i in range(rounds):
            change(i)
            while not errors and worker.is_alive() and len(results) < i:  # at least one operation per change
                over.wait(1e-4)
    finally:
        over.set()
        worker.join(60)
        sys.setswitchinterval(interval)
    assert not worker.is_alive()
    if errors:
        raise errors[0]
    return results


OPERATIONS = {
    "exp": lambda x: x.exp(),
    "add": lambda x: x + x,
    "sum": lambda x: x.sum(0),
    "softmax": lambda x: F.softmax(x.mean(-1) + x.amax(-1), 0) if x.dim() > 1 else x,
    "matmul": lambda x: x[:200] @ x[:, :200] if x.dim() > 1 else x,
    "norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "batch_norm": lambda x: (
        F.batch_norm(x.reshape(1, x.shape[0], -1), None, None, training=True) if x.numel() > 1 else x
    ),
    "sort": lambda x: x.sort(-1).values,
    "cumsum": lambda x: x.cumsum(0),
    "loss": lambda x: F.cross_entropy(x, T.zeros(x.shape[0], dtype=T.int64)) if x.dim() > 1 else x,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_data_replaced_under_a_kernel(name):
    x = T.ones(620, 500)

    def change(i):
        x.data = T.full((1,), 1.0) if i % 2 else T.full((650, 450), 1.0)

    def work():
        try:
            return OPERATIONS[name](x)
        except T.ShapeError:  # the shape changed between two expressions of the lambda
            return T.ones(1)

    for y in beside(work, change):
        assert y.isfinite().all()


def test_an_operation_sees_the_old_data_or_the_new():
    x = T.ones(400_000)

    def change(i):
        x.data = T.full((400_000,), float(i))

    for y in beside(lambda: x * 2, change):
        assert y.min() == y.max()


def test_shapes_change_between_operations_only():
    x = T.ones(500, 700)
    for y in beside(lambda: x.cumsum(1), lambda i: x.t_()):
        assert y[:, -1].unique().item() in (500.0, 700.0)
    x = T.ones(500, 700)
    for y in beside(lambda: x.exp(), lambda i: x.resize_(1 if i % 2 else 600_000)):
        assert y.numel() > 0
    out = T.empty(0)
    beside(lambda: (out + 1).sum(), lambda i: (setattr(out, "data", T.empty(0)), T.exp(T.ones(300_000), out=out)))


def test_parameters_replaced_during_backward():
    weight = T.nn.Parameter(T.ones(400, 400))

    def train():
        try:
            y = T.ones(100, weight.shape[1]) @ weight.t()
            (y * y).sum().backward()
        except (T.GradientError, T.ShapeError):  # the graph was recorded with other data
            return True
        finally:
            weight.grad = None
        return True

    def change(i):
        weight.data = T.ones(1, 1) if i % 2 else T.ones(450, 350)

    assert all(beside(train, change))


def test_hooks_may_replace_data():
    x = T.nn.Parameter(T.ones(300_000))
    x.register_post_accumulate_grad_hook(lambda p: setattr(p, "data", p.data - p.grad))
    other = threading.Thread(target=lambda: [(x.detach() * 2).sum() for _ in range(20)])
    other.start()
    for _ in range(5):
        (x * 1).sum().backward()
        x.grad = None
    other.join(60)
    assert not other.is_alive()
    assert (x == -4).all()


def test_threads_that_change_each_others_tensors_end():
    a, b = T.ones(300_000), T.ones(300_000)

    def work(mine, other):
        for i in range(15):
            other.data = T.full((300_000 - i,), 1.0)
            (mine * 2).sum()
            mine.resize_(300_000 + i)

    threads = [threading.Thread(target=work, args=pair) for pair in ((a, b), (b, a), (a, a))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads)


def test_the_number_of_threads_changes_while_kernels_run():
    """Scratch memory is laid out for a number of threads before the kernel starts: both must mean the same number."""
    before = T.get_num_threads()
    T.manual_seed(0)
    x, w, point, rows = T.randn(4, 32, 20, 20), T.randn(48, 32, 3, 3), T.randn(48, 32, 1, 1), T.randn(16, 3000)

    def work():
        return [F.conv2d(x, w, padding=1), F.conv2d(x, point), F.conv2d(x, w, stride=2), rows.sort(dim=1).values]

    want = work()
    try:
        for results in beside(work, lambda i: T.set_num_threads((1, 7, 2, 5)[i % 4]), rounds=200):
            assert all(map(T.equal, results, want))
    finally:
        T.set_num_threads(before)
