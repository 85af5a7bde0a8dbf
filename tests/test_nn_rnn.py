"""Recurrent modules and packed sequences beside PyTorch."""

import numpy as np
import pytest
import torch
from nn_twins import array_of, close, compare_modules, ours, theirs
from torch.nn.utils import rnn as torch_packing

import pydlx
from pydlx.nn.utils import rnn as packing

rng = np.random.default_rng(5)
OPTIONS = {
    "plain": {},
    "layers": {"num_layers": 3},
    "both": {"bidirectional": True, "num_layers": 2},
    "batch_first": {"batch_first": True},
    "nobias": {"bias": False, "bidirectional": True},
}


def x(*shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mode", ["RNN", "RNN_relu", "LSTM", "LSTM_proj", "GRU"])
@pytest.mark.parametrize("state", [False, True], ids=["zero", "given"])
def test_sequence(mode, options, state):
    kind, _, variant = mode.partition("_")
    extra = {"nonlinearity": "relu"} if variant == "relu" else {"proj_size": 3} if variant == "proj" else {}
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    inputs = [x(2, 6, 4) if options.get("batch_first") else x(6, 2, 4)]
    if state:
        inputs.append(x(layers, 2, 3 if variant == "proj" else 5))
        if kind == "LSTM":
            inputs.append(x(layers, 2, 5))

    def call(m, lib, data, *hx):
        return m(data, None if not hx else hx if kind == "LSTM" else hx[0])

    for dtype in ("float64", "float32"):
        compare_modules(lambda nn: getattr(nn, kind)(4, 5, **extra, **options), inputs, dtype, call=call)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_unbatched(kind):
    compare_modules(lambda nn: getattr(nn, kind)(4, 5, 2, bidirectional=True), [x(6, 4)])
    hx = [x(1, 5)] * (2 if kind == "LSTM" else 1)
    compare_modules(
        lambda nn: getattr(nn, kind)(4, 5),
        [x(6, 4), *hx],
        call=lambda m, lib, data, *h: m(data, h if kind == "LSTM" else h[0]),
    )


@pytest.mark.parametrize("sort", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("state", [False, True], ids=["zero", "given"])
def test_packed(kind, sort, state):
    lengths = [6, 4, 1] if sort else [2, 6, 3]

    def call(m, lib, data, *hx):
        tools = lib.nn.utils.rnn
        packed = tools.pack_padded_sequence(data, lib.tensor(lengths), enforce_sorted=sort)
        out, final = m(packed, None if not hx else hx if kind == "LSTM" else hx[0])
        return tools.pad_packed_sequence(out, padding_value=0.5), final

    inputs = [x(6, 3, 4)] + [x(4, 3, 5)] * (0 if not state else 2 if kind == "LSTM" else 1)
    compare_modules(lambda nn: getattr(nn, kind)(4, 5, 2, bidirectional=True), inputs, call=call)


def test_dropout_between_layers():
    pydlx.manual_seed(1)
    for kind in ("RNN", "LSTM", "GRU"):
        m = getattr(pydlx.nn, kind)(4, 5, num_layers=2, dropout=0.5)
        data = ours(x(6, 2, 4).astype("float32"))
        assert (array_of(m(data)[0]) != array_of(m(data)[0])).any()
        m.eval()
        np.testing.assert_array_equal(array_of(m(data)[0]), array_of(m(data)[0]))
        m.train()
        m.dropout = 1.0
        first = array_of(m(data)[0])
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, array_of(m(ours(x(6, 2, 4).astype("float32")))[0]))
    with pytest.warns(UserWarning, match="dropout"):
        pydlx.nn.GRU(4, 5, dropout=0.5)


def test_wrong_arguments():
    nn = pydlx.nn
    for make in (
        lambda: nn.LSTM(3, 0),
        lambda: nn.LSTM(3, 4, num_layers=0),
        lambda: nn.LSTM(3, 4, dropout=2.0),
        lambda: nn.LSTM(3, 4, proj_size=4),
        lambda: nn.GRU(3, 4, proj_size=2),
        lambda: nn.RNN(3, 4, nonlinearity="sin"),
    ):
        with pytest.raises(ValueError, match=r"^\[(LSTM|GRU|RNN)\]"):
            make()
    with pytest.raises(TypeError):
        nn.LSTM(3, 4.5)
    m = nn.LSTM(3, 4)
    for call in (
        lambda: m(pydlx.ones(5, 2, 4)),
        lambda: m(pydlx.ones(3)),
        lambda: m(pydlx.ones(5, 2, 3), pydlx.ones(1, 2, 4)),
        lambda: m(pydlx.ones(5, 2, 3), (pydlx.ones(1, 2, 4), pydlx.ones(1, 3, 4))),
        lambda: m(pydlx.ones(5, 3), (pydlx.ones(1, 1, 4), pydlx.ones(1, 1, 4))),
        lambda: nn.GRUCell(3, 4)(pydlx.ones(2, 4)),
        lambda: nn.LSTMCell(3, 4)(pydlx.ones(2, 3), (pydlx.ones(2, 4), pydlx.ones(3, 4))),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    m.flatten_parameters()
    assert [len(names) for names in m.all_weights] == [4]


def test_positional_arguments_match_torch():
    for args in ((3, 4, 2), (3, 4, 2, "relu", False)):
        assert repr(pydlx.nn.RNN(*args)) == repr(torch.nn.RNN(*args))
        assert pydlx.nn.RNN(*args).nonlinearity == torch.nn.RNN(*args).nonlinearity
    assert repr(pydlx.nn.GRU(3, 4, 2, False, True, 0.5, True)) == repr(torch.nn.GRU(3, 4, 2, False, True, 0.5, True))


@pytest.mark.parametrize("batch_first", [False, True])
def test_packing_matches_torch(batch_first):
    for lengths in ([3, 5, 1], [5, 5, 2], [2, 2, 2]):
        items = [x(n, 4) for n in lengths]
        mine = packing.pack_sequence([ours(a) for a in items], enforce_sorted=False)
        reference = torch_packing.pack_sequence([theirs(a) for a in items], enforce_sorted=False)
        for a, b in zip(mine, reference, strict=True):
            close(a, b, 0, "field")
        for total in (None, 7):
            padded, sizes = packing.pad_packed_sequence(mine, batch_first, -1.0, total)
            expected, expected_sizes = torch_packing.pad_packed_sequence(reference, batch_first, -1.0, total)
            close(padded, expected, 0, "padded")
            close(sizes, expected_sizes, 0, "lengths")
        for side in ("left", "right"):
            close(
                packing.pad_sequence([ours(a) for a in items], batch_first, 2.0, side),
                torch_packing.pad_sequence([theirs(a) for a in items], batch_first, 2.0, side),
                0,
                "pad_sequence",
            )
        for a, b in zip(packing.unpack_sequence(mine), items, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)
    assert mine.double().data.dtype == pydlx.float64
    assert mine.to(pydlx.float32).data.dtype == pydlx.float32
    assert mine.cpu().is_cuda is False


def test_packing_errors():
    data = pydlx.ones(4, 3, 2)
    for lengths in ([4, 2], [2, 4, 1], [4, 3, 0], [9, 2, 1], []):
        with pytest.raises(ValueError, match="lengths"):
            packing.pack_padded_sequence(data, lengths)
    with pytest.raises(ValueError, match="padding_side"):
        packing.pad_sequence([data], padding_side="up")
    with pytest.raises(ValueError, match="sequences"):
        packing.pad_sequence([])
    with pytest.raises(ValueError, match="shapes"):
        packing.pad_sequence([pydlx.ones(2, 3), pydlx.ones(2, 4)])
    packed = packing.pack_padded_sequence(data, [4, 3, 1])
    with pytest.raises(ValueError, match="total_length"):
        packing.pad_packed_sequence(packed, total_length=2)
    with pytest.raises(ValueError, match="batch_sizes"):
        packing.PackedSequence(data)
