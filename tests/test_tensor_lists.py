"""Operations on whole lists of gradients: clipping, unscaling, and the casts of mixed precision."""

from __future__ import annotations

import math

import pytest

import pydlx
from pydlx import _C, nn

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not pydlx.cuda.is_available(), reason="no GPU"))]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (64, 33), (2, 3, 0), (130, 257)]


def lists(device, dtypes, seed=0):
    pydlx.manual_seed(seed)
    return [pydlx.randn(s).to(device=device, dtype=dtypes[i % len(dtypes)]) * 0.25 for i, s in enumerate(SHAPES)]


def wide(t):
    return t.detach().cpu().double()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", [["float32"], ["float64"], ["float16"], ["bfloat16"], ["float32", "bfloat16"]])
@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_norms_of_lists(device, dtypes, order):
    tensors = lists(device, [getattr(pydlx, d) for d in dtypes])
    views = [tensors[-1].t(), tensors[-1][::2, 1:], tensors[0].expand(5)]  # dense in another order, with gaps, repeated
    for items in (tensors, [*tensors, *views[:1]], [*tensors, *views]):
        items = [t for t in items if t.numel() or order != math.inf]
        total = _C.total_norm(items, order)
        assert total.shape == () and total.dtype == items[0].dtype and total.device == items[0].device
        expected = pydlx.cat([wide(t).reshape(-1) for t in items]).norm(order)
        eps = {"float64": 1e-12, "float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}
        assert math.isclose(float(total), float(expected), rel_tol=max(eps[d] for d in dtypes))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_what_is_not_finite_shows(device, value, order):
    tensors = [t for t in lists(device, [pydlx.float32]) if t.numel()]
    tensors[-1][100, 200] = value
    total = float(_C.total_norm(tensors, order))
    assert math.isnan(total) if math.isnan(value) else total == math.inf


@pytest.mark.parametrize("device", DEVICES)
def test_many_tensors_of_many_sizes(device):
    tensors = [pydlx.full((1 + 3 * i,), 1.0 + i % 3, device=device) for i in range(400)]  # several launches
    odd = pydlx.arange(40001, device=device)[1:].to(pydlx.float32) / 40000  # parts, and an address between packs
    tensors.append(odd)
    expected = math.sqrt(sum(float((wide(t) ** 2).sum()) for t in tensors))
    total = _C.total_norm(tensors, 2.0)
    assert math.isclose(float(total), expected, rel_tol=1e-6)
    copies = [t.clone() for t in tensors]
    _C.clip_to_norm_(tensors, 1.0, total)
    factor = 1.0 / (total + 1e-6)
    for t, c in zip(tensors, copies):
        assert pydlx.equal(t, c * factor)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", [["float32"], ["float64"], ["float16"], ["float32", "bfloat16"]])
def test_clipping_follows_its_formula(device, dtypes):
    dtypes = [getattr(pydlx, d) for d in dtypes]
    for limit in (0.5, 1e9):
        tensors = lists(device, dtypes, 1)
        versions = [t._version for t in tensors]
        norm = _C.total_norm(tensors, 2.0)
        copies = [t.clone() for t in tensors]
        _C.clip_to_norm_(tensors, limit, norm)
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for t, c, v in zip(tensors, copies, versions):
            assert pydlx.equal(t, c * factor.to(t.dtype))
            assert t._version > v
    bad = [pydlx.ones(3, device=device)]
    _C.clip_to_norm_(bad, 1.0, pydlx.tensor(math.nan, device=device))
    assert bool(bad[0].isnan().all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("place", [None, 0, -1])
@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38])
def test_scaling_tells_what_is_not_finite(device, place, value):
    tensors = [t for t in lists(device, [pydlx.float32]) if t.numel()]
    if place is not None:
        tensors[place].reshape(-1)[-1] = value
    copies = [t.clone() for t in tensors]
    found = _C.scale_and_check_(tensors, 4.0)
    assert found.dtype == pydlx.float32 and found.device.type == device
    assert bool(found) == (place is not None)
    for t, c in zip(tensors, copies):
        assert pydlx.equal(t.nan_to_num(), (c * 4.0).nan_to_num())


def test_refusals():
    with pytest.raises(ValueError, match=r"\[total_norm\] tensors"):
        _C.total_norm([], 2.0)
    with pytest.raises(ValueError, match=r"\[total_norm\] order"):
        _C.total_norm([pydlx.ones(2)], 3.0)
    with pytest.raises(ValueError, match=r"\[clip_to_norm_\] norm"):
        _C.clip_to_norm_([pydlx.ones(2)], 1.0, pydlx.ones(2))
    with pytest.raises(ValueError, match=r"\[scale_and_check_\] tensors"):
        _C.scale_and_check_([], 1.0)
    _C.clip_to_norm_([], 1.0, pydlx.tensor(1.0))


