"""utils.checkpoint and the hooks of saved tensors it is made of, in training programs and on misuse."""

import contextlib
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from ports import Programs, assert_same

import pydlx
from pydlx import GradientError, nn
from pydlx.autograd.graph import save_on_cpu, saved_tensors_hooks
from pydlx.utils.checkpoint import checkpoint, checkpoint_sequential

PROGRAMS = Programs()


def checkpoint_of(lib):
    tool = importlib.import_module(f"{lib.__name__}.utils.checkpoint").checkpoint
    return lambda *args, **more: tool(*args, use_reentrant=False, **more)


class Routed:
    """A layer that leaves a second loss behind, as routers of experts do."""

    def __init__(self, lib, draw):
        self.layer = draw.fill(lib.nn.Linear(4, 4))

    def __call__(self, x):
        y = self.layer(x).softmax(-1)
        self.balance = y.mean(0).pow(2).sum()
        return x * y


@PROGRAMS
def gradients_of_what_a_function_leaves_behind(lib, draw):
    m, x = Routed(lib, draw), draw(3, 4, grad=True)
    y = checkpoint_of(lib)(m, x)
    (y.sin().sum() + 0.3 * m.balance).backward()
    return [y, x.grad, *(p.grad for p in m.layer.parameters())]


@PROGRAMS
def gradients_of_parameters_without_backward(lib, draw):
    m, x = draw.fill(lib.nn.Sequential(lib.nn.Linear(4, 8), lib.nn.GELU(), lib.nn.Linear(8, 2))), draw(3, 4)
    y = checkpoint_of(lib)(m, x)
    first = lib.autograd.grad(y.pow(2).sum(), list(m.parameters()), create_graph=True)
    second = lib.autograd.grad(sum(g.pow(2).sum() for g in first), list(m.parameters()))
    return [first, second]


@PROGRAMS
def checkpoints_inside_checkpoints(lib, draw):
    call = checkpoint_of(lib)
    a, b = draw.fill(lib.nn.Linear(4, 4)), draw.fill(lib.nn.LayerNorm(4))
    x = draw(3, 4, grad=True)

    def inner(t, shift):
        return b(a(t).tanh() + shift)

    def outer(t):
        u = call(inner, t.exp(), shift=t)
        return call(inner, u * t, shift=1.0).sin()

    y = call(outer, x)
    y.pow(2).sum().backward(retain_graph=True)
    once = x.grad.clone()
    y.pow(2).sum().backward()
    return [y, once, x.grad, a.weight.grad, b.weight.grad]


@PROGRAMS
def precision_of_the_second_run(lib, draw):
    m, x = draw.fill(lib.nn.Linear(4, 4)), draw(3, 4, grad=True)
    with lib.autocast("cpu", dtype=lib.bfloat16):
        y = checkpoint_of(lib)(lambda t: m(m(t).tanh()), x)
    y.float().sum().backward()
    return [y.dtype, x.grad.bfloat16().float(), m.weight.grad.bfloat16().float()]


@PROGRAMS
def hooks_decide_what_backward_sees(lib, draw):
    a, b = draw(3, grad=True), draw(3, grad=True)
    sizes, hooks = [], lib.autograd.graph.saved_tensors_hooks
    with hooks(lambda t: (sizes.append(tuple(t.shape)), t.detach() * 2)[1], lambda t: t + 1):
        y = a * b
        with hooks(lambda t: t.detach(), lambda t: t * 0):
            z = y * a
    (y.sum() + z.sum()).backward()
    return [sizes, y, z, a.grad, b.grad]


@PROGRAMS
def derivatives_through_hooks(lib, draw):
    a, w = draw(3, grad=True), draw(3, grad=True)
    with lib.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        y = (a * w).exp() * a.sigmoid()
    (first,) = lib.autograd.grad(y.sum(), a, create_graph=True)
    return [first, *lib.autograd.grad(first.pow(2).sum(), (a, w))]


@PROGRAMS
def backward_passes_inside(lib, draw):
    x, w = draw(3, grad=True), draw(3, grad=True)

    def slope(t):
        y = (t * w).sin()
        (first,) = lib.autograd.grad(y.cos().sum(), t)
        return t.cos() * first

    def curvature(t):
        y = (t * w).sin().exp().sum()
        (first,) = lib.autograd.grad(y, t, create_graph=True)
        (second,) = lib.autograd.grad(first.sum(), t, create_graph=True)
        return first.exp() + second.pow(2)

    def fitted(t):
        z = lib.zeros(3, requires_grad=True)
        for _ in range(3):
            (step,) = lib.autograd.grad(((z - t * w) ** 2).sum(), z, create_graph=True)
            z = z - 0.3 * step
        return z

    call, results = checkpoint_of(lib), []
    for function in (slope, curvature, fitted, lambda t: call(curvature, call(fitted, t.exp()))):
        for early_stop in (True, False):
            y = call(function, x * 1, early_stop=early_stop)
            results += [y, *lib.autograd.grad(y.pow(2).sum(), (x, w), allow_unused=True)]
    return results


