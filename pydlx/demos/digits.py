"""Handwritten digits: train a convolutional network on scikit-learn's 1,797 images of 8 x 8 pixels.

Run it with ``pydlx demo digits``. It splits the images into training, validation and test parts, trains with AdamW, a
cosine schedule with warm-up, light augmentation and early stopping on the averaged weights, and writes to
``runs/digits``:
``metrics.jsonl``, ``learning_curves.png``, ``confusion_matrix.png``, ``misclassified.png`` and ``model.safetensors``,
which it reads back and tests again. The same seed gives the same weights, bit for bit, for any number of threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydlx

from .. import Tensor, nn
from ..autograd import no_grad
from ..io import load_file, save_file
from ..nn import functional as F
from ..optim import AdamW
from ..optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from ..random import manual_seed
from ..train import (
    EarlyStopping,
    Mean,
    MetricsWriter,
    ModelEMA,
    RandomAffine,
    RandomNoise,
    confusion_matrix,
    read_metrics,
)
from ..train._optional import require
from ..utils.data import DataLoader, TensorDataset

__all__ = ["Result", "Settings", "build_model", "load_digits", "run", "stratified_split"]

CLASSES = 10


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults reach about 99.7 % test accuracy."""

    seed: int = 0
    epochs: int = 50
    patience: int = 20  # epochs without a better validation loss before stopping early
    batch_size: int = 64
    lr: float = 4e-3
    warmup_epochs: int = 3
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    ema_decay: float = 0.99
    width: int = 32
    out: str | Path = "runs/digits"
    threads: int | None = None
    progress: bool = True


@dataclass(frozen=True)
class Result:
    """What a run reached."""

    test_accuracy: float
    test_loss: float
    best_epoch: int
    epochs: int
    seconds: float
    samples_per_second: float


def load_digits() -> tuple[Tensor, Tensor]:
    """The images as float32 of shape (1797, 1, 8, 8) in [0, 1], and their classes as int64."""
    datasets = require("sklearn.datasets", "the digits demo")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = pydlx.tensor((pixels / 16).astype("float32")).reshape(-1, 1, 8, 8)
    return images, pydlx.tensor(labels.astype("int64"))


