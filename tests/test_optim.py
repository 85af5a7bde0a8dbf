"""Optimisers against PyTorch: values, state layout, checkpoints both ways, groups, hooks, errors."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import numpy as np
import pytest
import torch

import pydlx
from pydlx import optim

SHAPES = [(5, 3), (7,), (2, 3, 4), (1,), (0, 3), ()]
CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("AdamW", {"maximize": True}),
    ("AdamW", {"amsgrad": True, "lr": 0.02, "eps": 1e-4}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("RMSprop", {"maximize": True, "alpha": 0.5}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"weight_decay": 0.1, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1}),
    ("NAdam", {}),
    ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("ASGD", {}),
    ("ASGD", {"t0": 3, "lambd": 0.01, "weight_decay": 0.1}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"weight_decay": 0.1, "eps": (1e-3, 0.1), "d": 2.0, "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"weight_decay": 0.1, "betas": (0.9, 0.99)}),
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


def ours(array):
    return pydlx.tensor(array.tolist(), dtype=getattr(pydlx, str(array.dtype))).reshape(array.shape)


def values(tensor):
    return np.asarray(tensor.detach().tolist(), dtype=np.float64).reshape(tuple(tensor.shape))


def make(module, arrays):
    convert = ours if module is pydlx else torch.tensor
    return [module.nn.Parameter(convert(a)) for a in arrays]


def set_grads(module, params, arrays):
    convert = ours if module is pydlx else torch.tensor
    for p, a in zip(params, arrays):
        p.grad = None if a is None else convert(a)


def tolerance(name):
    return 1e-6 if name in ("NAdam", "ASGD") else 1e-11  # these keep scalars of their schedule in float32


def shapes(name):
    return [s for s in SHAPES if name != "Adafactor" or 0 not in s]  # PyTorch's Adafactor divides by the size


def both(name, options, dtype="float64", steps=12, missing=False, seed=0):
    """Run the same gradients through both libraries; returns ((params, optimiser) of ours, of PyTorch)."""
    results = []
    for module in (pydlx, torch):
        rng = np.random.default_rng(seed)
        params = make(module, [rng.standard_normal(s).astype(dtype) for s in shapes(name)])
        opt = getattr(module.optim, name)([{"params": params[:3]}, {"params": params[3:], "lr": 0.02}], **options)
        for step in range(steps):
            grads = [rng.standard_normal(s).astype(dtype) for s in shapes(name)]
            if missing:
                grads = [None if (i + step) % 3 == 0 else g for i, g in enumerate(grads)]
            set_grads(module, params, grads)
            opt.step()
        results.append((params, opt))
    return results


def assert_same(a, b, tolerance):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(values(x), values(y), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("missing", [False, True], ids=["all", "some"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_values_and_layout(name, options, missing):
    (mine, a), (theirs, b) = both(name, options, missing=missing)
    assert_same(mine, theirs, tolerance(name))
    saved, reference = a.state_dict(), b.state_dict()
    assert saved["param_groups"] == reference["param_groups"]
    assert list(saved["param_groups"][0]) == list(reference["param_groups"][0])
    assert saved["state"].keys() == reference["state"].keys()
    for index, state in reference["state"].items():
        assert list(saved["state"][index]) == list(state)
        for key, value in state.items():
            np.testing.assert_allclose(values(saved["state"][index][key]), values(value), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_float32(name, options):
    (mine, _), (theirs, _) = both(name, options, dtype="float32")
    assert_same(mine, theirs, 3e-6)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_checkpoint_from_pytorch(name, options):
    """Both continue from PyTorch's checkpoint and stay together."""
    (_, _), (theirs, b) = both(name, options, missing=True)
    saved = b.state_dict()
    state = {
        i: {k: ours(v.numpy()) if isinstance(v, torch.Tensor) else v for k, v in s.items()}
        for i, s in saved["state"].items()
    }
    mine = make(pydlx, [values(p) for p in theirs])
    a = getattr(optim, name)([{"params": mine[:3]}, {"params": mine[3:]}], **options)
    a.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    rng = np.random.default_rng(1)
    for _ in range(3):
        grads = [rng.standard_normal(s) for s in shapes(name)]
        set_grads(pydlx, mine, grads)
        set_grads(torch, theirs, grads)
        a.step()
        b.step()
    assert_same(mine, theirs, tolerance(name))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_resume_is_exact(name, options, how):
    (params, opt), _ = both(name, options, dtype="float32", steps=4)
    if how == "state_dict":
        again = make(pydlx, [values(p).astype("float32") for p in params])
        new = getattr(optim, name)([{"params": again[:3]}, {"params": again[3:]}], **options)
        new.load_state_dict(opt.state_dict())
    else:
        new = pickle.loads(pickle.dumps(opt)) if how == "pickle" else copy.deepcopy(opt)
        again = [p for group in new.param_groups for p in group["params"]]
    rng = np.random.default_rng(2)
    for _ in range(3):
        grads = [rng.standard_normal(s).astype("float32") for s in shapes(name)]
        for ps, o in ((params, opt), (again, new)):
            set_grads(pydlx, ps, grads)
            o.step()
    for x, y in zip(params, again, strict=True):
        assert x.tolist() == y.tolist()


