"""A set of images: one uint8 tensor on one device, with labels and, where they are known, generative factors."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vaenb.checks import check_batch, check_number


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Square images with their labels and, where they are known, generative factors."""

    images: Tensor  # (N, C, S, S) uint8
    labels: Tensor  # (N,) int64, -1 where the set has none
    name: str
    split: str
    factors: Tensor | None = None  # (N, K) float32
    factor_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images: uint8 (N, C, S, S) expected, got {got}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            got = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise ValueError(f"labels: int64 ({len(self.images)},) expected, got {got}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def float(self, index: Tensor | slice = slice(None)) -> Tensor:
        """The images of `index` as float32 in [0, 1]: (n, C, S, S)."""
        return self.images[index].float() / 255

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images as float32 in [0, 1], (n, C, S, S), and labels (n,): what a model learns from."""
        return self.float(index), self.labels[index]

    def take(self, index: Tensor | slice) -> "ImageSet":
        """The set of the images of `index`, labels and factors with them."""
        factors = None if self.factors is None else self.factors[index]
        return replace(self, images=self.images[index], labels=self.labels[index], factors=factors)

    def to(self, device: torch.device | str) -> "ImageSet":
        factors = None if self.factors is None else self.factors.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), factors=factors)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of one image, as the models' `image_shape` wants it."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """The data hash that stands beside every result: equal images and labels, equal digest, on any device."""
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:12]


def recolor(x: Tensor, *, contrast: float = 1.0, brightness: float = 0.0) -> Tensor:
    """Change images x (N, C, H, W) in [0, 1] to clip(m + contrast · (x − m) + brightness, 0, 1), m each one's mean.

    m is over pixels and channels, so that contrast 0 leaves one grey. Raises ValueError for a negative contrast and
    for what is not finite.
    """
    check_batch(x, "x", dims=4, shape="images (N, C, H, W)")
    check_number("contrast", contrast, "a number ≥ 0", least=0)
    check_number("brightness", brightness, "a finite number")
    mean = x.mean((1, 2, 3), keepdim=True)
    grey = (1 - contrast) * mean + brightness
    return (contrast * x + grey).clamp(0, 1)  # so that 1 and 0 give back x, unrounded
