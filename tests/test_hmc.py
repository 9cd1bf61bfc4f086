"""HMC against closed forms, quadrature and another sampler, and what makes its chains chains of their own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.oracles import LinearGaussian, seeded
from vaenb.defences.repair import PUBLISHED, repair
from vaenb.distributions import DiagonalGaussian
from vaenb.models import VAE, vae
from vaenb.sampling import hmc
from vaenb.sampling.chains import ess, split_rhat
from vaenb.sampling.posterior import posterior_density

FIELDS = ("start", "samples", "log_density", "last", "warmup", "accept_rate", "step_size", "scale", "divergences")


def gaussian(mean, stddev):
    """A target for each chain, of independent normals: `mean` and `stddev` broadcast to (N, D)."""
    mean, stddev = torch.broadcast_tensors(mean, stddev)
    return lambda z, index: -0.5 * (((z - mean[index]) / stddev[index]) ** 2).sum(1)


def banana(z, index):
    """Not quadratic, different for each chain, and without reductions longer than two."""
    return -0.5 * (z[:, 0] ** 2 + (z[:, 1] - z[:, 0] ** 2) ** 2 * (1 + index))


def double(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def at(log_density, z, *, create_graph=False):
    """The density with its gradient, and the state that a chain at z is in."""
    density = hmc.value_and_gradient(log_density, torch.arange(len(z)), 64, create_graph=create_graph)
    return density, hmc.start(density, z)


def assert_moments(samples, mean, variance):
    """Compare means, of each chain, and variances, over the chains, with the truth in Monte-Carlo standard errors."""
    draws = ((samples.double() - mean[:, None]) / variance[:, None].sqrt()).transpose(1, 2)[:, :, None]  # (N, D, 1, S)
    squared_error = lambda values: (values.var(-1) / ess(values)[..., None]).squeeze(-1)  # noqa: E731
    assert (draws.mean((-2, -1)) ** 2 < 5**2 * squared_error(draws)).all()
    error = (squared_error(draws**2).mean(0) / len(draws)).sqrt()
    assert error.median() < 0.2  # so that the next line says something
    assert (((draws**2).mean((0, -2, -1)) - 1).abs() < 4 * error).all()


# The sampler draws from its target


@pytest.mark.parametrize("adapt_scale", [True, False])
def test_moments_of_gaussians_of_all_scales_in_one_batch(adapt_scale):
    stddev = torch.tensor([0.01, 1.0, 100.0]).repeat_interleave(3)[:, None] * torch.tensor([0.1, 0.5, 3.0])
    mean = 2 * stddev.flip(1)
    chains = hmc.sample(
        gaussian(mean, stddev),
        mean + 3 * stddev,
        num_samples=400,
        warmup=200,
        leapfrog_steps=6,
        adapt_scale=adapt_scale,
        generator=seeded(),
    )
    assert_moments(chains.samples, mean, stddev**2)
    if adapt_scale:
        assert (chains.scale / stddev).log().abs().max() < math.log(2)
    else:
        assert (chains.scale == 1).all()


@pytest.mark.parametrize("unit_mass", [False, True])
def test_the_posterior_of_a_linear_gaussian_model_is_sampled(unit_mass):
    model, x = LinearGaussian(), torch.rand(8, 1, 4, 4, generator=seeded())
    chains = repair(model, x, num_samples=200, warmup=50, unit_mass=unit_mass, generator=seeded(1))
    exact = model.posterior(x)
    assert_moments(chains.samples, exact.mean, exact.stddev**2)
    assert not chains.divergences.any()


def test_the_posterior_density_is_the_exact_posterior_times_the_evidence():
    model, x = LinearGaussian(), torch.rand(4, 1, 4, 4, generator=seeded())
    z, index = torch.randn(3, 3, generator=seeded()), torch.tensor([2, 0, 3])
    density = posterior_density(model, x)(z, index)
    torch.testing.assert_close(density, model.posterior(x[index]).log_prob(z) + model.log_evidence(x[index]))


def random_walk(density, z, *, steps, width, seed=0):
    """Metropolis et al., 1953, for many walkers: the states (T, N, D)."""
    rng, value, states = np.random.default_rng(seed), density(z), []
    for _ in range(steps):
        proposal = z + width * rng.standard_normal(z.shape)
        new = density(proposal)
        accept = np.log(rng.random(len(z))) < new - value
        z, value = np.where(accept[:, None], proposal, z), np.where(accept, new, value)
        states.append(z)
    return np.stack(states)


@pytest.fixture(scope="module")
def bent():
    """The posterior of an image under a VAE whose decoder bends: skewed, correlated, no Gaussian."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model = VAE(encoder, decoder, image_shape=(1, 8, 8), latent_dim=2).double().eval()
    with torch.no_grad():
        decoder[0].weight *= 3
        decoder[2].weight *= 4
        x = model.decode(torch.tensor([[1.0, -0.5]], dtype=torch.float64))
    density = posterior_density(model, x)
    return lambda z, index: density(z, torch.zeros_like(index))


