"""Random changes to batches of images, written with tensor operations so that they run on the batch's device.

Every transformation takes and returns a float tensor of shape (batch, channels, height, width), draws other amounts for
every image, and takes its random numbers from the global generator, so ``manual_seed`` repeats them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from .. import Tensor, arange, cos, float32, rand, randint, randn, randperm, sin, stack, tensor, where
from ..utils.data.sampler import fresh_seed

__all__ = [
    "ColorJitter",
    "Compose",
    "CutMix",
    "MixUp",
    "Normalize",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomNoise",
]


def _check_images(op: str, images: Tensor) -> tuple[int, int, int, int]:
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"[{op}] images: expected floats of shape (batch, channels, height, width), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    batch, channels, height, width = images.shape
    return batch, channels, height, width


def _check(op: str, low: float, high: float, **values: float) -> None:
    """Refuse amounts outside [low, high], and NaN."""
    for name, value in values.items():
        if not low <= value <= high:
            span = f">= {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
            raise ValueError(f"[{op}] {name}: expected a number {span}, got {value!r}")


def _choose(images: Tensor, probability: float) -> Tensor:
    """A bool per image, True with the given probability, of shape (batch, 1, 1, 1)."""
    return rand(images.shape[0], 1, 1, 1, dtype=float32, device=images.device) < probability


class Compose:
    """Several transformations, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        for transform in self.transforms:
            images = transform(images)
        return images


