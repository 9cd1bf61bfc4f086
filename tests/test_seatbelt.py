"""The Seatbelt-VAE: its loss and densities against an independent walk, its limits, and what attacks make of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from tests.oracles import seeded
from vaenb import data
from vaenb.attacks import encoder, latent
from vaenb.checkpoints import trained
from vaenb.checks import check_model
from vaenb.contract import NotDefined
from vaenb.defences.repair import repair
from vaenb.distributions import DiagonalGaussian, Point, standard_normal
from vaenb.metrics.likelihood import elbo, iwae
from vaenb.models import hierarchical_vae, seatbelt, vae
from vaenb.models.nets import NETS, coders
from vaenb.models.regularizers import TotalCorrelation
from vaenb.models.seatbelt import ORDERS, Seatbelt
from vaenb.sampling import hmc
from vaenb.sampling.posterior import posterior_density

DOUBLE = torch.float64
SMALL = {"image_shape": (1, 4, 4), "latent_dim": 2, "layers": 3, "size": 100, "net": "mlp"}


def build(*, latent_dim=2, layers=3, order="bottom_up", skip=True, size=100, beta=1.0, **bits):
    """A tiny model in double precision, of narrow posteriors, in which each layer depends on the one before."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.LeakyReLU(), nn.Linear(12, 2 * latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim * (layers if skip else 1), 16), nn.Unflatten(1, (1, 4, 4)))
    shapes = {"image_shape": (1, 4, 4), "latent_dim": layers * latent_dim, "layers": layers}
    kind = {"order": order, "skip": skip, "free_bits": 0.125, "top_free_bits": 0.0} | bits
    kind["regularizer"] = TotalCorrelation(size, beta)
    model = Seatbelt(encoder=encoder, decoder=decoder, **shapes, **kind).double().eval().requires_grad_(False)
    for net in (encoder[1:], *model.posteriors):
        net[0].weight.mul_(2)
        net[-1].weight.mul_(4)
        net[-1].bias[latent_dim:].sub_(1)
    return model


def images(n=6, seed=0, shape=(1, 4, 4)):
    return torch.rand(n, *shape, generator=seeded(seed), dtype=DOUBLE)


def codes(model, n=6, seed=1):
    return torch.randn(n, model.latent_dim, generator=seeded(seed), dtype=DOUBLE)


def walk(model, x, z):
    """An independent reading of the module's factors at the codes z: (z^i, q(z^i|·), p(z^i|·)) of each layer."""

    def conditional(outputs):
        mean, logvar = outputs.chunk(2, 1)
        return Normal(mean, (5 * (logvar / 10).tanh()).exp())

    z = z.split(model.latent_dim // (len(model.priors) + 1), 1)
    features, (mean, logvar) = model.encoder[:-1](x), model.encoder(x).chunk(2, 1)
    way = z if model.order == "bottom_up" else z[::-1]
    later = [conditional(net(torch.cat([features, b], 1))) for net, b in zip(model.posteriors, way[:-1], strict=True)]
    q = [Normal(mean, (logvar / 2).exp()), *later]
    p = [*(conditional(net(a)) for net, a in zip(model.priors, z[1:], strict=True)), Normal(0.0, 1.0)]
    return list(zip(z, q if model.order == "bottom_up" else q[::-1], p, strict=True))


def decomposed(z, q, size):
    """I_q, the total correlation and Σ KL of the top layer: minibatch-stratified sampling, entry by entry."""
    others = len(z) - 1
    weights = torch.full((len(z), len(z)), 1 / others, dtype=DOUBLE)
    for i in range(len(z)):
        weights[i, i], weights[i, (i + 1) % len(z)] = 1 / size, (size - others) / (size * others)
    pairs = q.log_prob(z[:, None])  # draw i under the posterior of image n
    joint = (pairs.sum(2).exp() * weights).sum(1).log()
    product = (pairs.exp() * weights[..., None]).sum(1).log().sum(1)
    log_q, log_p = q.log_prob(z).sum(1), Normal(0.0, 1.0).log_prob(z).sum(1)
    return (log_q - joint).mean(), (joint - product).mean(), (product - log_p).mean()


def formula(model, x, z):
    """The module's loss, in the order of its docstring."""
    way = walk(model, x, z)
    logits = model.decoder(z if model.skip else way[0][0])
    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1).mean()
    middle = [(q.log_prob(a) - p.log_prob(a)).mean(0) for a, q, p in way[:-1]]
    information, tc, dimensions = decomposed(*way[-1][:2], model.regularizer.size)
    penalty = information + model.regularizer.beta * tc + dimensions
    losses = {f"kl{i}": ratio.sum() for i, ratio in enumerate(middle, start=1)}
    bits = model.free_bits or -math.inf
    if model.top_free_bits:
        top, q, p = way[-1]
        ratio = (q.log_prob(top) - p.log_prob(top)).mean(0)
        penalty = ratio.clamp(min=model.top_free_bits).sum() + (model.regularizer.beta - 1) * tc
    loss = nll + sum(ratio.clamp(min=bits).sum() for ratio in middle) + penalty
    parts = {"mutual_information": information, "tc": tc, "dimension_kl": dimensions}
    return {"loss": loss, "nll": nll, **losses, **parts}


