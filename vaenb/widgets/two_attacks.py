"""The explorer of an attack on the code beside an attack on the image (notebook 04)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vaenb.checks import check_images, check_radii, check_shape
from vaenb.contract import LatentModel, reconstruct
from vaenb.metrics.blocks import in_blocks
from vaenb.metrics.distortion import DDCurve
from vaenb.metrics.images import ssim
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, check_curves, check_keys, enlarged, radius_slider, slider_of


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack at each radius leaves of N reconstructions."""

    shares: list[float]  # (K,) of the largest radius
    copies: Tensor  # (K, N, C, H, W)
    own: Tensor  # SSIM to the clean reconstructions, (K, N)
    original: Tensor  # SSIM to the images, (K, N)


class TwoAttacksExplorer(Explorer):
    """Drag the radius ε of an attack on the code and the radius δ of one on the image, and compare what they do.

    All by the models' names: `codes` are `dd_curve`s of the codes of images `x` (N, C, H, W), over the same radii from
    0 and with SSIM among the metrics; `images` are what an attack made of x at each of `deltas` (K,) from 0,
    (K, N, C, H, W) in [0, 1]. Everything is reconstructed here, N · (K + the number of radii + 1) images a model, so
    that no slider waits. SSIM is measured to the model's own clean reconstruction, and to the original; the chart has
    both attacks over the share of their largest radius.
    """

    def __init__(
        self,
        models: dict[str, LatentModel],
        codes: dict[str, DDCurve],
        images: dict[str, Tensor],
        x: Tensor,
        *,
        deltas: Tensor,
    ) -> None:
        check_keys(models, codes=codes, images=images)
        check_images(x)
        self.radii = check_curves("codes", codes.values(), x).cpu()
        _check_deltas(deltas, images, x)
        self.deltas = deltas.cpu()
        self.x, self.images = x.cpu(), {}
        self.clean: dict[str, Tensor] = {}
        self.by_code: dict[str, Attacked] = {}
        self.by_image: dict[str, Attacked] = {}
        for name, model in models.items():
            attacked = images[name]
            clean = reconstruct(model, x)
            moved = _decoded(model, codes[name].adversarial)
            copies = reconstruct(model, attacked.flatten(0, 1)).view(attacked.shape)
            self.images[name], self.clean[name] = attacked.cpu(), clean.cpu()
            self.by_code[name] = _measured(self.radii, moved, clean, x)
            if (self.by_code[name].own[0] < 0.999).any():
                raise ValueError(f"codes[{name!r}]: a curve of the codes of x expected, got one of other images")
            self.by_image[name] = _measured(self.deltas, copies, clean, x)
        self.model = slider_of(models, "model")
        self.eps = radius_slider(self.radii.tolist(), "on the code, radius ε")
        self.delta = radius_slider(self.deltas.tolist(), "on the image, radius δ")
        self.image = slider_of(range(len(x)), "test image")
        caption = "original · reconstruction · that of the attacked code<br>attacked image · its reconstruction"
        super().__init__(caption)

    def _draw(self, change=None) -> None:
        name, i = self.model.value, self.image.value
        k, j = self.eps.value, self.delta.value
        code, image = self.by_code[name], self.by_image[name]
        original = self.x[i]
        above = [original, self.clean[name][i], code.copies[k, i]]
        below = [self.images[name][j, i], image.copies[j, i], torch.ones_like(original)]
        self.picture.value = enlarged(torch.stack(above), torch.stack(below), width=128)
        clean = code.original[0, i]
        lines = (
            "SSIM to its own clean reconstruction, and to the original:",
            f"code attacked, ε = {self.radii[k]:.3g}: {_pair(code, k, i)}",
            f"image attacked, δ = {self.deltas[j]:.3g}: {_pair(image, j, i)}",
            f"nothing attacked: 1 and {clean:.3f}",
        )
        self.numbers.value = "<br>".join(lines)
        self.curve.value = self._chart(name, i)

    def _chart(self, name: str, i: int) -> bytes:
        """Means over images to the own clean reconstruction, dashed to the original; rings are the one image."""
        sides = (self.by_code[name], self.eps.value), (self.by_image[name], self.delta.value)
        low = 0.0
        for side, _ in sides:
            low = min(low, side.own.min().item(), side.original.min().item())
        chart = Chart((0, 1), (low, 1), "share of the largest radius", "mean SSIM")
        chart.make_room()
        for (side, at), color in zip(sides, COLORS, strict=False):
            own = side.own.mean(1).tolist()
            chart.line(side.shares, own, color)
            chart.guide(side.shares, side.original.mean(1).tolist(), color)
            chart.dot(side.shares[at], own[at], color)
            chart.ring(side.shares[at], side.own[at, i].item(), color)
        return chart.svg(
            (f"code, ε to {self.radii[-1]:.3g}", COLORS[0]),
            (f"image, δ to {self.deltas[-1]:.3g}", COLORS[1]),
            ("dashed: to the original", "#666"),
            ("ring: this image", "#666"),
        )


@torch.no_grad()
def _decoded(model: LatentModel, codes: Tensor) -> Tensor:
    """Decode codes (K, N, D): (K, N, C, H, W)."""
    return in_blocks(model.decode, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def _measured(radii: Tensor, copies: Tensor, clean: Tensor, x: Tensor) -> Attacked:
    own, original = [], []
    for row in copies:
        own.append(ssim(clean, row))
        original.append(ssim(x, row))
    shares = (radii / radii[-1]).tolist()
    return Attacked(shares, copies.cpu(), torch.stack(own).cpu(), torch.stack(original).cpu())


def _pair(side: Attacked, k: int, i: int) -> str:
    return f"<b>{side.own[k, i]:.3f}</b> and <b>{side.original[k, i]:.3f}</b>"


def _check_deltas(deltas: Tensor, images: Mapping[str, Tensor], x: Tensor) -> None:
    """Refuse levels that don't begin with 0, and images that are not x there."""
    check_radii(deltas, least=2)
    shape = len(deltas), *x.shape
    for name, attacked in images.items():
        argument = f"images[{name!r}]"
        check_shape(attacked, argument, shape, "x at each of deltas")
        check_images(attacked.flatten(0, 1), argument)
        if deltas[0] != 0 or not torch.allclose(attacked[0], x, atol=1e-5):
            raise ValueError(f"{argument}: x itself expected first, for δ = 0, then attacked images; is deltas[0] 0?")
