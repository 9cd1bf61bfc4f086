"""The explorer of attacks that pay for the change of the image (notebook 08)."""

import ipywidgets as ipw
import torch
from torch import Tensor

from vaenb.attacks.penalized import PenaltyPath
from vaenb.contract import LatentModel, reconstruct
from vaenb.metrics.likelihood import shortfall
from vaenb.plots import COLORS, tile
from vaenb.widgets.chart import Chart, slider_of, view_of


class PenaltyExplorer:
    """Drag the penalty λ, β and the layers that are attacked, and watch an image being taken for its target.

    `models` are keyed by β; `paths`, what `penalized.attack` found for images `x` and `target` (N, C, H, W), by (β,
    name of the attacked layers), all of them over the same penalties.
    """

    def __init__(
        self,
        models: dict[float, LatentModel],
        paths: dict[tuple[float, str], PenaltyPath],
        x: Tensor,
        target: Tensor,
    ) -> None:
        names = list(dict.fromkeys(name for _, name in paths))
        if set(paths) != {(beta, name) for beta in models for name in names} or not paths:
            raise ValueError(f"paths: one for each (β, layers) of β {list(models)} expected, got {list(paths)}")
        first = next(iter(paths.values()))
        if any(
            not torch.equal(p.penalties, first.penalties) or p.adversarial.shape[1:] != x.shape for p in paths.values()
        ):
            raise ValueError(f"paths: the same penalties, and {len(x)} images as in x, expected in each")
        self.models, self.paths, self.x, self.target = models, paths, x, target
        self.order = first.penalties.argsort(descending=True).tolist()  # to the right: cheaper changes
        self.left = {at: self._shortfalls(*at) for at in paths}
        lams = [(f"{first.penalties[k]:.2g}", k) for k in self.order]
        self.penalty = slider_of(lams, "penalty λ", value=self.order[len(lams) // 2])
        self.beta = slider_of([(f"{beta:g}", beta) for beta in models], "weight β of TC")
        self.layers = slider_of(names, "attacked layers")
        self.image = slider_of(list(range(len(x))), "pair")
        self.picture, self.curve = ipw.Image(format="png"), ipw.Image(format="svg+xml")
        self.numbers = ipw.HTML(layout=ipw.Layout(min_width="34em"))
        sliders = [self.penalty, self.beta, self.layers, self.image]
        for slider in sliders:
            slider.observe(self._draw, "value")
        caption = "image · target · attacked image, and below what the model makes of each"
        self.view = view_of(sliders, caption, [self.picture, self.numbers], self.curve)
        self._draw()

    def _shortfalls(self, beta: float, name: str) -> Tensor:
        images = self.paths[beta, name].adversarial
        goal = self.target.expand(images.shape).flatten(0, 1)
        return shortfall(self.models[beta], images.flatten(0, 1), goal).view(images.shape[:2])  # (K, N)

    def _draw(self, change=None) -> None:
        k, i, at = self.penalty.value, self.image.value, (self.beta.value, self.layers.value)
        path, left = self.paths[at], self.left[at]
        three = torch.stack([self.x[i], self.target[i], path.adversarial[k, i]])
        rows = [three.cpu(), reconstruct(self.models[at[0]], three).cpu()]
        self.picture.value = tile(rows, zoom=max(1, 144 // three.shape[-1]))
        far = (self.target[i] - self.x[i]).norm().clamp_min(1e-9)
        self.numbers.value = (
            f"Δ {path.start[i]:.3g} → <b>{path.objective[k, i]:.3g}</b> · ‖d‖ <b>{path.distance[k, i] / far:.2f}</b> "
            f"of the way to the target · shortfall <b>{left[k, i]:.1f}</b> nats (0: taken for the target)"
        )
        places = list(range(len(self.order)))
        chart = Chart(
            (0, max(1, places[-1])),
            (min(0.0, left.min().item()), left.max().item()),
            "λ, falling →",
            "shortfall (nats)",
        )
        chart.line(places, left[self.order].mean(1).tolist(), "#999999", dashed=True)
        chart.line(places, left[self.order, i].tolist(), COLORS[0])
        chart.dot(self.order.index(k), left[k, i].item())
        self.curve.value = chart.svg(("this pair", COLORS[0]), ("mean, dashed", "#666")).encode()