every_kind = pytest.mark.parametrize(
    ("layers", "order", "skip"),
    [(layers, order, skip) for layers in (1, 2, 5) for order in ORDERS for skip in (True, False)],
)
both_orders = pytest.mark.parametrize("order", ORDERS)


@pytest.mark.parametrize("beta", [1.0, 4.0])
@both_orders
def test_one_layer_is_the_beta_tcvae(order, beta):
    config = {"image_shape": (1, 4, 4), "latent_dim": 3, "net": "mlp", "size": 100, "beta": beta}
    torch.manual_seed(0)
    ours = seatbelt(layers=1, order=order, **config)
    torch.manual_seed(0)
    theirs = vae(regularizer="tc", **config)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    results = [model.losses(images().float(), torch.zeros(6), seeded()) for model in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    for result in results:
        result["loss"].backward()
    gradients = [[p.grad for p in model.parameters()] for model in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@every_kind
def test_at_beta_1_the_loss_is_minus_the_elbo_of_the_draw(layers, order, skip):
    model, x = build(layers=layers, order=order, skip=skip, free_bits=0.0), images()
    q = model.posterior(x)
    z = q.rsample(generator=seeded())
    one_sample = model.log_likelihood(x, z) + model.log_prior(z) - q.log_prob(z)
    torch.testing.assert_close(model.losses(x, torch.zeros(6), seeded())["loss"], -one_sample.mean())


@pytest.mark.parametrize(("free_bits", "top_free_bits"), [(0.0, 0.0), (0.125, 0.0), (0.125, 0.75), (0.0, 0.05)])
@every_kind
def test_the_loss_and_its_parts_are_the_modules_formula(layers, order, skip, free_bits, top_free_bits):
    bits = {"free_bits": free_bits, "top_free_bits": top_free_bits}
    model, x = build(layers=layers, order=order, skip=skip, beta=4.0, **bits), images()
    expected = formula(model, x, model.posterior(x).rsample(generator=seeded()))
    assert abs(3 * expected["tc"]) > 1e-3  # what β = 4 adds
    losses = model.losses(x, torch.zeros(6), seeded())
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)  # the estimator's weights are float32


@both_orders
def test_the_gradient_of_the_loss_is_the_formulas(order):
    model, x = build(order=order, beta=4.0).requires_grad_(), images()
    both = model.losses(x, torch.zeros(6), seeded()), formula(model, x, model.posterior(x).rsample(generator=seeded()))
    gradients = [torch.autograd.grad(losses["loss"], list(model.parameters())) for losses in both]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert all(gradient.norm() > 0 for gradient in gradients[0])


def test_free_bits_are_the_least_that_a_latent_below_the_top_costs():
    model, x = build(free_bits=0.0, beta=4.0), images()
    free = model.losses(x, torch.zeros(6), seeded())
    way = walk(model, x, model.posterior(x).rsample(generator=seeded()))
    ratio = torch.cat([(q.log_prob(z) - p.log_prob(z)).mean(0) for z, q, p in way[:-1]])
    for bits in (*ratio[ratio > 0].tolist(), 50.0):  # the k-th clamps the latents with smaller ratios
        model.free_bits = bits
        losses = model.losses(x, torch.zeros(6), seeded())
        added = (torch.full_like(ratio, bits) - ratio).relu().sum()
        torch.testing.assert_close(losses["loss"], free["loss"] + added)
        assert all(torch.equal(losses[name], free[name]) for name in free if name != "loss")


@both_orders
def test_log_densities_are_sums_over_the_walk(order):
    model, x = build(order=order), images()
    z = codes(model)
    way = walk(model, x, z)
    torch.testing.assert_close(model.log_prior(z), sum(p.log_prob(a).sum(1) for a, _, p in way))
    torch.testing.assert_close(model.posterior(x).log_prob(z), sum(q.log_prob(a).sum(1) for a, q, _ in way))


@both_orders
def test_samples_are_ancestral_and_without_noise_the_mean(order):
    model, x = build(order=order), images()
    q, noise = model.posterior(x), torch.randn(6, 6, generator=seeded(), dtype=DOUBLE)
    z = q.rsample(noise=noise)
    whitened = torch.cat([(a - given.mean) / given.stddev for a, given, _ in walk(model, x, z)], 1)
    torch.testing.assert_close(whitened, noise)
    assert torch.equal(z, q.rsample(generator=seeded())) and torch.equal(q.rsample(noise=0 * noise), q.mean)
    way = walk(model, x, q.mean)
    torch.testing.assert_close(q.mean, torch.cat([given.mean for _, given, _ in way], 1))
    torch.testing.assert_close(q.stddev, torch.cat([given.stddev for _, given, _ in way], 1))
    assert ((z - q.mean).abs() > 0).all()


def plane(reach=8.0, count=101):
    """A grid on the plane (M, 2) and the area of its cells: enough for the densities of two latents."""
    axis = torch.linspace(-reach, reach, count, dtype=DOUBLE)
    return torch.cartesian_prod(axis, axis), (2 * reach / (count - 1)) ** 2


def test_the_prior_is_a_density_and_that_of_ancestral_draws():
    model = build(latent_dim=1, layers=2)
    z, area = plane()
    weight = model.log_prior(z).exp() * area
    assert weight.sum().item() == pytest.approx(1, abs=1e-6)
    noise = torch.randn(20_000, 2, generator=seeded(), dtype=DOUBLE)
    lower = model.prior(noise)[:, :1]
    draws = torch.stack([(lower.mean + lower.stddev * noise[:, :1])[:, 0], noise[:, 1]], 1)
    assert lower.mean.std() > 0.05  # z¹ depends on z²
    for moment in (lambda z: z[:, 0], lambda z: z[:, 0] ** 2, lambda z: z[:, 0] * z[:, 1], lambda z: z[:, 1] ** 4):
        error = moment(draws).std().item() / math.sqrt(len(draws))
        assert (moment(z) * weight).sum().item() == pytest.approx(moment(draws).mean().item(), abs=4 * error)


@both_orders
def test_the_posterior_is_a_density_and_that_of_its_draws(order):
    model = build(latent_dim=1, layers=2, order=order)
    q, (z, area) = model.posterior(images(1)), plane()
    log_q = q[torch.zeros(len(z), dtype=torch.long)].log_prob(z)
    weight = log_q.exp() * area
    assert weight.sum().item() == pytest.approx(1, abs=1e-6)
    many = q[torch.zeros(4900, dtype=torch.long)]
    draws = many.rsample(generator=seeded())
    entropy, error = -(weight * log_q).sum().item(), many.log_prob(draws).std().item() / 70
    assert -many.log_prob(draws).mean().item() == pytest.approx(entropy, abs=4 * error)
    for k in (0, 1):
        error = draws[:, k].std().item() / 70
        assert (weight * z[:, k]).sum().item() == pytest.approx(draws[:, k].mean().item(), abs=4 * error)


@both_orders
def test_both_conditionals_of_a_layers_kl_lie_on_the_mean_path_of_the_first(order):
    model, x, y = build(order=order), images(), images(seed=1)
    p, q = model.posterior(x), model.posterior(y)
    ways = zip(walk(model, x, p.mean), walk(model, y, p.mean), strict=True)
    expected = torch.stack([kl_divergence(Independent(a[1], 1), Independent(b[1], 1)) for a, b in ways], 1)
    torch.testing.assert_close(p.kl_layers(q), expected)
    assert expected.shape == (6, 3) and (expected > 0).all() and (p.kl_layers(q) != q.kl_layers(p)).all()
    torch.testing.assert_close(p.kl(q), expected.sum(1))
    assert torch.equal(p.kl_layers(p), torch.zeros(6, 3, dtype=DOUBLE))


@both_orders
def test_the_kl_is_exact_for_the_layer_drawn_first_and_on_one_path_for_the_others(order):
    model, copies = build(order=order), torch.zeros(1600, dtype=torch.long)
    p, q = (model.posterior(images(1, seed=seed))[copies] for seed in (0, 1))
    z = p.rsample(generator=seeded())
    given, other = (model.conditionals(r.features, z) for r in (p, q))
    layers = [1, 2, 3] if order == "bottom_up" else [3, 2, 1]
    for k, layer in enumerate(layers):
        part = model.layer_slices[layer - 1]
        ratio, exact = given[:, part].log_prob(z[:, part]) - other[:, part].log_prob(z[:, part]), p.kl_layers(q)[0]
        along = given[:, part].kl(other[:, part])  # on each draw's path
        error = ratio.std().item() / math.sqrt(len(z))
        assert along.mean().item() == pytest.approx(ratio.mean().item(), abs=4 * error)
        if k == 0:
            assert exact[layer - 1].item() == pytest.approx(ratio.mean().item(), abs=4 * error)
            torch.testing.assert_close(along, exact[layer - 1].expand_as(along))
        else:
            assert abs(along.mean() - exact[layer - 1]) > 4 * along.std() / math.sqrt(len(z)) > 0


@both_orders
def test_a_batch_equals_its_members(order):
    model, x = build(order=order), images()
    q, r, z = model.posterior(x), model.posterior(images(seed=1)), codes(model)
    for i in range(6):
        one = model.posterior(x[i : i + 1])
        for value, expected in (
            (one.mean, q.mean),
            (one.stddev, q.stddev),
            (one.log_prob(z[i : i + 1]), q.log_prob(z)),
            (one.kl_layers(r[[i]]), q.kl_layers(r)),
            (q[torch.tensor([i])].log_prob(z[i : i + 1]), q.log_prob(z)),
            (q[i : i + 1].rsample(noise=z[i : i + 1]), q.rsample(noise=z)),
            (model.log_prior(z[i : i + 1]), model.log_prior(z)),
            (model.log_likelihood(x[i : i + 1], z[i : i + 1]), model.log_likelihood(x, z)),
        ):
            torch.testing.assert_close(value, expected[i : i + 1])


def test_some_of_the_posteriors_are_those_of_some_of_the_images():
    model, x, index = build(), images(), torch.tensor([4, 0, 0])
    some, expected, z = model.posterior(x)[index], model.posterior(x[index]), codes(model, 3)
    torch.testing.assert_close((some.mean, some.stddev), (expected.mean, expected.stddev))
    torch.testing.assert_close(some.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(some.kl(model.posterior(images(3, 1))), expected.kl(model.posterior(images(3, 1))))


def test_a_posterior_has_a_gradient_in_its_own_image_only():
    model, x = build(), images().requires_grad_()
    rows = torch.autograd.grad(model.posterior(x).kl_layers(model.posterior(images(seed=1)))[2].sum(), x)[0]
    norms = rows.flatten(1).norm(dim=1)
    assert norms[2] > 1e-3 and norms[[0, 1, 3, 4, 5]].sum() == 0


@both_orders
def test_each_layer_sees_the_one_before_it_and_no_other(order):
    model, x = build(order=order), images()
    z, features = codes(model), model.encoder[:-1](x)
    before = {"q": model.conditionals(features, z), "p": model.prior(z)}
    shift = 1 if order == "bottom_up" else -1
    for i, part in enumerate(model.layer_slices):
        moved = z.clone()
        moved[:, part] += 1
        after = {"q": model.conditionals(features, moved), "p": model.prior(moved)}
        changed = {
            name: [j for j, s in enumerate(model.layer_slices) if (q[:, s].mean != before[name][:, s].mean).all()]
            for name, q in after.items()
        }
        assert changed == {"q": [i + shift] if 0 <= i + shift < 3 else [], "p": [i - 1] if i else []}


def test_the_layer_drawn_first_is_the_encoders_own():
    for order, part in (("bottom_up", 0), ("top_down", 2)):
        model, x = build(order=order), images()
        q, (mean, logvar) = model.posterior(x), model.encoder(x).chunk(2, 1)
        columns = q.layer_slices[part]
        torch.testing.assert_close((q.mean[:, columns], q.stddev[:, columns]), (mean, (logvar / 2).exp()))
    assert [(s.start, s.stop) for s in q.layer_slices] == [(0, 2), (2, 4), (4, 6)]


def test_without_skip_the_image_comes_from_the_first_layer_alone():
    z = codes(build())
    for skip in (True, False):
        model = build(skip=skip)
        for i, part in enumerate(model.layer_slices):
            moved = z.clone()
            moved[:, part] += 1
            assert torch.equal(model.decode(moved), model.decode(z)) == (not skip and i > 0)


@both_orders
def test_the_bounds_on_the_evidence_are_in_order(order):
    model, x = build(order=order), images()
    q = model.posterior(x)
    draws = [q.rsample(generator=g) for g in [seeded()] for _ in range(64)]
    terms = [model.log_likelihood(x, z) + model.log_prior(z) - q.log_prob(z) for z in draws]
    low = elbo(model, x, samples=64, generator=seeded())
    torch.testing.assert_close(low, torch.stack(terms).mean(0))
    high = iwae(model, x, samples=64, generator=seeded())
    assert (high >= low).all() and (high > low + 0.1).any()


@pytest.mark.parametrize("kind", [{}, {"order": "top_down"}, {"skip": False}, {"layers": 1}])
def test_hmc_samples_its_posterior_and_repairs(kind):
    model, x = build(**kind), images(3)
    check_model(model)
    settings = {"num_samples": 5, "warmup": 20, "leapfrog_steps": 3, "generator": seeded()}
    density = posterior_density(model, x)
    for chains in (repair(model, x, **settings), hmc.sample(density, model.posterior(x).mean, **settings)):
        assert chains.accept_rate.min() > 0.3
        expected = model.log_prior(chains.last) + model.log_likelihood(x, chains.last)
        torch.testing.assert_close(chains.log_density[:, -1], expected)
        assert ((chains.last - chains.start).abs() > 0).all()


@pytest.mark.parametrize("kind", [{}, {"order": "top_down"}, {"skip": False}])
def test_attacks_stay_in_the_ball_and_beat_noise(kind):
    model, x = build(**kind), images(4)
    quick = {"restarts": 2, "generator": seeded()}
    z = model.posterior(x).mean
    stepped = latent.attack(model, z, eps=0.5, steps=30, **quick)
    assert ((stepped.adversarial - z).norm(dim=1) <= 0.5 + 1e-9).all()
    assert (stepped.loss > latent.random_direction(model, z, eps=0.5, **quick).loss).all()
    for target, sign in ((None, 1), (x.flip(0), -1)):
        for divergence in ("skl", "kl_forward", "kl_reverse", "w2", "means"):
            shared = {"eps": 0.1, "target": target, "divergence": divergence, **quick}
            hit, noise = encoder.attack(model, x, steps=10, **shared), encoder.random_direction(model, x, **shared)
            assert (sign * hit.loss > sign * noise.loss).all()
            assert (hit.adversarial - x).abs().max() <= 0.1 + 1e-9
            assert hit.adversarial.min() >= 0 and hit.adversarial.max() <= 1


@both_orders
def test_training_lowers_the_loss_and_the_model_comes_back_from_the_store(tmp_path, order):
    digits = data.load("digits", split="train", limit=256)
    config = {**SMALL, "image_shape": (1, 8, 8), "layers": 2, "size": 256, "beta": 2.0, "order": order}
    fit = {"epochs": 6, "batch_size": 32, "lr": 2e-3, "folder": tmp_path, "progress": False}
    model, history = trained(seatbelt, config, digits, **fit)
    first, last = history.epochs[0], history.epochs[-1]
    assert last["loss"] < first["loss"] - 5 and {"nll", "kl1", "tc"} < last.keys()
    x = digits.float(slice(64))
    torch.manual_seed(0)
    untrained = seatbelt(**config).eval()
    assert elbo(model, x, generator=seeded()).mean() > elbo(untrained, x, generator=seeded()).mean() + 10
    again, history_again = trained(seatbelt, config, digits, **fit)
    assert history_again == history and len(list(tmp_path.glob("*.safetensors"))) == 1
    assert torch.equal(again.posterior(x).mean, model.posterior(x).mean)
    assert torch.equal(again.log_prior(model.posterior(x).mean), model.log_prior(model.posterior(x).mean))


def test_a_kl_to_anything_but_a_posterior_of_the_same_model_is_not_defined():
    model = build()
    q = model.posterior(images())
    with pytest.raises(NotDefined, match="posterior of the same Seatbelt expected, got a DiagonalGaussian"):
        q.kl(standard_normal(q.mean))
    with pytest.raises(ValueError, match="another model"):
        q.kl_layers(build().posterior(images()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layers": 0}, "layers: a whole number ≥ 1 expected, got 0"),
        ({"layers": 1.5}, "layers: a whole number ≥ 1 expected, got 1.5"),
        ({"latent_dim": 0}, "latent_dim: a whole number ≥ 1"),
        ({"free_bits": -0.1}, "free_bits: a finite number of nats ≥ 0 expected, got -0.1"),
        ({"free_bits": math.nan}, "free_bits"),
        ({"top_free_bits": -1.0}, "top_free_bits: a finite number of nats ≥ 0 expected, got -1.0"),
        ({"free_bits": math.inf}, "free_bits"),
        ({"order": "sideways"}, "order: one of bottom_up, top_down expected, got 'sideways'"),
        ({"net": "resnet"}, "net: one of .*conv003.* expected, got 'resnet'"),
        ({"likelihood": "poisson"}, "likelihood: one of"),
        ({"beta": -1.0}, "beta: a finite weight"),
        ({"size": 1}, "size: a whole number ≥ 2 expected, got 1"),
        ({"net": "conv003", "image_shape": (1, 20, 20)}, "image_shape: square images, a multiple of 16"),
    ],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        seatbelt(**SMALL | wrong)


def test_wrong_latents_and_too_large_batches_are_refused():
    model = build()
    for method in (model.log_prior, model.posterior(images()).log_prob):
        with pytest.raises(ValueError, match=r"z: a batch \(N, 6\) expected, got \(6, 5\)"):
            method(torch.zeros(6, 5, dtype=DOUBLE))
    with pytest.raises(ValueError, match="size: .* at least the batch's 6, expected, got 5"):
        build(size=5).losses(images(), torch.zeros(6))


def test_given_noise_makes_the_draw_of_every_posterior():
    noise = torch.randn(6, 4, generator=seeded(), dtype=DOUBLE)
    gaussian, mean = DiagonalGaussian(codes(build(latent_dim=4, layers=1)), 0.3 * noise), 2 * noise
    torch.testing.assert_close(gaussian.rsample(noise=noise), gaussian.mean + gaussian.stddev * noise)
    assert torch.equal(gaussian.rsample(noise=noise), gaussian.rsample(generator=seeded()))
    assert torch.equal(Point(mean).rsample(noise=noise), mean)


def test_given_noise_goes_down_the_path_of_a_hierarchical_vae():
    torch.manual_seed(0)
    model = hierarchical_vae(image_shape=(1, 8, 8), channels=4, groups=((1, 2), (4, 1))).double().eval()
    q, noise = model.posterior(images(shape=(1, 8, 8))), torch.randn(6, 18, generator=seeded(), dtype=DOUBLE)
    u = q.rsample(noise=noise)
    given = model.decoder.conditionals(model.decoder.follow(u).states, q.features)
    torch.testing.assert_close((u - given.mean) / given.stddev, noise)
    assert torch.equal(u, q.rsample(generator=seeded())) and torch.equal(q.rsample(noise=0 * noise), q.mean)
    assert q.layer_slices == model.group_slices


def test_log_densities_are_torchs_for_each_latent():
    q = DiagonalGaussian(*torch.randn(2, 5, 3, generator=seeded(), dtype=DOUBLE))
    z = torch.randn(5, 3, generator=seeded(1), dtype=DOUBLE)
    torch.testing.assert_close(q.log_densities(z), Normal(q.mean, q.stddev).log_prob(z))
    torch.testing.assert_close(q.log_densities(z).sum(1), q.log_prob(z))


def test_document_003s_nets():
    widths = lambda net: [m.weight.shape[:2] for m in net if hasattr(m, "weight")]  # noqa: E731
    down, up = coders("conv003", (1, 64, 64), 8, inputs=40)
    assert widths(down) == [(32, 1), (32, 32), (64, 32), (64, 64), (512, 64 * 4**2), (16, 512)]
    assert widths(up) == [(512, 40), (64 * 4**2, 512), (64, 64), (64, 32), (32, 32), (32, 1)]
    down, up = coders("mlp003", (1, 64, 64), 10)
    assert widths(down) == [(1200, 4096), (1200, 1200), (20, 1200)]
    assert widths(up) == [(1200, 10), (1200, 1200), (1200, 1200), (4096, 1200)]
    assert [type(m) for m in up if not isinstance(m, nn.Linear)] == [nn.Tanh] * 3 + [nn.Unflatten]


@pytest.mark.parametrize("net", NETS)
def test_every_net_takes_as_many_latents_as_it_is_told_and_carries_a_seatbelt(net):
    down, up = coders(net, (1, 16, 16), 2, outputs=2, inputs=6)
    assert down(torch.zeros(3, 1, 16, 16)).shape == (3, 4) and up(torch.zeros(3, 6)).shape == (3, 1, 16, 16)
    assert coders(net, (1, 16, 16), 2)[1](torch.zeros(3, 2)).shape == (3, 1, 16, 16)
    model = seatbelt(**SMALL | {"net": net, "image_shape": (1, 16, 16)}).eval()
    x = torch.rand(3, 1, 16, 16, generator=seeded())
    assert model.decode(model.posterior(x).mean).shape == x.shape
