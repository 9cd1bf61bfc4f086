"""The explorer of attacks that pay for the change of the image (notebook 08)."""

import torch
from torch import Tensor

from vaenb.attacks.penalized import PenaltyPath
from vaenb.contract import LatentModel, reconstruct
from vaenb.metrics.likelihood import shortfall
from vaenb.widgets.chart import Chart, Explorer, check_pairs, enlarged, slider_of


class PenaltyExplorer(Explorer):
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
        names = check_pairs("paths", paths, models, "(β, layers)")
        penalties = next(iter(paths.values())).penalties
        for path in paths.values():
            same = torch.equal(path.penalties, penalties)
            if not same or path.adversarial.shape[1:] != x.shape:
                raise ValueError(f"paths: the same penalties, and {len(x)} images as in x, expected in each")
        self.models, self.paths = models, paths
        self.x, self.target = x, target
        self.order = penalties.argsort(descending=True).tolist()  # to the right: cheaper changes
        self.left = {at: self._shortfalls(*at) for at in paths}
        middle = len(penalties) // 2
        self.penalty = slider_of(self.order, "penalty λ", lambda k: f"{penalties[k]:.2g}", index=middle)
        self.beta = slider_of(models, "weight β of TC")
        self.layers = slider_of(names, "attacked layers")
        self.image = slider_of(range(len(x)), "pair")
        super().__init__("image · target · attacked image, and below what the model makes of each")

    def _shortfalls(self, beta: float, name: str) -> Tensor:
        images = self.paths[beta, name].adversarial
        goal = self.target.expand(images.shape).flatten(0, 1)
        left = shortfall(self.models[beta], images.flatten(0, 1), goal)
        return left.view(images.shape[:2])  # (K, N)

    def _draw(self, change=None) -> None:
        k, i = self.penalty.value, self.image.value
        at = self.beta.value, self.layers.value
        path, left = self.paths[at], self.left[at]
        x, target = self.x[i], self.target[i]
        three = torch.stack([x, target, path.adversarial[k, i]])
        copies = reconstruct(self.models[at[0]], three)
        self.picture.value = enlarged(three, copies, width=144)
        way = path.distance[k, i] / (target - x).norm().clamp_min(1e-9)
        self.say(
            f"Δ {path.start[i]:.3g} → <b>{path.divergence[k, i]:.3g}</b>",
            f"‖d‖ <b>{way:.2f}</b> of the way to the target",
            f"shortfall <b>{left[k, i]:.1f}</b> nats (0: taken for the target)",
        )
        reach = min(0.0, left.min().item()), left.max().item()
        count, now = len(self.order), self.order.index(k)
        chart = Chart((0, max(1, count - 1)), reach, "λ, falling →", "shortfall (nats)")
        ordered = left[self.order]
        self.curve.value = chart.one_of_many(range(count), ordered, i, now, "this pair", "mean")