def one(name="SGD", **options):
    p = pydlx.nn.Parameter(pydlx.tensor([1.0, 2.0]))
    p.grad = pydlx.tensor([1.0, -1.0])
    return p, getattr(optim, name)([p], **options)


def test_cached_lists_notice_changes():
    """State replaced by hand, cleared, or refilled must be used by the next step."""
    for change in ("replace", "clear", "assign", "step", "new parameter", "flag"):
        results = []
        for module in (pydlx, torch):
            p = module.nn.Parameter(module.tensor([1.0, 2.0]))
            q = module.nn.Parameter(module.tensor([3.0, 4.0]))
            opt = module.optim.Adam([p], lr=0.1)
            for k in range(4):
                p.grad, q.grad = module.tensor([1.0, -1.0 * k]), module.tensor([0.5, 0.5])
                if k == 2:
                    if change == "replace":
                        opt.state[p]["exp_avg"] = module.tensor([5.0, 5.0])
                    elif change == "clear":
                        opt.state.clear()
                    elif change == "assign":
                        opt.state[p] = {}
                    elif change == "step":
                        opt.state[p]["step"].fill_(7)
                    elif change == "new parameter":
                        opt.add_param_group({"params": [q], "lr": 0.5})
                    else:
                        opt.param_groups[0]["weight_decay"] = 0.5
                opt.step()
            results.append((p, q))
        assert_same(*results, 1e-6)


def test_momentum_switched_on_later():
    results = []
    for module in (pydlx, torch):
        p = module.nn.Parameter(module.tensor([1.0, 2.0]))
        opt = module.optim.SGD([p], lr=0.1)
        for k in range(4):
            p.grad = module.tensor([1.0, float(k)])
            opt.param_groups[0]["momentum"] = 0.9 if k >= 2 else 0.0
            opt.step()
        results.append([p])
    assert_same(*results, 1e-6)


def test_zero_grad():
    p, opt = one(lr=0.1)
    opt.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    opt.zero_grad()
    assert p.grad is None
    opt.step()  # no gradients: nothing happens
    assert p.tolist() == [1.0, 2.0]


def test_closure_runs_with_gradients_and_loss_is_returned():
    p, opt = one(lr=0.1)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with pydlx.no_grad():
        loss = opt.step(closure)
    assert loss.item() == 5.0
    np.testing.assert_allclose(p.tolist(), [0.8, 1.6], rtol=1e-6)


@pytest.mark.parametrize("params", [None, 5, pydlx.zeros(2), pydlx.nn.Linear(2, 2)])
def test_parameters_must_be_iterable(params):
    for make in (optim.SGD, optim.Adam, optim.LBFGS):
        with pytest.raises(
            TypeError, match=rf"\[{make.__name__}\] params: expected an iterable of tensors or dicts, got"
        ):
            make(params)


def test_named_parameters():
    p = pydlx.nn.Parameter(pydlx.zeros(2))
    q = pydlx.nn.Parameter(pydlx.zeros(3))
    opt = optim.SGD([("w", p), ("b", q)], lr=0.1)
    assert opt.param_groups[0]["param_names"] == ["w", "b"]
    assert opt.param_groups[0]["params"][1] is q
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["w", "b"]
    with pytest.raises(ValueError, match=r"\[SGD\] params: expected all groups named or none"):
        opt.add_param_group({"params": [pydlx.nn.Parameter(pydlx.zeros(1))]})


