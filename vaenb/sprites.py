"""Sprites: white shapes on black with dSprites' factors, rendered here on demand.

737,280 images of 64x64 pixels, 0 or 255: 3 shapes (square, ellipse, heart) x 6 scales (0.5 to 1) x 40 rotations (0 to
2 pi, both ends, so the first and the last look alike) x 32 columns x 32 rows, in dSprites' order: y runs fastest.
The factors are those of Matthey et al. (2017), "dSprites: Disentanglement testing Sprites dataset"; the outlines are
our own, so an image is not dSprites' image of the same index. With R = 15.4 pixels and scale s:

    square   max(|u|, |v|) <= sR / sqrt 2        ellipse   u^2 + (2v)^2 <= (sR)^2
    heart    p^2 + (1.1 q - 0.9 |p|)^2 <= 1,     (p, q) = (u, v) 1.22 / (sR) + (0, 0.31)

The axes (u, v) turn with the sprite, counter-clockwise as seen, v up at rotation 0. One step in x or y is one pixel.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

FACTORS = ("shape", "scale", "rotation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
COUNT = math.prod(SIZES)
RADIUS = 15.4  # of the circle around a sprite of scale 1; below 16, so that rows and columns 0 and 63 stay black
_REACH = 15  # pixels that a sprite reaches from its centre pixel, which is at 16 + x, 16 + y


def render_sprites(index: Tensor) -> Tensor:
    """Render the sprites of these indices: (n,) int64 in [0, 737280) to (n, 1, 64, 64) uint8, 0 or 255."""
    shape, scale, rotation, x, y = _split(index)
    stamps = _stamps().to(index.device)
    offsets = torch.arange(2 * _REACH + 1, device=index.device) + 16 - _REACH
    images = torch.zeros(len(index), 64, 64, dtype=torch.uint8, device=index.device)
    for part in torch.arange(len(index), device=index.device).split(4096):  # bounds the memory of the scatter
        rows, columns = y[part, None, None] + offsets[:, None], x[part, None, None] + offsets
        images[part[:, None, None], rows, columns] = stamps[shape[part], scale[part], rotation[part]]
    return images[:, None]


def sprite_factors(index: Tensor) -> Tensor:
    """Return the factors, (n, 5) float32: shape 0..2, scale 0.5..1, rotation in radians, x right and y down 0..1."""
    factors = zip(_split(index), _factor_values(), strict=True)
    return torch.stack([values.to(index.device)[position] for position, values in factors], dim=1).float()


def sprite_index(shape, scale, rotation, x, y) -> Tensor:
    """Return the indices of these factors' positions (ints or integer tensors that broadcast), e.g. scale 0..5."""
    positions = torch.broadcast_tensors(*(torch.as_tensor(position) for position in (shape, scale, rotation, x, y)))
    index = torch.zeros_like(positions[0], dtype=torch.int64)
    for name, position, count in zip(FACTORS, positions, SIZES, strict=True):
        if position.is_floating_point() or (position < 0).any() or (position >= count).any():
            raise ValueError(f"{name}: whole numbers from 0 to {count - 1} expected, got {position.tolist()}")
        index = index * count + position
    return index


def _split(index: Tensor) -> tuple[Tensor, ...]:
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        raise TypeError(f"index: expected an int64 tensor (n,), got {getattr(index, 'dtype', type(index).__name__)}")
    if len(index) and (index.min() < 0 or index.max() >= COUNT):
        raise ValueError(f"index: values from 0 to {COUNT - 1} expected, got {index.min()} to {index.max()}")
    return torch.unravel_index(index, SIZES)


def _factor_values() -> list[Tensor]:
    ends = ((0, 2), (0.5, 1), (0, 2 * math.pi), (0, 1), (0, 1))
    return [torch.linspace(*end, count, dtype=torch.float64) for end, count in zip(ends, SIZES, strict=True)]


@lru_cache(maxsize=1)
def _stamps() -> Tensor:
    """Draw every shape, scale and rotation once, around its centre pixel: (3, 6, 40, 31, 31) uint8.

    In float64, where no pixel lies on an outline (the left sides above, over the right, differ from 1 by 2e-6 or
    more), so that all machines draw the same.
    """
    _, scale, rotation, _, _ = _factor_values()
    s, turn = scale[:, None, None, None] * RADIUS, rotation[:, None, None]
    step = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    right, up = step, -step[:, None]  # rows run downwards
    u, v = turn.cos() * right + turn.sin() * up, turn.cos() * up - turn.sin() * right
    square = torch.maximum(u.abs(), v.abs()) <= s / math.sqrt(2)
    ellipse = u**2 + (2 * v) ** 2 <= s**2
    p, q = u * 1.22 / s, v * 1.22 / s + 0.31
    heart = p**2 + (1.1 * q - 0.9 * p.abs()) ** 2 <= 1
    return torch.stack([square, ellipse, heart]).to(torch.uint8) * 255
