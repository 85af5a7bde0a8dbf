"""Memory formats: strides and values beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pydlx

torch = pytest.importorskip("torch")

IMAGE = (2, 3, 4, 5)
VOLUME = (2, 3, 4, 5, 2)


def assert_same_strides(make: Callable[[Any], Any]) -> None:
    """The tensors that ``make`` returns have the same strides in both libraries."""
    want, got = make(torch), make(pydlx)
    want, got = (want, got) if isinstance(want, (tuple, list)) else ([want], [got])
    for a, b in zip(want, got, strict=True):
        assert tuple(b.shape) == tuple(a.shape)
        assert b.stride() == a.stride()


def last(lib: Any, x: Any) -> Any:
    return x.to(memory_format=lib.channels_last if x.ndim == 4 else lib.channels_last_3d)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "empty": lambda M: M.empty(*IMAGE, memory_format=M.channels_last),
    "empty 3d": lambda M: M.empty(*VOLUME, memory_format=M.channels_last_3d),
    "no channels": lambda M: M.empty(2, 0, 4, 5, memory_format=M.channels_last),
    "contiguous": lambda M: M.ones(IMAGE).contiguous(memory_format=M.channels_last),
    "contiguous preserves": lambda M: M.ones(IMAGE).contiguous(memory_format=M.preserve_format),
    "back": lambda M: last(M, M.ones(IMAGE)).contiguous(),
    "one channel as it is": lambda M: M.ones(2, 1, 4, 4).contiguous(memory_format=M.channels_last),
    "one channel to": lambda M: M.ones(2, 1, 4, 4).to(memory_format=M.channels_last),
    "one pixel to": lambda M: M.ones(2, 3, 1, 1).to(memory_format=M.channels_last),
    "one value to": lambda M: M.ones(5, 1, 1, 1).to(memory_format=M.channels_last),
    "one pixel clone": lambda M: M.ones(2, 3, 1, 1).to(memory_format=M.channels_last).clone(),
    "one pixel plus": lambda M: M.ones(2, 3, 1, 1).to(memory_format=M.channels_last) + 1,
    "to keeps": lambda M: last(M, M.ones(IMAGE)).to(M.float64),
    "to both": lambda M: M.ones(IMAGE).to(M.float64, memory_format=M.channels_last),
    "to device": lambda M: M.ones(IMAGE).to("cpu", memory_format=M.channels_last),
    "to contiguous": lambda M: last(M, M.ones(IMAGE)).to(M.float64, memory_format=M.contiguous_format),
    "to permuted": lambda M: M.ones(IMAGE).permute(0, 2, 3, 1).to(memory_format=M.channels_last),
    "double": lambda M: M.ones(IMAGE).double(memory_format=M.channels_last),
    "type": lambda M: M.ones(IMAGE).type(M.float64, memory_format=M.channels_last),
    "cpu": lambda M: M.ones(IMAGE).cpu(memory_format=M.channels_last),
    "clone": lambda M: M.ones(IMAGE).clone(memory_format=M.channels_last),
    "clone contiguous": lambda M: M.ones(IMAGE).transpose(0, 1).clone(memory_format=M.contiguous_format),
    "clone preserves": lambda M: M.ones(IMAGE).transpose(0, 1).clone(),
    "clone without gaps": lambda M: M.ones(IMAGE)[:, :, ::2].clone(),
    "empty_like": lambda M: M.empty_like(M.ones(IMAGE).permute(0, 2, 3, 1), memory_format=M.contiguous_format),
    "zeros_like": lambda M: M.zeros_like(last(M, M.ones(VOLUME))),
    "rand_like": lambda M: M.rand_like(last(M, M.ones(IMAGE))),
    "randn_like": lambda M: M.randn_like(M.ones(IMAGE), memory_format=M.channels_last),
    "resize_": lambda M: M.ones(IMAGE).resize_(3, 2, 4, 5, memory_format=M.channels_last),
    "plus": lambda M: last(M, M.ones(IMAGE)) + M.ones(IMAGE),
    "plus first": lambda M: M.ones(IMAGE) + last(M, M.ones(IMAGE)),
    "plus channels": lambda M: M.ones(1, 3, 1, 1) + last(M, M.ones(IMAGE)),
    "where": lambda M: M.where(last(M, M.ones(IMAGE)) > 0, M.ones(IMAGE), 0.0),
    "compare": lambda M: last(M, M.ones(IMAGE)) > 0,
    "softmax": lambda M: M.softmax(last(M, M.ones(IMAGE)), 1),
    "cat": lambda M: M.cat([last(M, M.ones(IMAGE)), last(M, M.ones(IMAGE))], 1),
    "cat mixed": lambda M: M.cat([M.ones(IMAGE), last(M, M.ones(IMAGE))], 1),
    "sum": lambda M: last(M, M.ones(IMAGE)).sum(0, keepdim=True),
    "module": lambda M: list(
        M.nn.Sequential(M.nn.Conv2d(3, 4, 3), M.nn.Conv2d(4, 4, 1), M.nn.BatchNorm2d(4), M.nn.Linear(3, 3))
        .to(memory_format=M.channels_last)
        .parameters()
    ),
    "module 3d": lambda M: M.nn.Conv3d(3, 4, 3).to(memory_format=M.channels_last_3d).weight,
    "module keeps": lambda M: M.nn.Conv2d(3, 4, 3).to(memory_format=M.channels_last).double().weight,
}


@pytest.mark.parametrize("name", MAKERS)
def test_strides(name: str) -> None:
    assert_same_strides(MAKERS[name])


def test_is_contiguous() -> None:
    for lib in (torch, pydlx):
        x = lib.ones(IMAGE)
        y = last(lib, x)
        assert x.is_contiguous() and not x.is_contiguous(memory_format=lib.channels_last)
        assert y.is_contiguous(memory_format=lib.channels_last) and not y.is_contiguous()
        assert y.to(memory_format=lib.channels_last) is y
        assert y.contiguous(memory_format=lib.channels_last) is y
        assert not lib.ones(2, 3, 4).is_contiguous(memory_format=lib.channels_last)
        assert not lib.ones(VOLUME).is_contiguous(memory_format=lib.channels_last)
        assert lib.ones(2, 3, 1, 1).is_contiguous(memory_format=lib.channels_last)


def test_array_strides() -> None:
    array = np.zeros((2, 1, 4, 5), np.float32)
    assert pydlx.from_numpy(array).stride() == torch.from_numpy(array).stride()


def test_empty_arrays_can_be_written() -> None:
    """NumPy gives an array without elements strides of zero, which mean no repeated element."""
    x = pydlx.from_numpy(np.zeros((2, 0)))
    x[()] = 1.25
    assert x.add_(1).shape == (2, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda M: M.ones(IMAGE).to(memory_format=M.channels_last_3d),
        lambda M: M.ones(2, 3, 4).contiguous(memory_format=M.channels_last),
        lambda M: M.ones(2, 3).t().contiguous(memory_format=M.preserve_format),
        lambda M: M.empty(*VOLUME, memory_format=M.channels_last),
        lambda M: M.empty(2, 3, memory_format=M.preserve_format),
        lambda M: M.ones(IMAGE).clone(memory_format="channels_last"),
        lambda M: M.ones(IMAGE).resize_(2, 3, memory_format=M.channels_last),
    ],
)
def test_errors(call: Callable[[Any], Any]) -> None:
    for lib in (torch, pydlx):
        with pytest.raises((RuntimeError, TypeError)):
            call(lib)


def gradients(lib: Any, f: Callable[..., Any], arrays: list[Any], turned: list[bool]) -> list[tuple[Any, Any]]:
    """Values and strides of a result and of its gradients."""
    tensors = []
    for a, t in zip(arrays, turned, strict=True):
        x = lib.tensor(a)
        tensors.append((last(lib, x) if t else x).requires_grad_())
    y = f(lib, *tensors)
    # The second derivative passes through the formulas that are not fused.
    grads = lib.autograd.grad((y * y).sum(), tensors, create_graph=True)
    second = lib.autograd.grad(sum((g * g).sum() for g in grads), tensors[0])
    found = [y, *grads, *second]
    return [(t.detach().numpy(), t.stride()) for t in found]


def compare(
    f: Callable[..., Any], arrays: list[Any], turned: list[bool], tolerance: float, strided: int | None = None
) -> None:
    want, got = gradients(torch, f, arrays, turned), gradients(pydlx, f, arrays, turned)
    for i, ((a, sa), (b, sb)) in enumerate(zip(want, got, strict=True)):
        assert np.abs(a - b).max(initial=0) <= tolerance * (np.abs(a).max(initial=0) + 1e-6), i
        if strided is None or i < strided:
            assert sa == sb, i


CONVOLUTIONS = [
    # channels, outputs, groups, kernel, stride, dilation, padding
    (16, 32, 1, 1, 1, 1, 0),  # a product
    (40, 72, 2, 1, 1, 1, 0),
    (17, 70, 1, 1, 2, 1, 0),  # of gathered pixels
    (520, 9, 1, 1, 1, 1, 0),  # in two blocks of depth
    (16, 1, 1, 1, 1, 1, 1),
    (64, 48, 1, 3, 1, 1, 1),  # Winograd
    (40, 40, 2, 3, 1, 1, 0),
    (32, 17, 1, 5, 1, 1, 2),
    (24, 40, 1, 3, 2, 1, 1),  # direct
    (128, 130, 1, 3, 2, 1, 1),  # Winograd
    (9, 10, 1, 3, 2, 2, 1),
    (32, 32, 1, 3, 1, 2, 2),  # dilated
    (8, 8, 8, 3, 1, 1, 1),  # depthwise
    (3, 17, 1, 7, 2, 1, 3),  # a first layer
    (1, 5, 1, 1, 1, 1, 0),
    (4, 1, 1, 2, 1, 1, 0),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case: tuple[int, ...], dtype: Any, transposed: bool) -> None:
    channels, outputs, groups, kernel, stride, dilation, padding = case
    rng = np.random.default_rng(sum(case))
    x = rng.standard_normal((2, channels, 13, 11)).astype(dtype)
    shape = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    w = (rng.standard_normal((*shape, kernel, kernel)) / (kernel * (channels / groups) ** 0.5)).astype(dtype)
    b = rng.standard_normal(outputs).astype(dtype)

    def f(lib: Any, *operands: Any) -> Any:
        conv = lib.nn.functional.conv_transpose2d if transposed else lib.nn.functional.conv2d
        return conv(*operands, stride=stride, padding=padding, groups=groups, dilation=dilation)

    for turned in ([True, True, False], [False, True, False], [True, False, False]):
        compare(f, [x, w, b], turned, 3e-5 if dtype == np.float32 else 1e-11, strided=2)


def test_volumes() -> None:
    rng = np.random.default_rng(1)
    for channels, kernel, stride in ((32, 3, 1), (16, 3, 2), (16, 1, 1), (24, 1, 2), (2, 2, 1)):
        x = rng.standard_normal((2, channels, 4, 7, 6)).astype(np.float32)
        w = rng.standard_normal((20, channels, kernel, kernel, kernel)).astype(np.float32) / channels

        def f(lib: Any, x: Any, w: Any, stride: int = stride) -> Any:
            return lib.nn.functional.conv3d(x, w, stride=stride)

        compare(f, [x, w], [True, True], 3e-5, strided=2)


def test_no_images() -> None:
    for lib in (torch, pydlx):
        x = last(lib, lib.ones(0, 16, 5, 5)).requires_grad_()
        w = last(lib, lib.ones(16, 16, 3, 3)).requires_grad_()
        lib.nn.functional.conv2d(x, w).sum().backward()
        assert float(w.grad.abs().sum()) == 0


def test_changed_weights_are_seen() -> None:
    """Kept weights follow writes, and are not confused with the same memory read in another format."""
    rng = np.random.default_rng(2)
    x = last(pydlx, pydlx.tensor(rng.standard_normal((1, 32, 16, 16)).astype(np.float32)))
    memory = pydlx.tensor(rng.standard_normal(32 * 32 * 9).astype(np.float32))
    rows = memory.view(32, 32, 3, 3)
    turned = memory.view(32, 3, 3, 32).permute(0, 3, 1, 2)
    conv = pydlx.nn.functional.conv2d
    with pydlx.no_grad():
        for _ in range(2):
            for w in (rows, turned):
                np.testing.assert_allclose(
                    conv(x, w).numpy(), conv(x.double(), w.double()).numpy(), rtol=1e-3, atol=1e-3
                )
            memory.mul_(0.5)


def test_threads_change_nothing() -> None:
    rng = np.random.default_rng(3)
    x = last(pydlx, pydlx.tensor(rng.standard_normal((3, 40, 15, 17)).astype(np.float32))).requires_grad_()
    before = pydlx.get_num_threads()
    for kernel, stride in ((1, 1), (1, 2), (3, 1), (3, 2)):
        w = pydlx.tensor(rng.standard_normal((70, 40, kernel, kernel)).astype(np.float32)).requires_grad_()
        results = []
        for threads in (1, 2, 5):
            pydlx.set_num_threads(threads)
            y = pydlx.nn.functional.conv2d(x, w, stride=stride, padding=kernel // 2)
            results.append([t.detach().numpy().tobytes() for t in (y, *pydlx.autograd.grad(y.square().sum(), (x, w)))])
        pydlx.set_num_threads(before)
        assert results[0] == results[1] == results[2]


LAYERS: dict[str, tuple[Callable[..., Any], int | None]] = {
    # what is computed, and how many of result and gradients have PyTorch's strides
    "batch_norm": (lambda M, x: M.nn.functional.batch_norm(x, None, None, training=True), 2),
    "batch_norm eval": (lambda M, x: M.nn.functional.batch_norm(x, x.new_ones(x.shape[1]), x.new_ones(x.shape[1])), 2),
    "group_norm": (lambda M, x: M.nn.functional.group_norm(x, 2), 1),
    "max_pool": (lambda M, x: M.nn.functional.max_pool2d(x, 3, 2, 1), 2),
    "max_pool dilated": (lambda M, x: M.nn.functional.max_pool2d(x, 2, 1, 0, 2, ceil_mode=True), 2),
    "avg_pool": (lambda M, x: M.nn.functional.avg_pool2d(x, 3, 2, 1), 2),
    "avg_pool inside": (lambda M, x: M.nn.functional.avg_pool2d(x, 3, 2, 1, True, False), 2),
    "adaptive_avg_pool": (lambda M, x: M.nn.functional.adaptive_avg_pool2d(x, (3, 2)), 2),
    "adaptive_avg_pool all": (lambda M, x: M.nn.functional.adaptive_avg_pool2d(x, 1), 1),
    "adaptive_avg_pool even": (lambda M, x: M.nn.functional.adaptive_avg_pool2d(x, (1, 2)), 2),
    "adaptive_max_pool even": (lambda M, x: M.nn.functional.adaptive_max_pool2d(x, (1, 2)), 2),
    "adaptive_max_pool": (lambda M, x: M.nn.functional.adaptive_max_pool2d(x, (3, 2)), 2),
    "pad": (lambda M, x: M.nn.functional.pad(x, (1, 2, -1, 1)), 1),
    "reflect": (lambda M, x: M.nn.functional.pad(x, (1, 2, 1, 1), mode="reflect"), 1),
    "nearest": (lambda M, x: M.nn.functional.interpolate(x, scale_factor=2), 1),
    "bilinear": (lambda M, x: M.nn.functional.interpolate(x, size=(5, 13), mode="bilinear"), 1),
    "relu": (lambda M, x: M.relu(x), 2),
    "gelu": (lambda M, x: M.nn.functional.gelu(x), 2),
    "cat": (lambda M, x: M.cat([x, x * 2], 1), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    f, strided = LAYERS[name]
    x = np.random.default_rng(4).standard_normal((2, 6, 9, 8))
    compare(f, [x], [True], 1e-9, strided)
    wide = np.random.default_rng(5).standard_normal((2, 140, 5, 6))
    compare(f, [wide], [True], 1e-9, strided)
    if "eval" not in name:
        compare(f, [x[:, :, :1, :7]] if "pool" not in name and name != "reflect" else [x[:1]], [True], 1e-9, strided=1)


def test_volume_pools() -> None:
    x = np.random.default_rng(5).standard_normal((2, 3, 5, 6, 7))
    compare(lambda M, x: M.nn.functional.max_pool3d(x, 2), [x], [True], 1e-9, strided=1)
    compare(lambda M, x: M.nn.functional.avg_pool3d(x, 2), [x], [True], 1e-9, strided=0)


def test_pool_positions() -> None:
    x = np.random.default_rng(6).standard_normal((2, 19, 8, 7)).astype(np.float32)
    x[0, 0, :3] = np.nan
    want = torch.nn.functional.max_pool2d(last(torch, torch.tensor(x)), 3, 2, 1, return_indices=True)
    a = last(pydlx, pydlx.tensor(x)).requires_grad_()
    got = pydlx.nn.functional.max_pool2d(a, 3, 2, 1, return_indices=True)
    for w, g in zip(want, got, strict=True):
        np.testing.assert_array_equal(g.detach().numpy(), w.numpy())
        assert g.stride() == w.stride()
    b = pydlx.tensor(x).requires_grad_()
    got[0].nansum().backward()
    pydlx.nn.functional.max_pool2d(b, 3, 2, 1).nansum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("channels", [15, 16, 17, 64, 81])
def test_pool_positions_of_every_kernel(channels: int, dtype: str) -> None:
    """Vectors of channels and what is left of them, windows with gaps, adaptive ones, and nothing but minus infinity."""
    x = np.random.default_rng(channels).integers(-9, 9, (2, channels, 9, 7)).astype(np.float32)
    x[0, 1] = -np.inf
    x[1, :, 4, 4] = np.nan
    for f in (
        lambda M, x: M.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True),
        lambda M, x: M.nn.functional.max_pool2d(x, (2, 3), (1, 2), (1, 0), (2, 1), True, return_indices=True),
        lambda M, x: M.nn.functional.adaptive_max_pool2d(x, (4, 3), return_indices=True),
        lambda M, x: M.nn.functional.adaptive_max_pool2d(x, (3, 7), return_indices=True),
        lambda M, x: M.nn.functional.adaptive_max_pool2d(x, (9, 1), return_indices=True),
    ):
        want = f(torch, last(torch, torch.tensor(x)).to(getattr(torch, dtype)))
        for grad in (False, True):
            t = last(pydlx, pydlx.tensor(x)).to(getattr(pydlx, dtype)).requires_grad_(grad)
            got = f(pydlx, t)
            np.testing.assert_array_equal(got[0].detach().float().numpy(), want[0].float().numpy())
            np.testing.assert_array_equal(got[1].numpy(), want[1].numpy())


def test_dropout_gradient() -> None:
    x = last(pydlx, pydlx.ones(2, 3, 8, 8)).requires_grad_()
    y = pydlx.nn.functional.dropout(x, 0.5)
    y.sum().backward()
    assert y.is_contiguous(memory_format=pydlx.channels_last)
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())


def test_training_step() -> None:
    """A step of a small network in channels-last is the step of the row-major one."""
    losses = {}
    for turned in (False, True):
        pydlx.manual_seed(0)
        net = pydlx.nn.Sequential(
            pydlx.nn.Conv2d(3, 16, 3, padding=1, bias=False),
            pydlx.nn.BatchNorm2d(16),
            pydlx.nn.ReLU(inplace=True),
            pydlx.nn.MaxPool2d(2),
            pydlx.nn.Conv2d(16, 32, 1),
            pydlx.nn.ReLU(),
            pydlx.nn.AdaptiveAvgPool2d(1),
            pydlx.nn.Flatten(),
            pydlx.nn.Linear(32, 5),
        )
        x = pydlx.tensor(np.random.default_rng(7).standard_normal((4, 3, 16, 16)).astype(np.float32))
        if turned:
            net, x = net.to(memory_format=pydlx.channels_last), last(pydlx, x)
        step = pydlx.optim.AdamW(net.parameters(), lr=0.01)
        for _ in range(3):
            step.zero_grad()
            loss = pydlx.nn.functional.cross_entropy(net(x), pydlx.tensor([0, 1, 2, 3]))
            loss.backward()
            step.step()
        assert net[0].weight.grad.stride() == net[0].weight.stride()
        losses[turned] = loss.item()
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
