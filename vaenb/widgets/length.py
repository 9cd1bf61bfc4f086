"""The explorer of how far an image must be changed before it is taken for its target (notebook 08)."""

from html import escape
from itertools import cycle

import torch
from torch import Tensor

from vaenb.checks import check_images, check_shape
from vaenb.contract import LatentModel, reconstruct
from vaenb.metrics.images import mse
from vaenb.plots import COLORS
from vaenb.widgets.chart import LAZY, Chart, Explorer, check_pairs, enlarged, slider_of


class LengthExplorer(Explorer):
    """Drag the length of the change, and watch several models take an image for its target, or not.

    `attacked[name, length]` are images like `x` (N, C, H, W) that were changed by so much towards `target` against the
    model of this name. An image stays where its reconstruction is nearer to it than to the target.
    """

    def __init__(
        self,
        models: dict[str, LatentModel],
        attacked: dict[tuple[str, float], Tensor],
        x: Tensor,
        target: Tensor,
    ) -> None:
        check_images(x)
        check_shape(target, "target", x.shape, "as x")
        self.lengths = sorted(check_pairs("attacked", attacked, models, "(model, length)"))
        self.models, self.attacked = models, attacked
        self.x, self.target = x, target
        self.copies: dict[tuple[str, float], Tensor] = {}  # what the models make of them
        self.kept: dict[tuple[str, float], Tensor] = {}  # whether they stay, (N,)
        for at, images in attacked.items():
            check_shape(images, f"attacked[{at!r}]", x.shape, "as x")
            self.copies[at] = reconstruct(models[at[0]], images)
            self.kept[at] = mse(self.copies[at], x) < mse(self.copies[at], target)
        self.length = slider_of(self.lengths, "length of the change", index=len(self.lengths) // 2)
        self.image = slider_of(range(len(x)), "pair", **LAZY)
        names = escape(" · ".join(models))
        super().__init__(f"image above its target · attacked above what the model makes of it: {names}")

    def share(self, name: str, length: float) -> float:
        """The share of images that stay."""
        return self.kept[name, length].double().mean().item()

    def _draw(self, change=None) -> None:
        length, i = self.length.value, self.image.value
        above, below = [self.x[i]], [self.target[i]]
        chart = Chart((0, self.lengths[-1]), (0, 1), "length (of the way to the target)", "share that stay")
        chart.make_room()
        told = []
        for name, color in zip(self.models, cycle(COLORS), strict=False):
            above.append(self.attacked[name, length][i])
            below.append(self.copies[name, length][i])
            shares = [self.share(name, place) for place in self.lengths]
            chart.line(self.lengths, shares, color, name=name)
            chart.dot(length, self.share(name, length), color)
            fate = "stays" if self.kept[name, length][i] else "turns"
            told.append(f"{escape(name)}: <b>{fate}</b>, {self.share(name, length):.0%} of all stay")
        self.picture.value = enlarged(torch.stack(above), torch.stack(below), width=96)
        self.say(*told)
        self.curve.value = chart.svg()
