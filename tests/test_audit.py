"""The audit: its numbers against closed forms and direct calls, what it refuses, and other libraries' models."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.oracles import LinearGaussian, seeded
from vaenb import widgets
from vaenb.attacks import encoder, latent
from vaenb.audit import audit, audit_page
from vaenb.audit.report import MULTIPLES
from vaenb.contract import check_contract, reconstruct
from vaenb.distributions import DiagonalGaussian, Point, standard_normal
from vaenb.metrics.detection import auroc, signals
from vaenb.metrics.distortion import aaddc_abs, dd_curve, spread
from vaenb.metrics.images import mse, ssim
from vaenb.models import deterministic_ae, hierarchical_vae, seatbelt, vae
from vaenb.stats import Estimate

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "10_audit_your_own.ipynb"
QUICK = {"attacked": 4, "steps": 5, "restarts": 1, "progress": False}


@pytest.fixture(scope="module")
def model():
    return LinearGaussian(shape=(1, 8, 8), s=0.1)


@pytest.fixture(scope="module")
def x(model):
    z = torch.randn(30, 3, generator=seeded(5))
    return (model.decode(z) + model.s * torch.randn(30, 1, 8, 8, generator=seeded(6))).clamp(0, 1)


@pytest.fixture(scope="module")
def noise():
    return torch.rand(20, 1, 8, 8, generator=seeded(7))


@pytest.fixture(scope="module")
def report(model, x, noise):
    return audit(model, x, outside={"noise": noise}, attacked=8, progress=False)


class Stretched:
    """Another model's codes, times `by`: the same images, likelihoods and attacks in other units."""

    def __init__(self, inner, by):
        self.inner, self.by = inner, by
        self.log_by = torch.tensor(by).log()

    def posterior(self, x):
        q = self.inner.posterior(x)
        return DiagonalGaussian(self.by * q.mean, q.logvar + 2 * self.log_by)

    def decode(self, z):
        return self.inner.decode(z / self.by)

    def log_prior(self, z):
        return self.inner.log_prior(z / self.by) - z.shape[1] * self.log_by

    def log_likelihood(self, x, z):
        return self.inner.log_likelihood(x, z / self.by)


def test_where_the_posterior_is_exact_the_elbo_is_the_evidence(model, x, report):
    evidence = model.log_evidence(x).mean().item()
    assert report["clean quality: ELBO (nats)"].effect == pytest.approx(evidence, rel=1e-4)
    bits = report["clean quality: −ELBO (bits/dim)"].effect
    assert bits == pytest.approx(-evidence / 64 / 0.693147, rel=1e-4)


def test_quality_and_scale_are_those_of_direct_calls(model, x, report):
    copy, q = reconstruct(model, x), model.posterior(x)
    assert report["clean quality: reconstruction MSE"].effect == pytest.approx(mse(x, copy).mean().item(), rel=1e-6)
    assert report["clean quality: reconstruction SSIM"].effect == pytest.approx(ssim(x, copy).mean().item(), rel=1e-6)
    unit = spread(q.rsample(generator=seeded())).item()
    assert report["latent scale: spread of the codes"].effect == pytest.approx(unit, rel=1e-5)
    assert report.settings["unit"] == pytest.approx(unit)
    assert report["latent scale: posterior stddev"].effect == pytest.approx(q.stddev.mean().item(), rel=1e-5)
    assert report["latent scale: active latents of 3"].effect == (q.mean.var(0) > 0.01).sum()
    assert (report.spreads.diff() <= 0).all() and report.stddevs.shape == (3,)


def test_a_linear_decoder_gives_way_along_its_top_singular_vector(model, report):
    curve = report.curves["latent"]
    best = (report.settings["unit"] * model.scale.max() * curve.radii) ** 2 / 64
    assert torch.allclose(curve.values["MSE"].mean(1), best, rtol=0.02, atol=1e-9)


