"""The small parts of training loops."""

from __future__ import annotations

import math

import pytest

import pydlx
from pydlx import nn
from pydlx.train import (
    ColorJitter,
    Compose,
    CutMix,
    EarlyStopping,
    Mean,
    MetricsWriter,
    MixUp,
    ModelEMA,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomNoise,
    confusion_matrix,
    read_metrics,
)
from pydlx.train._optional import require


def test_early_stopping():
    model = nn.Linear(1, 1)
    stopper = EarlyStopping(patience=2)
    weights = []
    history = [
        (1.0, True, False),
        (math.nan, False, False),
        (0.5, True, False),
        (0.5, False, False),
        (0.6, False, True),
    ]
    for metric, improved, stop in history:
        with pydlx.no_grad():
            model.weight.add_(1)
        weights.append(model.weight.item())
        assert stopper.step(metric, model) is improved
        assert stopper.should_stop is stop
    assert (stopper.best, stopper.best_epoch) == (0.5, 2)
    stopper.restore(model)
    assert model.weight.item() == weights[2]
    again = EarlyStopping(patience=2)
    again.load_state_dict(stopper.state_dict())
    assert again.should_stop
    rising = EarlyStopping(1, "max", min_delta=0.1)
    assert [rising.step(v) for v in (0.5, 0.55, 0.7)] == [True, False, True]
    for bad in ({"patience": 0}, {"mode": "up"}, {"min_delta": -1}, {"min_delta": math.nan}):
        with pytest.raises(ValueError, match=rf"\[EarlyStopping\] {next(iter(bad))}"):
            EarlyStopping(**bad)
    with pytest.raises(ValueError, match="got none"):
        EarlyStopping().restore(model)


def test_model_ema():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ModelEMA(model, 0.5)
    start = average.module[0].weight.tolist()
    with pydlx.no_grad():
        model[0].weight.fill_(1.0)
        model[1].running_mean.fill_(3.0)
        model[1].num_batches_tracked.fill_(7)
    assert average.module[0].weight.tolist() == start
    average.update(model)
    keep = min(0.5, 2 / 11)
    expected = [[keep * v + (1 - keep) for v in row] for row in start]
    assert average.module[0].weight.reshape(-1).tolist() == pytest.approx(
        [v for row in expected for v in row], rel=1e-5
    )
    assert average.module[1].running_mean.tolist() == pytest.approx([3 * (1 - keep)] * 2, rel=1e-5)
    assert average.module[1].num_batches_tracked.item() == 7
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    other = ModelEMA(model, 0.1)
    other.load_state_dict(average.state_dict())
    assert other.module[0].weight.tolist() == average.module[0].weight.tolist()
    assert (other.decay, other.updates) == (0.5, 1)
    with pytest.raises(ValueError, match=r"\[ModelEMA\] decay"):
        ModelEMA(model, 1.0)


def test_metrics_file(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(epoch=1, loss=pydlx.tensor(0.5), bad=math.nan)
        assert read_metrics(path) == [{"epoch": 1, "loss": 0.5, "bad": "nan"}]
    with MetricsWriter(path, append=True) as metrics:
        metrics.write(epoch=2)
    with path.open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert [row["epoch"] for row in read_metrics(path)] == [1, 2]
    with MetricsWriter(path):
        assert read_metrics(path) == []


def test_mean_and_confusion_matrix():
    mean = Mean()
    assert math.isnan(mean.value)
    mean.add(1.0, 3)
    mean.add(5.0)
    assert mean.value == 2.0
    counts = confusion_matrix(pydlx.tensor([0, 1, 2, 2]), pydlx.tensor([0, 2, 2, 2]), 3)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 2]]
    with pytest.raises(ValueError, match=r"\[confusion_matrix\] predicted: expected shape \(1,\)"):
        confusion_matrix(pydlx.tensor([0]), pydlx.tensor([0, 1]), 3)


