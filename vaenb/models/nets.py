"""Encoders and decoders: pairs of plain networks over images (N, C, S, S) and latents (N, D).

An encoder maps images to `outputs` numbers per latent dimension (two for a Gaussian: mean and log-variance, side by
side); a decoder maps latents to logits in the shape of the images.
"""

from math import prod

from torch import nn

Shape = tuple[int, int, int]


def conv(
    image_shape: Shape, latent_dim: int, *, widths: tuple[int, ...], batchnorm: bool, outputs: int = 2
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build 3×3 convolutions of stride 2 and their mirror; LeakyReLU, BatchNorm where asked for."""
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
    return (
        nn.Sequential(*encoder, nn.Flatten(), nn.Linear(features, outputs * latent_dim)),
        nn.Sequential(nn.Linear(latent_dim, features), nn.Unflatten(1, (mirror[0], small, small)), *decoder, last),
    )


def conv001(image_shape: Shape, latent_dim: int, *, outputs: int = 2) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 001's net: 32, 64, 128, 64 channels, BatchNorm and LeakyReLU (kernel and stride our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 64, 128, 64), batchnorm=True, outputs=outputs)


def conv002a(image_shape: Shape, latent_dim: int, *, outputs: int = 2) -> tuple[nn.Sequential, nn.Sequential]:
    """Build document 002a's net: 32, 64, 96, 128 channels, stride 2 (the activation is our choice)."""
    return conv(image_shape, latent_dim, widths=(32, 64, 96, 128), batchnorm=False, outputs=outputs)


def mlp(image_shape: Shape, latent_dim: int, *, outputs: int = 2) -> tuple[nn.Sequential, nn.Sequential]:
    """Build two hidden layers of 512 units on either side: the smallest net that draws a digit."""
    pixels = prod(image_shape)
    return (
        nn.Sequential(nn.Flatten(), *_dense(pixels, 512, 512), nn.Linear(512, outputs * latent_dim)),
        nn.Sequential(*_dense(latent_dim, 512, 512), nn.Linear(512, pixels), nn.Unflatten(1, image_shape)),
    )


def _block(convolution: nn.Module, channels: int, batchnorm: bool) -> list[nn.Module]:
    return [convolution, *([nn.BatchNorm2d(channels)] if batchnorm else []), nn.LeakyReLU()]


def _dense(*widths: int) -> list[nn.Module]:
    return [
        layer
        for n_in, n_out in zip(widths, widths[1:], strict=False)
        for layer in (nn.Linear(n_in, n_out), nn.LeakyReLU())
    ]
