"""The backward pass: leaves, graphs kept and freed, hooks, modes, in-place rules, anomaly mode."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch

import pydlx as T


def leaf(*values, dtype=None):
    return T.tensor(list(values), dtype=dtype or T.float64).requires_grad_(True)


def numbers(t):
    return t.detach().numpy().tolist()


# ---- backward and grad ---------------------------------------------------------------------------------------------------------------


def test_gradients_accumulate_in_leaves():
    x = leaf(1.0, 2.0)
    for _ in range(3):
        (x * x).sum().backward()
    assert numbers(x.grad) == [6.0, 12.0]
    x.grad = None
    (x * 2).sum().backward()
    assert numbers(x.grad) == [2.0, 2.0]


def test_grad_leaves_dot_grad_alone_and_reports_unused_inputs():
    x, y = leaf(3.0), leaf(4.0)
    (g,) = T.autograd.grad((x * x).sum(), [x])
    assert numbers(g) == [6.0]
    assert x.grad is None
    with pytest.raises(T.GradientError, match="do not depend on input 1"):
        T.autograd.grad((x * x).sum(), [x, y])
    assert T.autograd.grad((x * x).sum(), [x, y], allow_unused=True)[1] is None
    assert numbers(T.autograd.grad((x * x).sum(), [x, y], materialize_grads=True)[1]) == [0.0]


def test_third_derivative():
    x = leaf(2.0)
    y = (x * x * x * x).sum()
    for expected in (32.0, 48.0, 48.0):
        (g,) = T.autograd.grad(y, [x], create_graph=True)
        assert numbers(g) == [expected]
        y = g.sum()


def test_a_graph_is_freed_unless_retained():
    x = leaf(2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert numbers(x.grad) == [8.0]
    with pytest.raises(T.GradientError, match="second time.*retain_graph"):
        y.backward()


def test_what_saved_nothing_may_be_passed_again():
    x, y = leaf(1.0, 2.0, 3.0), leaf(4.0, 5.0, 6.0)
    rows = T.stack([x, y]).t().expand(2, 3, 2).double().float() + 1
    for step in (1.0, 2.0):
        (rows.sum((0, 2)) * step).sum().backward()
    assert numbers(x.grad) == numbers(y.grad) == [6.0, 6.0, 6.0]
    scaled = x * y
    (scaled + rows.sum()).sum().backward()
    with pytest.raises(T.GradientError, match=r"\[mul\] .*second time"):
        (scaled + rows.sum()).sum().backward()


def test_saved_memory_is_freed_as_nodes_finish():
    T.empty_cache()
    x = T.ones(1 << 18, requires_grad=True)
    before = T.memory_stats()["in_use"]
    y = ((x * x).exp() * 2).sum()
    during = T.memory_stats()["in_use"]
    y.backward()
    x.grad = None
    assert during - before >= 1 << 20
    assert T.memory_stats()["in_use"] - before < 1 << 16


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: (leaf(1.0, 2.0) * 2).backward(), "only for scalar outputs"),
        (lambda: T.ones(2).sum().backward(), "requires grad"),
        (lambda: (leaf(1.0, 2.0) * 2).backward(T.ones(3, dtype=T.float64)), r"expected shape \(2,\), got \(3,\)"),
        (lambda: T.tensor([1, 2]).requires_grad_(True), "floating point"),
        (lambda: (leaf(1.0) * 2).requires_grad_(False), "detach"),
    ],
)
def test_misuse_is_explained(make, match):
    with pytest.raises((RuntimeError, ValueError, TypeError), match=match):
        make()


def test_a_million_node_chain_needs_no_stack():
    x = leaf(1.0)
    y = x
    for _ in range(1_000_000):
        y = y + 1
    y.sum().backward()
    assert numbers(x.grad) == [1.0]
    z = x
    for _ in range(200_000):
        z = z * 1.0
    del z  # destruction without backward is a loop too
    gc.collect()


def test_a_tensor_that_is_root_twice_counts_twice():
    x = leaf(5.0)
    grads = T.autograd.grad([x, x], [x], [T.ones(1, dtype=T.float64), T.ones(1, dtype=T.float64) * 2])
    assert numbers(grads[0]) == [3.0]


def test_dot_grad_never_aliases_the_caller():
    x = leaf(1.0, 2.0)
    g = T.ones(2, dtype=T.float64)
    (x + 0).backward(g)
    g.mul_(5)
    assert numbers(x.grad) == [1.0, 1.0]


def test_backward_into_chosen_inputs_only():
    x, y = leaf(2.0), leaf(3.0)
    (x * y).sum().backward(inputs=[x])
    assert numbers(x.grad) == [3.0]
    assert y.grad is None


def test_threads_may_share_a_graph():
    x = leaf(*range(64))
    y = (x * x).sum()
    errors = []

    def work():
        try:
            for _ in range(20):
                (g,) = T.autograd.grad(y, [x], retain_graph=True)
                assert numbers(g)[3] == 6.0
        except BaseException as error:  # reported by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


# ---- hooks ---------------------------------------------------------------------------------------------------------------------------


def test_tensor_hooks_replace_gradients_and_can_be_removed():
    x = leaf(1.0)
    seen = []
    y = x * 3
    handle = y.register_hook(lambda g: seen.append(numbers(g)) or g * 10)
    y.sum().backward()
    assert seen == [[1.0]]
    assert numbers(x.grad) == [30.0]
    handle.remove()
    handle.remove()
    leaf_hook = x.register_hook(lambda g: g + 1)
    x.grad = None
    (x * 3).sum().backward()
    assert numbers(x.grad) == [4.0]
    leaf_hook.remove()


def test_a_leaf_hook_sees_the_whole_gradient_once():
    x = leaf(2.0)
    seen = []
    x.register_hook(lambda g: seen.append(numbers(g)))
    (x * 2 + x * 3).sum().backward()
    assert seen == [[5.0]]


def test_post_accumulate_hooks_see_the_leaf():
    x = leaf(2.0)
    seen = []
    x.register_post_accumulate_grad_hook(lambda t: seen.append((t is x, numbers(t.grad))))
    (x * 2).sum().backward()
    assert seen == [(True, [2.0])]


def test_retain_grad_keeps_inner_gradients():
    x = leaf(2.0)
    y = x * x
    y.retain_grad()
    (y * 3).sum().backward()
    assert numbers(y.grad) == [3.0]


def test_node_hooks_see_gradients_on_both_sides():
    x = leaf(2.0)
    y = x * 4
    calls = []
    y.grad_fn.register_prehook(lambda grads: calls.append("pre") or (grads[0] * 2,))
    y.grad_fn.register_hook(lambda inputs, outputs: calls.append("post"))
    y.sum().backward()
    assert calls == ["pre", "post"]
    assert numbers(x.grad) == [8.0]


def test_node_hooks_can_be_removed():
    x = leaf(2.0)
    y = x * 4
    calls = []
    first = y.grad_fn.register_hook(lambda inputs, outputs: calls.append("first"))
    y.grad_fn.register_hook(lambda inputs, outputs: calls.append("second"))
    with y.grad_fn.register_prehook(lambda grads: calls.append("pre")):
        y.sum().backward(retain_graph=True)
    first.remove()
    first.remove()
    y.sum().backward()
    assert calls == ["pre", "first", "second", "second"]
    for register in (x.register_hook, y.grad_fn.register_hook, y.grad_fn.register_prehook):
        with pytest.raises(TypeError, match=r"\[register_\w+\] hook: expected a function, got int"):
            register(5)


def test_an_error_in_a_hook_reaches_the_caller_and_leaves_the_engine_usable():
    x = leaf(2.0)
    y = x * 4

    def broken(grad):
        raise KeyError("mine")

    y.register_hook(broken)
    with pytest.raises(KeyError, match="mine"):
        y.sum().backward()
    (x * 2).sum().backward()
    assert numbers(x.grad) == [2.0]


def test_backward_inside_a_hook():
    x, z = leaf(2.0), leaf(3.0)

    def hook(grad):
        with T.enable_grad():
            (z * z).sum().backward()

    y = x * x
    y.register_hook(hook)
    y.sum().backward()
    assert numbers(x.grad) == [4.0]
    assert numbers(z.grad) == [6.0]


# ---- modes ---------------------------------------------------------------------------------------------------------------------------


def test_no_grad_forms():
    x = leaf(1.0)
    with T.no_grad():
        assert not (x * 2).requires_grad
        with T.enable_grad():
            assert (x * 2).requires_grad
    assert (x * 2).requires_grad

    @T.no_grad()
    def inner():
        return x * 2

    @T.no_grad
    def bare():
        return x * 2

    assert not inner().requires_grad
    assert not bare().requires_grad
    with T.set_grad_enabled(False):
        assert not T.is_grad_enabled()
    assert T.is_grad_enabled()


def test_no_grad_on_a_generator_covers_only_its_own_code():
    @T.no_grad()
    def steps():
        yield T.is_grad_enabled()
        yield T.is_grad_enabled()

    for inside in steps():
        assert not inside
        assert T.is_grad_enabled()


def test_inference_tensors_stay_out_of_graphs():
    w = leaf(2.0)
    with T.inference_mode():
        x = T.ones(1, dtype=T.float64)
        assert x.is_inference()
        assert T.is_inference_mode_enabled()
    with pytest.raises(T.GradientError, match="inference"):
        w * x
    assert (w * x.clone()).requires_grad


def test_detach_shares_memory_without_history():
    x = leaf(1.0, 2.0)
    d = (x * 1).detach()
    assert not d.requires_grad
    assert d.grad_fn is None
    assert x.detach().data_ptr() == x.data_ptr()


# ---- in-place changes ----------------------------------------------------------------------------------------------------------------


def assert_both_agree(program):
    """Runs a program of (namespace, leaf tensors) under both libraries and compares results and gradients."""
    out = []
    for lib in (T, torch):
        a = lib.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=lib.float64, requires_grad=True)
        b = lib.tensor([0.5, -1.0, 2.0], dtype=lib.float64, requires_grad=True)
        y = program(lib, a, b)
        grads = lib.autograd.grad((y * y).sum(), [a, b], allow_unused=True)
        out.append([y.detach().numpy(), *[None if g is None else g.numpy() for g in grads]])
    for ours, theirs in zip(*out):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def view_then_write(lib, a, b):
    x = a * 1
    x[0].mul_(b)
    return x


def write_through_a_view_of_a_view(lib, a, b):
    x = a * 2
    x[:, 1:][0].add_(b[1:])
    return x


def other_views_see_the_write(lib, a, b):
    x = a * 1
    row, column = x[1], x[:, 2]
    row.mul_(b)
    return column * row.sum()


def write_into_zeros(lib, a, b):
    x = lib.zeros(2, 3, dtype=lib.float64)
    x[0] = b
    x[1] = a[1] * b
    return x


def transposed_write(lib, a, b):
    x = a * 3
    x.t()[1] = b[:2] * 2
    return x


def chained_inplace(lib, a, b):
    x = a * 1
    x.add_(1).mul_(2)
    x -= b
    return x


def copy_into_a_view(lib, a, b):
    x = a * 1
    x.view(-1)[1:4].copy_(b)
    return x


def views_follow_a_base_that_came_to_require_gradients(lib, a, b):
    x = lib.zeros(4, dtype=lib.float64)
    before, window = x[:2], x[1:]
    window.add_(b)
    assert before.requires_grad and not before.is_leaf
    return before * a[:, :2] + window[1:]


def views_of_a_base_that_was_written_whole(lib, a, b):
    x = lib.ones(2, 3, dtype=lib.float64)
    row, transposed = x[0], x.t()
    x.mul_(a)
    return row * b + transposed.sum(1)


def double_write_into_overlapping_windows(lib, a, b):
    x = a * 0.1
    x[0, :2].mul_(b[:2])
    x[:, 1:].mul_(b[1:])
    x[0, 1:].sigmoid_()
    return x


def relu_in_place(lib, a, b):
    x = a - 3
    x.relu_()
    return x * b


@pytest.mark.parametrize(
    "program",
    [
        view_then_write,
        write_through_a_view_of_a_view,
        other_views_see_the_write,
        write_into_zeros,
        transposed_write,
        chained_inplace,
        copy_into_a_view,
        views_follow_a_base_that_came_to_require_gradients,
        views_of_a_base_that_was_written_whole,
        double_write_into_overlapping_windows,
        relu_in_place,
    ],
    ids=lambda p: p.__name__,
)
def test_in_place_programs_match_pytorch(program):
    assert_both_agree(program)


def test_retain_grad_follows_changes_in_place():
    def program(lib, view):
        x = lib.ones(3, dtype=lib.float64, requires_grad=True)
        y = (x * 2)[:2] if view else x * 2
        y.retain_grad()
        y.mul_(3)
        (y * y).sum().backward()
        return y.grad.tolist(), x.grad.tolist()

    for view in (False, True):
        assert program(T, view) == program(torch, view)


def test_views_made_without_recording_refuse_recorded_writes():
    for source in (lambda x: x, lambda x: x * 1):
        base = source(leaf(1.0, 2.0))
        with T.no_grad():
            view = base[:1]
        with pytest.raises(T.GradientError, match="view"):
            view.mul_(2)
        with T.no_grad():
            view.mul_(2)
        assert base[0].item() == 2.0


def test_an_input_named_twice_counts_once():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward(inputs=[x, x])
    assert numbers(x.grad) == [3.0, 3.0]


def test_changing_a_saved_tensor_names_both_operations_and_lines():
    x = leaf(1.0, 2.0)
    y = x * 1
    z = y * y
    y.add_(1)
    with pytest.raises(T.GradientError, match=r"\[mul\].*test_autograd\.py:\d+.*add_.*test_autograd\.py:\d+"):
        z.sum().backward()


def test_leaves_cannot_be_changed_while_recording():
    x = leaf(1.0)
    with pytest.raises(T.GradientError, match="leaf"):
        x.add_(1)
    with pytest.raises(T.GradientError, match="view of a leaf"):
        x[0:1].add_(1)
    with T.no_grad():
        x.add_(1)
    assert numbers(x) == [2.0]


def test_data_is_not_tracked():
    x = leaf(1.0, 2.0)
    y = x * x
    x.data.mul_(3)
    y.sum().backward()  # as in PyTorch: no version error, the gradient uses the new value
    assert numbers(x.grad) == [6.0, 12.0]


def test_in_place_history_does_not_leak():
    class Marker:
        pass

    marker = Marker()
    dead = weakref.ref(marker)
    x = leaf(1.0)
    y = x * 1
    y.register_hook(lambda g, m=marker: None)
    y.mul_(x)
    del y, marker
    gc.collect()
    assert dead() is None


# ---- where a function has no derivative -----------------------------------------------------------------------------------------------


PAIRS = np.meshgrid(*[np.array([0.0, -0.0, 1.0, -2.5, np.nan])] * 2)
TIES = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 2.0, 2.0]])
WITH_NAN = np.array([[1.0, np.nan], [1.0, np.nan]])


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda lib, a, b: lib.maximum(a, b), PAIRS),
        (lambda lib, a, b: lib.minimum(a, b), PAIRS),
        (lambda lib, a, b: lib.atan2(a, b), PAIRS),
        (lambda lib, a: a.relu(), PAIRS[:1]),
        *(
            (lambda lib, a, n=n: getattr(a, n)(), [x])
            for n in ("max", "min", "median", "nanmedian")
            for x in (TIES, WITH_NAN)
        ),
        (lambda lib, a: lib.norm(a, 0, dim=1), [TIES]),
    ],
)
def test_gradients_at_ties_and_nan_are_pytorchs(fn, inputs):
    def run(lib):
        leaves = [lib.tensor(x, requires_grad=True) for x in inputs]
        fn(lib, *leaves).sum().backward()
        return [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves]

    for got, want in zip(run(T), run(torch), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


# ---- anomaly mode --------------------------------------------------------------------------------------------------------------------


def test_anomaly_mode_names_the_first_operation_that_made_a_nan():
    x = leaf(-1.0)
    with T.autograd.detect_anomaly(), pytest.raises(T.GradientError, match=r"\[sqrt\].*NaN.*test_autograd\.py:\d+"):
        (x.sqrt() * 2).sum()


def test_anomaly_mode_names_the_forward_line_of_a_bad_gradient():
    x = leaf(0.0)
    y = x.sqrt() * 0  # 0 * inf in the gradient
    with T.autograd.detect_anomaly(), pytest.raises(T.GradientError, match=r"\[sqrt\].*NaN.*test_autograd\.py:\d+"):
        y.sum().backward()