def test_affine():
    pydlx.manual_seed(0)
    images = pydlx.rand(3, 2, 7, 5)
    same = RandomAffine()(images)
    assert (same - images).abs().max().item() < 1e-6
    changed = RandomAffine(10, 1.0, 0.1, 0.1)(images)
    assert changed.shape == images.shape
    assert (changed - images).abs().max().item() > 0.01
    assert changed.min().item() >= 0
    assert changed.max().item() <= images.max().item() + 1e-6
    pydlx.manual_seed(3)
    first = RandomAffine(10)(images)
    pydlx.manual_seed(3)
    assert first.tolist() == RandomAffine(10)(images).tolist()
    # a quarter turn maps pixels onto pixels
    turn = RandomAffine(90.0)
    square = pydlx.arange(9, dtype=pydlx.float32).reshape(1, 1, 3, 3)
    original = pydlx.rand
    import pydlx.train.augment as module

    module.rand = lambda *size, **options: (
        original(*size, **options) * 0 + pydlx.tensor([1.0, 0.5, 0.5, 0.5, 0.5]).reshape(5, 1, 1)
    )
    try:
        turned = turn(square)
    finally:
        module.rand = original
    assert [round(v) for v in turned.reshape(-1).tolist()] in ([2, 5, 8, 1, 4, 7, 0, 3, 6], [6, 3, 0, 7, 4, 1, 8, 5, 2])
    for bad in ({"degrees": -1}, {"scale": 1.0}, {"shear": math.nan}):
        with pytest.raises(ValueError, match=rf"\[RandomAffine\] {next(iter(bad))}"):
            RandomAffine(**bad)
    with pytest.raises(ValueError, match=r"\[RandomAffine\] images: expected floats of shape"):
        RandomAffine()(pydlx.zeros(3, 3))


IMAGES = pydlx.arange(2 * 3 * 6 * 5, dtype=pydlx.float32).reshape(2, 3, 6, 5)


def test_flip_normalise_and_compose():
    assert RandomFlip(1.0)(IMAGES).tolist() == IMAGES.flip(3).tolist()
    assert RandomFlip(1.0, vertical=True)(IMAGES).tolist() == IMAGES.flip(2).tolist()
    assert RandomFlip(0.0)(IMAGES).tolist() == IMAGES.tolist()
    pydlx.manual_seed(0)
    many = pydlx.arange(2.0).expand(400, 1, 1, 2)
    share = RandomFlip(0.25)(many)[:, 0, 0, 0].mean().item()
    assert 0.15 < share < 0.35
    scaled = Normalize([1.0, 2.0, 3.0], [2.0, 4.0, 5.0])(IMAGES)
    assert scaled[1, 2, 0, 0].item() == pytest.approx((IMAGES[1, 2, 0, 0].item() - 3) / 5)
    both = Compose([RandomFlip(1.0), RandomFlip(1.0, vertical=True)])(IMAGES)
    assert both.tolist() == IMAGES.flip(2).flip(3).tolist()
    with pytest.raises(ValueError, match=r"\[Normalize\] images: expected 2 channels, got 3"):
        Normalize([0.0, 0.0], [1.0, 1.0])(IMAGES)
    for make in (lambda: Normalize([0.0], [0.0]), lambda: RandomFlip(1.5), lambda: RandomFlip(math.nan)):
        with pytest.raises(ValueError, match="expected"):
            make()


def test_crop_shifts_and_fills_with_zeros():
    pydlx.manual_seed(1)
    ones = pydlx.ones(300, 1, 5, 5)
    shifted = RandomCrop(2)(ones)
    sums = set(shifted.sum((1, 2, 3)).tolist())
    assert sums == {float((5 - abs(a)) * (5 - abs(b))) for a in range(3) for b in range(3)}
    assert RandomCrop(0)(IMAGES).tolist() == IMAGES.tolist()
    seen = [RandomCrop(1)(IMAGES) for _ in range(30)]
    expected = pydlx.zeros(2, 3, 6, 5)
    expected[0, :, :5, :4] = IMAGES[0, :, 1:, 1:]
    assert any(s[0].tolist() == expected[0].tolist() for s in seen)
    with pytest.raises(ValueError, match=r"\[RandomCrop\] padding"):
        RandomCrop(-1)