def test_the_areas_are_those_of_direct_calls(model, x, report):
    z = model.posterior(x[:8]).mean
    radii = torch.tensor(MULTIPLES) * spread(model.posterior(x).rsample(generator=seeded()))
    search = {"steps": 20, "restarts": 2, "generator": seeded()}
    curve = dd_curve(model, z, radii, latent.attack, {"SSIM": ssim}, **search)
    area = aaddc_abs(radii, curve.values["SSIM"], better="higher")
    assert report["latent attack: AADDC"].effect == pytest.approx(area.mean().item(), rel=1e-5)
    eps = torch.tensor(report.settings["deltas"]).repeat_interleave(8)
    bad = encoder.attack(model, x[:8].repeat(4, 1, 1, 1), eps=eps, steps=20, restarts=2, generator=seeded()).adversarial
    assert torch.equal(bad.view(4, 8, 1, 8, 8), report.curves["encoder"].adversarial)
    similar = ssim(reconstruct(model, x[:8]).repeat(4, 1, 1, 1), reconstruct(model, bad)).view(4, 8)
    assert torch.allclose(similar, report.curves["encoder"].values["SSIM"], atol=1e-5)


def test_the_attacks_beat_a_random_direction(report):
    for name in ("latent", "encoder"):
        assert report[f"{name} attack: AADDC, random − attack"].low > 0
        assert (report.curves[name].values["MSE"] >= report.curves[f"{name} random"].values["MSE"] - 1e-6).all()


def test_the_scores_are_larger_for_the_more_foreign_images(model, x, noise, report):
    assert report["outside: noise: reconstruction error"].effect == 1
    values = [signals(model, images, generator=seeded())["negative_elbo"] for images in (x[:20], noise)]
    assert report["outside: noise: −ELBO"].effect == auroc(*values)


def test_exact_posteriors_leave_hmc_nothing_to_repair_but_noise(report):
    assert report["HMC repair (δ = 0.1): … clean image through HMC"].effect > 0.9
    assert 0.5 < report["HMC repair (δ = 0.1): acceptance rate"].effect <= 1
    assert report["HMC repair (δ = 0.1): divergent transitions a chain"].effect == 0


def test_a_seed_reproduces_everything(model, x, noise):
    first, second, other = (audit(model, x, outside={"n": noise}, seed=s, **QUICK).to_json() for s in (0, 0, 1))
    assert first == second
    assert first["estimates"]["latent attack"] != other["estimates"]["latent attack"]


def test_an_images_quality_does_not_depend_on_the_others(model, x):
    halves = [audit(model, part, **QUICK) for part in (x[:15], x[15:])]
    whole = audit(model, x, **QUICK)
    for name in ("clean quality: reconstruction MSE", "clean quality: reconstruction SSIM"):
        assert whole[name].effect == pytest.approx(sum(h[name].effect for h in halves) / 2, rel=1e-5)


@settings(max_examples=3, deadline=None)
@given(by=st.floats(0.1, 30))
def test_radii_are_scale_free(by):
    model = LinearGaussian(shape=(1, 8, 8), s=0.1)
    x = model.decode(torch.randn(8, 3, generator=seeded(5))).clamp(0, 1)
    plain, stretched = audit(model, x, **QUICK), audit(Stretched(model, by), x, **QUICK)
    assert stretched.settings["unit"] == pytest.approx(by * plain.settings["unit"], rel=1e-4)
    for name in ("latent attack: AADDC", "latent attack: AADDC, random direction"):
        assert stretched[name].effect == pytest.approx(plain[name].effect, rel=1e-3)


def test_what_a_deterministic_autoencoder_lacks_is_said_and_nothing_stops(x, noise):
    torch.manual_seed(0)
    model = deterministic_ae(image_shape=(1, 8, 8), latent_dim=3, net="mlp").eval()
    report = audit(model, x, outside={"n": noise}, **QUICK)
    lacking = ["clean quality: ELBO (nats)", "latent scale: posterior stddev", "HMC repair (δ = 0.1): repair"]
    lacking += ["outside: n: KL", "outside: n: −ELBO", "outside: n: ‖σ‖", "outside: n: likelihood regret"]
    for name in lacking:
        assert report[name].startswith("not defined: "), name
    assert report.settings["divergence"] == "means"
    assert isinstance(report["encoder attack: AADDC"], Estimate) and isinstance(report["outside: n: ‖μ‖"], Estimate)
    texts = [a.text for a in audit_page(report, title="a DAE").layout.annotations]
    assert texts.count("not defined") == 6


