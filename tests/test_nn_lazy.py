"""Modules that find the size of their input, and the adaptive softmax."""

import copy

import numpy as np
import pytest
from ports import Programs, assert_same

import pydlx
from pydlx import nn

PROGRAMS = Programs()


@PROGRAMS
def lazy_network(lib, draw):
    nn = lib.nn
    m = nn.Sequential(
        *(nn.LazyConv2d(4, 3, groups=2), nn.LazyBatchNorm2d(), nn.LazyConvTranspose2d(3, 2), nn.LazyInstanceNorm2d()),
        *(nn.Flatten(), nn.LazyLinear(5)),
    )
    before = str(m)
    optimizer = lib.optim.SGD(m.parameters(), lr=0.1)
    m.double()
    out = m(draw(2, 4, 6, 6, dtype="float64"))
    start = m[5].weight.detach().clone()
    (out * lib.arange(5)).sum().backward()
    optimizer.step()
    shapes = {key: value.shape for key, value in m.state_dict().items()}
    return [before, str(m), out.shape, str(out.dtype), shapes, bool((m[5].weight != start).any())]


@PROGRAMS
def adaptive_softmax(lib, draw):
    m = draw.fill(lib.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10, 15], div_value=2.0, head_bias=True))
    x = draw(7, 8, grad=True)
    result = m(x, lib.tensor([0, 4, 5, 9, 12, 19, 3]))
    result.loss.backward()
    one = m(x[0], lib.tensor(12)).output
    gradients = [x.grad, m.head.weight.grad, m.tail[1][0].weight.grad]
    return [result.output, result.loss, one, m.log_prob(x), m.predict(x), gradients, str(m), list(m.state_dict())]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)


def test_lazy_modules_load_copy_and_keep_the_random_stream():
    m = nn.Sequential(nn.LazyLinear(3), nn.LazyConv1d(4, 2, groups=2))
    twin = copy.deepcopy(m)
    m.load_state_dict(nn.Sequential(nn.Linear(7, 3), nn.Conv1d(6, 4, 2, groups=2)).state_dict())
    assert (type(m[0]), m[0].in_features, m[1].in_channels) == (nn.Linear, 7, 6)
    assert twin[0].has_uninitialized_params()
    assert isinstance(twin[0].weight, nn.UninitializedParameter)
    assert repr(twin[0].weight) == "<UninitializedParameter>"
    weight = twin[0].weight
    twin[0](pydlx.ones(2, 5))
    assert twin[0].weight is weight
    assert type(weight) is nn.Parameter
    assert tuple(weight.shape) == (3, 5)
    pydlx.manual_seed(1)
    nn.LazyLinear(3)(pydlx.ones(1, 2))
    after = pydlx.rand(1)
    pydlx.manual_seed(1)
    nn.Linear(2, 3)
    assert pydlx.rand(1) == after


def test_errors():
    with pytest.raises(ValueError, match="LazyConv2d"):
        nn.LazyConv2d(2, 3)(pydlx.ones(2, 3))
    with pytest.raises(ValueError, match="LazyBatchNorm1d"):
        nn.LazyBatchNorm1d()(pydlx.ones(2))
    with pytest.raises(TypeError):
        nn.LazyLinear()
    for cutoffs in ([], [5, 3], [0, 2], [3, 20]):
        with pytest.raises(ValueError, match="cutoffs"):
            nn.AdaptiveLogSoftmaxWithLoss(8, 20, cutoffs)
    m = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5])
    with pytest.raises(RuntimeError, match="target"):
        m(pydlx.ones(2, 8), pydlx.tensor([0, 20]))
    with pytest.raises(RuntimeError, match="target"):
        m(pydlx.ones(2, 8), pydlx.tensor([0]))


def test_probabilities_sum_to_one():
    m = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 6])
    sums = m.log_prob(pydlx.randn(5, 8)).exp().sum(1)
    np.testing.assert_allclose(sums.detach().numpy(), np.ones(5), rtol=1e-5)
