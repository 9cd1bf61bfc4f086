"""Sprites: white shapes on black with dSprites' factors, rendered here on demand.

737,280 images of 64x64 pixels, 0 or 255: 3 shapes (square, ellipse, heart) x 6 scales (0.5 to 1) x 40 rotations (0 to
2 pi, both ends, so the first and the last look alike) x 32 columns x 32 rows, in dSprites' order: y runs fastest.
The factors are those of Matthey et al. (2017), "dSprites: Disentanglement testing Sprites dataset"; the outlines are
our own, so an image is not dSprites' image of the same index. With r = 14 pixels times the scale:

    square   max(|u|, |v|) <= r / sqrt 2        ellipse   u^2 + (2v)^2 <= r^2
    heart    (p^2 + q^2 - 1)^3 <= p^2 q^3,      p = 1.25 u / r,  q = 1.25 v / r + 0.25

The axes (u, v) turn with the sprite, counter-clockwise as seen, v up at rotation 0. The centre is 16 + 32 x pixels
from the left edge and 16 + 32 y from the upper one, x and y in 0..1.
"""

import math

import torch
from torch import Tensor

FACTORS = ("shape", "scale", "rotation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
COUNT = math.prod(SIZES)
RADIUS = 14.0  # of the circle around a sprite of scale 1: between 16 and 48 no centre brings it to the border
_ENDS = ((0, 2), (0.5, 1), (0, 2 * math.pi), (0, 1), (0, 1))


def render_sprites(index: Tensor) -> Tensor:
    """Render the sprites of these indices: (n,) int64 in [0, 737280) to (n, 1, 64, 64) uint8, 0 or 255."""
    shape, scale, rotation, x, y = _factors(index).unbind(1)
    images = torch.zeros(len(index), 64, 64, dtype=torch.uint8, device=index.device)
    for part in torch.arange(len(index), device=index.device).split(1024):  # bounds the memory
        columns, right = _window(x[part])
        rows, down = _window(y[part])
        right, up = right[:, None, :], -down[:, :, None]
        cos, sin = rotation[part, None, None].cos(), rotation[part, None, None].sin()
        u = cos * right + sin * up
        v = cos * up - sin * right
        r = RADIUS * scale[part, None, None]
        pixels = (part[:, None, None], rows[:, :, None], columns[:, None, :])
        images[pixels] = _inside(shape[part], u, v, r) * 255
    return images[:, None]


def sprite_factors(index: Tensor) -> Tensor:
    """Return the factors, (n, 5) float32: shape 0..2, scale 0.5..1, rotation in radians, x right and y down 0..1."""
    return _factors(index).float()


def sprite_index(shape, scale, rotation, x, y) -> Tensor:
    """Return the indices of these factors' positions (ints or integer tensors that broadcast), e.g. scale 0..5."""
    given = [torch.as_tensor(position) for position in (shape, scale, rotation, x, y)]
    positions = torch.broadcast_tensors(*given)
    index = torch.zeros_like(positions[0], dtype=torch.int64)
    for name, position, size in zip(FACTORS, positions, SIZES, strict=True):
        if position.is_floating_point() or (position < 0).any() or (position >= size).any():
            raise ValueError(f"{name}: whole numbers from 0 to {size - 1} expected, got {position.tolist()}")
        index = index * size + position
    return index


def little_world() -> Tensor:
    """Return the indices of the two largest scales at the 8 x 8 places in the middle: (15360,).

    Of so few places and sizes a small VAE also learns which way a heart points; of all of them it draws disks.
    """
    every = torch.arange(COUNT).view(SIZES)
    return every[:, 4:6, :, 12:20, 12:20].flatten()


def turned(factors: Tensor) -> Tensor:
    """Return the indices of the sprites upside-down, half a turn from those of these factors (n, 5): (n,) int64."""
    positions = []
    for (first, last), size, values in zip(_ENDS, SIZES, factors.double().T, strict=True):
        positions.append(((values - first) / (last - first) * (size - 1)).round().long())
    positions[2] = (positions[2] + 20) % 40
    return sprite_index(*positions)


def _factors(index: Tensor) -> Tensor:
    positions = torch.unravel_index(index, SIZES)
    factors = []
    for (first, last), size, position in zip(_ENDS, SIZES, positions, strict=True):
        # float64 leaves rounding no pixel to decide, so that all machines draw the same
        table = torch.linspace(first, last, size, dtype=torch.float64)
        factors.append(table.to(index.device)[position])
    return torch.stack(factors, dim=1)


def _window(place: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels (n, 31) around the centre of this x or y, and their distances from it."""
    centre = 16 + 32 * place[:, None]
    pixels = centre.long() + torch.arange(-15, 16, device=place.device)
    return pixels, pixels + 0.5 - centre


def _inside(shape: Tensor, u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    square = torch.maximum(u.abs(), v.abs()) <= r / math.sqrt(2)
    ellipse = u**2 + (2 * v) ** 2 <= r**2
    p = 1.25 * u / r
    q = 1.25 * v / r + 0.25
    heart = (p**2 + q**2 - 1) ** 3 <= p**2 * q**3
    shape = shape[:, None, None]
    inside = torch.where(shape == 0, square, torch.where(shape == 1, ellipse, heart))
    return inside.to(torch.uint8)
