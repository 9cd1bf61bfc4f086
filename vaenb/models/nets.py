"""Encoders and decoders: pairs of plain networks over images (N, C, S, S) and latents (N, D).

An encoder maps images to `outputs` numbers per latent dimension (two for a Gaussian: mean and log-variance, side by
side), in a last layer that is linear; a decoder maps `inputs` latents, by default as many as the encoder gives, to
logits in the shape of the images. `width` multiplies all channels and units.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from torch import nn

from vaenb.checks import check_choice, check_image_shape, check_number, check_whole

Shape = tuple[int, int, int]
Coders = tuple[nn.Sequential, nn.Sequential]  # encoder and decoder


def coders(
    net: str,
    image_shape: Shape,
    latent_dim: int,
    *,
    outputs: int = 2,
    inputs: int | None = None,
    width: float = 1.0,
) -> Coders:
    """Build an encoder and a decoder of `NETS`. Raises ValueError for images that the net can't halve so often."""
    check_choice("net", net, NETS)
    check_whole("latent_dim", latent_dim)
    check_number("width", width, "a positive factor of the net's channels", above=0)
    check_image_shape(image_shape)
    latent_dim, width = int(latent_dim), float(width)
    colors, height, across = map(int, image_shape)
    outputs, inputs = outputs * latent_dim, int(inputs or latent_dim)
    return NETS[net]((colors, height, across), outputs=outputs, inputs=inputs, width=width)


def conv(
    image_shape: Shape,
    *,
    outputs: int,
    inputs: int,
    width: float,
    widths: Sequence[int],
    hidden: Sequence[int] = (),
    kernel: int = 3,
    batchnorm: bool = False,
) -> Coders:
    """Build convolutions of stride 2, dense layers of `hidden` units, and their mirror; LeakyReLU, BatchNorm.

    `kernel` is 3 or 4 pixels wide.
    """
    colors, size, across = image_shape
    widths, hidden = _scaled(widths, width), _scaled(hidden, width)
    factor = 2 ** len(widths)
    small = size // factor
    if size != across or size != small * factor or small == 0:
        raise ValueError(f"image_shape: square images, a multiple of {factor} wide, expected; got {image_shape}")
    # Layers get their random weights in the order in which they are made: the convolutions of both nets first.
    shrink: list[nn.Module] = []
    channels = colors
    for wider in widths:
        shrink.append(nn.Conv2d(channels, wider, kernel, stride=2, padding=1))  # (N, wider, S/2, S/2)
        shrink.extend(_activation(wider, batchnorm))
        channels = wider
    grow: list[nn.Module] = []
    for narrower in reversed(widths[:-1]):
        grow.append(_double(channels, narrower, kernel))  # (N, narrower, 2S, 2S)
        grow.extend(_activation(narrower, batchnorm))
        channels = narrower
    grow.append(_double(channels, colors, kernel))
    features = widths[-1] * small**2
    encoder = nn.Sequential(
        *shrink,  # (N, widths[-1], small, small)
        nn.Flatten(),
        *_linear(features, *hidden, outputs),
    )
    decoder = nn.Sequential(
        *_linear(inputs, *reversed(hidden), features),
        nn.Unflatten(1, (widths[-1], small, small)),
        *grow,  # (N, C, S, S)
    )
    return encoder, decoder


def dense(
    image_shape: Shape,
    *,
    outputs: int,
    inputs: int,
    width: float,
    down: Sequence[int],
    up: Sequence[int],
    encoding: type[nn.Module] = nn.LeakyReLU,
    decoding: type[nn.Module] = nn.LeakyReLU,
) -> Coders:
    """Build layers of `down` and of `up` units, with these activations."""
    encoder = nn.Sequential(
        nn.Flatten(),  # (N, C·H·W)
        *_linear(prod(image_shape), *_scaled(down, width), outputs, activation=encoding),
    )
    decoder = nn.Sequential(
        *_linear(inputs, *_scaled(up, width), prod(image_shape), activation=decoding),
        nn.Unflatten(1, image_shape),  # (N, C, H, W)
    )
    return encoder, decoder


NETS: dict[str, Callable[..., Coders]] = {
    # document 001's, with BatchNorm and LeakyReLU (kernel and stride our choice)
    "conv001": partial(conv, widths=(32, 64, 128, 64), batchnorm=True),
    # document 002a's (the activation is our choice)
    "conv002a": partial(conv, widths=(32, 64, 96, 128)),
    # document 003's for 64×64 images (kernel 3 is our choice)
    "conv003": partial(conv, widths=(32, 32, 64, 64), hidden=(512,)),
    # document 004's, DCGAN-like (64, 128, 256 channels at width 2)
    "conv004": partial(conv, widths=(32, 64, 128), kernel=4, batchnorm=True),
    # the smallest net that draws a digit
    "mlp": partial(dense, down=(512, 512), up=(512, 512)),
    # document 003's for sprites
    "mlp003": partial(dense, down=(1200,) * 2, up=(1200,) * 3, encoding=nn.ReLU, decoding=nn.Tanh),
}


def _scaled(counts: Sequence[int], width: float) -> list[int]:
    return [max(1, round(width * n)) for n in counts]


def _double(channels: int, narrower: int, kernel: int) -> nn.ConvTranspose2d:
    """A convolution to twice the side."""
    return nn.ConvTranspose2d(channels, narrower, kernel, stride=2, padding=1, output_padding=4 - kernel)


def _activation(channels: int, batchnorm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU()] if batchnorm else [nn.LeakyReLU()]


def _linear(units: int, *widths: int, activation: type[nn.Module] = nn.LeakyReLU) -> list[nn.Module]:
    """Linear layers from `units` through these widths, with activations between them."""
    layers: list[nn.Module] = []
    for wider in widths:
        layers += [nn.Linear(units, wider), activation()]
        units = wider
    return layers[:-1]
