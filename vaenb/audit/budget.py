"""What an audit costs: how many images and steps, how many rows of the model's calls, and how many at once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from tqdm.auto import tqdm

from vaenb.checks import check_choice, check_counts, check_whole
from vaenb.contract import LatentModel, Posterior

MOST_ROWS = 512
MEMORY = 2**30  # bytes that the gradients of the rows evaluated at once may keep
DRAWS = 16  # from each posterior, for ELBO and scores
GRADIENTS = 301  # of an image's HMC chain, as `repair` has it by default
REGRET_STEPS = 50
QUERIES = 1000
_KNOWING = 2000  # gradients of the attacker who knows of HMC: 10 steps through 4 chains of 25, each twice
MORE_STEPS, MORE_RESTARTS = 4, 5  # times the standard ones, of the stronger PGD


@dataclass(frozen=True)
class Budget:
    """How much an audit looks at; radii are the same in all, so that every report compares."""

    images: int  # at most, for quality, codes and scores
    attacked: int  # the first of them
    steps: int  # of PGD
    restarts: int
    thorough: bool = False  # more attacks beside the standard one


BUDGETS = {
    "quick": Budget(images=60, attacked=6, steps=10, restarts=1),
    "standard": Budget(images=300, attacked=16, steps=20, restarts=2),
    "thorough": Budget(images=1000, attacked=32, steps=20, restarts=2, thorough=True),
}


def named(budget: str | Budget) -> Budget:
    """Give a budget by its name. Raises ValueError for an unknown one, and for counts that don't fit."""
    if isinstance(budget, Budget):
        check_counts(steps=budget.steps, restarts=budget.restarts)
        check_whole("images", budget.images, 2)
        check_whole("attacked", budget.attacked, 2)  # for an interval
        return budget
    check_choice("budget", budget, BUDGETS)
    return BUDGETS[budget]


def quarter(attacked: int) -> int:
    """How many of the attacked images stronger attacks look at."""
    return max(2, attacked // 4)


class Watched:
    """A model whose calls move a bar, by one for each row of each call."""

    def __init__(self, model: LatentModel, bar: tqdm) -> None:
        self.model, self.bar = model, bar

    def posterior(self, x: Tensor) -> Posterior:
        self.bar.update(len(x))
        return self.model.posterior(x)

    def decode(self, z: Tensor) -> Tensor:
        self.bar.update(len(z))
        return self.model.decode(z)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.model.log_prior(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        self.bar.update(len(z))
        return self.model.log_likelihood(x, z)


def rows_at_once(model: LatentModel, x: Tensor) -> int:
    """How many images may be differentiated at once: 1 to 512, by what the gradient of one more keeps in memory."""
    one, two = _kept_bytes(model, x[:1]), _kept_bytes(model, x[:2])
    each = max(two - one, 1)
    return max(1, min(MOST_ROWS, MEMORY // each))


def _kept_bytes(model: LatentModel, x: Tensor) -> int:
    """The bytes that autograd keeps of a reconstruction; weights count once and drop out of a difference."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        copy = model.decode(model.posterior(x.clone().requires_grad_()).mean)
    del copy  # until here nothing that was counted is freed, and no address comes twice
    return sum(kept.values())


@dataclass(frozen=True)
class Cost:
    """What an audit is expected to take."""

    rows: int  # of the model's calls
    seconds: float
    at_once: int


def expected(
    model: LatentModel, x: Tensor, budget: Budget, *, sets: int, densities: bool, radii: Iterable[int]
) -> Cost:
    """Estimate from one timed gradient a row; `sets` counts sets with scores, `radii` those of decoder and encoder."""
    at_once = rows_at_once(model, x)
    attacked = min(budget.attacked, len(x))
    latent, encoder = radii
    climbs = budget.steps * budget.restarts * (attacked + 4 * quarter(attacked))  # with the doubled attack
    through_decoder = 2 * latent * climbs
    through_encoder = encoder * climbs
    free = len(x) * (4 + 3 * sets)
    if densities:
        through_decoder += 2 * attacked * GRADIENTS + sets * attacked * (2 * REGRET_STEPS + 2 * DRAWS)
        free += DRAWS * len(x) * (1 + sets)
    if budget.thorough:  # see `stronger`
        more = MORE_STEPS * MORE_RESTARTS * budget.steps * budget.restarts + 4 * budget.steps
        few = quarter(attacked)
        through_decoder += 2 * few * more
        if densities:
            through_decoder += few * (_KNOWING + 3 * GRADIENTS)
        through_encoder += few * more
        free += 2 * few * QUERIES
    rows = through_decoder + through_encoder + free
    decoder, encoder_time = _seconds(model, x[: min(8, at_once)])
    seconds = (through_decoder + free / 3) * decoder + through_encoder * encoder_time
    return Cost(rows, seconds, at_once)


def _seconds(model: Any, x: Tensor) -> tuple[float, float]:
    """Seconds that a gradient of the decoder and of the encoder take for one image; the second try counts."""
    found = (0.0, 0.0)
    for _ in range(2):
        start = time.perf_counter()
        with torch.enable_grad():
            code = model.posterior(x.clone().requires_grad_()).mean
            code.sum().backward()
            half = time.perf_counter()
            z = code.detach().requires_grad_()
            model.decode(z).sum().backward()
        end = time.perf_counter()
        found = ((end - half) / len(x), (half - start) / len(x))
    return found