def test_quadrature_a_random_walk_and_hmc_agree_on_the_posterior_of_a_vae(bent):
    axis = torch.linspace(-2.5, 4, 101, dtype=torch.float64)
    grid, nobody = torch.cartesian_prod(axis, axis - 1), torch.arange(101**2)
    with torch.no_grad():
        weight = bent(grid, nobody).softmax(0)
    mean, covariance = weight @ grid, grid.T.cov(aweights=weight, correction=0)
    deviation = covariance.diag().sqrt()
    assert weight @ ((grid[:, 0] - mean[0]) / deviation[0]) ** 3 > 0.8  # skewness

    z0 = torch.tensor([[0.0, 0], [2, 2], [-2, 2], [2, -2]], dtype=torch.float64).repeat(2, 1)
    chains = hmc.sample(bent, z0, num_samples=500, warmup=80, leapfrog_steps=5, generator=seeded())
    log_density = lambda z: bent(torch.from_numpy(z), nobody[: len(z)]).detach().numpy()  # noqa: E731
    walk = random_walk(log_density, z0.repeat(25, 1).numpy(), steps=400, width=0.5)[100:]
    for draws in (chains.samples.flatten(0, 1), torch.from_numpy(walk).flatten(0, 1)):
        torch.testing.assert_close(draws.mean(0) / deviation, mean / deviation, rtol=0, atol=0.1)
        error = (draws.T.cov() - covariance) / deviation.outer(deviation)
        assert error.abs().max() < 0.15
    assert_moments(chains.samples, mean.expand(8, 2), deviation.expand(8, 2) ** 2)


# The leapfrog


def test_the_leapfrog_goes_back_the_way_it_came():
    density, state = at(banana, double(5, 2))
    momentum, step_size, scale = (
        double(5, 2, seed=1),
        torch.full((5,), 0.05).double(),
        torch.tensor([0.7, 1.3]).double(),
    )
    end, turned = hmc.leapfrog(density, state, momentum, step_size, scale, 25)
    back, momentum_back = hmc.leapfrog(density, end, -turned, step_size, scale, 25)
    assert (end.z - state.z).norm(dim=1).min() > 0.5
    torch.testing.assert_close(back.z, state.z, rtol=0, atol=1e-9)
    torch.testing.assert_close(-momentum_back, momentum, rtol=0, atol=1e-9)


def test_the_leapfrog_keeps_volume():
    def move(point):
        density, state = at(banana, point[None, :2], create_graph=True)
        end, momentum = hmc.leapfrog(density, state, point[None, 2:], point.new_tensor([0.1]), point.new_ones(2), 7)
        return torch.cat([end.z, momentum], dim=1)[0]

    jacobian = torch.autograd.functional.jacobian(move, double(4))
    assert (jacobian - torch.eye(4)).abs().max() > 0.5
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-10)


