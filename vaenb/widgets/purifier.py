"""The explorer of a purifier: noise that is added and taken away before a classifier (notebook 07)."""

from collections.abc import Callable, Sequence

from torch import Tensor

from vaenb.widgets.behind import BehindExplorer, Images
from vaenb.widgets.chart import slider_of


class PurifierExplorer(BehindExplorer):
    """Drag the noise that a purifier adds to an attacked image, and see what a classifier says of what comes back.

    `noise` are K shares of noise that rise, the first of them 0, no purifier. `attacked[delta, attacker]` are images
    (K, N, C, S, S) in [0, 1] that an attacker within δ sends to the purifier of each, and `cleaned` what this makes
    of them; `x` (N, C, S, S) are the images as they were, with their true `labels` (N,).
    """

    def __init__(
        self,
        classifier: Callable[[Tensor], Tensor],
        x: Tensor,
        labels: Tensor,
        noise: Sequence[float],
        attacked: Images,
        cleaned: Images,
    ) -> None:
        noise = list(noise)
        if len(noise) < 2 or noise[0] != 0 or noise != sorted(set(noise)):
            raise ValueError(f"noise: two shares or more expected that rise from 0, got {noise}")
        deltas = sorted({delta for delta, _ in attacked})
        named = [f"{share:.0%}" if share else "no purifier" for share in noise]
        self.level = slider_of(range(len(noise)), "noise added", named.__getitem__, index=len(noise) // 2)
        self.delta = slider_of(deltas, "attack radius δ")
        caption = "image · attacked · behind the purifier"
        super().__init__(caption, classifier, x, labels, noise, deltas, attacked, cleaned)

    def _draw(self, change=None) -> None:
        at = self.delta.value, self.attacker.value
        k, i = self.level.value, self.image.value
        right = self.show(at[0], k, "share of noise 1 − ᾱ added")
        behind = f"behind {self.places[k]:.0%} noise" if k else "without a purifier"
        self.say(
            f"a {self.labels[i]}, attacked within δ = {at[0]:g}: {behind} the classifier says "
            f"<b>{self.behind[at][k, i]}</b>",
            f"right: <b>{right}</b> of {len(self.labels)}",
        )