@PROGRAMS
def arguments_are_those_of_the_first_run(lib, draw):
    call, results = checkpoint_of(lib), []
    attention, x = draw.fill(lib.nn.MultiheadAttention(4, 2, batch_first=True)), draw(2, 3, 4, grad=True)
    inner = x * 2

    def told_apart(a, b):
        return a.exp() * (2 if a is b else 1) * (3 if a is x else 1) * (5 if a.is_leaf else 1)

    for t in (x, inner):
        y = call(lambda q, k, v: attention(q, k, v)[0], t, t, t)
        z = call(told_apart, t, t)
        nested = call(lambda a: call(told_apart, a, a.exp()) + call(told_apart, x, x), t)
        results += [y, z, nested, lib.autograd.grad(y.pow(2).sum() + z.sum() + nested.sum(), x)]
    return results


@PROGRAMS
def hooks_see_no_numbers(lib, draw):
    x, kept = draw(3, grad=True), []
    hooks = lib.autograd.graph.saved_tensors_hooks
    with hooks(lambda t: (kept.append(tuple(t.shape)), t.detach().bfloat16())[1], lambda t: t.float()):
        y = (x * 3 + 2 ** (x / 7)).sin() - 1.5
    y.sum().backward()
    return [sorted(set(kept)), y, x.grad.bfloat16().float()]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_program(program):
    assert_same(program, program.__name__)


def test_checkpoint_repeats_the_forward_with_the_same_random_numbers():
    pydlx.manual_seed(0)
    m, calls = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), []
    m[0].register_forward_hook(lambda *_: calls.append(1))
    x = pydlx.randn(5, 3, requires_grad=True)
    pydlx.manual_seed(1)
    m(x).pow(2).sum().backward()
    expected = [x.grad.clone(), *(p.grad.clone() for p in m.parameters())]
    x.grad = None
    m.zero_grad()
    pydlx.manual_seed(1)
    out = checkpoint(m, x, use_reentrant=False)
    state = pydlx.get_rng_state()
    out.pow(2).sum().backward()
    assert len(calls) == 3
    assert pydlx.equal(state, pydlx.get_rng_state())
    for mine, reference in zip([x.grad, *(p.grad for p in m.parameters())], expected, strict=True):
        assert pydlx.equal(mine, reference)


def test_checkpoint_arguments_and_outputs():
    x, y = pydlx.tensor([2.0], requires_grad=True), pydlx.tensor([3.0])
    first, second = checkpoint(lambda a, b, power=1: (a**power * b, a + b), x, y, power=2, use_reentrant=False)
    (first + second).sum().backward()
    assert x.grad.item() == 13
    weight = pydlx.tensor([4.0], requires_grad=True)
    checkpoint(lambda a: a * weight, y).sum().backward()  # only a tensor in the closure needs a gradient
    assert weight.grad.item() == 3
    assert not checkpoint(nn.ReLU(), y).requires_grad
    with pydlx.no_grad():
        assert not checkpoint(lambda a: a * weight, y).requires_grad
    with pytest.raises(ValueError, match="segments"):
        checkpoint_sequential([nn.ReLU()], 2, x)
    layers = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    assert pydlx.equal(checkpoint_sequential(layers, 3, y), layers(y))


def test_save_on_cpu():
    x = pydlx.randn(4, 3, requires_grad=True)
    expected = pydlx.autograd.grad((x.exp() * x).sum(), x)[0]
    with save_on_cpu():
        y = (x.exp() * x).sum()
    assert pydlx.equal(pydlx.autograd.grad(y, x)[0], expected)


def test_what_kernels_leave_for_backward_goes_to_hooks():
    x, image, heads = (pydlx.randn(*shape, requires_grad=True) for shape in ((5, 2, 3), (1, 2, 6, 6), (2, 3, 5, 8)))
    weight, target = pydlx.randn(7, 3, requires_grad=True), pydlx.tensor([1, 6, 2, 0, 3, 4, 5, 1, 2, 6])
    cells = nn.LSTM(3, 4), nn.GRU(3, 4), nn.LSTM(3, 4, proj_size=2)
    for function, shape, times in (
        (lambda: cells[0](x)[0], (10, 16), 1),  # activations of the gates
        (lambda: cells[1](x)[0], (10, 12), 1),
        (lambda: cells[2](x)[0], (10, 16), 1),
        (lambda: nn.functional.max_pool2d(image, 2), (1, 2, 3, 3), 1),  # positions
        (lambda: nn.functional.max_pool2d(image, 2, return_indices=True)[0], (1, 2, 3, 3), 1),
        (lambda: nn.functional.linear_cross_entropy(x.view(10, 3), weight, target), (7, 3), 2),  # and its gradient
        (lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads), (2, 2, 3, 5), 1),
    ):
        seen, inputs = [], (x, image, heads, weight)
        plain = pydlx.autograd.grad(function().sin().sum(), inputs, allow_unused=True)
        with saved_tensors_hooks(lambda t, seen=seen: (seen.append(tuple(t.shape)), t.clone())[1], lambda t: t):
            y = function()
        assert seen.count(shape) == times, seen
        for a, b in zip(pydlx.autograd.grad(y.sin().sum(), inputs, allow_unused=True), plain, strict=True):
            assert a is b is None or pydlx.equal(a, b)
    with saved_tensors_hooks(lambda t: t.dtype, lambda dtype: pydlx.full((1, 2, 3, 3), 2**40, dtype=dtype)):
        y = nn.functional.max_pool2d(image, 2)
    with pytest.raises(IndexError, match="positions"):
        y.sum().backward()