def test_what_fails_in_numbers_is_said_and_nothing_stops(x):
    class NoWhite(LinearGaussian):
        """An image with a white pixel is impossible."""

        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z) + (x.amax((1, 2, 3)) < 1).to(x).log()

    images = x.clamp(0, 0.9)
    images[3, 0, 0, 0] = 1
    report = audit(NoWhite(shape=(1, 8, 8), s=0.1), images, **QUICK | {"deltas": (0.0, 0.01)})
    assert report["clean quality: ELBO (nats)"] == "not measured: values must be finite, got 1 NaN or infinite of 30"
    assert report["HMC repair (δ = 0.01): repair"].startswith("not measured: log_density: NaN or infinite")
    assert isinstance(report["clean quality: reconstruction SSIM"], Estimate)


def test_a_posterior_without_kl_is_attacked_by_its_means(model, x):
    class NoKL(LinearGaussian):
        def posterior(self, x):
            q = super().posterior(x)
            return type("Q", (), {n: getattr(q, n) for n in ("mean", "stddev", "rsample", "log_prob")} | {
                "__getitem__": lambda self, i: q[i]})()  # fmt: skip

    report = audit(NoKL(shape=(1, 8, 8), s=0.1), x, **QUICK)
    assert report.settings["divergence"] == "means"
    assert report["clean quality: ELBO (nats)"].effect == pytest.approx(model.log_evidence(x).mean().item(), rel=1e-4)


def test_the_report_can_be_stored_and_read(report):
    stored = json.loads(json.dumps(report.to_json()))
    area = report["latent attack: AADDC"]
    assert stored["estimates"]["latent attack"]["AADDC"] == {
        "effect": area.effect, "low": area.low, "high": area.high, "n": 8, "runs": None, "error": None, "df": None,
    }  # fmt: skip
    assert stored["curves"]["latent"]["radii"] == list(MULTIPLES)
    lines = report.table().splitlines()
    assert all(line.replace(r"\|", "").count("|") == 4 for line in lines)
    assert any(line.startswith("| AADDC | ") and line.endswith("| 8 |") for line in lines)
    with pytest.raises(KeyError, match="latent attack: AADDC"):
        report["latent attack: no such thing"]


def test_the_page_shows_every_part(report):
    figure = audit_page(report, title="a model")
    names = {trace.name for trace in figure.data if trace.name}
    assert {"attack", "random step of its length", "noise", "of all codes", "of q(z|x), mean"} <= names
    assert "AADDC latent" in figure.layout.title.text and "ELBO" in figure.layout.title.text
    assert figure.layout.xaxis2.title.text == "radius ε / spread of the codes"
    alone = audit_page(replace(report, estimates={k: v for k, v in report.estimates.items() if "outside" not in k}))
    assert "not measured" in [a.text for a in alone.layout.annotations]


@pytest.mark.parametrize(
    "build",
    [
        lambda: vae(image_shape=(1, 16, 16), latent_dim=3, net="mlp"),
        lambda: vae(image_shape=(1, 16, 16), latent_dim=3, net="mlp", likelihood="categorical"),
        lambda: vae(image_shape=(1, 16, 16), latent_dim=3, net="conv001", likelihood="learned_gaussian"),
        lambda: deterministic_ae(image_shape=(1, 16, 16), latent_dim=3),
        lambda: hierarchical_vae(image_shape=(1, 16, 16)),
        lambda: seatbelt(image_shape=(1, 16, 16), latent_dim=3, layers=2, size=100),
    ],
)
def test_our_models_keep_the_contract(build):
    torch.manual_seed(0)
    check_contract(build().eval(), torch.rand(3, 1, 16, 16, generator=seeded()))


class Wrong(LinearGaussian):
    """A good model with one method replaced."""

    def __init__(self, **replaced):
        super().__init__(shape=(1, 8, 8), s=0.1)
        for name, method in replaced.items():
            setattr(self, name, method)


good = LinearGaussian(shape=(1, 8, 8), s=0.1)