def test_halving_the_step_size_quarters_the_energy_error():
    density, state = at(banana, double(20, 2))
    momentum = double(20, 2, seed=1)
    energy = lambda state, momentum: 0.5 * (momentum**2).sum(1) - state.log_density  # noqa: E731
    errors = []
    for steps in (100, 200, 400):
        end = hmc.leapfrog(density, state, momentum, torch.full((20,), 1.0 / steps), torch.ones(2), steps)
        errors.append((energy(*end) - energy(state, momentum)).abs().mean().item())
    order = -np.polyfit(np.log([100, 200, 400]), np.log(errors), 1)[0]
    assert order == pytest.approx(2, abs=0.05)


def test_a_transition_is_the_textbooks_with_a_diagonal_mass_matrix():
    g, scale, eta = (lambda z: -z - z**3), np.array([0.5, 2.0]), np.array([0.3, 0.5, 0.9])
    quartic = lambda z, index: -(z**2 / 2 + z**4 / 4).sum(1)  # noqa: E731
    z0, r, u = (t.numpy() for t in (double(3, 2), double(3, 2, seed=1), torch.tensor([0.1, 0.5, 0.9])))
    z, p, mass = z0, r / scale, scale**-2.0  # p ~ N(0, M)
    hamiltonian = lambda z, p: (z**2 / 2 + z**4 / 4 + p**2 / (2 * mass)).sum(1)  # noqa: E731
    start = hamiltonian(z, p)
    for _ in range(4):
        p = p + eta[:, None] / 2 * g(z)
        z = z + eta[:, None] * p / mass
        p = p + eta[:, None] / 2 * g(z)
    probability = np.minimum(1, np.exp(start - hamiltonian(z, p)))
    assert (u < probability).any() and (u >= probability).any()

    density, state = at(quartic, torch.from_numpy(z0))
    tensors = [torch.from_numpy(v) for v in (r, u, eta, scale)]
    new, accepted, _ = hmc.transition(density, state, *tensors, 4)
    np.testing.assert_allclose(accepted, probability, rtol=1e-10)
    np.testing.assert_allclose(new.z, np.where((u < probability)[:, None], z, z0), rtol=1e-10)
    torch.testing.assert_close((new.log_density, new.gradient), density(new.z))


# Chains of their own


def test_a_batch_equals_its_chains_run_alone():
    z0, arguments = double(5, 2), {"num_samples": 8, "warmup": 20, "leapfrog_steps": 4}
    step_size = torch.linspace(0.02, 0.2, 5).double()
    whole = hmc.sample(banana, z0, step_size=step_size, generator=seeded(), **arguments)
    assert whole.accept_rate.min() > 0 and whole.step_size.unique().numel() == 5
    chunked = hmc.sample(banana, z0, step_size=step_size, generator=seeded(), chunk=2, **arguments)
    for k in range(5):
        alone = hmc.sample(
            lambda z, index, k=k: banana(z, index + k),
            z0[[k]],
            step_size=step_size[[k]],
            seeds=whole.seeds[[k]],
            **arguments,
        )
        for name in FIELDS:
            for other in (whole, chunked):
                torch.testing.assert_close(getattr(other[[k]], name), getattr(alone, name), rtol=0, atol=1e-9)


def test_a_chain_in_trouble_does_not_disturb_the_others():
    def trouble(z, index):
        value = banana(z, index)
        return torch.where(index == 2, 50 * value + (0.1 - z[:, 0]).log(), value)  # not a number beyond 0.1

    z0 = -double(5, 2).abs()
    arguments = {"num_samples": 10, "warmup": 20, "step_size": 0.3}
    well, ill = (hmc.sample(f, z0, generator=seeded(), **arguments) for f in (banana, trouble))
    others = torch.tensor([0, 1, 3, 4])
    assert all(torch.equal(getattr(well, name)[others], getattr(ill, name)[others]) for name in FIELDS)
    assert not torch.equal(well.samples[2], ill.samples[2]) and ill.path.isfinite().all()


