"""Custom differentiable functions and gradcheck."""

import pytest

import pydlx as T
from pydlx.autograd import Function


def leaf(*values):
    return T.tensor(list(values), dtype=T.float64).requires_grad_(True)


def numbers(t):
    return t.detach().numpy().tolist()


class Cube(Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return scale * x * x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * ctx.scale * x * x * grad, None


def test_custom_function_and_its_second_derivative():
    x = leaf(2.0, -1.0)
    y = Cube.apply(x, 2.0)
    assert y.grad_fn.name() == "CubeBackward"
    (g,) = T.autograd.grad(y.sum(), [x], create_graph=True)
    assert numbers(g) == [24.0, 6.0]
    (h,) = T.autograd.grad(g.sum(), [x])
    assert numbers(h) == [24.0, -12.0]
    assert T.autograd.gradcheck(lambda t: Cube.apply(t, 2.0), (x,))
    assert T.autograd.gradgradcheck(lambda t: Cube.apply(t, 2.0), (x,))


def test_gradcheck_finds_a_wrong_gradient():
    class Wrong(Cube):
        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * ctx.scale * x * x * grad, None

    with pytest.raises(T.GradientError, match="finite differences"):
        T.autograd.gradcheck(lambda t: Wrong.apply(t, 2.0), (leaf(2.0),))


def test_custom_function_with_several_outputs_and_setup_context():
    class Split(Function):
        @staticmethod
        def forward(x):
            return x * 2, x * 3, (x > 0)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output[2])

        @staticmethod
        def backward(ctx, a, b, c):
            return 2 * a + 3 * b

    x = leaf(1.0, -1.0)
    first, second, mask = Split.apply(x)
    assert not mask.requires_grad
    first.sum().backward(retain_graph=True)  # the gradient of `second` arrives as zeros
    assert numbers(x.grad) == [2.0, 2.0]
    second.sum().backward()
    assert numbers(x.grad) == [5.0, 5.0]


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (lambda g: (g, g), "one gradient per argument"),
        (lambda g: "text", "tensor or None"),
        (lambda g: T.ones(7, dtype=T.float64), r"shape"),
    ],
)
def test_wrong_results_of_a_custom_backward_are_explained(result, match):
    class Bad(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return result(g)

    with pytest.raises((T.GradientError, ValueError), match=match):
        Bad.apply(leaf(1.0, 2.0)).sum().backward()


def test_custom_in_place_function():
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf(1.0, 2.0)
    y = x * 1
    z = Double.apply(y)
    assert z is y
    z.sum().backward()
    assert numbers(x.grad) == [2.0, 2.0]
