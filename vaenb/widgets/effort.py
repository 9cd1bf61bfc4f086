"""The explorer of what it costs to attack a defence (notebook 06)."""

import math

import torch
from torch import Tensor

from vaenb.attacks.encoder import Classifier
from vaenb.checks import check_images, check_shape
from vaenb.contract import LatentModel, reconstruct
from vaenb.plots import COLORS
from vaenb.widgets.chart import Chart, Explorer, check_keys, check_pairs, enlarged, slider_of


class EffortExplorer(Explorer):
    """Choose an attack, drag its effort, and see whether the repaired code keeps its label.

    By (attack, effort): `attacked`, images like `x` (N, C, H, W), and `codes` (N, R, D), the ends of R repairs of each;
    the attacks are those of `costs`, gradients an image at effort 1. `read` gives logits (M, K) of codes (M, D). A
    label is kept where it is that of the posterior mean of x. The chart has the share kept over the gradients.
    """

    def __init__(
        self,
        model: LatentModel,
        read: Classifier,
        x: Tensor,
        attacked: dict[tuple[str, float], Tensor],
        codes: dict[tuple[str, float], Tensor],
        costs: dict[str, float],
    ) -> None:
        check_images(x)
        efforts = sorted(check_pairs("attacked", attacked, costs, "(attack, effort)"))
        check_keys(attacked, codes=codes)
        self.model, self.x, self.costs = model, x, costs
        self.attacked, self.codes = attacked, codes
        self.clean = _labels(read, _means(model, x))
        self.bare: dict[tuple[str, float], Tensor] = {}  # labels without defence, (N,)
        self.found: dict[tuple[str, float], Tensor] = {}  # and after each repair, (N, R)
        for at, images in attacked.items():
            check_shape(images, f"attacked[{at!r}]", x.shape, "as x")
            self.bare[at] = _labels(read, _means(model, images))
            self.found[at] = _labels(read, codes[at].flatten(0, 1)).view(codes[at].shape[:2])
        self.attack = slider_of(costs, "attack")
        self.effort = slider_of(efforts, "effort", index=len(efforts) - 1)
        self.image = slider_of(range(len(x)), "test image")
        super().__init__("original · its reconstruction · attacked · its reconstruction · repaired")

    def share(self, attack: str, effort: float) -> float:
        """The share of repairs that end at a code of the clean label."""
        same = self.found[attack, effort] == self.clean[:, None]
        return same.float().mean().item()

    @torch.no_grad()
    def _draw(self, change=None) -> None:
        at = self.attack.value, self.effort.value
        i = self.image.value
        hit = self.attacked[at][i]
        pair = torch.stack([self.x[i], hit])
        goal, gone = reconstruct(self.model, pair)
        repaired = self.model.decode(self.codes[at][i, :1])[0]
        row = torch.stack([self.x[i], goal, hit, gone, repaired])
        self.picture.value = enlarged(row, width=96)
        ends = ", ".join(map(str, self.found[at][i].tolist()))
        self.say(
            f"label: clean <b>{self.clean[i]}</b>, attacked <b>{self.bare[at][i]}</b>, repaired <b>{ends}</b>",
            f"with HMC <b>{self.share(*at):.0%}</b> of all keep theirs",
        )
        self.curve.value = self._chart(*at)

    def _chart(self, attack: str, effort: float) -> bytes:
        """The share over the gradients of the chosen attack, the others in grey."""
        places: dict[str, list[float]] = {}
        shares: dict[str, list[float]] = {}
        for name, part in sorted(self.found):
            places.setdefault(name, []).append(self._place(name, part))
            shares.setdefault(name, []).append(self.share(name, part))
        ends: list[float] = []
        for of_attack in places.values():
            ends += of_attack
        ends.sort()
        chart = Chart(
            (ends[0], max(ends[-1], ends[0] + 1)), (0, 1), "log₁₀ of gradients an image", "labels kept with HMC"
        )
        for name in self.costs:
            if name != attack:
                chart.guide(places[name], shares[name], "#bbbbbb")
        chart.line(places[attack], shares[attack], COLORS[1], name=attack)
        chart.dot(self._place(attack, effort), self.share(attack, effort))
        return chart.svg(("the others, dashed", "#888"))

    def _place(self, attack: str, effort: float) -> float:
        return math.log10(self.costs[attack] * effort)


@torch.no_grad()
def _means(model: LatentModel, x: Tensor) -> Tensor:
    return model.posterior(x).mean


@torch.no_grad()
def _labels(read: Classifier, z: Tensor) -> Tensor:
    return read(z).argmax(1)