def test_a_rejected_proposal_leaves_the_present_state_and_not_the_start():
    density, start = at(banana, double(6, 2))
    ones = torch.ones(6).double()
    arguments = {"scale": torch.ones(6, 2), "leapfrog_steps": 3}
    moved, _, _ = hmc.transition(density, start, double(6, 2, seed=1), 0 * ones, 0.1 * ones, **arguments)
    assert (moved.z != start.z).all()
    stayed, probability, divergent = hmc.transition(
        density, moved, double(6, 2, seed=2), 1e-9 * ones, 1e3 * ones, **arguments
    )
    assert (probability == 0).all() and divergent.all()
    for name in ("z", "log_density", "gradient"):
        assert torch.equal(getattr(stayed, name), getattr(moved, name))


def test_chains_stay_where_they_are_on_rejection_and_never_return_to_the_start():
    z0 = double(8, 2)
    chains = hmc.sample(banana, z0, num_samples=60, warmup=0, step_size=0.5, leapfrog_steps=3, generator=seeded())
    stays = (chains.path[:, 1:] == chains.path[:, :-1]).all(-1)
    assert 0.2 < stays.double().mean() < 0.9
    moved = ~stays.cummin(1).values  # it has moved at least once
    assert moved[:, -1].sum() > 4
    assert not (chains.samples == z0[:, None]).all(-1)[moved].any()
    assert (chains.log_density[:, 1:] == chains.log_density[:, :-1])[stays[:, 1:]].all()


def test_seeds_make_the_chains():
    first, again = (hmc.sample(banana, double(4, 2), num_samples=5, warmup=5, generator=seeded(7)) for _ in range(2))
    other = hmc.sample(banana, double(4, 2), num_samples=5, warmup=5, generator=seeded(8))
    given = hmc.sample(banana, double(4, 2), num_samples=5, warmup=5, seeds=first.seeds)
    assert torch.equal(first.path, again.path) and torch.equal(first.path, given.path)
    assert not torch.equal(first.path, other.path) and first.seeds.unique().numel() == 4


# Adaptation


@pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
def test_each_chain_finds_the_step_size_of_its_target_and_its_acceptance_rate(target):
    stddev = torch.tensor([0.03, 1.0]).repeat(8)[:, None].expand(16, 10)
    z0 = stddev * torch.randn(16, 10, generator=seeded())
    arguments = {"num_samples": 150, "warmup": 250, "leapfrog_steps": 5, "target_accept": target}
    chains = hmc.sample(gaussian(torch.zeros(10), stddev), z0, adapt_scale=False, generator=seeded(), **arguments)
    assert (chains.accept_rate - target).abs().max() < 0.25
    assert chains.accept_rate.mean().item() == pytest.approx(target, abs=0.08)
    unit = chains.step_size / stddev[:, 0]
    assert unit.max() < 1.4 * unit.min()


@pytest.mark.parametrize("warmup", [15, 20, 40, 60, 100])
def test_a_short_warm_up_leaves_a_usable_step_size(warmup):
    stddev = (math.log(30) * (torch.rand(32, 10, generator=seeded()) - 1)).exp()
    z0 = stddev * torch.randn(32, 10, generator=seeded(1))
    rough = stddev * (0.3 * torch.randn(32, 10, generator=seeded(2))).exp()
    chains = hmc.sample(
        gaussian(torch.zeros(10), stddev),
        z0,
        num_samples=40,
        warmup=warmup,
        leapfrog_steps=5,
        scale=rough,
        generator=seeded(3),
    )
    assert chains.accept_rate.median() > 0.8 and chains.accept_rate.quantile(0.1) > 0.6