# ---- operands of two dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("narrow", [pydlx.float16, pydlx.bfloat16])
@pytest.mark.parametrize(
    ("shape", "other"), [((5, 7), (5, 7)), ((4, 64), (4, 64)), ((4, 64), (64,)), ((3, 1), (1, 9)), ((0, 3), (3,))]
)
def test_sums_and_products_of_mixed_operands(device, narrow, shape, other):
    a, b = pydlx.randn(shape).to(device), pydlx.randn(other).to(device).to(narrow)
    for f in (pydlx.add, pydlx.mul):
        for x, y in ((a, b), (b, a), (a.t() if shape == other else a, b.t() if shape == other else b)):
            assert f(x, y).dtype == pydlx.float32
            assert pydlx.equal(f(x, y), f(x.float(), y.float()))
    if shape == other:
        assert pydlx.equal(a.clone().add_(b), a + b.float())
        assert pydlx.equal(b.clone().add_(a), (b.float() + a).to(narrow))
        assert (a.t() + b.t()).stride() == a.t().stride()


# ---- casts of leaves -------------------------------------------------------------------------------------------------


def model_and_batch(device):
    pydlx.manual_seed(3)
    model = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 8)).to(device)
    return model, pydlx.randn(16, 24).to(device)


def gradients(model, x, dtype, times=1, observed=False, **options):
    seen = []
    for _ in range(times):
        with pydlx.autocast(x.device.type, dtype=dtype, **options):
            loss = model(x).square().mean()
        if observed:
            for p in model.parameters():
                p.register_hook(lambda g: seen.append(g.dtype))
        loss.backward()
    assert not observed or set(seen) == {pydlx.float32}
    result = [p.grad.clone() for p in model.parameters()]
    assert all(g.dtype == pydlx.float32 for g in result)
    model.zero_grad()
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16])
def test_casts_of_all_leaves_are_those_of_each(device, dtype):
    model, x = model_and_batch(device)
    alone = gradients(model, x, dtype, cache_enabled=False)  # every use is a cast of its own
    for _ in range(3):  # the second region knows what the first one cast
        for a, b in zip(alone, gradients(model, x, dtype)):
            assert pydlx.equal(a, b)
    for a, b in zip(alone, gradients(model, x, dtype, times=2)):  # added to what is there
        assert pydlx.equal(a * 2, b)
    for a, b in zip(alone, gradients(model, x, dtype, observed=True)):
        assert pydlx.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_that_are_added_together(device):
    model, x = model_and_batch(device)
    once = gradients(model, x, pydlx.bfloat16, enabled=False)
    for a, b in zip(once, gradients(model, x, pydlx.bfloat16, times=3, enabled=False)):
        assert pydlx.equal(a + a + a, b)
    model(x).square().mean().backward()
    kept = [p.grad for p in model.parameters()]
    versions = [g._version for g in kept]
    seen = []
    x.requires_grad_()
    y = model(x)
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    y.register_hook(lambda g: seen.append([g.clone() for g in kept]))
    y.square().mean().backward()
    assert len(seen) == 2 and all(pydlx.equal(a, b) for a, b in zip(once, seen[0]))
    assert pydlx.equal(seen[1], once[0] + once[0])
    for p, a, g, v in zip(model.parameters(), once, kept, versions):
        assert p.grad is g and g._version > v and pydlx.equal(g, a + a)


