"""What the parts of an audit share: the model, the images, and how estimates are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaenb.audit.budget import Budget
from vaenb.audit.report import Found, Measure, Report
from vaenb.contract import LatentModel, NotDefined
from vaenb.distributions import seeded
from vaenb.metrics.blocks import in_blocks
from vaenb.metrics.images import ssim
from vaenb.stats import bootstrap, expanded

_RESAMPLES = 500
_FEW = 50  # images
_LONGEST = 300  # characters of an error
POINT = "not defined: q(z|x) is a point"


@dataclass(eq=False)
class Bench:
    """A model on the bench, with the report that grows."""

    model: LatentModel
    x: Tensor  # (N, C, H, W)
    outside: Mapping[str, Tensor]
    labels: Tensor | None
    budget: Budget
    chunk: int  # rows evaluated at once
    seed: int
    report: Report = field(default_factory=Report)

    @property
    def few(self) -> Tensor:
        """The images that are attacked."""
        return self.x[: self.budget.attacked]

    def rng(self) -> torch.Generator:
        """A new generator: every measure draws from the seed's beginning."""
        return seeded(self.seed)

    def put(self, name: str, unit: str, values: Tensor | str, statistic: Callable = np.mean) -> None:
        """Write a statistic of values (N, …) into the report, with its interval over images; a reason stays one."""
        found: Found = values if isinstance(values, str) else tried(lambda: self._bootstrapped(values, statistic))
        self.report.measures[name] = Measure(found, unit)

    def _bootstrapped(self, values: Any, statistic: Callable) -> Found:
        count = len(values)
        resamples = _RESAMPLES if count > _FEW else 4 * _RESAMPLES  # further out in the tails
        return bootstrap(values, statistic=statistic, confidence=expanded(count), resamples=resamples)

    def by_parts(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """What a function gives for `chunk` rows of tensors at a time, joined, without gradient."""
        with torch.no_grad():
            return in_blocks(function, *tensors, size=self.chunk)

    def means(self, x: Tensor) -> Tensor:
        """The means of the posteriors."""
        return self.by_parts(lambda part: self.model.posterior(part).mean, x)

    def copies(self, x: Tensor) -> Tensor:
        """Reconstructions by the posterior's mean."""
        return self.by_parts(lambda part: self.model.decode(self.model.posterior(part).mean), x)

    def decoded(self, z: Tensor) -> Tensor:
        return self.by_parts(self.model.decode, z)

    def similar(self, a: Tensor, b: Tensor) -> Tensor:
        """SSIM of each pair of images."""
        return self.by_parts(ssim, a, b)


def tried(measure: Callable) -> Any:
    """What `measure` gives, or a text with the reason where the model has no such thing or its numbers fail."""
    try:
        return measure()
    except NotDefined as error:
        return f"not defined: {reason(error)}"
    except ValueError as error:
        return f"not measured: {reason(error)}"


def reason(error: Exception) -> str:
    """What an error says in its first line, which torch follows by whole tensors."""
    first = (str(error).splitlines() or [""])[0]
    return f"{first[:_LONGEST]} …" if len(first) > _LONGEST else first
