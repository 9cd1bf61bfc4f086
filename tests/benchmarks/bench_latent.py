"""What a forward pass buys in latent attacks: by queries alone, by gradients, in one spectral step (`make bench`).

That many radii and restarts are faster as one call than as a loop is in `bench_foundation`.
"""

import pytest
import torch

from tests.oracles import seeded
from vaenb.attacks import latent
from vaenb.attacks.queries import query_attack
from vaenb.data import load
from vaenb.models import vae
from vaenb.training import fit

EPS = 1.0
GRADIENT = 3  # forward passes: a gradient is a forward pass and a backward pass, which costs about two


@pytest.mark.benchmark(group="latent")
@pytest.mark.parametrize("dimensions", [10, 30])
def test_damage_by_forward_passes(benchmark, dimensions):
    torch.manual_seed(0)
    train = load("digits", split="train", size=32, limit=1500)
    model = vae(image_shape=(1, 32, 32), latent_dim=dimensions).train()
    fit(model, train, epochs=5, batch_size=64, lr=2e-3, progress=False)
    z = model.eval().posterior(train.float()[:16]).mean.detach()
    shared = {"eps": EPS, "generator": seeded()}
    worst = latent.attack(model, z, steps=40, restarts=5, **shared).loss
    results = {
        **{f"query_attack, {n}": query_attack(model, z, queries=n, **shared) for n in (50, 100, 300, 600)},
        **{f"attack, {r} restart(s)": latent.attack(model, z, restarts=r, **shared) for r in (1, 3, 5)},
        **{f"spectral_attack, {k}": latent.spectral_attack(model, z, iterations=k, **shared) for k in (1, 3, 10)},
    }
    print(f"\ndamage at D = {dimensions} as a share of that of PGD with 40 steps and 5 restarts (605 forward passes)")
    for name, result in results.items():
        passes, share = GRADIENT * result.gradient_calls + result.forward_calls, (result.loss / worst).mean().item()
        print(f"  {name}: {share:.2f} for {passes} forward passes")
        benchmark.extra_info[name] = (passes, round(share, 3))
    benchmark.pedantic(lambda: query_attack(model, z, **shared), rounds=1)
