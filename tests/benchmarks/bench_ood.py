"""What a likelihood regret costs: all images at once, one at a time, and refitting the encoder (`make bench`)."""

import pytest
import torch
from scipy.stats import spearmanr

from tests.benchmarks.bench_foundation import compare
from tests.oracles import seeded
from vaenb.data import load
from vaenb.metrics.detection import auroc
from vaenb.metrics.ood import encoder_regret, likelihood_regret
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
@pytest.mark.parametrize("other", [likelihood_regret, encoder_regret], ids=["alone", "encoder"])
def test_all_images_at_once(benchmark, model, images, other):
    together = lambda: likelihood_regret(model, images, steps=STEPS, generator=seeded())  # noqa: E731

    def one_by_one():
        for image in images.split(1):
            other(model, image, steps=STEPS, generator=seeded())

    what = "one by one" if other is likelihood_regret else "the encoder's"
    compare(benchmark, together, one_by_one, rounds=3, says=f"regret of {IMAGES} images at once, speed over {what}")


@pytest.mark.benchmark(group="ood")
def test_both_regrets_agree(benchmark, model, images):
    latent = benchmark.pedantic(lambda: likelihood_regret(model, images, generator=seeded()), rounds=1)
    refitted = encoder_regret(model, images, generator=seeded())
    rank = spearmanr(latent, refitted).statistic
    benchmark.extra_info["spearman"] = round(rank, 3)
    half = IMAGES // 2
    found = {"latent": latent, "encoder": refitted}
    numbers = [f"{n}: mean {r.mean():.2f} nats, AUROC {auroc(r[:half], r[half:]):.2f}" for n, r in found.items()]
    print(f"\nSpearman {rank:.2f}; {'; '.join(numbers)}")
