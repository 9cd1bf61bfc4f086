"""A small U-Net that sees an image and a time: the network of diffusion models (Ho et al., 2020, 2006.11239).

The side is halved while it is even and above 4 pixels (16 → 8 → 4, 28 → 14 → 7); the first level has `channels`
channels and all others twice as many; there is self-attention where the side is at most 8 pixels, and in the middle. A
level has `blocks` residual blocks on the way down and as many on the way up, each beside its mirror image's output and
told the time.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaenb.checks import check_counts, check_image_shape
from vaenb.models.nets import Shape

Levels = Sequence[Sequence[nn.Module]]  # of blocks, from the image's size down, or up to it


class UNet(nn.Module):
    """Map images (N, C, S, S) and times (N,) in [0, 1] to tensors in the shape of the images; zeros before training."""

    def __init__(self, image_shape: Shape, *, channels: int, blocks: int) -> None:
        super().__init__()
        check_image_shape(image_shape, least=4)
        check_counts(channels=channels, blocks=blocks)
        if image_shape[1] != image_shape[2]:
            raise ValueError(f"image_shape: square images expected, got {image_shape!r}")
        if channels % 8:
            raise ValueError(f"channels: a positive multiple of 8 expected, got {channels!r}")
        colors, side, _ = image_shape
        sides = [side]
        while sides[-1] % 2 == 0 and sides[-1] > 4:
            sides.append(sides[-1] // 2)
        widths = [channels] + [2 * channels] * (len(sides) - 1)
        self.channels = channels
        self.time = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, 4 * channels))
        self.enter = nn.Conv2d(colors, channels, 3, padding=1)
        down, shrink, up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = channels
        for goal, side in zip(widths, sides, strict=True):
            shrink.append(nn.Identity() if side == sides[0] else nn.Conv2d(width, width, 3, stride=2, padding=1))
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(_Residual(width, goal, 4 * channels, attention=side <= 8))
                width = goal
            down.append(level)
        self.down, self.shrink, self.up = cast(Levels, down), shrink, cast(Levels, up)
        self.middle = _Residual(width, width, 4 * channels, attention=True)
        for goal, side in zip(widths[::-1], sides[::-1], strict=True):
            level = nn.ModuleList()
            for _ in range(blocks):  # each beside its mirror image's output
                level.append(_Residual(width + goal, goal, 4 * channels, attention=side <= 8))
                width = goal
            up.append(level)
        self.leave = nn.Sequential(_norm(width), nn.SiLU(), _zero(nn.Conv2d(width, colors, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(_waves(t, self.channels).to(x.dtype))  # (N, 4·channels)
        x = self.enter(x)  # (N, channels, S, S)
        seen = []
        for shrink, level in zip(self.shrink, self.down, strict=True):
            x = shrink(x)
            for block in level:
                x = block(x, time)
                seen.append(x)
        x = self.middle(x, time)
        for level in self.up:
            if x.shape[2:] != seen[-1].shape[2:]:
                x = F.interpolate(x, scale_factor=2.0)
            for block in level:
                x = block(torch.cat([x, seen.pop()], 1), time)
        return self.leave(x)  # (N, C, S, S)


class _Residual(nn.Module):
    """Two convolutions around a shortcut, shifted and scaled by the time, then attention among all pixels."""

    def __init__(self, width: int, goal: int, time: int, *, attention: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, goal, 3, padding=1))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * goal))
        self.norm = _norm(goal)
        self.second = nn.Sequential(nn.SiLU(), _zero(nn.Conv2d(goal, goal, 3, padding=1)))
        self.shortcut = nn.Identity() if width == goal else nn.Conv2d(width, goal, 1)
        self.attention = _Attention(goal) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        inner = self.norm(self.first(x)) * (1 + scale) + shift
        return self.attention(self.shortcut(x) + self.second(inner))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = _zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (N, S², 3·width)
        q, k, v = pixels.chunk(3, -1)
        seen = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(seen.transpose(1, 2).unflatten(2, x.shape[2:]))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Begin at zero: each residual block starts as its shortcut, and the network as a constant (Ho et al., 2020)."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer


def _waves(t: Tensor, count: int) -> Tensor:
    """Sines and cosines of 1000·t at geometric frequencies from 1 down, to 1e-4 excluded: (N, count)."""
    frequencies = torch.exp(-math.log(1e4) * torch.arange(count // 2, device=t.device) / (count // 2))
    angles = 1000 * t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)
