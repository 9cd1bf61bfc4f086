"""The contract, the likelihoods, the nets, and the bounds on log p(x), against closed forms and torch.distributions."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import encoder, latent, penalized
from vaenb.checkpoints import trained
from vaenb.checks import check_images, check_latents, check_model
from vaenb.contract import NotDefined, reconstruct
from vaenb.data import load
from vaenb.defences.refit import refit_encoder
from vaenb.defences.repair import repair
from vaenb.distributions import DiagonalGaussian, Point
from vaenb.metrics.likelihood import bits_per_dim, elbo, iwae, shortfall
from vaenb.models import VAE, DeterministicAE, deterministic_ae, hierarchical_vae, seatbelt, vae
from vaenb.models.autoencoder import resting
from vaenb.models.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from vaenb.models.regularizers import mmd, shapiro_wilk
from vaenb.training import fit


def gaussians(n: int, d: int, seed: int) -> DiagonalGaussian:
    g = seeded(seed)
    return DiagonalGaussian(torch.randn(n, d, generator=g), torch.randn(n, d, generator=g))


MODELS = {
    "conv001 32 bernoulli": lambda: vae(image_shape=(1, 32, 32), latent_dim=10),
    "conv001 64 colour gaussian": lambda: vae(image_shape=(3, 64, 64), latent_dim=6, likelihood="gaussian"),
    "conv002a continuous bernoulli": lambda: vae(
        image_shape=(1, 32, 32), latent_dim=64, net="conv002a", likelihood="continuous_bernoulli"
    ),
    "mlp": lambda: vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp"),
    "hierarchical 32 colour": lambda: hierarchical_vae(image_shape=(3, 32, 32)),
    "hierarchical 16": lambda: hierarchical_vae(image_shape=(1, 16, 16), channels=8, groups=((2, 4), (4, 2), (8, 1))),
    "seatbelt": lambda: seatbelt(image_shape=(1, 32, 32), latent_dim=4, layers=3, size=100),
    "seatbelt, downward, without skip": lambda: seatbelt(
        image_shape=(1, 64, 64), latent_dim=2, layers=2, size=100, net="mlp003", skip=False, order="top_down"
    ),
    "linear gaussian (not ours)": LinearGaussian,
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    built = MODELS[request.param]()
    return built.eval() if isinstance(built, nn.Module) else built


def some_images(model, n: int = 5) -> Tensor:
    shape = model.image_shape if isinstance(model, VAE) else model.shape
    return torch.rand(n, *shape, generator=seeded(2))


def test_every_model_meets_the_contract(model):
    check_model(model)
    x = some_images(model)
    q = model.posterior(x)
    z = q.rsample(generator=seeded())
    assert z.shape == q.mean.shape == q.stddev.shape and (q.stddev > 0).all()
    assert model.decode(z).shape == x.shape
    if not isinstance(model, LinearGaussian):  # a linear decoder's mean may leave the box
        check_images(model.decode(z))
    densities = [q.log_prob(z), q.kl(q), model.log_prior(z), model.log_likelihood(x, z)]
    for value in (*densities, elbo(model, x), iwae(model, x)):
        assert value.shape == (5,) and value.isfinite().all()
    assert torch.equal(z, q.rsample(generator=seeded()))
    assert torch.allclose(q.kl(q), torch.zeros(5), atol=1e-5)


def test_images_do_not_influence_each_other(model):
    x = some_images(model)
    z = model.posterior(x).mean
    torch.testing.assert_close(model.posterior(x[2:3]).mean, z[2:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.decode(z[2:3]), model.decode(z)[2:3], rtol=1e-4, atol=1e-5)


def test_latents_have_a_gradient(model):
    x = some_images(model)
    z = model.posterior(x).mean.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((model.log_likelihood(x, z) + model.log_prior(z)).sum(), z)
    assert gradient.isfinite().all() and (gradient.abs().sum(1) > 0).all()


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_diagonal_gaussian_is_torchs_normal(n, d, seed):
    p, q = gaussians(n, d, seed), gaussians(n, d, seed + 1)
    reference_p, reference_q = (Independent(Normal(g.mean, g.stddev), 1) for g in (p, q))
    z = torch.randn(n, d, generator=seeded(seed))
    torch.testing.assert_close(p.log_prob(z), reference_p.log_prob(z), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.kl(q), kl_divergence(reference_p, reference_q), rtol=1e-4, atol=1e-4)


def test_rsample_has_the_posteriors_moments():
    q = gaussians(1, 3, 0)
    many = DiagonalGaussian(q.mean.expand(200_000, 3), q.logvar.expand(200_000, 3)).rsample(generator=seeded())
    torch.testing.assert_close(many.mean(0), q.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(many.std(0), q.stddev[0], atol=0, rtol=0.01)


@pytest.mark.parametrize("one", [2, np.int64(2), torch.tensor(2)], ids=["int", "numpy", "tensor"])
def test_the_posterior_of_one_image_has_the_same_shapes(model, one):
    with torch.no_grad():
        q = model.posterior(some_images(model, 3))
    assert torch.equal(q[one].mean, q.mean[2:]) and torch.equal(q[one].stddev, q.stddev[2:])
    assert q[one].rsample(generator=seeded()).shape == q.mean[2:].shape


def test_autocast_leaves_posteriors_in_single_precision(model):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        q = model.posterior(some_images(model, 2))
    assert isinstance(model, LinearGaussian) or q.mean.dtype == q.stddev.dtype == torch.float32


def test_slicing_a_posterior_slices_its_rows():
    q, index = gaussians(5, 3, 0), torch.tensor([4, 0])
    z = torch.zeros(5, 3)
    assert torch.equal(q[index].log_prob(z[index]), q.log_prob(z)[index])


@pytest.mark.parametrize("likelihood", [ContinuousBernoulli(), Gaussian(0.05)])
def test_densities_integrate_to_one(likelihood):
    low, high = (-1, 2) if isinstance(likelihood, Gaussian) else (0, 1)
    x = torch.linspace(low, high, 100_001 * (high - low), dtype=torch.float64)
    pixels = x.view(-1, 1, 1, 1)
    for logit in (-3.0, 0.0, 1e-4, 2.0):
        density = likelihood.log_prob(pixels, torch.full_like(pixels, logit)).exp()
        assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
        mean = torch.trapezoid(density * x, x).item()
        assert likelihood.mean(torch.tensor(logit, dtype=torch.float64)).item() == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("logit", [-80.0, -30.0, -3.0, -0.05, 0.0, 1e-3, 0.5, 30.0, 80.0])
def test_the_continuous_bernoulli_is_exact_in_float32(logit):
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    exact = (x * logit).exp()
    log_norm = torch.trapezoid(exact, x).log()
    likelihood, logits = ContinuousBernoulli(), torch.full((3, 1, 1, 1), logit)
    some = torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1)
    expected = some.flatten().double() * logit - log_norm
    torch.testing.assert_close(likelihood.log_prob(some, logits).double(), expected, rtol=1e-4, atol=1e-4)
    mean = torch.trapezoid(exact * x, x) / torch.trapezoid(exact, x)
    assert likelihood.mean(logits)[0].item() == pytest.approx(mean.item(), abs=1e-5)


@pytest.mark.parametrize("logit", [-300.0, -89.0, -80.0, -3.0, 0.0, 3.0, 89.0, 300.0])
def test_the_continuous_bernoullis_mean_rises_by_its_variance(logit):
    at = torch.tensor(logit, requires_grad=True)
    (slope,) = torch.autograd.grad(ContinuousBernoulli().mean(at), at)
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    weight = (x * logit - max(logit, 0)).exp()
    mean, square = (torch.trapezoid(weight * x**k, x) / torch.trapezoid(weight, x) for k in (1, 2))
    assert slope.item() == pytest.approx((square - mean**2).item(), rel=1e-3)


def test_a_narrow_posterior_keeps_finite_numbers():
    q = DiagonalGaussian(torch.zeros(1, 2), torch.full((1, 2), -120.0))
    assert q.kl(q).item() == 0 and q.log_prob(q.mean).isfinite().all()


def test_bernoulli_is_the_cross_entropy():
    x, logits = torch.rand(4, 1, 8, 8, generator=seeded()), torch.randn(4, 1, 8, 8, generator=seeded(1))
    reference = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), -reference)


def test_document_001s_squared_error_is_the_default_gaussian():
    x, logits = torch.rand(4, 1, 8, 8, generator=seeded()), torch.randn(4, 1, 8, 8, generator=seeded(1))
    squared = ((x - logits.sigmoid()) ** 2).sum((1, 2, 3))
    constant = 64 * 0.5 * math.log(math.pi)
    torch.testing.assert_close(Gaussian().log_prob(x, logits), -squared - constant)


@pytest.mark.parametrize("likelihood", [Bernoulli(), ContinuousBernoulli(), Gaussian()])
def test_extreme_logits_keep_finite_values_and_gradients(likelihood):
    logits = torch.tensor([-80.0, -20, 0, 20, 80]).view(1, 1, 1, 5).requires_grad_()
    for x in (torch.zeros(1, 1, 1, 5), torch.ones(1, 1, 1, 5)):
        value = likelihood.log_prob(x, logits)
        (gradient,) = torch.autograd.grad(value.sum() + likelihood.mean(logits).sum(), logits)
        assert value.isfinite().all() and gradient.isfinite().all()


def test_with_the_exact_posterior_both_bounds_are_the_evidence():
    model = LinearGaussian()
    x = torch.rand(6, 1, 4, 4, generator=seeded())
    for bound in (elbo(model, x, samples=1), iwae(model, x, samples=5)):
        torch.testing.assert_close(bound, model.log_evidence(x), rtol=1e-4, atol=1e-3)


def test_the_iwae_bound_tightens_towards_the_evidence():
    class Blurred(LinearGaussian):
        def posterior(self, x):
            exact = super().posterior(x)
            return DiagonalGaussian(exact.mean + 0.8, exact.logvar + 0.5)

    model, x = Blurred(), torch.rand(20, 1, 4, 4, generator=seeded())
    evidence = model.log_evidence(x).mean()
    gaps = [(evidence - iwae(model, x, samples=k, generator=seeded()).mean()).item() for k in (1, 8, 64, 2048)]
    exact = LinearGaussian.posterior(model, x)
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > -0.01 and gaps[3] < 0.05
    elbo_gap = evidence - elbo(model, x, samples=2000, generator=seeded()).mean()
    assert elbo_gap.item() == pytest.approx(model.posterior(x).kl(exact).mean().item(), abs=0.02)


def test_bits_per_dim_of_uniform_bytes_is_eight():
    x = torch.rand(2, 3, 4, 4)
    nats = torch.full((2,), -48 * math.log(256))
    torch.testing.assert_close(bits_per_dim(nats, x), torch.tensor([8.0, 8.0]))


def test_the_training_loss_is_the_negative_beta_elbo():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp", beta=3.0)
    x = torch.rand(7, 1, 8, 8)
    losses = model.losses(x, torch.zeros(7), seeded())
    q = model.posterior(x)
    z = q.rsample(generator=seeded())
    kl = kl_divergence(Normal(q.mean, q.stddev), Normal(torch.zeros(7, 2), 1.0)).sum(1)
    expected = (-model.log_likelihood(x, z) + 3.0 * kl).mean()
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["loss"], losses["nll"] + 3.0 * losses["kl"])


def test_document_001s_net_has_its_channels():
    model = vae(image_shape=(1, 32, 32), latent_dim=10)
    encoder = [m.out_channels for m in model.encoder if isinstance(m, nn.Conv2d)]
    decoder = [m.out_channels for m in model.decoder if isinstance(m, nn.ConvTranspose2d)]
    assert encoder == [32, 64, 128, 64] and decoder == [128, 64, 32, 1]


def test_reconstruct_decodes_the_posterior_mean(model):
    x = some_images(model)
    if not isinstance(model, LinearGaussian):
        torch.testing.assert_close(reconstruct(model, x), model.decode(model.posterior(x).mean).detach())


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.rand(2, 1, 8, 8) * 255, "divide by 255"),
        (torch.rand(2, 1, 8, 8) * 2 - 1, r"\(x \+ 1\) / 2"),
        (torch.full((2, 1, 8, 8), torch.nan), r"NaN or infinite values in row\(s\) \[0, 1\] of 2"),
        (torch.rand(0, 1, 8, 8), "empty"),
        (torch.full((2, 1, 8, 8), 1.01), "got values from 1.01 to 1.01"),
        (torch.full((2, 1, 8, 8), -0.01), "got values from -0.00999"),
        (torch.rand(8, 8), r"\(N, C, H, W\) expected, got shape \(8, 8\)"),
    ],
)
def test_bad_images_are_refused_at_the_door(x, says):
    with pytest.raises(ValueError, match=says):
        check_images(x)


def test_what_is_no_batch_of_numbers_is_refused():
    with pytest.raises(TypeError, match="255"):
        check_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match="a torch tensor"):
        check_images([[0.0]])
    with pytest.raises(ValueError, match=r"flat latents \(N, D\)"):
        check_latents(torch.zeros(4))


def test_bad_models_are_refused():
    with pytest.raises(TypeError, match=r"Linear has no posterior, decode, log_prior, log_likelihood"):
        check_model(nn.Linear(2, 2))
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    model.decoder.train()  # half awake
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        elbo(model, torch.rand(1, 1, 8, 8))


TINY = {"image_shape": (1, 8, 8), "latent_dim": 3, "net": "mlp"}
KINDS = {
    "vae": lambda: vae(**TINY),
    "total correlation": lambda: vae(**TINY, regularizer="tc", size=100),
    "hierarchical": lambda: hierarchical_vae(image_shape=(1, 8, 8), channels=8, groups=((2, 2), (4, 1))),
    "seatbelt": lambda: seatbelt(**TINY, layers=2, size=100),
    "foreign": LinearGaussian,
    "dae": lambda: deterministic_ae(**TINY),
}
SHORT = {"eps": 0.1, "steps": 1, "restarts": 1}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "foreign"])
def test_images_and_latents_that_do_not_fit_the_model_are_refused(kind):
    model, x = KINDS[kind]().eval(), torch.rand(2, 1, 8, 8)
    z = torch.zeros(2, model.latent_dim)
    for method in (model.posterior, lambda x: model.losses(x, torch.zeros(2))):
        with pytest.raises(ValueError, match=r"x: a batch \(N, 1, 8, 8\) expected, got \(2, 3, 8, 8\)"):
            method(torch.rand(2, 3, 8, 8))
        with pytest.raises(TypeError, match=r"x: the model's torch.float32 on cpu expected, got .*64.*use x.to"):
            method(x.double())
    for method in (model.decode, lambda z: model.log_likelihood(x, z)):
        with pytest.raises(ValueError, match=rf"z: a batch \(N, {model.latent_dim}\) expected, got \(2, 1\)"):
            method(z[:, :1])
        with pytest.raises(TypeError, match="z: the model's torch.float32 on cpu expected, got torch.float64"):
            method(z.double())


METHODS = {
    "reconstruct": reconstruct,
    "latent.attack": lambda model, x: latent.attack(model, model.posterior(x).mean, **SHORT),
    "latent.spectral_attack": lambda model, x: latent.spectral_attack(model, model.posterior(x).mean, eps=0.1),
    **{
        f"encoder.attack {name}": partial(encoder.attack, divergence=name, **SHORT)
        for name in ("means", "w2", "skl", "kl_forward", "kl_reverse")
    },
    "encoder.attack output": lambda model, x: encoder.attack(model, x, divergence="output", target=x.flip(0), **SHORT),
    "penalized.attack": lambda model, x: penalized.attack(model, x, x.flip(0), penalties=torch.ones(2), steps=1),
    "shortfall": lambda model, x: shortfall(model, x, x.flip(0)),
    "elbo": elbo,
    "iwae": iwae,
    "hmc.repair": lambda model, x: repair(model, x, num_samples=1, warmup=1),
}
NOT_DEFINED = {
    "dae": {
        **dict.fromkeys(["encoder.attack skl", "encoder.attack kl_forward", "encoder.attack kl_reverse"], "no KL"),
        **dict.fromkeys(["penalized.attack"], "no KL"),
        **dict.fromkeys(["elbo", "iwae", "hmc.repair", "encoder.attack output"], "no ELBO"),
    }
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_which_method_meets_which_model(kind, method):
    torch.manual_seed(0)
    model = KINDS[kind]()
    model = model.eval() if isinstance(model, nn.Module) else model
    x = torch.rand(2, *getattr(model, "shape", (1, 8, 8)), generator=seeded())
    reason = NOT_DEFINED.get(kind, {}).get(method)
    if reason:
        with pytest.raises(NotDefined, match=f"^a deterministic autoencoder.*{reason}"):
            METHODS[method](model, x)
    else:
        METHODS[method](model, x)


@pytest.mark.parametrize("net", ["conv001", "conv002a", "mlp"])
def test_a_deterministic_autoencoders_posterior_is_a_point(net):
    torch.manual_seed(0)
    model, x = deterministic_ae(image_shape=(1, 16, 16), latent_dim=5, net=net).eval(), torch.rand(4, 1, 16, 16)
    q = model.posterior(x)
    assert model.encoder(x).shape == q.mean.shape == (4, 5) and torch.equal(q.mean, model.encoder(x))
    assert q.rsample(generator=seeded()) is q.mean and (q.stddev == 0).all() and q.stddev.shape == (4, 5)
    assert torch.equal(q[torch.tensor([3, 0])].mean, q.mean[[3, 0]])
    check_images(model.decode(q.mean))


def test_what_a_point_lacks_is_said():
    q = Point(torch.zeros(2, 3))
    for question in (lambda: q.log_prob(q.mean), lambda: q.kl(q), lambda: deterministic_ae(**TINY).log_prior(q.mean)):
        with pytest.raises(NotDefined, match="a deterministic autoencoder"):
            question()
    model, x = deterministic_ae(**TINY).eval(), torch.rand(2, 1, 8, 8)
    with pytest.raises(NotDefined, match="no prior|no density|a deterministic autoencoder"):
        refit_encoder(model, x, torch.zeros(2, 1, 3), epochs=1, progress=False)
    assert issubclass(NotDefined, TypeError)


@pytest.mark.parametrize(
    ("regularizer", "measure"),
    [
        ("mmd", lambda z: mmd(z, torch.randn(64, 3, generator=seeded(1)))),
        ("sw", lambda z: (1 - shapiro_wilk(z)).mean()),
    ],
)
def test_its_loss_is_the_squared_error_and_the_weighted_regulariser(regularizer, measure):
    torch.manual_seed(0)
    model, x = deterministic_ae(**TINY, regularizer=regularizer, beta=7.0), torch.rand(64, 1, 8, 8)
    losses, z = model.losses(x, torch.zeros(64), seeded(1)), model.encoder(x)
    squares = ((model.decode(z) - x) ** 2).sum((1, 2, 3)).mean() + 32 * math.log(math.pi)
    torch.testing.assert_close(losses["nll"], squares)
    torch.testing.assert_close(losses["loss"], squares + 7 * measure(z))


def test_mmd_brings_the_codes_to_the_prior_and_shapiro_wilk_only_their_shape():
    data = load("digits", split="train", limit=512)
    x, gaps = data.float(), {}
    for regularizer, beta in (("mmd", 0.0), ("mmd", 1000.0), ("sw_all", 100.0)):
        torch.manual_seed(0)
        model = deterministic_ae(**TINY, regularizer=regularizer, beta=beta)
        fit(model, data, epochs=6, batch_size=64, progress=False)
        z = model.posterior(x).mean.detach()
        gaps[regularizer, beta] = mmd(z, torch.randn(z.shape, generator=seeded())), (1 - shapiro_wilk(z)).mean()
    assert gaps["mmd", 1000.0][0] < gaps["mmd", 0.0][0] / 1.5
    assert gaps["sw_all", 100.0][1] < gaps["mmd", 0.0][1] / 3 and gaps["sw_all", 100.0][0] > 0.3


def test_the_store_knows_a_deterministic_autoencoder(tmp_path):
    data, config = load("digits", split="train", limit=64), {**TINY, "regularizer": "sw_all", "beta": 3.0}
    settings = {"epochs": 1, "batch_size": 32, "folder": tmp_path, "progress": False}
    model, history = trained(deterministic_ae, config, data, **settings)
    again, history_again = trained(deterministic_ae, config, data, **settings)
    assert isinstance(again, DeterministicAE) and history == history_again and "one_minus_w" in history.epochs[0]
    assert torch.equal(again.decode(again.encoder(data.float())), model.decode(model.encoder(data.float())))
    assert len(list(tmp_path.glob("deterministic_ae-*.safetensors"))) == 1


@pytest.mark.parametrize("regularizer", ["mmd", "sw", "sw_all", "tc"])
def test_every_regulariser_trains_a_vae(regularizer):
    torch.manual_seed(0)
    model = vae(**TINY, regularizer=regularizer, beta=2.0, size=256 if regularizer == "tc" else None)
    history = fit(model, load("digits", limit=256), epochs=5, batch_size=64, progress=False)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]


@pytest.mark.parametrize("regularizer", ["kl", "tc"])
def test_a_regulariser_that_needs_a_density_is_refused(regularizer):
    with pytest.raises(NotDefined, match=f"regularizer: {regularizer} needs a posterior with a density"):
        deterministic_ae(**TINY, regularizer=regularizer)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 100}, "size: .* with regularizer='tc' only, got 100"),
        ({"regularizer": "tc"}, "size: the number of training images expected with regularizer='tc' only, got None"),
        ({"regularizer": "wae"}, "regularizer: one of kl, mmd, sw, sw_all, tc expected, got 'wae'"),
        ({"regularizer": "mmd", "beta": -1.0}, "beta: a finite weight"),
        ({"regularizer": "sw", "beta": float("inf")}, "beta: a finite weight"),
        ({"beta": float("nan")}, "beta: a finite weight ≥ 0 expected, got nan"),
        ({"net": "resnet"}, "net: one of conv001, .* expected, got 'resnet'"),
        ({"net": "conv001", "image_shape": (1, 28, 28)}, "image_shape: .* a multiple of 16 wide"),
        ({"likelihood": "poisson"}, "likelihood: one of bernoulli, .* expected, got 'poisson'"),
        ({"likelihood": "gaussian", "sigma": 0.0}, "sigma: a positive standard deviation expected, got 0.0"),
        ({"latent_dim": 0}, "latent_dim: a whole number ≥ 1 expected, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        vae(**TINY | change)


@pytest.mark.parametrize("net", ["mlp", "conv001"])
def test_numpys_numbers_build_the_same_nets(net):
    weights = []
    for shape, two, eight in [((1, 16, 16), 2, 8), (tuple(np.uint8([1, 16, 16])), np.uint8(2), np.uint8(8))]:
        torch.manual_seed(0)
        model = vae(image_shape=shape, latent_dim=two, net=net, width=eight).eval()
        assert model.decode(torch.zeros(3, 2)).shape == (3, 1, 16, 16)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("apart", [1e-4, 1e-2, 1.0])
def test_the_kl_of_near_posteriors_does_not_cancel(apart):
    generator = seeded()
    mean, logvar = torch.randn(2, 200, 10, generator=generator)
    other = DiagonalGaussian(mean + apart * torch.randn(200, 10, generator=generator), logvar + apart)
    near = DiagonalGaussian(mean, logvar)
    wide = [DiagonalGaussian(q.mean.double(), q.logvar.double()) for q in (near, other)]
    torch.testing.assert_close(near.kl(other).double(), wide[0].kl(wide[1]), rtol=5e-3, atol=0)


def test_a_part_that_is_frozen_stays_so_after_a_rest():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).train()
    net[1].eval()
    with resting(net):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, True, False]


@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "gaussian", "bernoulli"])
def test_under_autocast_a_likelihood_computes_in_float32(likelihood):
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp", likelihood=likelihood).eval()
    z, x = torch.randn(4, 2, generator=seeded()), torch.rand(4, 1, 8, 8, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(z)
        mean, nats = model.decode(z), model.log_likelihood(x, z)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(mean, model.likelihood.mean(logits))
    torch.testing.assert_close(nats, model.likelihood.log_prob(x, logits))


def test_the_continuous_bernoullis_slope_is_right_in_half_precision():
    logits = torch.linspace(-0.2, 0.2, 41).view(1, 1, 1, 41)
    x = torch.full_like(logits, 0.5)
    slopes = []
    for dtype in (torch.bfloat16, torch.float64):
        at = logits.bfloat16().to(dtype).requires_grad_()
        ContinuousBernoulli().log_prob(x.to(dtype), at).sum().backward()
        slopes.append(at.grad.double())
    torch.testing.assert_close(*slopes, rtol=0.01, atol=1e-4)