def test_hooks():
    _, opt = one(lr=0.1)
    calls = []
    handles = [
        opt.register_step_pre_hook(lambda o, a, k: calls.append("pre")),
        opt.register_step_post_hook(lambda o, a, k: calls.append("post")),
        opt.register_state_dict_post_hook(lambda o, s: {**s, "extra": 1}),
        opt.register_load_state_dict_pre_hook(lambda o, s: {k: v for k, v in s.items() if k != "extra"}),
        opt.register_load_state_dict_post_hook(lambda o: calls.append("loaded")),
    ]
    opt.step()
    saved = opt.state_dict()
    assert saved["extra"] == 1
    opt.load_state_dict(saved)
    assert calls == ["pre", "post", "loaded"]
    for handle in handles:
        handle.remove()
    opt.step()
    assert calls == ["pre", "post", "loaded"]


def test_own_optimizer_gets_hooks_and_schedules():
    class Sign(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @pydlx.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["n"] = self.state[p].get("n", 0) + 1
                    p.add_(p.grad.sign(), alpha=-group["lr"])

    p = pydlx.nn.Parameter(pydlx.tensor([1.0, 2.0]))
    p.grad = pydlx.tensor([3.0, -3.0])
    opt = Sign([p], lr=0.5)
    seen = []
    opt.register_step_post_hook(lambda *a: seen.append(1))
    opt.step()
    assert p.tolist() == [0.5, 2.5]
    assert seen == [1]
    assert opt.state_dict()["state"] == {0: {"n": 1}}


def test_lion():
    p, opt = one("Lion", lr=0.1, weight_decay=0.5)
    opt.step()
    np.testing.assert_allclose(p.tolist(), [1 * 0.95 - 0.1, 2 * 0.95 + 0.1], rtol=1e-6)
    np.testing.assert_allclose(opt.state[p]["exp_avg"].tolist(), [0.01, -0.01], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_muon(options, shape):
    results = []
    for module in (pydlx, torch):
        rng = np.random.default_rng(0)
        params = make(module, [rng.standard_normal(shape).astype("float32")])
        opt = module.optim.Muon(params, lr=0.1, **options)
        for _ in range(3):
            set_grads(module, params, [rng.standard_normal(shape).astype("float32")])
            opt.step()
        results.append(params)
    assert_same(*results, 2e-2)  # PyTorch orthogonalises in bfloat16
    with pytest.raises(ValueError, match=r"\[Muon\] params: expected matrices"):
        optim.Muon([pydlx.nn.Parameter(pydlx.zeros(3))])


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_finds_the_minimum(search):
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((6, 6))
    matrix = ours(basis @ basis.T + np.eye(6))
    target = ours(rng.standard_normal((6, 1)))
    x = pydlx.nn.Parameter(pydlx.zeros(6, 1, dtype=pydlx.float64))
    opt = optim.LBFGS([x], lr=1.0 if search else 0.5, max_iter=100, line_search_fn=search, tolerance_change=1e-14)

    def closure():
        opt.zero_grad()
        loss = ((x * (matrix @ x)).sum() * 0.5) - (target * x).sum()
        loss.backward()
        return loss

    for _ in range(5):
        opt.step(closure)
    np.testing.assert_allclose(values(matrix @ x), values(target), atol=1e-6)


def test_lbfgs_on_a_curved_valley():
    x = pydlx.nn.Parameter(pydlx.tensor([-1.5, 2.0], dtype=pydlx.float64))
    opt = optim.LBFGS([x], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        opt.zero_grad()
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        loss.backward()
        return loss

    opt.step(closure)
    np.testing.assert_allclose(x.tolist(), [1.0, 1.0], atol=1e-4)
    assert opt.state_dict()["state"][0]["n_iter"] > 5


BAD = [
    ("SGD", {"lr": -1}, r"\[SGD\] lr: expected a number >= 0, got -1"),
    ("SGD", {"lr": math.nan}, r"\[SGD\] lr: expected a number >= 0, got nan"),
    ("SGD", {"lr": "a"}, r"\[SGD\] lr: expected a number, got str"),
    ("SGD", {"momentum": -0.1}, r"\[SGD\] momentum: expected a number >= 0"),
    ("SGD", {"nesterov": True}, r"\[SGD\] nesterov: expected momentum > 0 and dampening 0"),
    ("SGD", {"differentiable": True}, r"\[SGD\] differentiable: expected False"),
    ("Adam", {"betas": (0.9, 1.0)}, r"\[Adam\] betas\[1\]: expected a number in \[0, 1\), got 1.0"),
    ("Adam", {"betas": 0.9}, r"\[Adam\] betas: expected 2 numbers"),
    ("AdamW", {"eps": -1e-8}, r"\[AdamW\] eps: expected a number >= 0"),
    ("AdamW", {"weight_decay": -1}, r"\[AdamW\] weight_decay: expected a number >= 0"),
    ("RMSprop", {"alpha": -1}, r"\[RMSprop\] alpha: expected a number >= 0"),
    ("Adagrad", {"initial_accumulator_value": -1}, r"\[Adagrad\] initial_accumulator_value"),
    ("Adadelta", {"rho": 1.5}, r"\[Adadelta\] rho: expected a number in \[0, 1\], got 1.5"),
    ("LBFGS", {"line_search_fn": "armijo"}, r"\[LBFGS\] line_search_fn"),
    ("NAdam", {"momentum_decay": -1}, r"\[NAdam\] momentum_decay"),
    ("Rprop", {"etas": (1.5, 1.2)}, r"\[Rprop\] etas"),
    ("Adafactor", {"d": 0.5}, r"\[Adafactor\] d: expected a number >= 1"),
]


@pytest.mark.parametrize(
    ("name", "options", "message"), BAD, ids=[f"{b[0]}-{next(iter(b[1]))}-{i}" for i, b in enumerate(BAD)]
)
def test_bad_options(name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        one(name, **options)


def test_bad_params():
    p = pydlx.nn.Parameter(pydlx.zeros(2))
    with pytest.raises(TypeError, match=r"\[SGD\] params: expected an iterable of tensors or dicts, got one Tensor"):
        optim.SGD(p, lr=0.1)
    with pytest.raises(ValueError, match=r"\[SGD\] params: expected at least one parameter"):
        optim.SGD([], lr=0.1)
    with pytest.raises(TypeError, match=r"\[SGD\] params: expected tensors, got int"):
        optim.SGD([3], lr=0.1)
    with pytest.raises(TypeError, match="expected an ordered collection, got a set"):
        optim.SGD([{"params": {p}}], lr=0.1)
    with pytest.raises(ValueError, match="expected each parameter once"):
        optim.SGD([p, p], lr=0.1)
    with pytest.raises(ValueError, match="expected leaf tensors"):
        optim.SGD([p * 2], lr=0.1)
    with pytest.raises(ValueError, match=r"expected the key 'params'"):
        optim.SGD([{"lr": 0.1}], lr=0.1)
    with pytest.raises(ValueError, match=r"\[SGD\] lr: expected a number >= 0"):
        optim.SGD([{"params": [p], "lr": -1.0}], lr=0.1)


def test_bad_state_dict():
    _, opt = one("Adam")
    saved = opt.state_dict()
    with pytest.raises(ValueError, match=r"param_groups\[0\]: expected 1 parameters, got 2"):
        opt.load_state_dict({"state": {}, "param_groups": [{**saved["param_groups"][0], "params": [0, 1]}]})
    with pytest.raises(ValueError, match="expected 1 groups, got 0"):
        opt.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="expected a dict with 'state'"):
        opt.load_state_dict({})


def test_repr():
    _, opt = one("AdamW", lr=0.5)
    assert repr(opt).startswith("AdamW (\nParameter Group 0\n    amsgrad: False\n")
    assert "lr: 0.5" in repr(opt)


NUMERIC_OPTIONS = [
    (cls, name)
    for cls in (getattr(pydlx.optim, n) for n in sorted(dir(pydlx.optim)))
    if isinstance(cls, type) and issubclass(cls, pydlx.optim.Optimizer) and cls is not pydlx.optim.Optimizer
    for name, parameter in inspect.signature(cls).parameters.items()
    if isinstance(parameter.default, (int, float, tuple)) and not isinstance(parameter.default, bool)
]


@pytest.mark.parametrize(("cls", "name"), NUMERIC_OPTIONS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize(
    "value", ["x", None, object(), ["x", "y"], float("nan")], ids=["str", "None", "object", "list", "nan"]
)
def test_options_of_a_wrong_type_are_named(cls, name, value):
    """Either the option is accepted (None where it has a meaning) or the error names the optimiser and the option."""
    try:
        cls([pydlx.nn.Parameter(pydlx.ones(2, 2))], **{name: value})
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"[{cls.__name__}] {name}"), error
    else:
        assert value is None or value != value, f"{cls.__name__} took {name}={value!r}"
