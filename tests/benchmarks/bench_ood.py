"""What a likelihood regret costs: all images at once, or one at a time (`make bench`)."""

import pytest
import torch

from tests.benchmarks.bench_foundation import compare
from tests.oracles import seeded
from vaenb.data import load
from vaenb.metrics.ood import likelihood_regret
from vaenb.models import vae
from vaenb.training import fit

IMAGES, STEPS = 32, 10


@pytest.fixture(scope="module")
def model():
    images = load("digits", split="train", size=16, limit=1408)
    torch.manual_seed(0)
    model = vae(image_shape=images.shape, latent_dim=8, net="mlp")
    fit(model, images, epochs=10, batch_size=64, progress=False)
    return model


@pytest.fixture(scope="module")
def images():
    """Half of them digits, half sprites."""
    sets = [load(name, split="test", size=16, limit=IMAGES // 2).float() for name in ("digits", "sprites")]
    return torch.cat(sets)


@pytest.mark.benchmark(group="ood")
def test_all_images_at_once(benchmark, model, images):
    together = lambda: likelihood_regret(model, images, steps=STEPS, generator=seeded())  # noqa: E731

    def one_by_one():
        for image in images.split(1):
            likelihood_regret(model, image, steps=STEPS, generator=seeded())

    compare(benchmark, together, one_by_one, rounds=3, says=f"regret of {IMAGES} images at once, speed over one by one")
