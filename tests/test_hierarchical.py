"""The hierarchical VAE: exact densities along a path, in z as in u; what its groups do; and training."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from tests.oracles import seeded
from vaenb import data
from vaenb.attacks import encoder
from vaenb.checkpoints import trained
from vaenb.distributions import standard_normal
from vaenb.metrics.likelihood import elbo, iwae
from vaenb.models import hierarchical_vae

GROUPS = ((1, 4), (4, 1), (8, 1))
SMALL = {"image_shape": (1, 16, 16), "channels": 8, "groups": GROUPS}


def build(**changes):
    """A small model in double precision, with weights large enough for every group to depend on those above."""
    torch.manual_seed(0)
    model = hierarchical_vae(**{**SMALL, **changes}).double().eval().requires_grad_(False)
    for group in model.decoder.groups:
        for layer in (group.p, group.q[-1], group.inject):
            layer.weight.mul_(3)
    return model


def images(n=5, seed=0, shape=(1, 16, 16)):
    return torch.rand(n, *shape, generator=seeded(seed), dtype=torch.float64)


def codes(model, n=5, seed=1):
    return torch.randn(n, model.latent_dim, generator=seeded(seed), dtype=torch.float64)


def centred(model, u, features):
    """An independent way down in z: each group's z_l, log σ_l, and the centred q(z_l|z_<l, x) and p(z_l|z_<l)."""
    h, way = model.decoder.top.expand(len(u), -1, -1, -1), []
    for group, f, part in zip(model.decoder.groups, features, model.group_slices, strict=True):
        mu, a = group.p(h).chunk(2, 1)
        m, b = group.q(torch.cat([h, f], 1)).chunk(2, 1)
        sigma, s = ((5 * (logvar / 10).tanh()).exp() for logvar in (a, b))
        z = mu + sigma * u[:, part].view_as(mu)
        way.append(
            (z, sigma.log(), Independent(Normal(mu + sigma * m, sigma * s), 3), Independent(Normal(mu, sigma), 3))
        )
        h = group.up(group.block(h + group.inject(z)))
    return way


def test_the_log_densities_are_those_of_the_centred_hierarchy():
    model, x = build(), images()
    u, q = codes(model), model.posterior(x)
    way = centred(model, u, q.features)
    to_u = [log_sigma.flatten(1).sum(1) for _, log_sigma, _, _ in way]  # |dz/du|
    prior = sum(p.log_prob(z) + jacobian for (z, _, _, p), jacobian in zip(way, to_u, strict=True))
    posterior = sum(q_l.log_prob(z) + jacobian for (z, _, q_l, _), jacobian in zip(way, to_u, strict=True))
    torch.testing.assert_close(model.log_prior(u), prior)
    torch.testing.assert_close(model.log_prior(u), Normal(0.0, 1.0).log_prob(u).sum(1))
    torch.testing.assert_close(q.log_prob(u), posterior)


def test_each_groups_kl_to_the_prior_is_the_same_in_u_and_in_z():
    model = build()
    q = model.posterior(images())
    way = centred(model, q.mean, q.features)
    expected = torch.stack([kl_divergence(q_l, p_l) for _, _, q_l, p_l in way], 1)
    torch.testing.assert_close(q.kl_layers(standard_normal(q.mean)), expected)
    torch.testing.assert_close(q.kl(standard_normal(q.mean)), expected.sum(1))


def test_both_conditionals_of_a_groups_kl_lie_on_the_path_of_the_first():
    model = build()
    p, q = model.posterior(images()), model.posterior(images(seed=1))
    ways = centred(model, p.mean, p.features), centred(model, p.mean, q.features)
    expected = torch.stack([kl_divergence(a, b) for (_, _, a, _), (_, _, b, _) in zip(*ways, strict=True)], 1)
    torch.testing.assert_close(p.kl_layers(q), expected)
    assert (p.kl_layers(q) != q.kl_layers(p)).all() and p.kl_layers(q).shape == (5, 3)


def test_with_a_single_group_the_kl_is_the_gaussians():
    model = build(groups=((4, 2),))
    p, q = model.posterior(images()), model.posterior(images(seed=1))
    p_, q_ = (Independent(Normal(d.mean, d.stddev), 1) for d in (p, q))
    torch.testing.assert_close(p.kl(q), kl_divergence(p_, q_))
    torch.testing.assert_close(p.log_prob(q.mean), p_.log_prob(q.mean))


def test_log_prob_and_the_conditionals_agree_over_samples():
    model, copies = build(), torch.zeros(1000, dtype=torch.long)
    p, q = (model.posterior(images(1, seed=seed))[copies] for seed in (0, 1))
    u = p.rsample(generator=seeded())
    along = model.decoder.follow(u).states
    exact = model.decoder.conditionals(along, p.features).kl(model.decoder.conditionals(along, q.features))
    ratio = p.log_prob(u) - q.log_prob(u)
    error = (ratio - exact).std().item() / math.sqrt(len(u))
    assert exact.mean() > 0.3 and abs((ratio - exact).mean().item()) < 4 * error < 0.2
    assert exact.std() > 0.01  # it depends on the path