def stratified_split(labels: Tensor, fractions: tuple[float, float], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of three parts that hold the same share of every class.

    Args:
        labels: int64 classes, shape (n,). fractions: shares of the first two parts; the rest is the third.
        seed: which of the possible splits.

    Returns:
        Three int64 index tensors without overlap.
    """
    generator = pydlx.Generator()
    generator.manual_seed(seed)
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for label in range(int(labels.max().item()) + 1):
        members = (labels == label).nonzero().reshape(-1)
        members = members[pydlx.randperm(members.numel(), generator=generator)]
        first, second = (round(members.numel() * fraction) for fraction in fractions)
        parts[0].append(members[:first])
        parts[1].append(members[first : first + second])
        parts[2].append(members[first + second :])
    return pydlx.cat(parts[0]), pydlx.cat(parts[1]), pydlx.cat(parts[2])


def build_model(width: int = 32) -> nn.Module:
    """Two stages of two 3 x 3 convolutions with batch norm and ReLU, pooled to 2 x 2, and a linear layer."""

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *convolution(1, width),
        *convolution(width, width),
        nn.MaxPool2d(2),
        nn.Dropout(0.1),
        *convolution(width, 2 * width),
        *convolution(2 * width, 2 * width),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8 * width, CLASSES),
    )


def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> tuple[float, float, Tensor]:
    """Mean loss, accuracy, and the logits, in evaluation mode and without gradients."""
    model.eval()
    with no_grad():
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing).item()
        accuracy = (logits.argmax(1) == labels).to(pydlx.float32).mean().item()
    return loss, accuracy, logits


class _Progress:
    """A tqdm bar over all batches of the run, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self.bar: Any = None
        self.facts: dict[str, str] = {}
        if shown:
            self.bar = require("tqdm", "the progress bar").tqdm(total=total, unit="batch", dynamic_ncols=True)

    def advance(self, **facts: str) -> None:
        self.facts.update(facts)
        if self.bar is not None:
            self.bar.set_postfix(self.facts, refresh=False)
            self.bar.update()

    def note(self, **facts: str) -> None:
        self.facts.update(facts)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.set_postfix(self.facts)
            self.bar.close()


def run(settings: Settings | None = None) -> Result:
    """Train, write everything to ``settings.out``, reload the model and check that it predicts the same.

    Raises:
        ImportError: scikit-learn, matplotlib or tqdm is missing (extra ``demo``).
    """
    settings = settings or Settings()
    require("matplotlib", "the digits demo")  # before a minute of training, not after it
    if settings.threads is not None:
        pydlx.set_num_threads(settings.threads)
    manual_seed(settings.seed)
    out = Path(settings.out)
    images, labels = load_digits()
    training, validation, test = stratified_split(labels, (0.7, 0.15), settings.seed)
    print(
        f"{images.shape[0]} images: {training.numel()} training, {validation.numel()} validation, {test.numel()} test"
    )

    started = time.perf_counter()
    model, best_epoch, epochs, seen = _train(settings, images, labels, training, validation, out)
    seconds = time.perf_counter() - started

    test_loss, test_accuracy, logits = evaluate(model, images[test], labels[test])
    save_file(
        model.state_dict(), out / "model.safetensors", {"model": "pydlx.demos.digits", "width": str(settings.width)}
    )
    _check_reload(settings, out / "model.safetensors", images[test], labels[test], logits)
    _draw(out, images[test], labels[test], logits, test_accuracy)
    result = Result(test_accuracy, test_loss, best_epoch, epochs, seconds, seen / seconds)
    wrong = round((1 - test_accuracy) * test.numel())
    print(
        f"test accuracy {100 * test_accuracy:.2f} % ({wrong} of {test.numel()} wrong), loss {test_loss:.4f}; "
        f"{epochs} epochs in {seconds:.1f} s, {result.samples_per_second:,.0f} samples/s, best epoch {best_epoch}\n"
        f"written to {out}/: metrics.jsonl, learning_curves.png, confusion_matrix.png, misclassified.png, "
        "model.safetensors (reloaded, same predictions)"
    )
    return result


def _train(
    settings: Settings, images: Tensor, labels: Tensor, training: Tensor, validation: Tensor, out: Path
) -> tuple[nn.Module, int, int, int]:
    """Train until the schedule ends or validation stalls; returns the best averaged model and how the run went."""
    generator = pydlx.Generator()
    generator.manual_seed(settings.seed)
    loader = DataLoader(
        TensorDataset(images[training], labels[training]), settings.batch_size, shuffle=True, generator=generator
    )
    model = build_model(settings.width)
    average = ModelEMA(model, settings.ema_decay)
    optimizer = AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps, warmup = settings.epochs * len(loader), min(settings.warmup_epochs, settings.epochs - 1) * len(loader)
    cosine = CosineAnnealingLR(optimizer, T_max=max(steps - warmup, 1))
    if warmup:
        linear = LinearLR(optimizer, start_factor=0.05, total_iters=warmup)
        schedule: Any = SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    else:
        schedule = cosine
    distort, blur = RandomAffine(degrees=10, translate=0.8, scale=0.1, shear=0.15), RandomNoise(0.05)
    # Validation accuracy moves in steps of 0.4 %, its loss shows progress in between. It is smoothed like the training
    # loss: the plain loss of a model trained to be unsure rises while the model gets better.
    stopper = EarlyStopping(settings.patience, "min")
    progress = _Progress(steps, settings.progress)
    seen, started, epoch = 0, time.perf_counter(), 0
    with MetricsWriter(out / "metrics.jsonl") as metrics:
        for epoch in range(1, settings.epochs + 1):
            model.train()
            mean_loss, correct, epoch_started = Mean(), Mean(), time.perf_counter()
            for batch, target in loader:
                logits = model(blur(distort(batch)))
                loss = F.cross_entropy(logits, target, label_smoothing=settings.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                average.update(model)
                count = target.numel()
                seen += count
                mean_loss.add(loss.item(), count)
                correct.add((logits.detach().argmax(1) == target).sum().item() / count, count)
                progress.advance(
                    loss=f"{mean_loss.value:.3f}",
                    acc=f"{100 * correct.value:.1f}%",
                    samples_s=f"{seen / (time.perf_counter() - started):,.0f}",
                )
            val_loss, val_accuracy, _ = evaluate(
                average.module, images[validation], labels[validation], settings.label_smoothing
            )
            improved = stopper.step(val_loss, average.module)
            progress.note(val_acc=f"{100 * val_accuracy:.1f}%", epoch=str(epoch))
            metrics.write(
                epoch=epoch,
                train_loss=mean_loss.value,
                train_accuracy=correct.value,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                lr=schedule.get_last_lr()[0],
                samples_per_second=training.numel() / (time.perf_counter() - epoch_started),
                best=improved,
            )
            if stopper.should_stop:
                break
    progress.close()
    stopper.restore(average.module)
    return average.module, stopper.best_epoch + 1, epoch, seen


def _check_reload(settings: Settings, path: Path, images: Tensor, labels: Tensor, logits: Tensor) -> None:
    """A fresh model with the saved weights must give the very same outputs."""
    fresh = build_model(settings.width)
    fresh.load_state_dict(load_file(path))
    _, _, again = evaluate(fresh, images, labels)
    if not pydlx.equal(again, logits):
        raise RuntimeError(f"[demo digits] {path}: expected the reloaded model to predict the same, got other outputs")


def _draw(out: Path, images: Tensor, labels: Tensor, logits: Tensor, accuracy: float) -> None:
    from ..train.plots import plot_confusion_matrix, plot_images, plot_learning_curves

    predicted = logits.argmax(1)
    heading = f"Handwritten digits: {100 * accuracy:.2f} % of {labels.numel()} test images correct"
    plot_learning_curves(read_metrics(out / "metrics.jsonl"), out / "learning_curves.png", heading)
    counts = confusion_matrix(labels, predicted, CLASSES).tolist()
    plot_confusion_matrix(counts, [str(c) for c in range(CLASSES)], out / "confusion_matrix.png", heading)
    confidence = logits.softmax(1)
    wrong = (predicted != labels).nonzero().reshape(-1).tolist()
    sureness = confidence.amax(1).tolist()
    mistakes = set(wrong)
    doubtful = sorted((i for i in range(labels.numel()) if i not in mistakes), key=lambda i: sureness[i])
    shown = wrong + doubtful[: max(0, 12 - len(wrong))]  # mistakes are few: the nearest misses fill the picture
    captions = [
        f"true {labels[i].item()}, predicted {predicted[i].item()}\n({100 * sureness[i]:.0f} % sure)" for i in shown
    ]
    plot_images(
        [images[i, 0].tolist() for i in shown],
        captions,
        out / "misclassified.png",
        f"{len(wrong)} of {labels.numel()} test images misclassified (red), and those it was least sure of",
        wrong=len(wrong),
    )
