"""The explorer of cleaners before a classifier, and of attackers who know them or do not (notebook 02)."""

from collections.abc import Callable

from torch import Tensor

from vaenb.checks import check_radii
from vaenb.widgets.behind import BehindExplorer, Images
from vaenb.widgets.chart import radius_slider, slider_of


class CleaningExplorer(BehindExplorer):
    """Drag the attack radius ε, choose a cleaner and an attacker, and see what a classifier says behind the cleaner.

    `attacked[cleaner, attacker]` are images at each of `radii` (E,), from 0 on, (E, N, C, H, W) in [0, 1], and
    `cleaned` what the cleaner made of them; `labels` (N,) are the true ones.
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        radii: Tensor,
        attacked: Images,
        cleaned: Images,
        labels: Tensor,
    ) -> None:
        check_radii(radii, least=2)
        if radii[0] != 0:
            raise ValueError(f"radii: 0 first, for the images as they are, expected, got {radii[0]:g}")
        cleaners = list(dict.fromkeys(cleaner for cleaner, _ in attacked))
        self.eps = radius_slider(radii.tolist(), "attack radius ε")
        self.cleaner = slider_of(cleaners, "cleaner")
        x = next(iter(attacked.values()))[0]
        caption = "image · attacked · behind the cleaner"
        super().__init__(caption, classifier, x, labels, radii.tolist(), cleaners, attacked, cleaned)

    def _draw(self, change=None) -> None:
        key = self.cleaner.value, self.attacker.value
        k, i = self.eps.value, self.image.value
        right = self.show(key[0], k, "attack radius ε (of the pixel range)")
        self.say(
            f"a {self.labels[i]}, attacked: the classifier says <b>{self.before[key][k, i]}</b>",
            f"behind {key[0]} <b>{self.behind[key][k, i]}</b>",
            f"right behind it <b>{right}</b> of {len(self.labels)}",
        )