def test_what_a_checkpoint_lets_go_comes_back_once():
    runs, layer = [], nn.Linear(3, 3)
    x = pydlx.randn(2, 3, requires_grad=True)
    y = checkpoint(lambda t: (runs.append(1), layer(layer(t)))[1], x)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    assert len(runs) == 2


def test_threads_share_a_second_run():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for seed in range(20):
            pydlx.manual_seed(seed)
            runs, x = [], pydlx.randn(50, requires_grad=True)

            def function(t, runs=runs):
                runs.append(1)
                for i in range(20):
                    t = nn.functional.dropout((t * 1.01).sin(), 0.1) + (i + 1) * 0.1 * t.cos()
                return t

            plain = pydlx.autograd.grad(function(x).sum(), x)
            pydlx.manual_seed(seed)
            pydlx.randn(50)
            y = checkpoint(function, x).sum()
            with ThreadPoolExecutor(3) as threads:
                passes = [threads.submit(pydlx.autograd.grad, y, x, retain_graph=True) for _ in range(3)]
            for one in passes:
                assert pydlx.equal(one.result()[0], plain[0])
            assert len(runs) == 3
    finally:
        sys.setswitchinterval(interval)


def test_early_stop():
    x, ends = pydlx.ones(3, requires_grad=True), []
    for early_stop in (True, False):
        checkpoint(lambda t: (t.exp().sin(), ends.append(1))[0], x, early_stop=early_stop).sum().backward()
    assert len(ends) == 3


def test_context_functions_hold_for_their_run():
    order = []

    @contextlib.contextmanager
    def note(name):
        order.append(name)
        yield
        order.append(f"end of {name}")

    x = pydlx.ones(2, requires_grad=True)
    checkpoint(lambda t: t.exp(), x, context_fn=lambda: (note("first"), note("second"))).sum().backward()
    assert order == ["first", "end of first", "second", "end of second"]


def test_second_run_that_does_something_else():
    x, turns = pydlx.ones(3, requires_grad=True), []

    def shrinking(t):
        turns.append(1)
        return t.exp() if len(turns) > 1 else t.exp().sin().exp()

    with pytest.raises(GradientError, match=r"checkpoint.*second run.*only 1 of 3 tensors"):
        checkpoint(shrinking, x).sum().backward()

    def reshaped(t):
        turns.append(1)
        return (t.exp() if len(turns) % 2 else t[:2].exp()).sum()

    turns.clear()
    with pytest.raises(GradientError, match=r"\[exp\].*another shape or dtype"):
        checkpoint(reshaped, x).backward()


def test_errors():
    x = pydlx.ones(3, requires_grad=True)
    a = pydlx.ones(3)
    y = checkpoint(lambda t, u: (t * u).exp(), x, a)
    a.add_(1)
    with pytest.raises(GradientError, match=r"\[checkpoint\] argument 1: .*changed in place"):
        y.sum().backward()
    with pytest.raises(TypeError, match=r"\[saved_tensors_hooks\] pack_hook: expected a function, got int"):
        saved_tensors_hooks(1, 2)
    with pytest.raises(RuntimeError, match=r"\[saved_tensors_hooks\].*expected hooks"):
        pydlx._C._pop_saved_tensors_hooks()
    for unpack, error, message in (
        (lambda t: None, TypeError, r"unpack_hook: expected it to return a tensor, got NoneType"),
        (lambda t: t[:1], GradientError, r"\[exp\].*another shape or dtype"),
        (lambda t: 1 / 0, ZeroDivisionError, "division"),
    ):
        with saved_tensors_hooks(lambda t: t, unpack):
            y = x.exp()
        with pytest.raises(error, match=message):
            y.sum().backward()
    for tensor in (x, x * 1):
        message = r"\[saved_tensors_hooks\] pack_hook: .*changed in place"
        with pytest.raises(GradientError, match=message), saved_tensors_hooks(lambda t: t.mul_(2), lambda t: t):
            tensor.sin()
    x = pydlx.ones(3, requires_grad=True)
    with pytest.raises(ZeroDivisionError), saved_tensors_hooks(lambda t: 1 / 0, lambda t: t):
        x.exp()
    x.exp().sum().backward()  # no hooks are left behind
    assert pydlx.equal(x.grad, pydlx.ones(3).exp())