def test_samples_are_standard_normal_around_their_conditionals():
    model = build()
    q = model.posterior(images(1))[torch.zeros(1000, dtype=torch.long)]
    u = q.rsample(generator=seeded())
    given = model.decoder.conditionals(model.decoder.follow(u).states, q.features)
    noise = (u - given.mean) / given.stddev
    assert noise.mean(0).abs().max() < 5 / math.sqrt(1000) and (noise.std(0) - 1).abs().max() < 0.12
    assert (noise.T.corrcoef() - torch.eye(84)).abs().max() < 0.17  # no group's noise is used for another


def test_the_mean_is_ancestral_and_where_narrow_posteriors_sample():
    model = build()
    for group in model.decoder.groups:
        group.q[-1].bias[len(group.q[-1].bias) // 2 :] = -1000.0
    q = model.posterior(images())
    given = model.decoder.conditionals(model.decoder.follow(q.mean).states, q.features)
    torch.testing.assert_close(given.mean, q.mean)
    torch.testing.assert_close(q.stddev, torch.full_like(q.stddev, math.exp(-5)))
    torch.testing.assert_close(q.rsample(generator=seeded()), q.mean, atol=0.05, rtol=0)


def test_a_batch_equals_its_members():
    model, x = build(), images()
    q, r, u = model.posterior(x), model.posterior(images(seed=1)), codes(model)
    for i in range(5):
        one = model.posterior(x[i : i + 1])
        for value, expected in (
            (one.log_prob(u[i : i + 1]), q.log_prob(u)),
            (one.stddev, q.stddev),
            (one.kl_layers(r[[i]]), q.kl_layers(r)),
            (q[[i]].kl(r[[i]]), q.kl(r)),
            (q[torch.tensor([i])].log_prob(u[i : i + 1]), q.log_prob(u)),
            (model.log_likelihood(x[i : i + 1], u[i : i + 1]), model.log_likelihood(x, u)),
        ):
            torch.testing.assert_close(value, expected[i : i + 1])


def test_the_top_groups_kl_has_a_gradient_in_its_own_image_only():
    model, x = build(), images().requires_grad_()
    reference = model.posterior(images(seed=1))
    top = model.posterior(x).kl_layers(reference)[:, :1]
    (gradient,) = torch.autograd.grad(top[2].sum(), x)
    rows = gradient.flatten(1).norm(dim=1)
    assert rows[2] > 1e-3 and rows[[0, 1, 3, 4]].sum() == 0


def test_top_groups_do_not_see_the_groups_below():
    model, x = build(), images()
    q, r = model.posterior(x), model.posterior(images(seed=1))
    top, middle, low = model.group_slices
    before = q.kl_layers(r)
    model.decoder.groups[1].q[-1].bias.add_(0.5)
    after = model.posterior(x).kl_layers(model.posterior(images(seed=1)))
    assert torch.equal(before[:, 0], after[:, 0]) and (before[:, 2] != after[:, 2]).all()
    assert torch.equal(model.posterior(x).mean[:, top], q.mean[:, top])
    assert (model.posterior(x).mean[:, low] != q.mean[:, low]).any(1).all()


def test_the_top_group_reaches_the_image_past_the_groups_below():
    model, u = build(), codes(build())
    top, below = model.group_slices[0], slice(model.group_slices[1].start, None)
    new_top, new_below = u.clone(), u.clone()
    new_top[:, top], new_below[:, below] = 0, 0
    states = [model.decoder.follow(v).states for v in (u, new_top)]
    priors = [group.p(h) for group, h in zip(model.decoder.groups[1:], states[0][1:], strict=True)]
    moved = [group.p(h) for group, h in zip(model.decoder.groups[1:], states[1][1:], strict=True)]
    assert all(((a - b).flatten(1).norm(dim=1) > 1e-3).all() for a, b in zip(priors, moved, strict=True))
    for group in model.decoder.groups[1:]:
        group.inject.weight.zero_()  # no latent but the top group's enters now
    assert torch.equal(model.decode(u), model.decode(new_below))
    assert ((model.decode(u) - model.decode(new_top)).flatten(1).norm(dim=1) > 1e-3).all()


def test_the_kl_of_the_training_loss_is_that_of_the_elbo():
    model, x = build(), images(2)
    copies = x.repeat(1000, 1, 1, 1)
    kl = model.losses(copies, torch.zeros(2000), seeded())["kl"].item()
    q = model.posterior(x)[torch.arange(2).repeat(1000)]
    u = q.rsample(generator=seeded(1))
    ratio = q.log_prob(u) - model.log_prior(u)
    error = ratio.std().item() / math.sqrt(2000)
    assert ratio.mean().item() == pytest.approx(kl, abs=4 * error) and error < 0.02 * kl


def test_the_iwae_bound_is_above_the_elbo():
    model, x = build(), images()
    assert (iwae(model, x, generator=seeded()) > elbo(model, x, samples=64, generator=seeded()) + 1).all()


@pytest.mark.parametrize(("beta", "free_bits"), [(1.0, 0.0), (4.0, 0.0), (2.0, 1e6)])
def test_the_loss_is_the_sum_of_its_parts(beta, free_bits):
    model, x = build(beta=beta, free_bits=free_bits), images()
    losses = model.losses(x, torch.zeros(5), seeded())
    kls = [losses[f"kl{i}"] for i in (1, 2, 3)]
    torch.testing.assert_close(losses["kl"], sum(kls))
    torch.testing.assert_close(losses["loss"], losses["nll"] + beta * sum(kl.clamp(min=free_bits) for kl in kls))
    u = model.posterior(x).rsample(generator=seeded())
    torch.testing.assert_close(losses["nll"], -model.log_likelihood(x, u).mean())


def test_an_extreme_model_keeps_finite_numbers():
    model = build()
    for group in model.decoder.groups:
        group.p.weight.mul_(1e4)
        group.q[-1].weight.mul_(1e4)
    x = images().requires_grad_()
    q = model.posterior(x)
    divergence = encoder.symmetric_kl(q, model.posterior(images(seed=1)))
    (gradient,) = torch.autograd.grad(divergence.sum(), x)
    assert divergence.isfinite().all() and gradient.isfinite().all() and (q.stddev > 0).all()


@given(
    top=st.sampled_from([1, 2]),
    factors=st.lists(st.sampled_from([1, 2, 4]), min_size=0, max_size=3),
    zchannels=st.integers(1, 3),
    colours=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=15)
def test_groups_of_any_sizes_lie_side_by_side(top, factors, zchannels, colours):
    sizes = [top]
    for factor in factors:
        sizes.append(min(sizes[-1] * factor, 16))
    groups = [[size, zchannels] for size in sizes]
    model = build(image_shape=(colours, 16, 16), channels=4, groups=groups)
    x = images(2, shape=(colours, 16, 16))
    widths = [part.stop - part.start for part in model.group_slices]
    assert widths == [size**2 * zchannels for size in sizes] and sum(widths) == model.latent_dim
    q = model.posterior(x)
    assert model.decode(q.mean).shape == x.shape and q.kl_layers(q).shape == (2, len(groups))
    assert torch.equal(q.kl(q), torch.zeros(2, dtype=torch.float64))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="train", size=16, limit=256)


