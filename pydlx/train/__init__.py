"""Small parts of training loops: early stopping, weight averages, metrics, augmentation, pictures.

Pictures and progress bars need matplotlib and tqdm: ``pip install "pydlx[demo]"``.
"""

from .augment import (
    ColorJitter,
    Compose,
    CutMix,
    MixUp,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomNoise,
)
from .early_stopping import EarlyStopping
from .ema import ModelEMA
from .metrics import Mean, MetricsWriter, confusion_matrix, read_metrics

__all__ = [
    "ColorJitter",
    "Compose",
    "CutMix",
    "EarlyStopping",
    "Mean",
    "MetricsWriter",
    "MixUp",
    "ModelEMA",
    "Normalize",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomNoise",
    "confusion_matrix",
    "read_metrics",
]
