"""Every module beside its PyTorch twin: state layout, repr, outputs, gradients, buffers."""

import inspect

import numpy as np
import pytest
import torch
from nn_twins import compare, compare_modules, ours

import pydlx

rng = np.random.default_rng(3)


def x(*shape):
    return rng.standard_normal(shape)


def ints(high, *shape):
    return rng.integers(0, high, shape)


def spread(*shape):
    """Distinct values far from each other, so that maxima and kinks are the same under any rounding."""
    return (rng.permutation(int(np.prod(shape))).reshape(shape) - np.prod(shape) / 2 + 0.25) / 7


ACTIVATIONS = {
    name: (lambda nn, n=name, a=args: getattr(nn, n)(*a))
    for name, args in {
        "CELU": (1.3,),
        "ELU": (0.7,),
        "GELU": (),
        "Hardshrink": (),
        "Hardsigmoid": (),
        "Hardswish": (),
        "Hardtanh": (-1.5, 0.5),
        "LeakyReLU": (0.2,),
        "LogSigmoid": (),
        "Mish": (),
        "PReLU": (),
        "RReLU": (),
        "ReLU": (),
        "ReLU6": (),
        "SELU": (),
        "SiLU": (),
        "Sigmoid": (),
        "Softplus": (2.0, 3.0),
        "Softshrink": (0.3,),
        "Softsign": (),
        "Tanh": (),
        "Tanhshrink": (),
        "Threshold": (0.1, 20.0),
        "Softmax": (1,),
        "LogSoftmax": (-1,),
        "Softmin": (0,),
    }.items()
}
INPLACE = ["CELU", "ELU", "Hardsigmoid", "Hardswish", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Hardtanh"]

# name: (constructor, inputs)
CASES = {
    **{name: (make, [spread(3, 4, 5)]) for name, make in ACTIVATIONS.items()},
    "GELU_tanh": (lambda nn: nn.GELU("tanh"), [x(3, 5)]),
    "PReLU_channels": (lambda nn: nn.PReLU(4), [x(3, 4, 5)]),
    "GLU": (lambda nn: nn.GLU(1), [x(3, 4, 5)]),
    "Softmax2d": (lambda nn: nn.Softmax2d(), [x(2, 3, 4, 5)]),
    "Softmax_no_dim": (lambda nn: nn.Softmax(dim=-1), [x(7)]),
    "Identity": (lambda nn: nn.Identity(3, a=1), [x(2, 3)]),
    "Linear": (lambda nn: nn.Linear(5, 3), [x(4, 5)]),
    "Linear_nobias": (lambda nn: nn.Linear(5, 3, bias=False), [x(2, 4, 5)]),
    "Linear_vector": (lambda nn: nn.Linear(5, 3), [x(5)]),
    "Bilinear": (lambda nn: nn.Bilinear(4, 5, 3), [x(2, 4), x(2, 5)]),
    "Bilinear_nobias": (lambda nn: nn.Bilinear(4, 5, 3, bias=False), [x(2, 6, 4), x(2, 6, 5)]),
    "Flatten": (lambda nn: nn.Flatten(), [x(2, 3, 4)]),
    "Unflatten": (lambda nn: nn.Unflatten(1, (2, 3)), [x(2, 6, 4)]),
    "Conv1d": (lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), [x(2, 4, 11)]),
    "Conv2d": (lambda nn: nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(2, 1)), [x(2, 3, 7, 8)]),
    "Conv2d_unbatched": (lambda nn: nn.Conv2d(3, 5, 3), [x(3, 7, 8)]),
    "Conv2d_same": (lambda nn: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), [x(2, 3, 7, 8)]),
    "Conv2d_valid": (lambda nn: nn.Conv2d(3, 4, 3, padding="valid", bias=False), [x(2, 3, 7, 8)]),
    "Conv2d_depthwise": (lambda nn: nn.Conv2d(4, 8, 3, groups=4, padding=1), [x(2, 4, 6, 5)]),
    **{
        f"Conv2d_{mode}": (lambda nn, m=mode: nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode=m), [x(2, 3, 7, 8)])
        for mode in ("reflect", "replicate", "circular")
    },
    "Conv1d_same_reflect": (lambda nn: nn.Conv1d(3, 4, 4, padding="same", padding_mode="reflect"), [x(2, 3, 9)]),
    "Conv3d": (lambda nn: nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 1)), [x(2, 2, 4, 5, 4)]),
    "ConvTranspose1d": (
        lambda nn: nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2, groups=2, dilation=2),
        [x(2, 4, 5)],
    ),
    "ConvTranspose2d": (lambda nn: nn.ConvTranspose2d(3, 4, (3, 2), stride=2, bias=False), [x(2, 3, 4, 5)]),
    "ConvTranspose3d": (
        lambda nn: nn.ConvTranspose3d(2, 3, 2, stride=(1, 2, 2), padding=(0, 1, 0)),
        [x(1, 2, 3, 3, 4)],
    ),
    "MaxPool1d": (lambda nn: nn.MaxPool1d(3, 2, padding=1), [spread(2, 3, 9)]),
    "MaxPool1d_indices": (lambda nn: nn.MaxPool1d(2, return_indices=True), [spread(2, 3, 9)]),
    "MaxPool2d": (lambda nn: nn.MaxPool2d((3, 2), stride=2, padding=(1, 0), ceil_mode=True), [spread(2, 3, 8, 9)]),
    "MaxPool2d_indices": (lambda nn: nn.MaxPool2d(2, dilation=2, return_indices=True), [spread(2, 3, 8, 9)]),
    "MaxPool3d": (lambda nn: nn.MaxPool3d(2, return_indices=True), [spread(1, 2, 4, 5, 6)]),
    "AvgPool1d": (lambda nn: nn.AvgPool1d(3, 2, padding=1, count_include_pad=False), [x(2, 3, 9)]),
    "AvgPool2d": (lambda nn: nn.AvgPool2d((3, 2), 2, padding=1, ceil_mode=True), [x(2, 3, 8, 9)]),
    "AvgPool2d_divisor": (lambda nn: nn.AvgPool2d(2, divisor_override=3), [x(2, 3, 8, 9)]),
    "AvgPool3d": (lambda nn: nn.AvgPool3d(2, stride=1), [x(1, 2, 4, 5, 6)]),
    "LPPool1d": (lambda nn: nn.LPPool1d(3, 2), [np.abs(x(2, 3, 8)) + 0.1]),
    "LPPool2d": (lambda nn: nn.LPPool2d(2, (2, 3), stride=2), [np.abs(x(2, 3, 8, 9)) + 0.1]),
    "LPPool3d": (lambda nn: nn.LPPool3d(2, 2), [np.abs(x(1, 2, 4, 5, 6)) + 0.1]),
    "AdaptiveAvgPool1d": (lambda nn: nn.AdaptiveAvgPool1d(4), [x(2, 3, 9)]),
    "AdaptiveAvgPool2d": (lambda nn: nn.AdaptiveAvgPool2d((None, 3)), [x(2, 3, 5, 7)]),
    "AdaptiveAvgPool3d": (lambda nn: nn.AdaptiveAvgPool3d(2), [x(1, 2, 4, 5, 6)]),
    "AdaptiveMaxPool1d": (lambda nn: nn.AdaptiveMaxPool1d(4, return_indices=True), [spread(2, 3, 9)]),
    "AdaptiveMaxPool2d": (lambda nn: nn.AdaptiveMaxPool2d((3, 2)), [spread(2, 3, 5, 7)]),
    "AdaptiveMaxPool3d": (lambda nn: nn.AdaptiveMaxPool3d(2), [spread(1, 2, 4, 5, 6)]),
    "BatchNorm1d": (lambda nn: nn.BatchNorm1d(4), [x(5, 4)]),
    "BatchNorm1d_sequence": (lambda nn: nn.BatchNorm1d(4, momentum=0.3), [x(5, 4, 3)]),
    "BatchNorm2d": (lambda nn: nn.BatchNorm2d(3, eps=1e-3), [x(2, 3, 4, 5)]),
    "BatchNorm2d_cumulative": (lambda nn: nn.BatchNorm2d(3, momentum=None), [x(2, 3, 4, 5)]),
    "BatchNorm2d_plain": (lambda nn: nn.BatchNorm2d(3, affine=False, track_running_stats=False), [x(2, 3, 4, 5)]),
    "BatchNorm3d": (lambda nn: nn.BatchNorm3d(2), [x(2, 2, 3, 4, 2)]),
    "InstanceNorm1d": (lambda nn: nn.InstanceNorm1d(4), [x(3, 4, 6)]),
    "InstanceNorm2d": (lambda nn: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), [x(2, 3, 4, 5)]),
    "InstanceNorm2d_unbatched": (lambda nn: nn.InstanceNorm2d(3, affine=True), [x(3, 4, 5)]),
    "InstanceNorm3d": (lambda nn: nn.InstanceNorm3d(2), [x(2, 2, 3, 4, 2)]),
    "LayerNorm": (lambda nn: nn.LayerNorm(6), [x(2, 3, 6)]),
    "LayerNorm_two": (lambda nn: nn.LayerNorm((3, 6), eps=1e-3, bias=False), [x(2, 3, 6)]),
    "LayerNorm_plain": (lambda nn: nn.LayerNorm(6, elementwise_affine=False), [x(2, 3, 6)]),
    "GroupNorm": (lambda nn: nn.GroupNorm(2, 6), [x(2, 6, 4, 3)]),
    "GroupNorm_plain": (lambda nn: nn.GroupNorm(3, 6, affine=False), [x(2, 6)]),
    "RMSNorm": (lambda nn: nn.RMSNorm(6), [x(2, 3, 6)]),
    "RMSNorm_eps": (lambda nn: nn.RMSNorm((3, 6), eps=1e-2), [x(2, 3, 6)]),
    "LocalResponseNorm": (lambda nn: nn.LocalResponseNorm(3, alpha=0.1, k=2.0), [x(2, 5, 4, 3)]),
    "LocalResponseNorm_even": (lambda nn: nn.LocalResponseNorm(4), [x(2, 5, 4)]),
    "Embedding": (lambda nn: nn.Embedding(7, 4), [ints(7, 2, 5)]),
    "Embedding_padding": (lambda nn: nn.Embedding(7, 4, padding_idx=-1), [np.array([1, 6, 6, 2])]),
    "Embedding_by_freq": (lambda nn: nn.Embedding(7, 4, scale_grad_by_freq=True), [np.array([1, 6, 6, 2])]),
    "Embedding_max_norm": (lambda nn: nn.Embedding(7, 4, max_norm=1.0), [np.array([1, 6, 6, 2])]),
    **{
        f"EmbeddingBag_{m}": (lambda nn, mode=m: nn.EmbeddingBag(9, 4, mode=mode), [ints(9, 3, 5)])
        for m in ("sum", "mean", "max")
    },
    **{
        f"EmbeddingBag_offsets_{m}": (
            lambda nn, mode=m: nn.EmbeddingBag(9, 4, mode=mode),
            [rng.permutation(9)[:8], np.array([0, 3, 3, 5])],
        )
        for m in ("sum", "mean", "max")
    },
    "EmbeddingBag_padding": (
        lambda nn: nn.EmbeddingBag(9, 4, padding_idx=2),
        [np.array([2, 2, 1, 2, 5, 7]), np.array([0, 2, 5])],
    ),
    "Upsample_nearest": (lambda nn: nn.Upsample(scale_factor=2.5), [x(2, 3, 5)]),
    "Upsample_bilinear": (lambda nn: nn.Upsample(size=(7, 9), mode="bilinear"), [x(2, 3, 5, 6)]),
    "UpsamplingNearest2d": (lambda nn: nn.UpsamplingNearest2d(scale_factor=2), [x(2, 3, 5, 4)]),
    "UpsamplingBilinear2d": (lambda nn: nn.UpsamplingBilinear2d(size=(3, 11)), [x(2, 3, 5, 4)]),
    "PixelShuffle": (lambda nn: nn.PixelShuffle(2), [x(2, 12, 3, 4)]),
    "PixelUnshuffle": (lambda nn: nn.PixelUnshuffle(2), [x(3, 6, 4)]),
    "ChannelShuffle": (lambda nn: nn.ChannelShuffle(3), [x(2, 6, 4, 2)]),
    "Unfold": (lambda nn: nn.Unfold((3, 2), dilation=(1, 2), padding=1, stride=(2, 1)), [x(2, 3, 6, 7)]),
    "Fold": (lambda nn: nn.Fold((6, 7), (3, 2), dilation=(1, 2), padding=1, stride=(2, 1)), [x(2, 18, 21)]),
    "CosineSimilarity": (lambda nn: nn.CosineSimilarity(dim=1), [x(3, 5), x(3, 5)]),
    "PairwiseDistance": (lambda nn: nn.PairwiseDistance(p=3, keepdim=True), [x(3, 5), x(3, 5)]),
    **{
        f"{kind}Pad{d}d": (
            lambda nn, n=f"{kind}Pad{d}d", p=tuple(range(1, 2 * d + 1))[::-1], k=kind: getattr(nn, n)(
                tuple(min(v, 2) for v in p), *([1.5] if k == "Constant" else [])
            ),
            [x(2, 3, 4, 5, 6)[(slice(None), slice(None), *[0] * (3 - d))]],
        )
        for kind in ("Constant", "Zero", "Circular", "Reflection", "Replication")
        for d in (1, 2, 3)
    },
    "RNNCell": (lambda nn: nn.RNNCell(4, 5), [x(3, 4), x(3, 5)]),
    "RNNCell_relu": (lambda nn: nn.RNNCell(4, 5, bias=False, nonlinearity="relu"), [x(3, 4)]),
    "GRUCell": (lambda nn: nn.GRUCell(4, 5), [x(3, 4), x(3, 5)]),
    "GRUCell_unbatched": (lambda nn: nn.GRUCell(4, 5), [x(4), x(5)]),
    "LSTMCell": (lambda nn: nn.LSTMCell(4, 5), [x(3, 4)]),
    "TransformerEncoderLayer": (lambda nn: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), [x(5, 3, 8)]),
    "TransformerEncoderLayer_pre": (
        lambda nn: nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", norm_first=True, batch_first=True, bias=False),
        [x(3, 5, 8)],
    ),
    "TransformerDecoderLayer": (
        lambda nn: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        [x(3, 5, 8), x(3, 4, 8)],
    ),
    "TransformerDecoder": (
        lambda nn: nn.TransformerDecoder(
            nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, norm_first=True), 2, nn.LayerNorm(8)
        ),
        [x(5, 3, 8), x(4, 3, 8)],
    ),
    "TransformerEncoder": (
        lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2, nn.LayerNorm(8)),
        [x(5, 3, 8)],
    ),
    "Transformer": (lambda nn: nn.Transformer(8, 2, 1, 2, 16, dropout=0.0), [x(5, 3, 8), x(4, 3, 8)]),
    "Sequential": (
        lambda nn: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
        [x(2, 1, 6, 6)],
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_twin(name, train, dtype):
    make, inputs = CASES[name]
    if name == "RReLU" and train:
        pytest.skip("draws random slopes; see test_random_modules")
    # PyTorch's own gradients of these two go through a float32 constant even in float64.
    loose = 1e-7 if dtype == "float64" and name in ("CELU", "Hardsigmoid") else None
    compare_modules(make, inputs, dtype, train, tolerance=loose)


@pytest.mark.parametrize("name", INPLACE)
def test_inplace_activation(name):
    compare_modules(
        lambda nn: getattr(nn, name)(inplace=True), [spread(3, 5)], call=lambda m, lib, a: m(a * 1.0), tolerance=1e-7
    )
    value = ours(x(3, 5))
    assert getattr(pydlx.nn, name)(inplace=True)(value) is value


def test_unpool_inverts_max_pool():
    for d, shape in ((1, (2, 3, 8)), (2, (2, 3, 8, 6)), (3, (1, 2, 4, 6, 4))):
        compare_modules(
            lambda nn, d=d: getattr(nn, f"MaxPool{d}d")(2, return_indices=True),
            [spread(*shape)],
            call=lambda m, lib, a, d=d: getattr(lib.nn, f"MaxUnpool{d}d")(2)(*m(a)),
        )


def test_conv_transpose_output_size():
    for size in ((9, 10), (2, 4, 10, 9)):
        compare_modules(
            lambda nn: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1),
            [x(2, 3, 5, 5)],
            call=lambda m, lib, a, size=size: m(a, output_size=size),
        )
    with pytest.raises(ValueError, match="output_size"):
        pydlx.nn.ConvTranspose2d(3, 4, 3, stride=2)(ours(x(2, 3, 5, 5)), output_size=(30, 30))