def test_training_raises_the_elbo_and_every_group_is_used(digits, tmp_path):
    config = {**SMALL, "channels": 16, "free_bits": 3.0}
    fit = {"epochs": 10, "batch_size": 16, "lr": 4e-3, "folder": tmp_path, "progress": False}
    model, history = trained(hierarchical_vae, config, digits, **fit)
    first, last = history.epochs[0], history.epochs[-1]
    assert last["loss"] < first["loss"] - 5
    assert all(0.5 < last[name] < 20 for name in ("kl1", "kl2", "kl3"))
    torch.manual_seed(0)
    x = digits.float(slice(64))
    untrained = hierarchical_vae(**config).eval()
    assert elbo(model, x).mean() > elbo(untrained, x).mean() + 20
    again, history_again = trained(hierarchical_vae, config, digits, **fit)
    assert history_again == history
    assert torch.equal(again.posterior(x).mean, model.posterior(x).mean)


def test_an_attack_on_the_top_group_moves_it_more_than_one_on_all():
    model, x = build(), images(4)

    def top(p, q):
        return p.kl_layers(q)[:, 0]

    quick = {"eps": 0.1, "steps": 20, "restarts": 1}
    on_top = encoder.attack(model, x, divergence=top, generator=seeded(), **quick)
    on_all = encoder.attack(model, x, divergence="kl_reverse", generator=seeded(), **quick)
    moved = top(model.posterior(on_all.adversarial), model.posterior(x))
    assert (on_top.loss > moved).all() and on_top.loss.min() > 0


def test_a_posterior_of_another_model_is_refused():
    with pytest.raises(ValueError, match="of the same model"):
        build().posterior(images()).kl(build().posterior(images()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"groups": ()}, "groups: pairs"),
        ({"groups": ((4, 0),)}, "groups: pairs"),
        ({"groups": (4, 1)}, "groups: pairs"),
        ({"groups": ((4, 1), (2, 1))}, r"got \[4, 2, 16\]"),
        ({"groups": ((3, 1),)}, r"groups: .* up to the image's, got \[3, 16\]"),
        ({"image_shape": (1, 16, 8)}, "square"),
        ({"channels": 0}, "channels: a whole number ≥ 1 expected, got 0"),
        ({"free_bits": -1.0}, "free_bits: a finite number of nats ≥ 0 expected, got -1.0"),
        ({"beta": -1.0}, "beta: a finite weight"),
        ({"likelihood": "poisson"}, "likelihood: one of bernoulli, continuous_bernoulli, gaussian expected"),
    ],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        hierarchical_vae(**SMALL | wrong)
