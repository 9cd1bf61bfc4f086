"""What our loops around a diffusion model's network cost, in training and in sampling (`make bench`)."""

import copy

import pytest
import torch

from tests.benchmarks.bench_foundation import compare
from tests.oracles import seeded
from vaenb.data import load
from vaenb.models import ddgm
from vaenb.training import fit

EMA = 0.999


@pytest.fixture(scope="module")
def images():
    return load("digits", split="train", size=16, limit=256)


@pytest.fixture(scope="module")
def model(images):
    torch.manual_seed(0)
    return ddgm(image_shape=images.shape, steps=100, channels=16).to(memory_format=torch.channels_last).eval()


@pytest.mark.benchmark(group="diffusion")
@pytest.mark.parametrize("ema", [None, EMA])
def test_fit_against_a_bare_step_loop(benchmark, images, model, ema):
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model).train()
    x, labels = images.float().contiguous(memory_format=torch.channels_last), images.labels
    optimizer = torch.optim.Adam(theirs.parameters(), fused=True)

    def bare():
        for i in range(0, len(x), 64):
            loss = theirs.losses(x[i : i + 64], labels[i : i + 64])["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    train = lambda: fit(ours, images, epochs=1, batch_size=64, ema=ema, progress=False)  # noqa: E731
    says = f"fit of a DDGM (ema={ema}), speed over a bare loop without an average"
    compare(benchmark, train, bare, rounds=5, says=says)


@pytest.mark.benchmark(group="diffusion")
@pytest.mark.parametrize("count", [1, 32])
def test_a_walk_against_the_networks_calls_alone(benchmark, model, count):
    x, t = torch.randn(count, *model.image_shape, generator=seeded()), torch.full((count,), 0.5)

    @torch.no_grad()
    def bare():
        for _ in range(20):
            model.net(x, t)

    ours = lambda: model.sample(count, evaluations=20, eta=0.0, generator=seeded())  # noqa: E731
    compare(benchmark, ours, bare, rounds=5, says=f"DDIM, 20 calls on {count} image(s), speed over the calls alone")


@pytest.mark.benchmark(group="diffusion")
def test_twenty_calls_against_a_hundred(benchmark, model):
    walk = lambda calls: model.sample(8, evaluations=calls, eta=0.0, generator=seeded())  # noqa: E731
    few, many = (lambda: walk(20)), (lambda: walk(100))
    compare(benchmark, few, many, rounds=3, says="DDIM with 20 calls, speed over 100 (5 where only the calls cost)")