def test_batch_norm_accumulates():
    def twice(m, lib, a, b):
        m(a)
        return m(b)

    for momentum in (0.1, None):
        compare_modules(lambda nn, p=momentum: nn.BatchNorm1d(4, momentum=p), [x(5, 4), x(6, 4)], call=twice)


def test_embedding_bag_options():
    weights = x(6)
    compare_modules(
        lambda nn: nn.EmbeddingBag(9, 4, mode="sum", include_last_offset=True),
        [np.array([1, 2, 4, 5, 4, 3]), np.array([0, 2, 2, 6]), weights],
        call=lambda m, lib, i, o, w: m(i, o, w),
    )
    table, indices = x(9, 4), np.array([1, 2, 4, 5, 4, 3])
    bags = pydlx.nn.functional.embedding_bag(
        ours(indices), ours(table), ours(np.array([0, 2, 5])), mode="sum", include_last_offset=True
    )  # what lies behind the last offset is in no bag (PyTorch's float64 path disagrees with its float32 path here)
    np.testing.assert_allclose(bags.numpy(), [table[indices[:2]].sum(0), table[indices[2:5]].sum(0)])
    table = x(5, 3)
    mine = pydlx.nn.Embedding.from_pretrained(ours(table))
    assert not mine.weight.requires_grad
    np.testing.assert_array_equal(mine(ours(np.array([4, 0]))).numpy(), table[[4, 0]])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 5, "vdim": 6}])