def test_step_sizes_are_frozen_after_the_warm_up_but_for_their_jitter():
    visits = []

    def normal(z, index):
        visits.append(z.detach())
        return -0.5 * (z**2).sum(1)

    def made(**arguments):  # two steps and three points give η: z₂ − 2z₁ + z₀ = η² ∇log p(z₁) = −η² z₁
        visits.clear()
        chains = hmc.sample(normal, double(6, 2), leapfrog_steps=2, adapt_scale=False, generator=seeded(), **arguments)
        z0, z1, z2 = chains.path[:, :-1], torch.stack(visits[1::2], 1), torch.stack(visits[2::2], 1)
        return (-((z2 - 2 * z1 + z0) * z1).sum(-1) / (z1**2).sum(-1)).sqrt() / chains.step_size[:, None]

    ratio = made(num_samples=40, warmup=30, jitter=0.0)
    torch.testing.assert_close(ratio[:, 30:], torch.ones_like(ratio[:, 30:]))
    assert ratio[:, :30].std(1).min() > 0.1
    ratio = made(num_samples=300, warmup=0, jitter=0.5)
    assert 0.5 <= ratio.min() < 0.51 and 1.49 < ratio.max() <= 1.5 and abs(ratio.mean() - 1) < 0.03


def test_without_a_warm_up_the_given_step_sizes_and_scales_are_used():
    step_size, scale = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.5, 2.0]).double()
    chains = hmc.sample(banana, double(2, 2), num_samples=3, warmup=0, step_size=step_size, scale=scale)
    assert torch.equal(chains.step_size, step_size) and torch.equal(chains.scale, scale.expand(2, 2))
    assert chains.warmup.shape == (2, 0, 2)


# What a run reports


