"""Mixed precision against PyTorch: dtypes inside autocast, gradients, the loss scaler's schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx


def both(shape, seed=0):
    a = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return pydlx.from_numpy(a.copy()), torch.from_numpy(a.copy())


# name: a function of (T, x, w) whose result's dtype PyTorch decides inside autocast("cpu")
OPS = {
    "matmul": lambda T, x, w: x @ w,
    "mm": lambda T, x, w: T.mm(x, w),
    "method": lambda T, x, w: x.matmul(w),
    "linear": lambda T, x, w: T.nn.functional.linear(x, w),
    "addmm": lambda T, x, w: T.addmm(x, x, w),
    "bmm": lambda T, x, w: T.bmm(x[None], w[None]),
    "conv2d": lambda T, x, w: T.nn.functional.conv2d(x[None, None], w[None, None, :3, :3]),
    "attention": lambda T, x, w: T.nn.functional.scaled_dot_product_attention(
        x[None, None], w[None, None], w[None, None]
    ),
    "add": lambda T, x, w: x + w,
    "relu after matmul": lambda T, x, w: T.relu(x @ w),
    "softmax": lambda T, x, w: T.softmax(x @ w, -1),
    "layer_norm": lambda T, x, w: T.nn.functional.layer_norm(x @ w, (6,)),
    "mse_loss": lambda T, x, w: T.nn.functional.mse_loss(x @ w, x),
    "cross_entropy": lambda T, x, w: T.nn.functional.cross_entropy(x @ w, T.arange(6)),
    "sum": lambda T, x, w: (x @ w).sum(),
    "double": lambda T, x, w: x.double() @ w.double(),
    "integers": lambda T, x, w: T.arange(4) * 2,
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_and_values(op, dtype):
    (x, tx), (w, tw) = both((6, 6)), both((6, 6), 1)
    with pydlx.autocast("cpu", dtype=getattr(pydlx, dtype)):
        got = OPS[op](pydlx, x, w)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        want = OPS[op](torch, tx, tw)
    assert str(got.dtype).split(".")[1] == str(want.dtype).split(".")[1]
    unit = 8e-3 if dtype == "bfloat16" else 1e-3
    error = np.abs(got.double().numpy() - want.double().numpy()).max()
    assert error <= 4 * unit * max(1.0, want.double().abs().max().item())


def test_parameters_and_gradients_stay_float32():
    m = pydlx.nn.Sequential(pydlx.nn.Linear(8, 16), pydlx.nn.ReLU(), pydlx.nn.Linear(16, 4))
    t = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    m.load_state_dict({k: pydlx.from_numpy(v.numpy().copy()) for k, v in t.state_dict().items()})
    x, tx = both((32, 8))
    with pydlx.autocast("cpu"):
        loss = pydlx.nn.functional.cross_entropy(m(x), pydlx.arange(32) % 4)
    loss.backward()
    with torch.autocast("cpu"):
        want = torch.nn.functional.cross_entropy(t(tx), torch.arange(32) % 4)
    want.backward()
    assert loss.dtype == pydlx.float32 and abs(loss.item() - want.item()) < 1e-2
    for p, q in zip(m.parameters(), t.parameters()):
        assert p.grad.dtype == pydlx.float32
        assert np.abs(p.grad.numpy() - q.grad.numpy()).max() < 2e-2 * max(q.grad.abs().max().item(), 1e-2)


def test_casts_of_parameters_are_shared_and_follow_changes():
    w = pydlx.randn(4, 4, requires_grad=True)
    x = pydlx.randn(4, 4)
    with pydlx.autocast("cpu"):
        first = x @ w
        again = x @ w
        with pydlx.no_grad():
            w.mul_(0)
        zero = x @ w
    assert first.tolist() == again.tolist() and zero.abs().max().item() == 0


def test_backward_inside_the_region():
    w, x, gradients = pydlx.randn(4, 4, requires_grad=True), pydlx.randn(2, 4), []
    with pydlx.autocast("cpu", dtype=pydlx.bfloat16):
        for _ in range(3):
            gradients += pydlx.autograd.grad((x @ w @ w).float().sum(), w)
    assert pydlx.equal(gradients[0], gradients[1]) and pydlx.equal(gradients[0], gradients[2])


def test_nesting_switching_off_and_decorating():
    x = pydlx.randn(3, 3)
    assert not pydlx.is_autocast_enabled("cpu")
    with pydlx.autocast("cpu"):
        assert pydlx.is_autocast_enabled("cpu") and (x @ x).dtype == pydlx.bfloat16
        with pydlx.autocast("cpu", enabled=False):
            assert (x @ x).dtype == pydlx.float32
        with pydlx.autocast("cpu", dtype=pydlx.float16):
            assert (x @ x).dtype == pydlx.float16
        assert (x @ x).dtype == pydlx.bfloat16

    @pydlx.autocast("cpu")
    def product(a):
        return a @ a

    assert product(x).dtype == pydlx.bfloat16 and (x @ x).dtype == pydlx.float32


def test_an_error_leaves_the_region():
    with pytest.raises(pydlx.ShapeError), pydlx.autocast("cpu"):
        pydlx.randn(2, 3) @ pydlx.randn(2, 3)
    assert not pydlx.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "use",
    [
        lambda: pydlx.autocast("tpu"),
        lambda: pydlx.autocast(3),
        lambda: pydlx.autocast("cpu", dtype=pydlx.float32),
        lambda: pydlx.set_autocast_dtype("cpu", pydlx.int64),
        lambda: pydlx.amp.GradScaler("tpu"),
        lambda: pydlx.amp.GradScaler("cpu", growth_factor=1.0),
        lambda: pydlx.amp.GradScaler("cpu", backoff_factor=1.0),
    ],
)
def test_misuse(use):
    with pytest.raises(ValueError, match="expected"):
        use()


def test_custom_function():
    class Scale(pydlx.autograd.Function):
        @staticmethod
        @pydlx.amp.custom_fwd(device_type="cpu", cast_inputs=pydlx.float32)
        def forward(ctx, x):
            ctx.seen = x.dtype
            return x * 2

        @staticmethod
        @pydlx.amp.custom_bwd(device_type="cpu")
        def backward(ctx, g):
            assert ctx.seen == pydlx.float32
            return g * 2

    x = pydlx.randn(3, 3, requires_grad=True)
    with pydlx.autocast("cpu"):
        y = Scale.apply(x @ x)
    assert y.dtype == pydlx.float32
    y.sum().backward()
    assert x.grad.dtype == pydlx.float32


class TestScaler:
    def pair(self, **options):
        p = pydlx.nn.Parameter(pydlx.ones(3))
        q = torch.nn.Parameter(torch.ones(3))
        return (
            (p, pydlx.optim.SGD([p], lr=0.1), pydlx.amp.GradScaler("cpu", **options)),
            (q, torch.optim.SGD([q], lr=0.1), torch.amp.GradScaler("cpu", **options)),
        )

    def test_schedule_equals_pytorch(self):
        sides = self.pair(init_scale=8.0, growth_interval=2)
        factors = [1.0, 2.0, float("inf"), 1.0, 1.0, float("nan"), 1.0, 1.0, 1.0]
        seen = []
        for T, (p, optimizer, scaler) in zip((pydlx, torch), sides):
            history = []
            for f in factors:
                optimizer.zero_grad()
                scaler.scale((p * T.tensor(f)).sum()).backward()
                scaler.step(optimizer)
                scaler.update()
                history.append((scaler.get_scale(), [round(v, 5) for v in p.tolist()]))
            seen.append(history)
        assert seen[0] == seen[1]
        assert sides[0][2].state_dict() == sides[1][2].state_dict()

    def test_unscaled_gradients_can_be_clipped(self):
        (p, optimizer, scaler), _ = self.pair(init_scale=1024.0)
        scaler.scale((p * 3).sum()).backward()
        assert p.grad.tolist() == [3072.0] * 3
        scaler.unscale_(optimizer)
        assert p.grad.tolist() == [3.0] * 3
        with pytest.raises(RuntimeError, match="already"):
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match="update"):
            scaler.step(optimizer)
        scaler.update()
        assert p.tolist() == pytest.approx([0.7] * 3)

    def test_order_of_calls(self):
        (p, optimizer, scaler), _ = self.pair()
        with pytest.raises(RuntimeError, match="before"):
            scaler.update()
        with pytest.raises(RuntimeError, match="gradients"):
            scaler.step(optimizer)

    def test_disabled_passes_through(self):
        (p, optimizer, scaler), _ = self.pair(enabled=False)
        loss = (p * 2).sum()
        assert scaler.scale(loss) is loss
        loss.backward()
        scaler.step(optimizer)
        scaler.update()
        assert p.tolist() == pytest.approx([0.8] * 3) and scaler.state_dict() == {} and scaler.get_scale() == 1.0

    def test_state(self):
        (_, _, scaler), _ = self.pair(init_scale=32.0)
        (_, _, other), _ = self.pair()
        other.load_state_dict(scaler.state_dict())
        assert other.get_scale() == 32.0
        with pytest.raises(RuntimeError, match="empty"):
            other.load_state_dict({})

    @pytest.mark.skipif(pydlx.cuda.is_available(), reason="there is a GPU")
    def test_without_a_gpu(self):
        with pytest.warns(UserWarning, match="no usable GPU"):
            assert not pydlx.amp.GradScaler().is_enabled()