@pytest.mark.parametrize("need", [True, False])
def test_attention(batch_first, options, need):
    k, v = options.get("kdim", 8), options.get("vdim", 8)
    shapes = [(4, 3, 8), (5, 3, k), (5, 3, v)]
    inputs = [x(*((n, length, size) if batch_first else (length, n, size))) for length, n, size in shapes]
    compare_modules(
        lambda nn: nn.MultiheadAttention(8, 2, batch_first=batch_first, **options),
        inputs,
        call=lambda m, lib, q, k, v: [o for o in m(q, k, v, need_weights=need) if o is not None],
    )


def test_attention_masks():
    hidden = np.array([[False, False, True, False, True]] * 2 + [[False] * 5])
    float_mask = np.where(rng.random((4, 5)) < 0.3, -1e4, 0.2)
    per_head = rng.random((6, 4, 5)) < 0.3
    per_head[..., 0] = False
    for mask in (float_mask, per_head, rng.random((4, 5)) < 0):
        compare_modules(
            lambda nn: nn.MultiheadAttention(8, 2),
            [x(4, 3, 8), x(5, 3, 8), x(5, 3, 8)],
            call=lambda m, lib, q, k, v, mask=mask: m(
                q,
                k,
                v,
                attn_mask=lib.tensor(mask),
                key_padding_mask=lib.tensor(hidden) if mask.dtype == bool else None,
                average_attn_weights=False,
            ),
        )
    compare_modules(
        lambda nn: nn.MultiheadAttention(8, 2),
        [x(4, 8)],
        call=lambda m, lib, q: m(
            q,
            q,
            q,
            attn_mask=lib.nn.Transformer.generate_square_subsequent_mask(4, dtype=lib.float64),
            is_causal=True,
            need_weights=False,
        )[0],
    )