def with_mean(change):
    def posterior(x):
        q = good.posterior(x)
        return DiagonalGaussian(change(q.mean), q.logvar)

    return posterior


class Forgetful(DiagonalGaussian):
    def rsample(self, *, generator=None, noise=None):
        return self.mean + torch.rand(())


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (nn.Linear(2, 2), TypeError, "model: Linear has no posterior, decode, log_prior, log_likelihood"),
        (vae(image_shape=(1, 8, 8), latent_dim=3, net="mlp"), ValueError, r"training mode.*model.eval\(\)"),
        (
            Wrong(posterior=lambda x: (x.flatten(1), x.flatten(1))),
            TypeError,
            "posterior: .*got tuple.*DiagonalGaussian",
        ),
        (
            Wrong(posterior=lambda x: torch.distributions.Normal(*[good.posterior(x).mean.exp()] * 2)),
            TypeError,
            r"posterior: .*got Normal without \[index\]",
        ),
        (
            Wrong(posterior=lambda x: DiagonalGaussian(*[x.expand(-1, 2, -1, -1)] * 2)),
            ValueError,
            r"posterior.mean: flat latents \(N, D\).*got \(3, 2, 8, 8\).*unflatten\(1, \(2, 8, 8\)\)",
        ),
        (Wrong(posterior=lambda x: good.posterior(x)[0:1]), ValueError, "posterior.mean: a row for each of 3 images"),
        (Wrong(posterior=with_mean(lambda z: z * torch.nan)), ValueError, r"posterior.mean: NaN"),
        (Wrong(posterior=lambda x: Forgetful(*[good.posterior(x).mean] * 2)), ValueError, "same seed gave two draws"),
        (Wrong(posterior=lambda x: x @ torch.ones(3, 3)), ValueError, r"posterior: called with .*\(3, 1, 8, 8\)"),
        (Wrong(decode=lambda z: 18 * good.decode(z) - 9), ValueError, r"decode: pixels in \[0, 1\].*\(x \+ 1\) / 2"),
        (Wrong(decode=lambda z: 255 * good.decode(z)), ValueError, "decode: .*divide by 255"),
        (Wrong(decode=lambda z: 9 * good.decode(z) - 6), ValueError, r"decode: .*logits: use .sigmoid\(\)"),
        (Wrong(decode=lambda z: good.decode(z) * torch.nan), ValueError, "decode: NaN"),
        (Wrong(decode=lambda z: good.decode(z).flatten(1)), ValueError, r"decode: .*got \(3, 64\); flat pixels"),
        (Wrong(decode=lambda z: good.decode(z)[..., :4]), ValueError, r"decode: images \(3, 1, 8, 8\), as x, expected"),
        (Wrong(decode=lambda z: {"sample": good.decode(z)}), TypeError, r"decode: .*got dict.*\.sample \(diffusers\)"),
        (Wrong(decode=lambda z: good.decode(z).detach()), ValueError, r"decode\(z\): attacks need its gradient"),
        (Wrong(decode=lambda z: good.decode(z - z.mean(0)).clamp(0, 1)), ValueError, "alone and in a batch"),
        (Wrong(log_prior=lambda z: -z.square()), ValueError, r"log_prior: nats.*\(3, 3\); use .flatten\(1\).sum\(1\)"),
        (
            Wrong(log_likelihood=lambda x, z: good.log_likelihood(x, z).mean()),
            ValueError,
            "log_likelihood: .*never over",
        ),
        (Wrong(log_likelihood=lambda x, z: z.sum(1) / 0), ValueError, "log_likelihood: finite nats expected"),
        (
            Wrong(log_likelihood=lambda x, z: good.log_likelihood(x, z).detach()),
            ValueError,
            "log_likelihood: HMC needs its gradient in z",
        ),
        (Wrong(log_prior=lambda z: good.log_prior(z).detach()), ValueError, "log_prior: HMC needs its gradient"),
        (
            Wrong(log_likelihood=lambda x, z: good.log_likelihood(x, z).mean().expand(len(x))),
            ValueError,
            "log_likelihood: .*for an image alone and .* in a batch",
        ),
        (
            Wrong(log_prior=lambda z: good.log_prior(z) + torch.randn(len(z))),
            ValueError,
            "log_prior: .*leave out what mixes a batch",
        ),
        (Wrong(log_likelihood=lambda x: x.sum()), ValueError, "log_likelihood: called with .*TypeError"),
    ],
)
def test_a_wrong_model_is_told_what_to_do(wrong, error, match, x):
    with pytest.raises(error, match=match):
        audit(wrong, x, **QUICK)


