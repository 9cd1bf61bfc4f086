"""What the regularisers cost in a training step, and ssim's gradient beside torchmetrics' (`make bench`)."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.benchmarks.bench_foundation import compare
from tests.oracles import seeded
from vaenb.distributions import DiagonalGaussian
from vaenb.metrics.images import ssim
from vaenb.models import deterministic_ae, vae
from vaenb.models.regularizers import KL, MMD, ShapiroWilk, TotalCorrelation

SHAPE = {"image_shape": (1, 32, 32), "latent_dim": 10}
TERMS = {
    "kl": KL(),
    "mmd": MMD(),
    "sw": ShapiroWilk(),
    "sw_all": ShapiroWilk(projections=10),
    "tc": TotalCorrelation(60_000),
}


def training_step(model):
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, labels = torch.rand(64, 1, 32, 32, generator=seeded()), torch.zeros(64)

    def step():
        optimizer.zero_grad(set_to_none=True)
        model.losses(x, labels)["loss"].backward()
        optimizer.step()

    return step


@pytest.mark.benchmark(group="regularizers")
@pytest.mark.parametrize("term", TERMS)
def test_a_term_and_its_gradient_as_a_share_of_a_step(benchmark, term):
    step = training_step(vae(**SHAPE).to(memory_format=torch.channels_last).train())
    mean = torch.randn(64, 10, generator=seeded()).requires_grad_()

    def penalty():
        q = DiagonalGaussian(mean, torch.full_like(mean, -2.0))
        TERMS[term](q, q.rsample(generator=seeded()))[0].backward()

    compare(benchmark, step, penalty, rounds=15, says=f"{term}, the term's share of a step of document 001's VAE")


@pytest.mark.benchmark(group="regularizers")
@pytest.mark.parametrize("regularizer", ["mmd", "sw_all"])
def test_a_dae_against_a_vae(benchmark, regularizer):
    ours, theirs = (
        training_step(deterministic_ae(**SHAPE, regularizer=regularizer).train()),
        training_step(vae(**SHAPE).train()),
    )
    compare(benchmark, ours, theirs, rounds=15, says=f"a DAE's step with {regularizer}, speed over a VAE's")


@pytest.mark.benchmark(group="ssim")
@pytest.mark.parametrize("side", [28, 64, 128])
def test_the_gradient_of_ssim_against_torchmetrics(benchmark, side):
    a, b = torch.rand(2, 64, 1, side, side, generator=seeded())
    a.requires_grad_()

    def gradient(similarity):
        return lambda: torch.autograd.grad(similarity(a, b).sum(), a)

    theirs = lambda a, b: structural_similarity_index_measure(  # noqa: E731
        a, b, sigma=1.5, data_range=1.0, reduction="none"
    )
    rounds = {28: 5, 64: 3, 128: 2}[side]
    says = f"ssim's gradient on 64 images of {side}×{side}, speed over torchmetrics"
    compare(benchmark, gradient(ssim), gradient(theirs), rounds=rounds, says=says)