def test_transformer_masks():
    compare_modules(
        lambda nn: nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True),
        [x(2, 5, 8), x(2, 4, 8)],
        call=lambda m, lib, s, t: m(
            s,
            t,
            tgt_mask=m.generate_square_subsequent_mask(4, dtype=lib.float64),
            src_key_padding_mask=lib.tensor(np.array([[False] * 5, [False] * 3 + [True] * 2])),
            memory_key_padding_mask=lib.tensor(np.array([[False] * 5, [False] * 3 + [True] * 2])),
        ),
    )


def test_random_modules():
    pydlx.manual_seed(0)
    value = ours(np.ones((2000, 8)))
    for module, p in ((pydlx.nn.Dropout(0.3), 0.3), (pydlx.nn.Dropout(0.75), 0.75)):
        out = module(value).numpy()
        assert set(np.unique(out)) == {0.0, np.float64(1) / (1 - p)} or np.allclose(np.unique(out), [0, 1 / (1 - p)])
        assert abs((out == 0).mean() - p) < 0.02
        module.eval()
        np.testing.assert_array_equal(module(value).numpy(), value.numpy())
    image = ours(np.ones((50, 20, 4, 3)))
    out = pydlx.nn.Dropout2d(0.4)(image).numpy()
    assert (out == out[:, :, :1, :1]).all()
    assert abs((out == 0).mean() - 0.4) < 0.05
    assert (pydlx.nn.Dropout1d(0.4)(ours(np.ones((30, 9, 4)))).numpy().std(-1) == 0).all()
    assert pydlx.nn.Dropout3d(0.4)(ours(np.ones((2, 3, 2, 2, 2)))).shape == (2, 3, 2, 2, 2)
    normal = ours(rng.standard_normal((4000, 10)))
    for module in (pydlx.nn.AlphaDropout(0.2), pydlx.nn.FeatureAlphaDropout(0.2)):
        out = module(normal).numpy()
        assert abs(out.mean()) < 0.05
        assert abs(out.std() - 1) < 0.05
    slopes = pydlx.nn.RReLU()(ours(-np.ones(5000))).numpy()
    assert -1 / 3 <= slopes.min() < -0.32
    assert -0.14 < slopes.max() <= -1 / 8


