"""Reference cycles through tensors: attributes, hooks and custom functions that refer back to the tensor they belong to."""

import gc
import weakref

import pytest

import pydlx as T


class Marker:
    """Something that can be watched dying."""


def hold(*_):
    """What the hooks below do: nothing, but their closures keep the arguments."""


def collected(make):
    """Whether what ``make`` returns a marker of dies in a collection, and not before: otherwise there was no cycle."""
    gc.collect()
    gc.disable()
    try:
        watch = weakref.ref(make())
        alone = watch() is not None
        gc.collect()
        return alone and watch() is None
    finally:
        gc.enable()


def attribute():
    t = T.ones(3)
    t.me, t.marker = t, Marker()
    return t.marker


def attributes_of_two():
    a, b = T.ones(3), T.zeros(3)
    a.other, b.other, a.marker = b, a, Marker()
    return a.marker


def dict_of_a_subclass():
    class Mine(T.Tensor):
        __slots__ = ("slot",)

    t = Mine([1.0, 2.0])
    t.slot, t.marker = t, Marker()
    return t.marker


def parameter_of_a_module():
    module = T.nn.Linear(2, 2)
    module.weight.owner, module.marker = module, Marker()
    return module.marker


def leaf_hook():
    t, marker = T.ones(3, requires_grad=True), Marker()
    t.register_hook(lambda g: hold(t, marker))
    return marker


def accumulation_hook():
    t, marker = T.ones(3, requires_grad=True), Marker()
    t.register_post_accumulate_grad_hook(lambda g: hold(t, marker))
    return marker


def hook_after_backward():
    t, marker = T.ones(3, requires_grad=True), Marker()
    t.register_hook(lambda g: hold(t, marker))
    (t * t).sum().backward()
    assert t.grad is not None
    return marker


def hook_on_the_gradient():
    t, marker = T.ones(3, requires_grad=True), Marker()
    t.grad = T.ones(3, requires_grad=True)
    t.grad.register_hook(lambda g: hold(t, marker))
    return marker


def hook_of_a_result():
    y, marker = T.ones(3, requires_grad=True) * 2, Marker()
    y.register_hook(lambda g: hold(y, marker))
    return marker


def hooks_of_the_operation():
    y, marker = T.ones(3, requires_grad=True) * 2, Marker()
    y.grad_fn.register_hook(lambda inputs, outputs: hold(y, marker))
    y.grad_fn.register_prehook(lambda outputs: hold(y, marker))
    y.sum().backward()
    return marker


def node_in_its_own_hook():
    node, marker = (T.ones(3, requires_grad=True) * 2).grad_fn, Marker()
    node.register_hook(lambda inputs, outputs: hold(node, marker))
    return marker


class KeepsItsResult(T.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.marker, ctx.result = Marker(), x * 2
        return ctx.result

    @staticmethod
    def backward(ctx, g):
        return g * 2


def context_of_a_function():
    x = T.ones(3, requires_grad=True)
    y = KeepsItsResult.apply(x)
    assert y.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    contexts = [o for o in gc.get_objects() if type(o) is T.autograd.function.FunctionCtx]
    seen = [ctx for ctx in contexts if ctx.__dict__.get("result") is y]
    assert len(seen) == 1
    return seen[0].marker


@pytest.mark.parametrize(
    "make",
    [
        attribute,
        attributes_of_two,
        dict_of_a_subclass,
        parameter_of_a_module,
        leaf_hook,
        accumulation_hook,
        hook_after_backward,
        hook_on_the_gradient,
        hook_of_a_result,
        hooks_of_the_operation,
        node_in_its_own_hook,
        context_of_a_function,
    ],
    ids=lambda f: f.__name__,
)
def test_cycles_are_collected(make):
    assert collected(make)


def test_hooks_live_as_long_as_a_graph_needs_them():
    calls = []

    def build():
        t = T.ones(3, requires_grad=True)
        t.register_hook(lambda g: calls.append(t.shape))
        middle = t * 2
        middle.register_hook(lambda g: calls.append(middle.shape))
        return (middle * middle).sum()

    loss = build()
    gc.collect()
    loss.backward()
    assert calls == [(3,), (3,)]


def test_attributes_survive_collections():
    t = T.ones(3, requires_grad=True)
    t.me, t.list = t, [t]
    y = KeepsItsResult.apply(t)
    y.register_hook(lambda g: g * 3 + 0 * y)
    gc.collect()
    assert t.me is t and t.list == [t]
    y.sum().backward()
    gc.collect()
    assert t.grad.tolist() == [6.0] * 3


def test_a_dying_tensor_is_not_handed_out_again():
    got = []

    def build():
        base = T.ones(4)
        view = base[1:]
        watch = weakref.ref(base, lambda _: got.append(view._base))
        base.marker = Marker()
        weakref.finalize(base.marker, lambda: got.append(view._base))
        return view, watch

    view, _ = build()
    gc.collect()
    assert [g.tolist() for g in got] == [[1.0] * 4] * 2
    assert view._base is got[0] and got[0] is got[1]


def test_finalizers_may_look_at_tensors_of_a_dead_cycle():
    seen = []

    class Looks:
        def __init__(self, tensor):
            self.tensor = tensor

        def __del__(self):
            t = self.tensor
            seen.append((t.tolist(), t.requires_grad, (t * 2).sum().item(), repr(t)[:6]))

    def build():
        t = T.ones(2, requires_grad=True)
        y = t * 3
        y.register_hook(lambda g: y)
        y.looks = Looks(y)

    build()
    gc.collect()
    assert len(seen) == 1 and seen[0][0] == [3.0, 3.0]
