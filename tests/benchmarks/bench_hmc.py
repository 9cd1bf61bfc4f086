"""What a gradient buys in HMC: our loop over a bare one, and effective draws for 1000 gradients (`make bench`)."""

import math
from functools import partial

import pytest
import torch

from tests.benchmarks.bench_foundation import compare
from tests.oracles import seeded
from vaenb.models import vae
from vaenb.sampling import hmc
from vaenb.sampling.chains import ess
from vaenb.sampling.posterior import posterior_density

CHAINS, DIMENSIONS, STEPS, WARMUP, KEPT = 64, 10, 5, 300, 400


@pytest.mark.benchmark(group="hmc")
def test_sampling_against_bare_gradients(benchmark):
    torch.manual_seed(0)
    model = vae(image_shape=(1, 32, 32), latent_dim=DIMENSIONS).eval()
    z0 = torch.randn(CHAINS, DIMENSIONS, generator=seeded())
    with torch.no_grad():
        x = model.decode(z0)
    density, index, transitions = posterior_density(model, x), torch.arange(CHAINS), 6

    def bare():
        for _ in range(1 + transitions * STEPS):
            z = z0.requires_grad_()
            value = density(z, index)
            torch.autograd.grad(value.sum(), z)

    def ours():
        return hmc.sample(density, z0, num_samples=transitions // 2, warmup=transitions // 2, leapfrog_steps=STEPS)

    assert ours().gradient_calls == 1 + transitions * STEPS
    compare(benchmark, ours, bare, rounds=15, says="hmc, leapfrog steps a second over bare gradients")


@pytest.fixture(scope="module")
def targets():
    """Gaussians with scales from 0.03 to 1 in each: their log density, and a start in the bulk of each."""
    low = math.log(0.03)
    stddev = (low * torch.rand(CHAINS, DIMENSIONS, generator=seeded())).exp()
    z0 = stddev * torch.randn(CHAINS, DIMENSIONS, generator=seeded(1))
    return lambda z, index: -0.5 * ((z / stddev[index]) ** 2).sum(1), z0


def together(log_density, z0, *, joint: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """HMC as document 002a's code has it: a step size for the whole batch, never frozen; `joint` accepts as one."""
    density, g = hmc.value_and_gradient(log_density, torch.arange(CHAINS), CHAINS), seeded(2)
    state, ones, eta, history = hmc.start(density, z0), torch.ones(CHAINS), 0.1, []
    for _ in range(WARMUP + KEPT):
        momentum, uniform = torch.randn(z0.shape, generator=g), torch.rand(CHAINS, generator=g)
        if joint:  # the batch is one state, of one energy
            end, momentum_end = hmc.leapfrog(density, state, momentum, eta * ones, torch.ones(DIMENSIONS), STEPS)
            gain = end.log_density - state.log_density + ((momentum**2 - momentum_end**2) / 2).sum(1)
            probability = gain.sum().clamp_max(0).exp().nan_to_num(0).expand(CHAINS)
            state = end if uniform[0] < probability[0] else state
        else:
            moves = (momentum, uniform, eta * ones, torch.ones(DIMENSIONS), STEPS)
            state, probability, _ = hmc.transition(density, state, *moves)
        eta *= 1.02 if probability.mean() > 0.8 else 0.98
        history.append((state.z, probability))
    samples, accepted = (torch.stack(values[WARMUP:], 1) for values in zip(*history, strict=True))
    return samples, accepted.mean(1)


def apart(log_density, z0, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    shared = {"num_samples": KEPT, "warmup": WARMUP, "leapfrog_steps": STEPS, "generator": seeded(2)}
    chains = hmc.sample(log_density, z0, **shared, **settings)
    assert chains.gradient_calls == 1 + STEPS * (WARMUP + KEPT)
    return chains.samples, chains.accept_rate


@pytest.mark.benchmark(group="hmc")
def test_effective_draws_of_the_worst_chain(benchmark, targets):
    ways = {
        "a step size and scales for each chain": partial(apart, *targets),
        "a step size for each chain, unit mass": partial(apart, *targets, adapt_scale=False),
        "a step size for the batch, unit mass": partial(together, *targets, joint=False),
        "the same, accepted as one": partial(together, *targets, joint=True),
    }
    print("\neffective draws for 1000 gradients (in brackets with those of the warm-up)")
    for name, way in ways.items():
        samples, accepted = way()
        size = ess(samples.transpose(1, 2)[:, :, None]).amin(1)  # of each chain's worst dimension
        worst, all_told = (1000 * size.min().item() / (STEPS * n) for n in (KEPT, KEPT + WARMUP))
        print(
            f"  {name}: worst chain {worst:.1f} ({all_told:.1f}), median {1000 * size.median() / (STEPS * KEPT):.1f}; "
            f"accepted {accepted.min():.2f} to {accepted.max():.2f}"
        )
        benchmark.extra_info[name] = round(worst, 1)
    benchmark.pedantic(ways["a step size and scales for each chain"], rounds=1)


@pytest.mark.benchmark(group="hmc")
def test_gradients_of_a_transition(benchmark, targets):
    density, z0 = targets
    calls = torch.zeros(CHAINS)

    def counted(z, index):
        calls[index] += 1
        return density(z, index)

    run = lambda: hmc.sample(counted, z0, num_samples=20, warmup=20, leapfrog_steps=STEPS, chunk=50)  # noqa: E731
    run()
    each = (calls - 1) / 40
    print(f"\nhmc, gradients of a transition of {STEPS} leapfrog steps: {each.min():g} to {each.max():g}")
    assert (each == STEPS).all()
    benchmark.extra_info["gradients of a transition"] = each.max().item()
    benchmark.pedantic(run, rounds=1)