class Saturated(LinearGaussian):
    """Its images are all but black and white, where no code has a gradient; its likelihood is that of good ones."""

    def decode(self, z):
        return (1e6 * (super().decode(z) - 0.5)).clamp(0, 1)

    def log_likelihood(self, x, z):
        return good.log_likelihood(x, z)


@pytest.mark.filterwarnings("ignore:.*had no gradient to follow")
def test_what_had_no_gradient_to_attack_is_said_to_look_robust_only(x, report):
    words = "latent attack: images whose attack had no gradient, and only look robust"
    robust = audit(Saturated(shape=(1, 8, 8), s=0.1), x, **QUICK)
    assert robust[words].effect == 1
    assert "look robust" in robust.table() and "look robust" not in report.table()


class Half(LinearGaussian):
    """A model that casts to bfloat16 inside."""

    def posterior(self, x):
        q = super().posterior(x)
        return DiagonalGaussian(q.mean.bfloat16(), q.logvar.bfloat16())

    def decode(self, z):
        return super().decode(z.float())

    def log_likelihood(self, x, z):
        return super().log_likelihood(x, z.float())


def test_half_precision_is_refused(x):
    for model, images, name in ((good, x.half(), "x"), (Half(shape=(1, 8, 8)), x, r"posterior\(x\)")):
        with pytest.raises(TypeError, match=rf"^{name}: float32 or float64 expected, got .*use model.float\(\)"):
            audit(model, images, **QUICK)


def test_autocast_inference_mode_and_numpys_numbers_change_nothing(x):
    expected = audit(good, x[:6], outside={"same": x[:6]}, **QUICK | {"multiples": (0.0, 2.0)})
    whole = {"attacked": np.int64(4), "steps": np.int64(5), "restarts": np.int64(1), "seed": np.int64(0)}
    with torch.inference_mode():
        given = x[:6] * 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = audit(good, given, outside={"same": given}, **QUICK | whole, multiples=np.array([0, 2]))
    assert json.dumps(found.to_json()) == json.dumps(expected.to_json())


def test_a_model_that_tells_no_images_apart_has_no_yardstick(x):
    constant = Wrong(posterior=lambda x: Point(good.posterior(x).mean * 0))
    with pytest.raises(ValueError, match="posterior: every image has the same code"):
        audit(constant, x, **QUICK)


