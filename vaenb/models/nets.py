"""Encoders and decoders: pairs of plain networks over images (N, C, S, S) and latents (N, D).

An encoder maps images to `outputs` numbers per latent dimension (two for a Gaussian: mean and log-variance, side by
side), in a last layer that is linear; a decoder maps `inputs` latents, by default as many as the encoder gives, to
logits in the shape of the images.
"""

from math import prod

from torch import nn

Shape = tuple[int, int, int]


def conv(
    image_shape: Shape,
    latent_dim: int,
    *,
    widths: tuple[int, ...],
    batchnorm: bool = False,
    hidden: tuple[int, ...] = (),
    outputs: int = 2,
    inputs: int | None = None,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build 3×3 convolutions of stride 2, dense layers of `hidden` units, and their mirror; LeakyReLU, BatchNorm."""
    channels, size, width = image_shape
    small = size // 2 ** len(widths)
    if size != width or size != small * 2 ** len(widths) or small == 0:
        raise ValueError(
            f"image_shape: square images, a multiple of {2 ** len(widths)} wide, expected; got {image_shape}"
        )
    features = widths[-1] * small**2
    encoder = [
        layer
        for c_in, c_out in zip((channels, *widths), widths, strict=False)
        for layer in _block(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), c_out, batchnorm)
    ]
    mirror = widths[::-1]
    decoder = [
        layer
        for c_in, c_out in zip(mirror, mirror[1:], strict=False)
        for layer in _block(nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1), c_out, batchnorm)
    ]
    last = nn.ConvTranspose2d(mirror[-1], channels, 3, stride=2, padding=1, output_padding=1)
    down, up = (features, *hidden), (inputs or latent_dim, *hidden[::-1])
    return (
        nn.Sequential(*encoder, nn.Flatten(), *_dense(*down), nn.Linear(down[-1], outputs * latent_dim)),
        nn.Sequential(
            *_dense(*up), nn.Linear(up[-1], features), nn.Unflatten(1, (mirror[0], small, small)), *decoder, last
        ),
    )


def conv001(image_shape: Shape, latent_dim: int, **ends: int | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 001's net: 32, 64, 128, 64 channels, BatchNorm and LeakyReLU (kernel and stride our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 64, 128, 64), batchnorm=True, **ends)


def conv002a(image_shape: Shape, latent_dim: int, **ends: int | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 002a's net: 32, 64, 96, 128 channels, stride 2 (the activation is our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 64, 96, 128), **ends)


def conv003(image_shape: Shape, latent_dim: int, **ends: int | None) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 003's net for 64×64 images: 32, 32, 64, 64 channels, 512 units (kernel 3 is our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 32, 64, 64), hidden=(512,), **ends)


def mlp(
    image_shape: Shape, latent_dim: int, *, outputs: int = 2, inputs: int | None = None
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build two hidden layers of 512 units on either side: the smallest net that draws a digit."""
    pixels = prod(image_shape)
    return (
        nn.Sequential(nn.Flatten(), *_dense(pixels, 512, 512), nn.Linear(512, outputs * latent_dim)),
        nn.Sequential(*_dense(inputs or latent_dim, 512, 512), nn.Linear(512, pixels), nn.Unflatten(1, image_shape)),
    )


def mlp003(
    image_shape: Shape, latent_dim: int, *, outputs: int = 2, inputs: int | None = None
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 003's net for sprites: 1200 units, two layers in the encoder, three with tanh in the decoder."""
    pixels = prod(image_shape)
    encoder = [nn.Flatten(), *_dense(pixels, 1200, 1200, activation=nn.ReLU), nn.Linear(1200, outputs * latent_dim)]
    decoder = _dense(inputs or latent_dim, 1200, 1200, 1200, activation=nn.Tanh)
    return nn.Sequential(*encoder), nn.Sequential(*decoder, nn.Linear(1200, pixels), nn.Unflatten(1, image_shape))


def _block(convolution: nn.Module, channels: int, batchnorm: bool) -> list[nn.Module]:
    return [convolution, *([nn.BatchNorm2d(channels)] if batchnorm else []), nn.LeakyReLU()]


def _dense(*widths: int, activation: type[nn.Module] = nn.LeakyReLU) -> list[nn.Module]:
    return [
        layer
        for n_in, n_out in zip(widths, widths[1:], strict=False)
        for layer in (nn.Linear(n_in, n_out), activation())
    ]