def test_signatures_match():
    skipped = {"RNN", "LSTM", "GRU", "Module"}
    for name in dir(pydlx.nn):
        cls = getattr(pydlx.nn, name)
        if not (inspect.isclass(cls) and issubclass(cls, pydlx.nn.Module)) or name in skipped:
            continue
        twin = inspect.signature(getattr(torch.nn, name).__init__).parameters
        mine = inspect.signature(cls.__init__).parameters
        assert list(mine) == list(twin), name
        for key, p in mine.items():
            assert p.kind == twin[key].kind, (name, key)
            if not callable(p.default):
                assert p.default == twin[key].default, (name, key)


def test_every_class_of_torch_is_here_or_known_missing():
    missing = {
        n
        for n in dir(torch.nn)
        if inspect.isclass(getattr(torch.nn, n)) and n[0].isupper() and not hasattr(pydlx.nn, n)
    }
    assert missing <= {
        "Container",
        "CrossMapLRN2d",
        "DataParallel",
        "FractionalMaxPool2d",
        "FractionalMaxPool3d",
        "LinearCrossEntropyLoss",
        "LinearCrossEntropyOptions",
        "NLLLoss2d",
        "SyncBatchNorm",
    }


# (name, extra constructor arguments, shapes or arrays)
signs = np.where(rng.random((4, 5)) < 0.5, -1.0, 1.0)
probabilities = rng.random((4, 5)) * 0.9 + 0.05
LOSSES = {
    "L1Loss": ({}, [x(4, 5), x(4, 5)]),
    "MSELoss": ({}, [x(4, 5), x(4, 5)]),
    "SmoothL1Loss": ({"beta": 0.6}, [x(4, 5), x(4, 5)]),
    "HuberLoss": ({"delta": 0.6}, [x(4, 5), x(4, 5)]),
    "CrossEntropyLoss": ({}, [x(4, 5), ints(5, 4)]),
    "CrossEntropyLoss_smooth": ({"label_smoothing": 0.2, "ignore_index": 2}, [x(6, 5), np.array([0, 2, 4, 1, 2, 3])]),
    "CrossEntropyLoss_image": ({}, [x(2, 5, 3, 4), ints(5, 2, 3, 4)]),
    "CrossEntropyLoss_soft": ({}, [x(4, 5), probabilities / probabilities.sum(1, keepdims=True)]),
    "NLLLoss": ({}, [np.log(probabilities), ints(5, 4)]),
    "BCELoss": ({}, [probabilities, rng.random((4, 5))]),
    "BCEWithLogitsLoss": ({}, [x(4, 5) * 9, rng.random((4, 5))]),
    "KLDivLoss": ({}, [np.log(probabilities), rng.random((4, 5))]),
    "KLDivLoss_log": ({"log_target": True}, [np.log(probabilities), x(4, 5)]),
    "PoissonNLLLoss": ({"full": True}, [x(4, 5), ints(6, 4, 5).astype(float)]),
    "PoissonNLLLoss_rate": ({"log_input": False}, [probabilities, ints(6, 4, 5).astype(float)]),
    "GaussianNLLLoss": ({"full": True}, [x(4, 5), x(4, 5), probabilities]),
    "GaussianNLLLoss_shared": ({}, [x(4, 5), x(4, 5), probabilities[:, :1]]),
    "HingeEmbeddingLoss": ({"margin": 0.8}, [x(4, 5), signs]),
    "MarginRankingLoss": ({"margin": 0.3}, [x(4, 5), x(4, 5), signs]),
    "SoftMarginLoss": ({}, [x(4, 5), signs]),
    "MultiMarginLoss": ({}, [x(4, 5), ints(5, 4)]),
    "MultiMarginLoss_square": ({"p": 2, "margin": 0.5}, [x(4, 5), ints(5, 4)]),
    "MultiLabelMarginLoss": ({}, [x(3, 5), np.array([[3, 0, -1, 1, 2], [-1, 0, 0, 0, 0], [0, 1, 2, 3, 4]])]),
    "MultiLabelSoftMarginLoss": ({}, [x(4, 5), (signs + 1) / 2]),
    "CosineEmbeddingLoss": ({"margin": 0.1}, [x(4, 5), x(4, 5), signs[:, 0]]),
    "TripletMarginLoss": ({"swap": True}, [x(4, 5), x(4, 5), x(4, 5)]),
    "TripletMarginWithDistanceLoss": ({"margin": 2.0}, [x(4, 5), x(4, 5), x(4, 5)]),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name, reduction):
    options, inputs = LOSSES[name]
    cls = name.split("_")[0]
    if cls in ("BCELoss", "BCEWithLogitsLoss", "KLDivLoss") or name.endswith("_soft"):
        # The target's gradient is not everybody's: compare with respect to the input only.
        call = lambda m, lib, a, b: m(a, b.detach())  # noqa: E731
    else:
        call = lambda m, lib, *args: m(args[0], *(a.detach() for a in args[1:]))  # noqa: E731
    for dtype in ("float64", "float32"):
        compare_modules(lambda nn: getattr(nn, cls)(reduction=reduction, **options), inputs, dtype, call=call)