class Normalize:
    """``(images - mean) / std`` per channel.

    Args:
        mean, std: one number per channel; std > 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(f"[Normalize] std: expected {len(mean)} numbers > 0, one per mean, got {list(std)}")
        self.mean, self.std = list(mean), list(std)

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        _, channels, _, _ = _check_images("Normalize", images)
        if channels != len(self.mean):
            raise ValueError(f"[Normalize] images: expected {len(self.mean)} channels, got {channels}")
        mean = tensor(self.mean, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
        std = tensor(self.std, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
        return (images - mean) / std


class RandomAffine:
    """Rotate, scale, shear and shift every image of a batch by its own random amounts.

    Args:
        degrees: largest rotation either way. translate: largest shift in pixels. scale: largest relative change of
            size, below 1. shear: largest horizontal shear. All >= 0, uniformly distributed.

    Pixels are interpolated bilinearly and are zero outside the image. Written as two small matrix products per image,
    because the weights of bilinear interpolation factor into rows and columns:
    ``out[p] = sum_ij max(0, 1 - |y_p - i|) max(0, 1 - |x_p - j|) image[i, j]``. That takes about height + width
    multiplications per pixel, which is cheap up to about 64 pixels a side.
    """

    def __init__(self, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, shear: float = 0.0) -> None:
        _check("RandomAffine", 0, math.inf, degrees=degrees, translate=translate, shear=shear)
        if not 0 <= scale < 1:
            raise ValueError(f"[RandomAffine] scale: expected a number in [0, 1), got {scale!r}")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        batch, channels, height, width = _check_images("RandomAffine", images)
        device = images.device
        # One draw for all five amounts of every image, each in [-1, 1).
        draws = rand(5, batch, 1, dtype=float32, device=device) * 2 - 1
        angle = draws[0] * (self.degrees * math.pi / 180)
        size = 1 + draws[1] * self.scale
        across, along = cos(angle) / size, sin(angle) / size
        rows = arange(height, dtype=float32, device=device)
        columns = arange(width, dtype=float32, device=device)
        centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
        y = (rows - centre_y).reshape(-1, 1).expand(height, width).reshape(1, -1)
        x = (columns - centre_x).reshape(1, -1).expand(height, width).reshape(1, -1)
        # Where each output pixel looks in the input: the inverse map, about the image's centre.
        from_x = across * x + (along + draws[2] * self.shear) * y + draws[3] * self.translate + centre_x
        from_y = across * y - along * x + draws[4] * self.translate + centre_y
        weight_y = (1 - (from_y.unsqueeze(-1) - rows).abs()).clamp(min=0)
        weight_x = (1 - (from_x.unsqueeze(-1) - columns).abs()).clamp(min=0)
        planes = []
        for c in range(channels):
            rows_mixed = weight_y @ images[:, c].to(float32)
            planes.append((rows_mixed * weight_x).sum(-1).reshape(batch, height, width))
        return stack(planes, 1).to(images.dtype)


class RandomFlip:
    """Mirror each image with probability ``p``, left to right, or top to bottom with ``vertical``."""

    def __init__(self, p: float = 0.5, vertical: bool = False) -> None:
        _check("RandomFlip", 0, 1, p=p)
        self.p, self.axis = p, 2 if vertical else 3

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        _check_images("RandomFlip", images)
        return where(_choose(images, self.p), images.flip(self.axis), images)


class RandomCrop:
    """Pad with zeros and cut a window of the original size at a random place, one per image.

    Args:
        padding: pixels added on each side, which is the largest shift.
    """

    def __init__(self, padding: int) -> None:
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ValueError(f"[RandomCrop] padding: expected an integer >= 0, got {padding!r}")
        self.padding = padding

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        batch, _, height, width = _check_images("RandomCrop", images)
        places = [self._line(images, batch, size) for size in (height, width)]
        for axis, (place, inside) in zip((2, 3), places, strict=True):
            shape = [batch, 1, 1, 1]
            shape[axis] = images.shape[axis]
            picked = images.gather(axis, place.reshape(shape).expand(images.shape))
            images = picked * inside.reshape(shape).to(images.dtype)
        return images

    def _line(self, images: Tensor, batch: int, size: int) -> tuple[Tensor, Tensor]:
        """For every image, which pixel of a row or column each output pixel shows, and whether it lies inside."""
        shift = randint(-self.padding, self.padding + 1, (batch, 1), device=images.device)
        place = arange(size, device=images.device).reshape(1, -1) + shift
        return place.clamp(0, max(size - 1, 0)), (place >= 0) & (place < size)


class RandomNoise:
    """Add Gaussian noise of standard deviation ``std`` to every pixel."""

    def __init__(self, std: float) -> None:
        _check("RandomNoise", 0, math.inf, std=std)
        self.std = std

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        return images + self.std * randn(images.shape, dtype=images.dtype, device=images.device)


class ColorJitter:
    """Change brightness, contrast and saturation of each image by random factors.

    Args:
        brightness, contrast, saturation: factors lie in [1 - amount, 1 + amount]; amounts in [0, 1].

    Contrast moves pixels away from the image's mean, saturation away from its grey version (channels weighted 0.299,
    0.587, 0.114 as in ITU-R BT.601; with other than three channels, equally).
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        _check("ColorJitter", 0, 1, brightness=brightness, contrast=contrast, saturation=saturation)
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch; values are not clipped."""
        batch, channels, _, _ = _check_images("ColorJitter", images)
        draws = (rand(3, batch, 1, 1, 1, dtype=float32, device=images.device) * 2 - 1).to(images.dtype)
        images = images * (1 + self.brightness * draws[0])
        if self.contrast:
            mean = images.mean((1, 2, 3), keepdim=True)
            images = mean + (images - mean) * (1 + self.contrast * draws[1])
        if self.saturation and channels > 1:
            weights = [0.299, 0.587, 0.114] if channels == 3 else [1 / channels] * channels
            parts = tensor(weights, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
            grey = (images * parts).sum([1], keepdim=True)
            images = grey + (images - grey) * (1 + self.saturation * draws[2])
        return images


def _boxes(images: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """A mask of shape (batch, 1, height, width) of one random box per image, cut at the border.

    Args:
        height, width: sides of the boxes in pixels, shape (batch, 1).
    """
    batch, _, rows, columns = images.shape
    centre = rand(2, batch, 1, dtype=float32, device=images.device)
    inside = []
    for size, side, middle in ((rows, height, centre[0] * rows), (columns, width, centre[1] * columns)):
        pixel = arange(size, dtype=float32, device=images.device).reshape(1, -1) + 0.5
        inside.append((pixel - middle).abs() <= side / 2)
    mask: Tensor = (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)
    return mask


class RandomErasing:
    """Fill a random box of each image with ``value``, with probability ``p`` (cutout, random erasing).

    Args:
        p: probability. scale: smallest and largest part of the image's area. ratio: smallest and largest quotient of
            height and width. value: what the box is filled with.

    Sources: DeVries and Taylor, Improved regularization of convolutional networks with cutout, 2017; Zhong et al.,
    Random erasing data augmentation, 2020.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float = 0.0,
    ) -> None:
        _check("RandomErasing", 0, 1, p=p)
        if not 0 <= scale[0] <= scale[1] <= 1:
            raise ValueError(f"[RandomErasing] scale: expected two increasing parts in [0, 1], got {scale!r}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"[RandomErasing] ratio: expected two increasing numbers > 0, got {ratio!r}")
        self.p, self.scale, self.ratio, self.value = p, scale, ratio, value

    def __call__(self, images: Tensor) -> Tensor:
        """Change a batch."""
        batch, _, height, width = _check_images("RandomErasing", images)
        draws = rand(2, batch, 1, dtype=float32, device=images.device)
        area = (self.scale[0] + draws[0] * (self.scale[1] - self.scale[0])) * (height * width)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = (low + draws[1] * (high - low)).exp()  # uniform in the logarithm: as often tall as wide
        mask = _boxes(images, (area * aspect).sqrt(), (area / aspect).sqrt()) & _choose(images, self.p)
        return images.masked_fill(mask, self.value)


def _beta(alpha: float) -> float:
    """One number from the symmetric Beta distribution, for the whole batch, governed by the global generator."""
    return random.Random(fresh_seed()).betavariate(alpha, alpha)


class MixUp:
    """Blend each image with another of the batch; the loss is blended by the same weight.

    Args:
        alpha: parameter of the symmetric Beta distribution of the weight, > 0; larger blends more evenly.

    ``images, first, second, weight = mixup(images, labels)``, then
    ``loss = weight * criterion(output, first) + (1 - weight) * criterion(output, second)``.

    Source: Zhang et al., mixup: beyond empirical risk minimization, 2018.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(f"[{type(self).__name__}] alpha: expected a number > 0, got {alpha!r}")
        self.alpha = alpha

    def _partners(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        op = type(self).__name__
        batch, _, _, _ = _check_images(op, images)
        if labels.ndim < 1 or labels.shape[0] != batch:
            raise ValueError(f"[{op}] labels: expected first size {batch}, got shape {tuple(labels.shape)}")
        return _beta(self.alpha), randperm(batch, device=images.device)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Blend a batch; returns images, labels, the partners' labels, and the weight of the first labels."""
        weight, order = self._partners(images, labels)
        mixed = weight * images + (1 - weight) * images.index_select(0, order)
        return mixed, labels, labels.index_select(0, order), weight


class CutMix(MixUp):
    """Paste a box of another image of the batch into each image; labels are blended by the areas.

    Used like :class:`MixUp`. Source: Yun et al., CutMix: regularization strategy to train strong classifiers, 2019.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Paste into a batch; returns images, labels, the partners' labels, and the part that was kept."""
        weight, order = self._partners(images, labels)
        _, _, height, width = images.shape
        side = math.sqrt(1 - weight)
        sides = tensor([[side * height], [side * width]], dtype=float32, device=images.device)
        mask = _boxes(images[:1], sides[:1], sides[1:])  # one box for the batch: one weight for all labels
        kept = 1 - float(mask.to(float32).mean().item()) if images.numel() else 1.0
        mixed = where(mask, images.index_select(0, order), images)
        return mixed, labels, labels.index_select(0, order), kept