@given(
    n=st.integers(1, 4),
    d=st.integers(1, 3),
    leapfrog_steps=st.integers(1, 4),
    warmup=st.integers(0, 20),
    num_samples=st.integers(1, 6),
    chunk=st.integers(1, 5),
    step_size=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_whatever_the_run_its_report_is_coherent(n, d, leapfrog_steps, warmup, num_samples, chunk, step_size, seed):
    calls = torch.zeros(n)

    def density(z, index):
        calls[index] += 1
        return -0.5 * (z**2).sum(1) - (z**4).sum(1) * (1 + index)

    z0 = torch.randn(n, d, generator=seeded(seed))
    chains = hmc.sample(
        density,
        z0,
        num_samples=num_samples,
        warmup=warmup,
        leapfrog_steps=leapfrog_steps,
        step_size=step_size,
        chunk=chunk,
        generator=seeded(seed),
    )
    assert (calls == chains.gradient_calls).all() and calls[0] == 1 + leapfrog_steps * (warmup + num_samples)
    assert chains.samples.shape == (n, num_samples, d) and chains.warmup.shape == (n, warmup, d)
    assert chains.path.shape == (n, 1 + warmup + num_samples, d) and torch.equal(chains.path[:, 0], z0)
    assert torch.equal(chains.path[:, -1], chains.last) and torch.equal(chains.start, z0)
    assert all(getattr(chains, name).isfinite().all() for name in FIELDS)
    values = torch.stack([density(z, torch.arange(n)) for z in chains.samples.unbind(1)], 1)
    torch.testing.assert_close(chains.log_density, values)
    assert (chains.accept_rate >= 0).all() and (chains.accept_rate <= 1).all() and (chains.step_size > 0).all()
    assert (chains.divergences >= 0).all() and (chains.divergences <= num_samples).all()
    assert chains.seeds.shape == (n,) and chains.scale.shape == (n, d)


def test_mean_and_the_worst_dimensions_of_each_chain():
    chains = hmc.sample(banana, double(3, 2), num_samples=50, warmup=20, generator=seeded())
    for k, one in enumerate(chains[[i]] for i in range(3)):
        assert torch.equal(one.mean[0], chains.samples[k].mean(0))
        worst = min(ess(chains.samples[k, :, d][None]) for d in range(2))
        worse = max(split_rhat(chains.samples[k, :, d][None]) for d in range(2))
        torch.testing.assert_close((chains.ess[k], one.ess[0]), (worst, worst))
        torch.testing.assert_close((chains.rhat[k], one.rhat[0]), (worse, worse))
        assert one.seeds[0] == chains.seeds[k]
    assert torch.equal(chains[1:].samples, chains.samples[1:])
    assert chains[1:].gradient_calls == chains.gradient_calls == 701


def test_chains_carry_no_graph_and_leave_no_gradients():
    model, x = LinearGaussian(), torch.rand(2, 1, 4, 4, generator=seeded())
    model.w = model.w.clone().requires_grad_()
    z0 = torch.randn(2, 3, generator=seeded(), requires_grad=True)
    run = lambda: hmc.sample(posterior_density(model, x), z0, num_samples=4, warmup=4, generator=seeded())  # noqa: E731
    chains = run()
    with torch.no_grad():
        assert torch.equal(run().path, chains.path)
    assert not any(getattr(chains, name).requires_grad for name in FIELDS)
    assert model.w.grad is None and z0.grad is None


def test_repair_starts_where_the_encoder_looks_and_takes_the_published_schedule():
    model, x = LinearGaussian(), torch.rand(4, 1, 4, 4, generator=seeded())
    z0 = model.posterior(x).rsample(generator=seeded())
    published = repair(model, x, generator=seeded(), **PUBLISHED | {"num_samples": 2, "warmup": 2})
    assert torch.equal(published.start, z0) and (published.scale == 1).all() and published.gradient_calls == 81
    scaled = repair(model, x, num_samples=2, warmup=2, generator=seeded())
    assert torch.equal(scaled.start, z0) and torch.equal(scaled.scale, model.posterior(x).stddev)
    chunked = repair(model, x, num_samples=2, warmup=2, chunk=3, generator=seeded())
    torch.testing.assert_close(chunked.path, scaled.path)
    assert repair(model, x, generator=seeded()).gradient_calls == 301


# Divergences, interrupts, and what is refused


def test_divergences_are_rejected_and_counted():
    cliff = gaussian(torch.zeros(2), torch.tensor([[1e-4], [1.0]]).expand(2, 2))
    z0 = torch.full((2, 2), 1e-4)
    chains = hmc.sample(cliff, z0, num_samples=20, warmup=0, step_size=0.2, jitter=0.0, generator=seeded())
    assert chains.divergences.tolist() == [20, 0] and chains.accept_rate[0] == 0
    assert (chains.samples[0] == z0[0]).all() and chains.samples.isfinite().all()


def test_a_chain_meets_the_edge_of_its_density_and_stays_inside():
    gamma = lambda z, index: (2 * z.log() - z).sum(1)  # noqa: E731  (not a number below 0)
    chains = hmc.sample(
        gamma, torch.ones(4, 1), num_samples=600, warmup=0, step_size=0.5, leapfrog_steps=5, generator=seeded()
    )
    assert (chains.divergences > 0).all() and (chains.samples > 0).all()
    assert_moments(chains.samples, torch.full((4, 1), 3.0), torch.full((4, 1), 3.0))


def test_a_trajectory_that_overflows_never_shows_the_density_what_is_not_finite():
    model, x = LinearGaussian(), torch.rand(3, 1, 4, 4, generator=seeded())  # torch.distributions refuse NaN
    hopeless = PUBLISHED | {"num_samples": 3, "warmup": 0, "step_size": 50.0}
    chains = repair(model, x, generator=seeded(), **hopeless)
    assert (chains.divergences == 3).all() and torch.equal(chains.last, chains.start)


def run(**changes):
    arguments = {"log_density": gaussian(torch.zeros(2), torch.ones(3, 2)), "z0": torch.ones(3, 2)}
    arguments |= {"num_samples": 2, "warmup": 2} | changes
    return hmc.sample(arguments.pop("log_density"), arguments.pop("z0"), **arguments)


weights = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"z0": [[0.0]]}, TypeError, "z0: a torch tensor of flat latents"),
        ({"z0": torch.ones(3)}, ValueError, r"z0: flat latents \(N, D\) expected"),
        ({"z0": torch.tensor([[0.0, 0], [0, torch.nan]])}, ValueError, r"z0: NaN or infinite values in row\(s\) \[1\]"),
        ({"z0": torch.ones(3, 2, dtype=torch.long)}, TypeError, "z0: floats expected"),
        ({"num_samples": 0}, ValueError, "num_samples: a whole number ≥ 1 expected, got 0"),
        ({"num_samples": 2.5}, ValueError, "num_samples: a whole number"),
        ({"warmup": -1}, ValueError, "warmup: a whole number ≥ 0 expected, got -1"),
        ({"leapfrog_steps": 0}, ValueError, "leapfrog_steps: a whole number ≥ 1"),
        ({"chunk": 0}, ValueError, "chunk: a whole number ≥ 1"),
        ({"target_accept": 1.5}, ValueError, "target_accept: a rate between 0 and 1 expected, got 1.5"),
        ({"jitter": 1.0}, ValueError, "jitter: a share of the step size"),
        ({"step_size": 0.0}, ValueError, r"step_size: positive, a number or \(3,\), expected"),
        ({"step_size": -0.1}, ValueError, "step_size: positive, .* got -0.1"),
        ({"step_size": torch.ones(2)}, ValueError, r"step_size: .* got shape \(2,\)"),
        ({"step_size": torch.tensor([0.1, torch.inf, 0.1])}, ValueError, "step_size: positive"),
        ({"scale": torch.ones(3)}, ValueError, r"scale: positive, a number or \(2,\) or \(3, 2\), expected, got shape"),
        ({"scale": torch.tensor([1.0, 0.0])}, ValueError, "scale: positive"),
        ({"seeds": [1, 2, 3]}, ValueError, "seeds: a tensor of whole numbers"),
        ({"seeds": torch.arange(2)}, ValueError, r"seeds: a tensor of whole numbers \(3,\)"),
        ({"seeds": torch.ones(3)}, ValueError, "seeds: a tensor of whole numbers"),
        ({"log_density": lambda z, i: z.sum()}, ValueError, r"one value for each chain, \(3,\), expected, got \(\)"),
        ({"log_density": lambda z, i: z}, ValueError, r"one value for each chain, \(3,\), expected, got \(3, 2\)"),
        ({"log_density": lambda z, i: 1.0}, ValueError, "one value for each chain, .* got float"),
        ({"log_density": lambda z, i: z.detach().sum(1)}, ValueError, "does not depend on z differentiably"),
        ({"log_density": lambda z, i: z.detach() @ weights}, ValueError, "does not depend on z differentiably"),
        (
            {"log_density": lambda z, i: z.sum(1) / (i - 1)},
            ValueError,
            r"NaN or infinite .* at z0 of chain\(s\) \[1\] of 3",
        ),
        ({"log_density": lambda z, i: (z - 1).sqrt().sum(1)}, ValueError, r"its gradient\) at z0 of .* \[0, 1, 2\]"),
    ],
)
def test_bad_arguments_are_refused(changes, error, says):
    with pytest.raises(error, match=says):
        run(**changes)