@pytest.mark.parametrize("device", DEVICES)
def test_casts_follow_changes_and_other_models(device):
    model, x = model_and_batch(device)
    gradients(model, x, pydlx.bfloat16)
    with pydlx.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    fresh = nn.Sequential(*(type(m)(m.in_features, m.out_features) if hasattr(m, "weight") else m for m in model)).to(
        device
    )
    fresh.load_state_dict(model.state_dict())
    for a, b in zip(gradients(model, x, pydlx.bfloat16), gradients(fresh, x, pydlx.bfloat16)):
        assert pydlx.equal(a, b)
    del model[3:]  # leaves that are no longer there, and less of the region
    part = gradients(model, x, pydlx.bfloat16)
    assert len(part) == 4
    with pydlx.autocast(device, dtype=pydlx.bfloat16):  # a change inside the region
        first = model(x)
        with pydlx.no_grad():
            model[0].weight.zero_()
            model[0].bias.zero_()
        second = model(x)
    assert not pydlx.equal(first, second)
    with pydlx.no_grad():
        assert pydlx.allclose(second.float(), model[2].bias.expand_as(second), atol=1e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_leaves_used_twice_and_second_derivatives(device):
    pydlx.manual_seed(1)
    w = pydlx.randn(8, 8).to(device).requires_grad_()
    x = pydlx.randn(4, 8).to(device)
    with pydlx.autocast(device, dtype=pydlx.bfloat16):
        y = nn.functional.linear(nn.functional.linear(x, w), w) + nn.functional.embedding(
            pydlx.tensor([0, 1, 2, 3], device=device), w
        )
    y.float().sum().backward()
    got = w.grad.clone()
    b = w.detach().to(pydlx.bfloat16).requires_grad_()
    e = w.detach().clone().requires_grad_()
    z = nn.functional.linear(nn.functional.linear(x.to(pydlx.bfloat16), b), b) + nn.functional.embedding(
        pydlx.tensor([0, 1, 2, 3], device=device), e
    )
    z.float().sum().backward()
    assert pydlx.allclose(got, b.grad.float() + e.grad, rtol=1e-6)
    w.grad = None
    with pydlx.autocast(device, dtype=pydlx.bfloat16):
        loss = nn.functional.linear(x, w).square().sum()
    (g,) = pydlx.autograd.grad(loss, w, create_graph=True)
    assert g.dtype == pydlx.float32 and w.grad is None
    g.square().sum().backward()
    assert w.grad is not None and bool(w.grad.isfinite().all())


# ---- losses of 16-bit logits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_mixed_precision_reads_logits_as_they_are(device, dtype, reduction, probabilities):
    pydlx.manual_seed(5)
    x = pydlx.randn(33, 19).to(device=device, dtype=dtype)
    target = pydlx.randn(33, 19).softmax(-1) if probabilities else pydlx.randint(0, 19, (33,))
    if not probabilities:
        target[3] = -100
    target = target.to(device)
    results = []
    for inside in (False, True):
        leaf = (x if inside else x.float()).detach().requires_grad_()
        with pydlx.autocast(device, dtype=dtype, enabled=inside):
            loss = nn.functional.cross_entropy(leaf, target, reduction=reduction, label_smoothing=0.1)
        assert loss.dtype == pydlx.float32
        loss.backward(pydlx.ones_like(loss) * 3)
        assert leaf.grad.dtype == leaf.dtype
        results.append((loss.detach(), leaf.grad.to(dtype)))
    assert pydlx.equal(results[0][0], results[1][0]) and pydlx.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 5, 1024, 5000, 40000])
@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float64])
def test_means_over_rows(device, rows, dtype):
    pydlx.manual_seed(rows)
    x, target = pydlx.randn(rows, 3, dtype=dtype), pydlx.randint(0, 3, (rows,))
    target[rows // 2 :: 7] = -1
    weight = pydlx.tensor([0.5, 2.0, 1.0], dtype=dtype)
    each = nn.functional.cross_entropy(x.double(), target, weight.double(), ignore_index=-1, reduction="none")
    expected = each.sum() / weight.double()[target[target >= 0]].sum()
    got = nn.functional.cross_entropy(x.to(device), target.to(device), weight.to(device), ignore_index=-1)
    if rows == 1:
        assert math.isnan(float(got)) and math.isnan(float(expected))
    else:
        assert math.isclose(float(got), float(expected), rel_tol=1e-6 if dtype == pydlx.float32 else 1e-12)


# ---- attention of batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("same", [3, 2, 1])  # of query, key and value
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_batch_first_attention_is_that_of_the_other_order(device, same, need_weights, masked):
    pydlx.manual_seed(2)
    first = nn.MultiheadAttention(24, 3, batch_first=True).to(device)
    second = nn.MultiheadAttention(24, 3).to(device)
    second.load_state_dict(first.state_dict())
    q, k, v = (pydlx.randn(2, n, 24).to(device) for n in (5, 7, 7))
    inputs = [k, k, k] if same == 3 else [q, k, k] if same == 2 else [q, k, v]
    options = {"need_weights": need_weights}
    if masked:
        options["key_padding_mask"] = (pydlx.arange(7) > pydlx.tensor([[4], [6]])).to(device)
        options["attn_mask"] = pydlx.randn(2 * 3, inputs[0].shape[1], 7).to(device)
    leaves = {id(t): t.clone().requires_grad_() for t in inputs}
    others = {i: t.detach().transpose(0, 1).contiguous().requires_grad_() for i, t in leaves.items()}
    y, w = first(*(leaves[id(t)] for t in inputs), **options)
    z, u = second(*(others[id(t)] for t in inputs), **options)
    assert pydlx.allclose(y.transpose(0, 1), z, atol=1e-5)
    assert w is None if not need_weights else pydlx.allclose(w, u, atol=1e-6)
    y.square().sum().backward()
    z.square().sum().backward()
    for i, t in leaves.items():
        assert pydlx.allclose(t.grad.transpose(0, 1), others[i].grad, atol=1e-4)
    for p, r in zip(first.parameters(), second.parameters()):
        assert pydlx.allclose(p.grad, r.grad, atol=1e-4)
