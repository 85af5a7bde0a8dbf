"""optim.swa_utils, autograd.functional and testing.assert_close."""

import numpy as np
import pytest
from ports import Programs, assert_same

import pydlx
from pydlx import nn
from pydlx.testing import assert_close

PROGRAMS = Programs()


@PROGRAMS
def derivatives(lib, draw):
    a, b = draw(2, dtype="float64"), draw(3, dtype="float64")
    F = lib.autograd.functional
    ones2, ones3 = lib.ones(2, dtype=lib.float64), lib.ones(3, dtype=lib.float64)

    def two(a, b):
        return a * b.sum(), a.sin() + b[:2]

    def cubes(a):
        return (a**3).sum()

    return [
        F.jacobian(two, (a, b)),
        F.hessian(lambda a, b: (a.sum() * b).pow(2).sum(), (a, b)),
        *(F.vjp(two, (a, b), (ones2, ones2)), F.jvp(two, (a, b), (ones2, ones3))),
        *(F.hvp(cubes, a, ones2), F.vhp(cubes, a, ones2), F.jacobian(lambda t: t.sum(), a), F.hessian(cubes, a)),
    ]


@PROGRAMS
def averaging_rates(lib, draw):
    rates = []
    for strategy in ("cos", "linear"):
        optimizer = lib.optim.SGD([lib.nn.Parameter(lib.ones(1))], lr=0.3)
        schedule = lib.optim.swa_utils.SWALR(optimizer, 0.05, anneal_epochs=4, anneal_strategy=strategy)
        for _ in range(7):
            optimizer.step()
            schedule.step()
            rates.append(schedule.get_last_lr()[0])
    return rates


@PROGRAMS
def averaged_models(lib, draw):
    results, tools = [], lib.optim.swa_utils
    for options in ({}, {"multi_avg_fn": tools.get_ema_multi_avg_fn(0.9)}, {"use_buffers": True}):
        m = draw.fill(lib.nn.Sequential(lib.nn.Linear(3, 2), lib.nn.BatchNorm1d(2)))
        average = tools.AveragedModel(m, **options)
        for _ in range(3):
            m(draw(4, 3))
            with lib.no_grad():
                m[0].weight.add_(1)
            average.update_parameters(m)
        results += [dict(average.state_dict()), average.eval()(draw(2, 3))]
    batches = [draw(5, 2) for _ in range(3)]
    norm = lib.nn.Sequential(lib.nn.BatchNorm1d(2))
    tools.update_bn(batches, norm)
    return [*results, norm[0].running_mean, norm[0].running_var, norm[0].momentum]


@PROGRAMS
def closeness(lib, draw):
    one, two, nan = lib.ones(2), lib.ones(2, dtype=lib.float64), lib.tensor(float("nan"))
    cases = [
        *((1.0, 1.0000001, {}), ([1, 2], [1, 2], {}), (one, lib.ones(3), {}), (one, two, {}), (None, None, {})),
        *((one, two, {"check_dtype": False}), (nan, nan, {}), (nan, nan, {"equal_nan": True}), ("a", "b", {})),
        *(({"a": 1}, {"b": 1}, {}), ({"a": one}, {"a": one}, {}), (one, one + 0.01, {"rtol": 0, "atol": 0.1})),
        *((np.ones(2), np.ones(2), {}), (lib.tensor([1, 2]), lib.tensor([1, 3]), {}), (1, 1.0, {}), (one, 1.0, {})),
        *((one, one + 1e-5, {}), (one.half(), one.half() + 1e-3, {}), ([one], (one,), {}), (one, one, {"rtol": 1e-3})),
    ]
    answers = []
    for actual, expected, options in cases:
        try:
            lib.testing.assert_close(actual, expected, **options)
            answers.append("close")
        except Exception as error:
            answers.append(type(error).__name__)
    return answers


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)


def test_functional_errors():
    F = pydlx.autograd.functional
    x = pydlx.ones(2)
    with pytest.raises(TypeError, match=r"\[jacobian\] inputs"):
        F.jacobian(lambda t: t, 3.0)
    with pytest.raises(RuntimeError, match=r"\[hessian\] func"):
        F.hessian(lambda t: t, x)
    with pytest.raises(RuntimeError, match=r"\[vjp\] v"):
        F.vjp(lambda t: t, x)
    with pytest.raises(RuntimeError, match="depends on every input"):
        F.jacobian(lambda a, b: a, (x, x), strict=True)


def test_averaged_model_errors():
    tools = pydlx.optim.swa_utils
    with pytest.raises(ValueError, match="avg_fn"):
        tools.AveragedModel(nn.Linear(1, 1), avg_fn=tools.get_swa_avg_fn(), multi_avg_fn=tools.get_ema_multi_avg_fn())
    with pytest.raises(ValueError, match="decay"):
        tools.get_ema_avg_fn(1.5)
    optimizer = pydlx.optim.SGD([nn.Parameter(pydlx.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match="anneal_strategy"):
        tools.SWALR(optimizer, 0.1, anneal_strategy="sine")
    with pytest.raises(ValueError, match="swa_lr"):
        tools.SWALR(optimizer, [0.1, 0.2])


def test_assert_close_tells_where():
    with pytest.raises(AssertionError, match=r"at \['a'\]\[1\](.|\n)*1 / 3(.|\n)*index \(2,\)"):
        assert_close({"a": [1, pydlx.tensor([1.0, 2.0, 3.0])]}, {"a": [1, pydlx.tensor([1.0, 2.0, 4.0])]})
    with pytest.raises(AssertionError, match="^mine: Values"):
        assert_close(pydlx.ones(1), pydlx.zeros(1), msg=lambda text: f"mine: {text}")