def test_a_point_posterior_needs_no_density(x):
    class Deterministic(LinearGaussian):
        def posterior(self, x):
            return Point(super().posterior(x).mean)

    check_contract(Deterministic(shape=(1, 8, 8), s=0.1), x)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"x": torch.rand(4, 1, 8, 8) * 2 - 1}, r"x: pixels in \[0, 1\].*\(x \+ 1\) / 2"),
        ({"x": torch.rand(1, 1, 8, 8).repeat(4, 1, 1, 1)}, "x: images that differ expected, got 4 copies of one"),
        ({"x": torch.rand(1, 1, 8, 8)}, "x: two images or more"),
        ({"x": torch.rand(4, 2, 8, 8)}, "x: one or three channels"),
        ({"x": torch.rand(4, 1, 5, 8)}, "x: .* six pixels a side"),
        ({"outside": {"a": torch.rand(4, 3, 8, 8)}}, r"outside\['a'\]: .*size=8"),
        ({"outside": {"a": torch.rand(4, 1, 8, 8) + 1}}, r"outside\['a'\]: pixels in \[0, 1\]"),
        (
            {"outside": {"d": torch.rand(4, 1, 8, 8).double()}},
            r"outside\['d'\]: torch.float32 on cpu, as x, .*float64",
        ),
        ({"attacked": 1}, "attacked: a whole number ≥ 2"),
        ({"steps": 0}, "steps: a whole number"),
        ({"multiples": (0.5, 1.0)}, "multiples: two radii or more, rising from 0"),
        ({"deltas": (0.0, 0.2, 0.1)}, "deltas: two radii or more, rising from 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, match, model, x):
    with pytest.raises(ValueError, match=match):
        audit(model, **{"x": x} | QUICK | arguments)


def cell(name: str) -> str:
    (found,) = (c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.id == name)
    return found


def adapters() -> dict:
    """The classes of notebook 10, as it shows them."""
    names = {"torch": torch, "DiagonalGaussian": DiagonalGaussian, "standard_normal": standard_normal}
    names |= {"binary_cross_entropy": nn.functional.binary_cross_entropy}
    for name in ("pythae-adapter", "diffusers-adapter"):
        exec(cell(name), names)
    return names


def test_the_pythae_adapter_keeps_the_contract_and_pythaes_loss():
    pythae = pytest.importorskip("pythae.models")
    torch.manual_seed(0)
    net = pythae.VAE(pythae.VAEConfig(input_dim=(1, 8, 8), latent_dim=3, reconstruction_loss="bce")).eval()
    model, x = adapters()["FromPythae"](net), torch.rand(5, 1, 8, 8, generator=seeded())
    check_contract(model, x)
    q = model.posterior(x)
    z = q.rsample(generator=seeded())
    theirs = torch.distributions.Normal(q.mean, q.stddev)
    assert torch.allclose(q.log_prob(z), theirs.log_prob(z).sum(1), atol=1e-4)
    loss, reconstruction, kl = net.loss_function(model.decode(z), x, q.mean, q.logvar, z)
    assert torch.allclose(reconstruction, -model.log_likelihood(x, z).mean(), rtol=1e-5)
    assert torch.allclose(kl, q.kl(standard_normal(z)).mean(), rtol=1e-4)
    assert isinstance(audit(model, x, **QUICK)["clean quality: ELBO (nats)"], Estimate)


def test_the_diffusers_adapter_keeps_the_contract_and_its_density():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    net = diffusers.AutoencoderKL(
        1, 1, **blocks, block_out_channels=[4, 4], norm_num_groups=2, latent_channels=2
    ).eval()
    model, x = adapters()["FromDiffusers"](net, (2, 8, 8)), torch.rand(4, 1, 16, 16, generator=seeded())
    check_contract(model, x)
    q, own = model.posterior(x), net.encode(2 * x - 1).latent_dist
    z = q.rsample(generator=seeded())
    assert torch.allclose(-q.log_prob(z), own.nll(z.unflatten(1, (2, 8, 8))), rtol=1e-4)
    assert torch.allclose(q.kl(standard_normal(z)), own.kl(), rtol=1e-4)
    assert torch.allclose(model.decode(z), (net.decode(z.view(4, 2, 8, 8)).sample / 2 + 0.5).clamp(0, 1), atol=1e-6)
    gaussian = torch.distributions.Normal(model.decode(z), 0.1)
    assert torch.allclose(model.log_likelihood(x, z), gaussian.log_prob(x).sum((1, 2, 3)), rtol=1e-5)


def test_the_explorer_takes_curves_in_spreads(model, x, report):
    curve = report.curves["latent"]
    explorer = widgets.LatentAttackExplorer({"mine": model}, {("mine", "away"): curve}, x[:8], unit="spreads")
    assert "attack radius ε (spreads)" in bytes(explorer.curve.value).decode()
    explorer.eps.index = len(MULTIPLES) - 1
    assert f"SSIM <b>{curve.values['SSIM'][-1, 0]:.3f}</b>" in explorer.numbers.value


def test_a_flat_prior_keeps_the_contract():
    check_contract(Wrong(log_prior=lambda z: torch.zeros(len(z))), torch.rand(3, 1, 8, 8, generator=seeded()))


def test_foreign_images_without_names_are_refused():
    with pytest.raises(TypeError, match="outside: a dict of image sets by name expected, got list"):
        audit(good, torch.rand(4, 1, 8, 8), outside=[torch.rand(4, 1, 8, 8)], progress=False)
