"""What batching over λ and pairs buys in document 003's attack (`make bench`)."""

import pytest
import torch

from tests.benchmarks.bench_foundation import compare
from vaenb.attacks import penalized
from vaenb.data import load
from vaenb.models import seatbelt
from vaenb.training import fit

PAIRS, STEPS = 4, 30


@pytest.fixture(scope="module")
def images():
    return load("digits", split="train", size=32, limit=1408)


@pytest.fixture(scope="module")
def model(images):
    torch.manual_seed(0)
    model = seatbelt(image_shape=images.shape, latent_dim=8, layers=3, size=len(images), net="mlp")
    fit(model, images, epochs=4, batch_size=64, progress=False)
    return model.requires_grad_(False)


@pytest.mark.benchmark(group="penalized")
@pytest.mark.parametrize("count", [1, PAIRS])
def test_all_penalties_against_one_at_a_time(benchmark, images, model, count):
    x, target, lams = images.float()[:count], images.float()[count : 2 * count], penalized.penalty_grid(25)
    together = lambda: penalized.attack(model, x, target, penalties=lams, steps=STEPS)  # noqa: E731

    def alone():
        for lam in lams:
            for i in range(count):
                penalized.attack(model, x[i : i + 1], target[i : i + 1], penalties=lam[None], steps=STEPS)

    compare(benchmark, together, alone, rounds=2, says=f"{count} pair(s) × {len(lams)} λ, speed over one by one")
