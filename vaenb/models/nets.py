"""Encoders and decoders: pairs of plain networks over images (N, C, S, S) and latents (N, D).

An encoder maps images to `outputs` numbers per latent dimension (two for a Gaussian: mean and log-variance, side by
side), in a last layer that is linear; a decoder maps `inputs` latents, by default as many as the encoder gives, to
logits in the shape of the images, `per_pixel` for each pixel and channel. `width` multiplies all channels and units.
"""

from math import prod

from torch import nn

Shape = tuple[int, int, int]


def conv(
    image_shape: Shape,
    latent_dim: int,
    *,
    widths: tuple[int, ...],
    kernel: int = 3,
    batchnorm: bool = False,
    hidden: tuple[int, ...] = (),
    outputs: int = 2,
    inputs: int | None = None,
    per_pixel: int = 1,
    width: float = 1.0,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build convolutions of stride 2, dense layers of `hidden` units, and their mirror; LeakyReLU, BatchNorm.

    `kernel` is 3 or 4 pixels wide.
    """
    channels, size, across = image_shape
    widths, hidden = _scaled(width, *widths), _scaled(width, *hidden)
    small = size // 2 ** len(widths)
    if size != across or size != small * 2 ** len(widths) or small == 0:
        raise ValueError(
            f"image_shape: square images, a multiple of {2 ** len(widths)} wide, expected; got {image_shape}"
        )
    features = widths[-1] * small**2
    half, double = {"stride": 2, "padding": 1}, {"stride": 2, "padding": 1, "output_padding": 4 - kernel}
    encoder = [
        layer
        for c_in, c_out in zip((channels, *widths), widths, strict=False)
        for layer in _block(nn.Conv2d(c_in, c_out, kernel, **half), c_out, batchnorm)
    ]
    mirror = widths[::-1]
    decoder = [
        layer
        for c_in, c_out in zip(mirror, mirror[1:], strict=False)
        for layer in _block(nn.ConvTranspose2d(c_in, c_out, kernel, **double), c_out, batchnorm)
    ]
    last = nn.ConvTranspose2d(mirror[-1], per_pixel * channels, kernel, **double)
    down, up = (features, *hidden), (inputs or latent_dim, *hidden[::-1])
    return (
        nn.Sequential(*encoder, nn.Flatten(), *_dense(*down), nn.Linear(down[-1], outputs * latent_dim)),
        nn.Sequential(
            *_dense(*up), nn.Linear(up[-1], features), nn.Unflatten(1, (mirror[0], small, small)), *decoder, last
        ),
    )


def conv001(image_shape: Shape, latent_dim: int, **ends: float | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 001's net: 32, 64, 128, 64 channels, BatchNorm and LeakyReLU (kernel and stride our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 64, 128, 64), batchnorm=True, **ends)


def conv002a(image_shape: Shape, latent_dim: int, **ends: float | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 002a's net: 32, 64, 96, 128 channels, stride 2 (the activation is our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 64, 96, 128), **ends)


def conv003(image_shape: Shape, latent_dim: int, **ends: float | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 003's net for 64×64 images: 32, 32, 64, 64 channels, 512 units (kernel 3 is our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 32, 64, 64), hidden=(512,), **ends)


def conv004(image_shape: Shape, latent_dim: int, **ends: float | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 004's DCGAN-like net: kernel 4, channels 32, 64, 128 (64, … at width 2), BatchNorm, LeakyReLU."""
    return conv(image_shape, latent_dim, widths=(32, 64, 128), kernel=4, batchnorm=True, **ends)


def mlp(image_shape: Shape, latent_dim: int, **ends: float | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build two hidden layers of 512 units on either side: the smallest net that draws a digit."""
    return _mlp(image_shape, latent_dim, (512, 512), (512, 512), nn.LeakyReLU, nn.LeakyReLU, **ends)


def mlp003(image_shape: Shape, latent_dim: int, **ends: float | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 003's net for sprites: 1200 units, two layers in the encoder, three with tanh in the decoder."""
    return _mlp(image_shape, latent_dim, (1200, 1200), (1200, 1200, 1200), nn.ReLU, nn.Tanh, **ends)


def _mlp(
    image_shape: Shape,
    latent_dim: int,
    down: tuple[int, ...],
    up: tuple[int, ...],
    encoding: type[nn.Module],
    decoding: type[nn.Module],
    *,
    outputs: int = 2,
    inputs: int | None = None,
    per_pixel: int = 1,
    width: float = 1.0,
) -> tuple[nn.Sequential, nn.Sequential]:
    channels, *sides = image_shape
    logits = (per_pixel * channels, *sides)
    down, up = _scaled(width, *down), _scaled(width, *up)
    return (  # the encoder first: in the order in which layers are made they get their random weights
        nn.Sequential(
            nn.Flatten(),
            *_dense(prod(image_shape), *down, activation=encoding),
            nn.Linear(down[-1], outputs * latent_dim),
        ),
        nn.Sequential(
            *_dense(inputs or latent_dim, *up, activation=decoding),
            nn.Linear(up[-1], prod(logits)),
            nn.Unflatten(1, logits),
        ),
    )


def _scaled(width: float, *counts: int) -> tuple[int, ...]:
    if not 0 < width < float("inf"):
        raise ValueError(f"width: a positive factor of the net's channels expected, got {width!r}")
    return tuple(max(1, round(width * n)) for n in counts)


def _block(convolution: nn.Module, channels: int, batchnorm: bool) -> list[nn.Module]:
    return [convolution, *([nn.BatchNorm2d(channels)] if batchnorm else []), nn.LeakyReLU()]


def _dense(*widths: int, activation: type[nn.Module] = nn.LeakyReLU) -> list[nn.Module]:
    return [
        layer
        for n_in, n_out in zip(widths, widths[1:], strict=False)
        for layer in (nn.Linear(n_in, n_out), activation())
    ]
