"""Gradient clipping, parameter vectors, parametrisations, fusion, and functional odds and ends."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from nn_twins import close, compare, load_from, ours

import pydlx
import pydlx.nn.functional as F
from pydlx import nn
from pydlx.nn import utils
from pydlx.nn.utils import parametrize

rng = np.random.default_rng(9)


def x(*shape):
    return rng.standard_normal(shape)


def with_grads(lib):
    params = []
    for i, shape in enumerate([(3, 4), (5,), ()]):
        p = lib.nn.Parameter(lib.zeros(shape))
        p.grad = lib.tensor(np.random.default_rng(i).standard_normal(shape).astype("float32") * 3)
        params.append(p)
    params.append(lib.nn.Parameter(lib.zeros(2)))  # without a gradient
    return params


@pytest.mark.parametrize("norm", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_clip_grad_norm(norm, bound):
    mine, reference = with_grads(pydlx), with_grads(torch)
    a = utils.clip_grad_norm_(mine, bound, norm)
    b = torch.nn.utils.clip_grad_norm_(reference, bound, norm)
    close(a, b, 1e-6, "norm")
    for p, q in zip(mine[:3], reference[:3], strict=True):
        close(p.grad, q.grad, 1e-6, "gradient")
    assert mine[3].grad is None


def test_clip_edges():
    mine, reference = with_grads(pydlx), with_grads(torch)
    utils.clip_grad_value_(mine, 1.0)
    torch.nn.utils.clip_grad_value_(reference, 1.0)
    for p, q in zip(mine[:3], reference[:3], strict=True):
        close(p.grad, q.grad, 0, "gradient")
    p = nn.Parameter(pydlx.zeros(2))
    assert float(utils.clip_grad_norm_(p, 1.0)) == 0.0
    p.grad = pydlx.tensor([float("nan"), 1.0])
    with pytest.raises(RuntimeError, match="finite"):
        utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert float(utils.get_total_norm([pydlx.ones(4), pydlx.ones(5)])) == pytest.approx(3.0)


def test_parameter_vector():
    net, twin = nn.Linear(3, 4), nn.Linear(3, 4)
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (16,)
    utils.vector_to_parameters(vector, twin.parameters())
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    vector.sum().backward()
    assert (net.weight.grad == 1).all()
    for bad, error in (([1.0], TypeError), (pydlx.ones(3), ValueError)):
        with pytest.raises(error, match="vec"):
            utils.vector_to_parameters(bad, net.parameters())


def test_weight_norm_matches_torch():
    for make in (lambda nn: nn.Linear(4, 3), lambda nn: nn.Conv2d(2, 3, 3)):
        mine, reference = make(nn).double(), make(torch.nn).double()
        load_from(mine, reference)
        utils.parametrizations.weight_norm(mine)
        torch.nn.utils.parametrizations.weight_norm(reference)
        load_from(mine, reference)
        data = x(2, 4) if isinstance(mine, nn.Linear) else x(1, 2, 5, 5)
        compare(mine, reference, [data], 1e-9, (list(mine.named_parameters()), list(reference.named_parameters())))
        assert parametrize.is_parametrized(mine, "weight")
        assert not parametrize.is_parametrized(mine, "bias")
        before = mine.weight.detach().numpy()
        parametrize.remove_parametrizations(mine, "weight")
        np.testing.assert_allclose(mine.weight.detach().numpy(), before)
        assert type(mine).__name__ in ("Linear", "Conv2d")
        assert "weight" in dict(mine.named_parameters())


def test_spectral_norm():
    pydlx.manual_seed(0)
    m = utils.parametrizations.spectral_norm(nn.Linear(6, 4), n_power_iterations=20)
    for _ in range(5):
        m(pydlx.ones(1, 6))
    assert np.linalg.svd(m.weight.detach().numpy())[1][0] == pytest.approx(1, abs=1e-3)
    m.eval()
    np.testing.assert_array_equal(m.weight.detach().numpy(), m.weight.detach().numpy())
    reference = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 4), n_power_iterations=20)
    load_from(m, reference)
    compare(
        m.double(),
        reference.double().eval(),
        [x(3, 6)],
        1e-9,
        (list(m.named_parameters()), list(reference.named_parameters())),
    )
    m(pydlx.ones(1, 6, dtype=pydlx.float64)).sum().backward()
    assert m.parametrizations.weight.original.grad is not None


def test_hook_forms_match_torch():
    for make in (lambda nn: nn.Linear(4, 3), lambda nn: nn.ConvTranspose1d(2, 3, 3)):
        data = x(2, 4) if "Linear" in repr(make(nn)) else x(1, 2, 5)
        for norm in ("weight_norm", "spectral_norm"):
            mine, reference = getattr(utils, norm)(make(nn)), getattr(torch.nn.utils, norm)(make(torch.nn))
            load_from(mine.double(), reference.double())
            params = (list(mine.named_parameters()), list(reference.named_parameters()))
            for _ in range(2):
                compare(mine, reference, [data], 1e-9, params)
                mine.zero_grad()
                reference.zero_grad()
            mine.eval()
            before = mine(ours(data)).detach().numpy()
            getattr(utils, "remove_" + norm)(mine)
            np.testing.assert_allclose(mine(ours(data)).detach().numpy(), before, atol=1e-12)
            assert sorted(dict(mine.named_parameters())) == ["bias", "weight"]
            with pytest.raises(ValueError, match="weight"):
                getattr(utils, "remove_" + norm)(mine)


def test_own_parametrization():
    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).transpose(0, 1)

        def right_inverse(self, w):
            return w.triu()

    m = nn.Linear(3, 3)
    parametrize.register_parametrization(m, "weight", Symmetric())
    w = m.weight.detach().numpy()
    np.testing.assert_array_equal(w, w.T)
    value = np.arange(9.0, dtype="float32").reshape(3, 3)
    m.weight = ours(value + value.T)
    np.testing.assert_array_equal(m.weight.detach().numpy(), value + value.T)
    with parametrize.cached():
        assert m.weight is m.weight
    assert m.weight is not m.weight
    twin = copy.deepcopy(m)
    np.testing.assert_array_equal(twin.weight.detach().numpy(), m.weight.detach().numpy())
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(m)
    assert list(m.state_dict()) == ["bias", "parametrizations.weight.original"]
    parametrize.remove_parametrizations(m, "weight", leave_parametrized=False)
    with pytest.raises(ValueError, match="weight"):
        parametrize.remove_parametrizations(m, "weight")
    with pytest.raises(ValueError, match="nothing"):
        parametrize.register_parametrization(m, "nothing", Symmetric())


def test_fusion():
    for make, data in (
        (lambda: nn.Conv2d(2, 3, 3), x(2, 2, 5, 5)),
        (lambda: nn.ConvTranspose2d(2, 3, 3, bias=False), x(2, 2, 5, 5)),
    ):
        conv, bn = make().double(), nn.BatchNorm2d(3).double()
        bn(ours(x(4, 3, 5, 5) * 3 + 1))
        conv.eval()
        bn.eval()
        fused = utils.fuse_conv_bn_eval(conv, bn, conv.transposed)
        np.testing.assert_allclose(
            fused(ours(data)).detach().numpy(), bn(conv(ours(data))).detach().numpy(), atol=1e-10
        )
    linear, bn = nn.Linear(3, 4).double(), nn.BatchNorm1d(4).double()
    with pytest.raises(ValueError, match="eval"):
        utils.fuse_linear_bn_eval(linear, bn)
    fused = utils.fuse_linear_bn_eval(linear.eval(), bn.eval())
    data = ours(x(5, 3))
    np.testing.assert_allclose(fused(data).detach().numpy(), bn(linear(data)).detach().numpy(), atol=1e-10)


# --- nn.functional ---------------------------------------------------------------------------------------------------

RESIZE = [
    *({"scale_factor": s, "mode": m} for s in (2, 0.7, 1.5) for m in ("nearest", "nearest-exact", "area")),
    *({"size": (3, 9), "mode": m, "align_corners": a} for m in ("bilinear", "bicubic") for a in (True, False)),
    *({"scale_factor": (1.7, 0.6), "mode": m} for m in ("bilinear", "bicubic")),
    *({"scale_factor": 1.3, "mode": "bilinear", "recompute_scale_factor": r} for r in (True, False)),
    *({"size": (3, 4), "mode": m, "antialias": True} for m in ("bilinear", "bicubic")),
    {"size": (9, 11), "mode": "bicubic", "antialias": True},
]


@pytest.mark.parametrize("options", RESIZE, ids=str)
def test_interpolate(options):
    for data, tolerance in ((x(2, 3, 6, 7), 1e-9), (x(2, 3, 6, 7).astype("float32"), 2e-5)):
        compare(lambda a: F.interpolate(a, **options), lambda a: TF.interpolate(a, **options), [data], tolerance)


def test_interpolate_other_ranks():
    for data, options in (
        (x(2, 3, 7), {"size": 11, "mode": "linear"}),
        (x(2, 3, 7), {"scale_factor": 0.5, "mode": "linear", "align_corners": True}),
        (x(1, 2, 3, 4, 5), {"size": (5, 3, 7), "mode": "trilinear"}),
        (x(1, 2, 3, 4, 5), {"scale_factor": 2, "mode": "nearest"}),
    ):
        compare(lambda a, o=options: F.interpolate(a, **o), lambda a, o=options: TF.interpolate(a, **o), [data], 1e-9)
    for options in (
        {},
        {"size": 3, "scale_factor": 2},
        {"size": 3, "mode": "linear"},
        {"size": 0},
        {"size": (1, 2, 3)},
    ):
        with pytest.raises(ValueError, match="interpolate"):
            F.interpolate(pydlx.ones(1, 1, 4, 4), **options)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [True, False])
def test_grid_sample(mode, padding, corners):
    for axes in (2, 3) if mode != "bicubic" else (2,):
        image = x(2, 3, 5, 6, 4)[(slice(None), slice(None), *[0] * (3 - axes))]
        points = x(*([2, 4, 3, 2][: axes + 1]), axes) * 1.2
        # PyTorch gives the points of nearest a gradient of zeros, we give none.
        still = mode == "nearest"
        options = {"mode": mode, "padding_mode": padding, "align_corners": corners}
        compare(
            lambda a, g, o=options, s=still: F.grid_sample(a, g.detach() if s else g, **o),
            lambda a, g, o=options, s=still: TF.grid_sample(a, g.detach() if s else g, **o),
            [image, points],
            1e-9,
        )
        size = [2, 3, 4, 5, 3][: axes + 2]
        compare(
            lambda t, s=size: F.affine_grid(t, s, corners),
            lambda t, s=size: TF.affine_grid(t, s, corners),
            [x(2, axes, axes + 1)],
            1e-9,
        )
    with pytest.raises(ValueError, match="grid"):
        F.grid_sample(pydlx.ones(1, 1, 2, 2), pydlx.ones(1, 2, 2, 3))


def test_in_place_functions():
    for name in ("elu_", "celu_", "selu_", "leaky_relu_", "hardtanh_", "rrelu_"):
        value, data = ours(x(4, 3)), None
        data = value.numpy().copy()
        assert getattr(F, name)(value) is value
        np.testing.assert_allclose(value.numpy(), getattr(TF, name)(torch.tensor(data)).numpy(), rtol=1e-6)
    assert F.threshold_(ours(x(3)), 9.0, 1.0).tolist() == [1.0] * 3


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad(mode):
    for shape, sizes in (
        ((2, 3, 7), (2, 1)),
        ((3, 7), (0, 5)),
        ((2, 3, 5, 4), (3, 2, 1, 0)),
        ((2, 3, 5, 4), (-1, 2, 1, -2)),
        ((2, 2, 4, 3, 5), (1, 2, 2, 1, 3, 0)),
    ):
        compare(lambda a, p=sizes: F.pad(a, p, mode), lambda a, p=sizes: TF.pad(a, p, mode), [x(*shape)], 1e-12)
    if mode == "constant":
        compare(lambda a: F.pad(a, (1, 2), value=3.5), lambda a: TF.pad(a, (1, 2), value=3.5), [x(4)], 0)
        return
    for sizes in ((1,), (1, 1, 1, 1, 1, 1), (99, 0) if mode != "replicate" else (-99, 0)):
        with pytest.raises(ValueError, match=r"\[pad\]"):
            F.pad(pydlx.ones(1, 2, 4), sizes, mode)
    with pytest.raises(ValueError, match="mode"):
        F.pad(pydlx.ones(1, 2, 4), (1, 1), "wrap")


def test_one_hot():
    for data, classes in ((np.array([[1, 0], [2, 4]]), -1), (np.array(3), 6), (np.zeros((0, 2), dtype=np.int64), 3)):
        mine, reference = F.one_hot(ours(data), classes), TF.one_hot(torch.tensor(data), classes)
        close(mine, reference, 0, "one_hot")
    for data, classes in ((np.array([5]), 3), (np.array([-1]), -1), (np.zeros(0, dtype=np.int64), -1)):
        with pytest.raises(ValueError, match="one_hot"):
            F.one_hot(ours(data), classes)
    with pytest.raises(TypeError, match="integer"):
        F.one_hot(ours(np.array([1.0])))


def test_functional_odds():
    for mine, reference, inputs in (
        (lambda a: F.normalize(a, dim=1), lambda a: TF.normalize(a, dim=1), [x(3, 4)]),
        (F.softsign, TF.softsign, [x(3, 4)]),
        (F.pdist, TF.pdist, [x(5, 3)]),
        (F.cosine_similarity, TF.cosine_similarity, [x(3, 4), x(3, 4)]),
        (lambda a: F.softmax(a, dtype=pydlx.float64), lambda a: TF.softmax(a, dim=1, dtype=torch.float64), [x(3, 4)]),
        (lambda a: F.unfold(a, 3), lambda a: TF.unfold(a, 3), [x(2, 3, 5, 6)]),
    ):
        compare(mine, reference, inputs, 1e-9)
    pydlx.manual_seed(2)
    logits = ours(x(2000, 3) * 0 + np.array([0.0, 1.0, 2.0]), True)
    hard = F.gumbel_softmax(logits, tau=0.5, hard=True)
    assert set(np.unique(hard.detach().numpy().round(6))) == {0.0, 1.0}
    share = hard.detach().numpy().mean(0)
    np.testing.assert_allclose(share, np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum(), atol=0.05)
    (hard * ours(x(2000, 3))).sum().backward()
    assert (logits.grad != 0).any()


def test_functional_signatures_match():
    for name in dir(F):
        mine = getattr(F, name)
        if name.startswith("_") or not inspect.isfunction(mine):
            continue
        try:
            twin = inspect.signature(getattr(TF, name)).parameters
        except (ValueError, AttributeError):
            continue
        if set(twin) == {"args", "kwargs"}:
            continue
        params = inspect.signature(mine).parameters
        assert list(params) == list(twin), name
        for key, p in params.items():
            assert p.default == twin[key].default, (name, key)


def test_functional_surface():
    expected = {n for n in dir(TF) if not n.startswith("_") and callable(getattr(TF, n)) and n.islower()}
    internal = {n for n in expected if "torch_function" in n or n in ("assert_int_or_pair", "boolean_dispatch")}
    missing = {n for n in expected - internal if not hasattr(F, n) and not inspect.isclass(getattr(TF, n))}
    assert missing <= {
        "conv_tbc",
        "fractional_max_pool2d",
        "fractional_max_pool2d_with_indices",
        "fractional_max_pool3d",
        "fractional_max_pool3d_with_indices",
        "grouped_mm",
        "linear_cross_entropy",
        "native_channel_shuffle",
        "scaled_grouped_mm",
        "scaled_mm",
    }


def test_functional_errors():
    one = pydlx.ones(2, 3)
    for call in (
        lambda: F.dropout(one, 1.5),
        lambda: F.dropout2d(one, 0.5),
        lambda: F.hardtanh(one, 2, 1),
        lambda: F.batch_norm(pydlx.ones(1, 3), None, None, training=True),
        lambda: F.instance_norm(pydlx.ones(2, 3, 1)),
        lambda: F.local_response_norm(one, 2),
        lambda: F.pixel_shuffle(pydlx.ones(3, 4, 4), 2),
        lambda: F.channel_shuffle(pydlx.ones(2, 3, 4), 2),
        lambda: F.unfold(pydlx.ones(1, 1, 2, 2), 3),
        lambda: F.fold(pydlx.ones(1, 4, 3), 3, 2),
        lambda: F.gaussian_nll_loss(one, one, -1.0),
        lambda: F.gaussian_nll_loss(one, one, pydlx.ones(5)),
        lambda: F.multi_margin_loss(one, ours(np.array([0, 1])), p=3),
        lambda: F.triplet_margin_loss(one, one, one, margin=0),
        lambda: F.mse_loss(one, one, reduction="avg"),
        lambda: F.embedding(ours(np.array([0])), one, padding_idx=5),
        lambda: F.embedding_bag(ours(np.array([0])), one),
        lambda: F.embedding_bag(ours(np.array([[0]])), one, mode="min"),
        *(
            lambda o=o: F.embedding_bag(ours(np.array([0, 1, 0])), one, ours(np.array(o)))
            for o in ([1, 2], [0, 2, 1], [0, 4], [0, -1], np.zeros(0, np.int64))
        ),
    ):
        with pytest.raises(ValueError, match=r"\["):
            call()
    with pytest.warns(UserWarning, match="broadcast"):
        F.mse_loss(one, pydlx.ones(3))
