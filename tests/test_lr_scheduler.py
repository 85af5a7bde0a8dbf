"""Schedules against PyTorch: the same learning rates to the last bit, the same state, the same restarts."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import pydlx

SCHEDULES = {
    "StepLR": lambda m, o: m.StepLR(o, 3),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [3, 3, 8]),
    "ConstantLR": lambda m, o: m.ConstantLR(o, 0.5, 4),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 7, 0.01),
    "CosineAnnealingWarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 2),
    "LinearLR": lambda m, o: m.LinearLR(o, total_iters=6),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 9, 2.0),
    "LambdaLR": lambda m, o: m.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (e + 1)]),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda e: 0.95),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, [1.0, 2.0], total_steps=31),
    "OneCycleLR-linear": lambda m, o: m.OneCycleLR(
        o, 1.0, epochs=4, steps_per_epoch=10, three_phase=True, anneal_strategy="linear"
    ),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.2, 4),
    "CyclicLR-2": lambda m, o: m.CyclicLR(o, 0.01, [0.2, 0.3], 4, 6, mode="triangular2"),
    "CyclicLR-exp": lambda m, o: m.CyclicLR(o, 0.01, 0.2, 4, mode="exp_range", gamma=0.9, cycle_momentum=False),
    "ReduceLROnPlateau": lambda m, o: m.ReduceLROnPlateau(o, patience=2, cooldown=1, min_lr=[0, 0.01]),
    "ReduceLROnPlateau-max": lambda m, o: m.ReduceLROnPlateau(o, "max", 0.5, 1, threshold_mode="abs"),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=4), m.CosineAnnealingLR(o, 20), m.ExponentialLR(o, 0.5)], [4, 20]
    ),
    "SequentialLR-2": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o, 0.1, total_iters=4), m.MultiStepLR(o, [3, 5])], [6]
    ),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler([m.ConstantLR(o, 0.1, total_iters=4), m.ExponentialLR(o, 0.9)]),
}


def optimizer(module, kind="SGD", lr=0.1):
    params = [module.nn.Parameter(module.zeros(2)) for _ in range(2)]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(module.optim, kind)([{"params": [params[0]]}, {"params": [params[1]], "lr": 0.3}], lr=lr, **options)


def advance(scheduler, steps, start=0):
    """The rates and momenta of every epoch."""
    rates = []
    for i in range(start, start + steps):
        groups = scheduler.optimizer.param_groups
        rates.append((list(scheduler.get_last_lr()), [g.get("momentum", g.get("betas")) for g in groups]))
        assert scheduler.get_last_lr() == [g["lr"] for g in groups]
        scheduler.optimizer.step()
        if "Plateau" in type(scheduler).__name__:
            scheduler.step(abs(math.sin(i * 1.7)) + (i > 10) * 0.5)
        else:
            scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_same_rates_and_state(name, kind):
    mine = SCHEDULES[name](pydlx.optim.lr_scheduler, optimizer(pydlx, kind))
    theirs = SCHEDULES[name](torch.optim.lr_scheduler, optimizer(torch, kind))
    assert advance(mine, 30) == advance(theirs, 30)
    assert mine.state_dict() == theirs.state_dict()


@pytest.mark.parametrize("name", SCHEDULES)
def test_resume(name):
    whole = SCHEDULES[name](pydlx.optim.lr_scheduler, optimizer(pydlx))
    rates = advance(whole, 25)
    first = SCHEDULES[name](pydlx.optim.lr_scheduler, optimizer(pydlx))
    advance(first, 11)
    second = SCHEDULES[name](pydlx.optim.lr_scheduler, optimizer(pydlx))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert advance(second, 14, 11) == rates[11:]


@pytest.mark.parametrize(
    "name", ["StepLR", "MultiStepLR", "ConstantLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "PolynomialLR"]
)
def test_jump_to_an_epoch(name):
    mine = SCHEDULES[name](pydlx.optim.lr_scheduler, optimizer(pydlx))
    theirs = SCHEDULES[name](torch.optim.lr_scheduler, optimizer(torch))
    for epoch in (5, 3, 12, 0):
        for s in (mine, theirs):
            s.optimizer.step()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                s.step(epoch)
        assert mine.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-15)


def test_warm_restarts_take_fractions():
    mine = pydlx.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer(pydlx), 3, 2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer(torch), 3, 2)
    for epoch in (0.3, 2.9, 3.0, 7.25, 22.5):
        mine.step(epoch)
        theirs.step(epoch)
        assert mine.get_last_lr() == theirs.get_last_lr()
    with pytest.raises(ValueError, match="expected a number >= 0"):
        mine.step(-1)


def test_last_epoch_resumes():
    for name in ("StepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR"):
        results = []
        for module in (pydlx, torch):
            opt = optimizer(module)
            for group in opt.param_groups:
                group["initial_lr"] = group["lr"]
            make = getattr(module.optim.lr_scheduler, name)
            options = {"StepLR": {"step_size": 2}, "ExponentialLR": {"gamma": 0.9}, "CosineAnnealingLR": {"T_max": 9}}
            scheduler = make(opt, last_epoch=3, **options.get(name, {}))
            results.append(advance(scheduler, 5))
        assert results[0] == results[1], name
    with pytest.raises(KeyError, match="expected 'initial_lr'"):
        pydlx.optim.lr_scheduler.StepLR(optimizer(pydlx), 2, last_epoch=3)


def test_tensor_lr_keeps_its_identity():
    lr = pydlx.tensor(0.5)
    p = pydlx.nn.Parameter(pydlx.zeros(1))
    p.grad = pydlx.ones(1)
    opt = pydlx.optim.SGD([p], lr=lr)
    scheduler = pydlx.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    scheduler.step()
    opt.step()
    assert opt.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    assert p.item() == -0.75


def test_noam_peaks_at_the_end_of_the_warmup():
    opt = pydlx.optim.Adam([pydlx.nn.Parameter(pydlx.zeros(1))], lr=1.0)
    scheduler = pydlx.optim.lr_scheduler.NoamLR(opt, model_size=64, warmup_steps=10)
    rates = []
    for _ in range(40):
        rates.append(scheduler.get_last_lr()[0])
        opt.step()
        scheduler.step()
    assert rates.index(max(rates)) == 9
    assert max(rates) == pytest.approx(64**-0.5 * 10**-0.5)
    assert rates[39] == pytest.approx(64**-0.5 * 40**-0.5)


def test_order_warning():
    scheduler = pydlx.optim.lr_scheduler.StepLR(optimizer(pydlx), 2)
    with pytest.warns(UserWarning, match=r"\[StepLR.step\] expected optimizer.step\(\) first"):
        scheduler.step()
    assert scheduler.last_epoch == 1
    with pytest.warns(UserWarning, match=r"get_last_lr"):
        rates = scheduler.get_lr()
    assert rates == scheduler.get_last_lr()


def test_plateau_counts_nan_as_bad():
    scheduler = pydlx.optim.lr_scheduler.ReduceLROnPlateau(optimizer(pydlx), patience=1)
    for value in (1.0, math.nan, math.nan):
        scheduler.step(value)
    assert scheduler.get_last_lr() == pytest.approx([0.01, 0.03])


M = pydlx.optim.lr_scheduler
BAD = [
    (lambda o: M.StepLR(o, 0), r"\[StepLR\] step_size: expected an integer >= 1, got 0"),
    (lambda o: M.StepLR("o", 2), r"\[StepLR\] optimizer: expected an Optimizer, got str"),
    (lambda o: M.ConstantLR(o, 1.5), r"\[ConstantLR\] factor: expected a number in \[0, 1\]"),
    (lambda o: M.LinearLR(o, 0), r"\[LinearLR\] start_factor"),
    (lambda o: M.CosineAnnealingLR(o, 0), r"\[CosineAnnealingLR\] T_max"),
    (lambda o: M.CosineAnnealingWarmRestarts(o, 0), r"\[CosineAnnealingWarmRestarts\] T_0"),
    (lambda o: M.LambdaLR(o, [abs]), r"\[LambdaLR\] lr_lambda: expected 2 functions"),
    (lambda o: M.LambdaLR(o, 3), r"\[LambdaLR\] lr_lambda: expected a callable"),
    (lambda o: M.OneCycleLR(o, 1.0), r"\[OneCycleLR\] total_steps"),
    (lambda o: M.OneCycleLR(o, [1.0], total_steps=5), r"\[OneCycleLR\] max_lr: expected 2 values"),
    (lambda o: M.OneCycleLR(o, 1.0, total_steps=5, pct_start=2.0), r"\[OneCycleLR\] pct_start"),
    (lambda o: M.CyclicLR(o, 0.1, 0.2, mode="square"), r"\[CyclicLR\] mode"),
    (lambda o: M.CyclicLR(o, 0.1, 0.2, 0), r"\[CyclicLR\] step_size"),
    (lambda o: M.ReduceLROnPlateau(o, factor=1.0), r"\[ReduceLROnPlateau\] factor"),
    (lambda o: M.ReduceLROnPlateau(o, mode="up"), r"\[ReduceLROnPlateau\] mode"),
    (lambda o: M.SequentialLR(o, [M.StepLR(o, 1)], [1]), r"\[SequentialLR\] milestones: expected 0"),
    (lambda o: M.SequentialLR(o, [], []), r"\[SequentialLR\] schedulers: expected at least one"),
    (
        lambda o: M.SequentialLR(o, [M.StepLR(o, 1), M.StepLR(optimizer(pydlx), 1)], [1]),
        r"\[SequentialLR\] schedulers\[1\]: expected the same optimiser",
    ),
    (lambda o: M.ChainedScheduler([M.ReduceLROnPlateau(o)]), r"\[ChainedScheduler\] schedulers\[0\]"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(optimizer(pydlx))


def test_one_cycle_ends():
    scheduler = M.OneCycleLR(optimizer(pydlx), 1.0, total_steps=3)
    with pytest.raises(ValueError, match=r"\[OneCycleLR.step\] expected at most 3 steps"):
        advance(scheduler, 5)


@pytest.mark.parametrize("value", ["x", object(), [None]], ids=["str", "object", "list"])
@pytest.mark.parametrize(
    ("name", "option", "others"),
    [
        ("StepLR", "step_size", {}),
        ("StepLR", "last_epoch", {"step_size": 1}),
        ("ExponentialLR", "gamma", {}),
        ("CosineAnnealingLR", "T_max", {}),
        ("CosineAnnealingWarmRestarts", "T_0", {}),
        ("LinearLR", "start_factor", {}),
        ("PolynomialLR", "power", {}),
        ("OneCycleLR", "max_lr", {"total_steps": 4}),
        ("OneCycleLR", "div_factor", {"total_steps": 4, "max_lr": 1.0}),
        ("OneCycleLR", "base_momentum", {"total_steps": 4, "max_lr": 1.0}),
        ("CyclicLR", "base_lr", {"max_lr": 1.0}),
        ("CyclicLR", "step_size_up", {"base_lr": 0.1, "max_lr": 1.0}),
        ("CyclicLR", "scale_fn", {"base_lr": 0.1, "max_lr": 1.0}),
        ("ReduceLROnPlateau", "factor", {}),
    ],
)
def test_options_of_a_wrong_type_are_named(name, option, others, value):
    optimizer = pydlx.optim.SGD([pydlx.nn.Parameter(pydlx.ones(2))], lr=0.1, momentum=0.9)
    with pytest.raises((TypeError, ValueError), match=rf"^\[{name}\] {option}: expected "):
        getattr(pydlx.optim.lr_scheduler, name)(optimizer, **{option: value}, **others)