def test_repair_refuses_what_is_no_image_and_no_model_at_rest():
    x = torch.rand(1, 1, 8, 8)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp")
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
        repair(model, x)
    with pytest.raises(ValueError, match="x: pixels in"):
        repair(model.eval(), 255 * x)
    with pytest.raises(TypeError, match="no posterior, decode"):
        repair(object(), x)


def test_a_posterior_without_spread_and_inference_mode_are_told():
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    posterior = model.posterior
    model.posterior = lambda x: DiagonalGaussian(posterior(x).mean, torch.full((len(x), 2), -300.0))
    x = torch.rand(2, 1, 8, 8, generator=seeded())
    with pytest.raises(ValueError, match=r"model: posterior\(x\).stddev > 0 expected"):
        repair(model, x)
    repair(model, x, num_samples=2, warmup=2, unit_mass=True)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        repair(model, x, unit_mass=True)


def test_the_scale_is_not_learnt_on_the_way_to_the_target():
    """The first transitions come from far away: with them, the scale came out as 3.6 and the step as .26."""
    far = torch.full((64, 2), 30.0)
    chains = hmc.sample(lambda z, i: -0.5 * (z**2).sum(1), far, num_samples=5, warmup=40, generator=seeded())
    assert 0.8 < chains.scale.mean() < 1.5 and chains.step_size.mean() > 0.5