def test_weighted_losses():
    w = rng.random(5) + 0.2
    for name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelSoftMarginLoss"):
        target = (signs + 1) / 2 if "Soft" in name else ints(5, 4)
        compare(
            lambda a, n=name, t=target: getattr(pydlx.nn, n)(weight=ours(w))(a, ours(t)),
            lambda a, n=name, t=target: getattr(torch.nn, n)(weight=torch.tensor(w))(a, torch.tensor(t)),
            [x(4, 5)],
            1e-9,
        )
    compare(
        lambda a, t: pydlx.nn.BCEWithLogitsLoss(weight=ours(w), pos_weight=ours(w * 2))(a, t.detach()),
        lambda a, t: torch.nn.BCEWithLogitsLoss(weight=torch.tensor(w), pos_weight=torch.tensor(w * 2))(a, t.detach()),
        [x(4, 5), rng.random((4, 5))],
        1e-9,
    )
    assert pydlx.nn.L1Loss(size_average=False).reduction == "sum"
    assert pydlx.nn.L1Loss(reduce=False).reduction == "none"


def test_ctc():
    logits = x(12, 3, 6)
    targets = np.array([[1, 2, 2, 5], [3, 3, 0, 0], [4, 0, 0, 0]])
    lengths, frames = np.array([4, 2, 1]), np.array([12, 9, 3])
    joined = np.concatenate([t[:n] for t, n in zip(targets, lengths, strict=True)])
    for target in (targets, joined):
        for reduction in ("none", "mean", "sum"):
            compare(
                lambda a, t=target, r=reduction: pydlx.nn.CTCLoss(reduction=r)(
                    a.log_softmax(2), ours(t), ours(frames), ours(lengths)
                ),
                lambda a, t=target, r=reduction: torch.nn.CTCLoss(reduction=r)(
                    a.log_softmax(2), torch.tensor(t), torch.tensor(frames), torch.tensor(lengths)
                ),
                [logits],
                1e-8,
            )
    short = np.array([4, 3, 1])  # four symbols with a repetition need five frames
    mine = pydlx.nn.CTCLoss(reduction="none")(ours(logits).log_softmax(2), ours(targets), ours(short), ours(lengths))
    assert np.isinf(mine.numpy()[0])
    assert np.isfinite(mine.numpy()[1:]).all()
    value = ours(logits, True)
    loss = pydlx.nn.CTCLoss(zero_infinity=True)(value.log_softmax(2), ours(targets), ours(short), ours(lengths))
    loss.backward()
    assert np.isfinite(value.grad.numpy()).all()
    assert (value.grad.numpy()[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda nn: nn.Linear("4", 2), r"[Linear] in_features: expected an integer, got str"),
        (lambda nn: nn.Bilinear(2, [3], 4), r"[Bilinear] in2_features: expected an integer, got list"),
        (lambda nn: nn.Conv2d(3, 4.0, 3), r"[Conv2d] out_channels: expected an integer, got float"),
        (lambda nn: nn.ConvTranspose1d(3, 4, 3, groups=None), r"[ConvTranspose1d] groups: expected an integer"),
        (lambda nn: nn.Embedding(None, 4), r"[Embedding] num_embeddings: expected an integer, got NoneType"),
        (lambda nn: nn.Embedding(5, 4, padding_idx="0"), r"[Embedding] padding_idx: expected an integer, got str"),
        (lambda nn: nn.Embedding(5, 4, _weight=(5, 4)), r"[Embedding] _weight: expected a tensor, got tuple"),
        (lambda nn: nn.MultiheadAttention(8, None), r"[MultiheadAttention] num_heads: expected an integer"),
        (lambda nn: nn.LSTM("3", 4), r"[LSTM] input_size: expected an integer, got str"),
        (lambda nn: nn.GroupNorm("2", 4), r"[GroupNorm] num_groups: expected an integer, got str"),
        (lambda nn: nn.LayerNorm(object()), r"[LayerNorm] normalized_shape: expected an integer, got object"),
        (lambda nn: nn.RMSNorm((4, "4")), r"[RMSNorm] normalized_shape[1]: expected an integer, got str"),
        (lambda nn: nn.Hardtanh("a"), r"[Hardtanh] min_val: expected a number, got str"),
        (lambda nn: nn.AdaptiveLogSoftmaxWithLoss(4, "9", [2]), r"n_classes: expected an integer, got str"),
        (lambda nn: nn.AdaptiveLogSoftmaxWithLoss(4, 9, ["2"]), r"cutoffs[0]: expected an integer, got str"),
        (lambda nn: nn.TripletMarginLoss("1"), r"[TripletMarginLoss] margin: expected a number, got str"),
        (lambda nn: nn.LazyConv2d("4", 3), r"[LazyConv2d] out_channels: expected an integer, got str"),
        (lambda nn: nn.Upsample(scale_factor="2"), r"[Upsample] scale_factor: expected a number, got str"),
        (lambda nn: nn.GRUCell(3, 4.5), r"[GRUCell] hidden_size: expected an integer, got float"),
        (lambda nn: nn.Dropout("0.5"), r"[Dropout] p: expected a number, got str"),
        (
            lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2.0),
            r"[TransformerEncoder] num_layers: expected an integer, got float",
        ),
    ],
)
def test_constructors_name_what_has_the_wrong_type(make, message):
    with pytest.raises(TypeError) as error:
        make(pydlx.nn)
    assert message in str(error.value)


def test_transformer_names_inputs_of_the_wrong_rank():
    model = pydlx.nn.Transformer(8, 2, 1, 1, 8)
    with pytest.raises(ValueError, match=r"\[Transformer\] tgt: expected 2 or 3 axes, got shape \(\)"):
        model(pydlx.ones(3, 1, 8), pydlx.tensor(1.0))
