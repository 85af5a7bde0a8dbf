"""A batch of nothing goes through every layer, as the last batch of a filtered data set may: shapes as PyTorch's, gradients of zero."""

import pytest
import torch

import pydlx

# Layer and its input, whose batch is empty.
LAYERS = {
    "linear": (lambda nn: nn.Linear(4, 3), (0, 4)),
    "bilinear": (lambda nn: nn.Bilinear(4, 4, 3), (0, 4), (0, 4)),
    "conv1d": (lambda nn: nn.Conv1d(4, 6, 3, groups=2), (0, 4, 9)),
    "conv2d": (lambda nn: nn.Conv2d(4, 6, 3, padding=1), (0, 4, 9, 8)),
    "depthwise": (lambda nn: nn.Conv2d(4, 4, 3, groups=4), (0, 4, 9, 8)),
    "conv3d": (lambda nn: nn.Conv3d(2, 3, 2), (0, 2, 4, 4, 4)),
    "transposed": (lambda nn: nn.ConvTranspose2d(4, 6, 3, stride=2), (0, 4, 5, 5)),
    "layer_norm": (lambda nn: nn.LayerNorm(4), (0, 7, 4)),
    "rms_norm": (lambda nn: nn.RMSNorm(4), (0, 7, 4)),
    "group_norm": (lambda nn: nn.GroupNorm(2, 4), (0, 4, 5)),
    "max_pool": (lambda nn: nn.MaxPool2d(2), (0, 4, 6, 6)),
    "average_pool": (lambda nn: nn.AdaptiveAvgPool2d(3), (0, 4, 7, 7)),
    "upsample": (lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"), (0, 4, 5, 5)),
    "lstm": (lambda nn: nn.LSTM(4, 3, 2, bidirectional=True), (5, 0, 4)),
    "lstm batch_first": (lambda nn: nn.LSTM(4, 6, proj_size=3, batch_first=True), (0, 5, 4)),
    "gru": (lambda nn: nn.GRU(4, 3, batch_first=True), (0, 5, 4)),
    "rnn": (lambda nn: nn.RNN(4, 3), (5, 0, 4)),
    "lstm_cell": (lambda nn: nn.LSTMCell(4, 3), (0, 4)),
    "attention": (lambda nn: nn.MultiheadAttention(4, 2), (5, 0, 4), (7, 0, 4), (7, 0, 4)),
    "attention without bias": (
        lambda nn: nn.MultiheadAttention(4, 2, bias=False, batch_first=True),
        (0, 5, 4),
        (0, 5, 4),
        (0, 5, 4),
    ),
    "encoder": (lambda nn: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (0, 5, 4)),
    "decoder": (lambda nn: nn.TransformerDecoderLayer(4, 2, 8), (5, 0, 4), (7, 0, 4)),
}


def run(T, make, shapes):
    """Shapes of everything that comes out, and of all gradients."""
    layer = make(T.nn)
    inputs = [T.zeros(shape, requires_grad=True) for shape in shapes]
    flat, out = [], [layer(*inputs)]
    while out:
        value = out.pop(0)
        if isinstance(value, (tuple, list)):
            out += value
        elif value is not None:
            flat.append(value)
    sum(v.sum() for v in flat).backward()
    gradients = [t.grad for t in (*inputs, *layer.parameters())]
    for g in gradients:
        assert g is None or not g.any(), "a gradient of nothing is not 0"
    return [tuple(v.shape) for v in flat], [tuple(g.shape) for g in gradients if g is not None]


@pytest.mark.parametrize("name", LAYERS)
def test_empty_batch(name):
    make, *shapes = LAYERS[name]
    got, want = run(pydlx, make, shapes), run(torch, make, shapes)
    assert got[0] == want[0]
    assert got[1] == want[1], "gradients"


@pytest.mark.parametrize("state", [(1, 0, 2), (2, 0, 3), (1, 1, 3)])
def test_state_of_an_empty_batch_is_checked(state):
    with pytest.raises(ValueError, match=r"\[\w+\] \w+: "):
        pydlx.nn.GRU(4, 3)(pydlx.zeros(5, 0, 4), pydlx.zeros(state))


def test_no_steps():
    with pytest.raises(ValueError, match=r"\[lstm\] input: expected at least one step"):
        pydlx.nn.LSTM(4, 3)(pydlx.zeros(0, 2, 4))