def test_erasing():
    pydlx.manual_seed(2)
    ones = pydlx.ones(500, 1, 20, 20)
    erased = RandomErasing(1.0, scale=(0.1, 0.2), ratio=(0.5, 2.0))(ones)
    parts = 1 - erased.mean((1, 2, 3))
    assert parts.max().item() < 0.26
    assert parts.min().item() >= 0.0
    assert 0.05 < parts.mean().item() < 0.2
    assert RandomErasing(0.0)(IMAGES).tolist() == IMAGES.tolist()
    assert set(RandomErasing(1.0, value=7.0)(ones).reshape(-1).tolist()) == {1.0, 7.0}
    for bad in ({"p": 2}, {"scale": (0.5, 0.1)}, {"ratio": (0, 1)}):
        with pytest.raises(ValueError, match=rf"\[RandomErasing\] {next(iter(bad))}"):
            RandomErasing(**bad)


def test_colours():
    assert ColorJitter()(IMAGES).tolist() == IMAGES.tolist()
    pydlx.manual_seed(0)
    contrast = ColorJitter(contrast=0.5)(IMAGES)
    assert contrast.mean((1, 2, 3)).tolist() == pytest.approx(IMAGES.mean((1, 2, 3)).tolist(), rel=1e-4)
    assert contrast.tolist() != IMAGES.tolist()
    grey = IMAGES[:, :1].expand(2, 3, 6, 5)
    same = ColorJitter(saturation=1.0)(grey)
    assert (same - grey).abs().max().item() < 1e-3
    ratio = (ColorJitter(brightness=0.3)(IMAGES + 1) / (IMAGES + 1)).reshape(2, -1)
    assert (ratio.amax(1) - ratio.amin(1)).max().item() < 1e-5
    assert ratio.min().item() >= 0.7
    assert ratio.max().item() <= 1.3
    with pytest.raises(ValueError, match=r"\[ColorJitter\] contrast"):
        ColorJitter(contrast=-1)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_mixing(kind):
    pydlx.manual_seed(0)
    images = pydlx.arange(8, dtype=pydlx.float32).reshape(8, 1, 1, 1).expand(8, 1, 16, 16)
    labels = pydlx.arange(8)
    weights = []
    for _ in range(200):
        mixed, first, second, weight = kind()(images, labels)
        assert first.tolist() == labels.tolist()
        assert sorted(second.tolist()) == labels.tolist()
        expected = weight * first + (1 - weight) * second
        assert mixed.mean((1, 2, 3)).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
        weights.append(weight)
    assert 0 <= min(weights) < 0.2
    assert 0.8 < max(weights) <= 1
    assert 0.4 < sum(weights) / 200 < 0.75
    if kind is CutMix:
        assert set(mixed.reshape(-1).tolist()) <= set(range(8))
    with pytest.raises(ValueError, match=rf"\[{kind.__name__}\] alpha"):
        kind(0)
    with pytest.raises(ValueError, match=rf"\[{kind.__name__}\] labels: expected first size 8"):
        kind()(images, labels[:3])


def test_noise():
    pydlx.manual_seed(0)
    noise = RandomNoise(0.5)(pydlx.zeros(100, 100))
    assert abs(noise.mean().item()) < 0.02
    assert abs((noise * noise).mean().sqrt().item() - 0.5) < 0.02
    with pytest.raises(ValueError, match=r"\[RandomNoise\] std"):
        RandomNoise(-1)


def test_missing_package_names_the_extra():
    with pytest.raises(ImportError, match=r'the bar needs absent_package, .*pip install "pydlx\[demo\]"'):
        require("absent_package", "the bar")