def test_what_was_made_in_inference_mode_can_be_sampled():
    with torch.inference_mode():
        x = torch.rand(3, 1, 4, 4, generator=seeded())
    ordinary, made = (repair(LinearGaussian(), images, generator=seeded()) for images in (x.clone(), x))
    assert torch.equal(ordinary.last, made.last)
    with torch.inference_mode():
        z0 = torch.zeros(3, 2)
    assert hmc.sample(lambda z, i: -(z**2).sum(1), z0, num_samples=3, warmup=0).samples.shape == (3, 3, 2)


def test_a_number_picks_one_chain_in_the_same_shapes():
    chains = repair(LinearGaussian(), torch.rand(3, 1, 4, 4, generator=seeded()), generator=seeded())
    for k in (0, -1, np.int64(2)):
        one = chains[k]
        assert one.mean.shape == (1, 3) and one.ess.shape == one.rhat.shape == (1,)
        assert torch.equal(one.last[0], chains.last[int(k)])
    with pytest.raises(IndexError):
        chains[3]


@pytest.mark.parametrize("summed", ["log_prior", "log_likelihood"])
def test_a_density_that_is_summed_over_the_batch_is_refused(summed):
    model = LinearGaussian()
    whole = getattr(model, summed)
    setattr(model, summed, lambda *given: whole(*given).sum())
    with pytest.raises(ValueError, match=rf"{summed}: nats, one number for each image, .* got shape \(\)"):
        repair(model, torch.rand(3, 1, 4, 4, generator=seeded()))


def test_a_number_in_a_tensor_is_an_index_of_chains():
    chains = repair(LinearGaussian(), torch.rand(3, 1, 4, 4, generator=seeded()), generator=seeded())
    assert chains[chains.rhat.argmax()].mean.shape == chains[np.array(1)].mean.shape == (1, 3)


def test_a_likelihood_without_a_gradient_leads_no_chain():
    model = LinearGaussian()
    whole = model.log_likelihood
    model.log_likelihood = lambda x, z: whole(x, z.detach())
    with pytest.raises(ValueError, match="log_likelihood: HMC needs its gradient in z"):
        repair(model, torch.rand(3, 1, 4, 4, generator=seeded()))


def test_small_whole_numbers_of_numpy_do_not_overflow():
    few = {"num_samples": np.int8(100), "warmup": np.int8(100), "leapfrog_steps": np.uint8(2)}
    chains = hmc.sample(lambda z, i: -(z**2).sum(1), torch.zeros(2, 2), **few, generator=seeded())
    assert chains.samples.shape == (2, 100, 2) and chains.gradient_calls == 401


def test_a_seed_in_place_of_a_generator_is_told():
    with pytest.raises(TypeError, match=r"generator: a torch.Generator expected, got 3; seeded\(seed\) makes one"):
        repair(LinearGaussian(), torch.rand(3, 1, 4, 4, generator=seeded()), generator=3)
