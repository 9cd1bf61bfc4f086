"""The audit: its numbers against closed forms and direct calls, what it refuses, what it says and keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import encoder, latent
from vaenb.audit import BUDGETS, AuditFailed, AuditInterrupted, Budget, audit, measuring
from vaenb.audit.attacks import RADII, Surface, attack
from vaenb.audit.bench import Bench
from vaenb.audit.budget import MOST_ROWS, rows_at_once
from vaenb.audit.measuring import SCORES
from vaenb.audit.reference import band
from vaenb.audit.stronger import lbfgs
from vaenb.audit.verdicts import warnings
from vaenb.contract import check_contract, reconstruct
from vaenb.distributions import DiagonalGaussian, Point
from vaenb.metrics.detection import auroc, signals
from vaenb.metrics.distortion import aaddc_abs, dd_curve, spread
from vaenb.metrics.images import mse, ssim
from vaenb.models import deterministic_ae, hierarchical_vae, seatbelt, vae
from vaenb.stats import Estimate

TINY = Budget(images=30, attacked=4, steps=5, restarts=1)
QUICK = {"budget": TINY, "progress": False}
AREAS = [f"{name}: AADDC" for name in RADII]


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
    budget = replace(TINY, attacked=8, steps=20, restarts=2)
    return audit(model, x, outside={"noise": noise}, budget=budget, progress=False)


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
    assert report["clean: ELBO"].effect == pytest.approx(evidence, rel=1e-4)
    assert report["clean: −ELBO"].effect == pytest.approx(-evidence / 64 / 0.693147, rel=1e-4)


def test_quality_and_codes_are_those_of_direct_calls(model, x, report):
    copy, q = reconstruct(model, x), model.posterior(x)
    assert report["clean: reconstruction MSE"].effect == pytest.approx(mse(x, copy).mean().item(), rel=1e-6)
    assert report["clean: reconstruction SSIM"].effect == pytest.approx(ssim(x, copy).mean().item(), rel=1e-6)
    unit = spread(q.rsample(generator=seeded())).item()
    assert report["codes: spread"].effect == pytest.approx(unit, rel=1e-5)
    assert report.settings["spread"] == pytest.approx(unit)
    own = report["codes: standard deviation of q(z|x)"].effect
    assert own == pytest.approx(q.stddev.mean().item(), rel=1e-5)
    assert report["codes: active latents"].effect == (q.mean.var(0) > 0.01).sum()
    assert (report.spreads.diff() <= 0).all() and report.stddevs.shape == (3,)


@pytest.mark.parametrize(("name", "lengths"), [("decoder by spreads", 1.0), ("decoder by distance", 3**0.5)])
def test_a_linear_decoder_gives_way_along_its_top_singular_vector(model, report, name, lengths):
    """By both yardsticks: a distance is √D spreads, D = 3."""
    curve = report.curves[name]
    best = (report.settings["spread"] * lengths * model.scale.max() * curve.radii) ** 2 / 64
    assert torch.allclose(curve.values["MSE"].mean(1), best, rtol=0.05, atol=1e-9)


def test_the_areas_are_those_of_direct_calls(model, x, report):
    z = model.posterior(x[:8]).mean
    radii = torch.tensor(RADII["decoder by spreads"])
    scale = spread(model.posterior(x).rsample(generator=seeded()))
    search = {"steps": 20, "restarts": 2, "generator": seeded()}
    curve = dd_curve(model, z, radii[1:] * scale, latent.attack, {"SSIM": ssim}, **search)
    similar = torch.cat([torch.ones(1, 8), curve.values["SSIM"]])
    area = aaddc_abs(radii, similar, better="higher")
    assert report["decoder by spreads: AADDC"].effect == pytest.approx(area.mean().item(), rel=1e-5)
    eps = torch.tensor(RADII["encoder"][1:]).repeat_interleave(8)
    bad = encoder.attack(model, x[:8].repeat(3, 1, 1, 1), eps=eps, steps=20, restarts=2, generator=seeded()).adversarial
    assert torch.equal(bad.view(3, 8, 1, 8, 8), report.curves["encoder"].adversarial[1:])
    similar = ssim(reconstruct(model, x[:8]).repeat(3, 1, 1, 1), reconstruct(model, bad)).view(3, 8)
    assert torch.allclose(similar, report.curves["encoder"].values["SSIM"][1:], atol=1e-5)


def test_the_attacks_beat_a_random_direction(report):
    for name in RADII:
        assert report[f"{name}: AADDC, random step − attack"].low > 0
        attack, random = report.curves[name], report.curves[f"{name}, random"]
        assert (attack.values["MSE"] >= random.values["MSE"] - 1e-6).all()


def test_on_a_convex_problem_a_doubled_attack_finds_nothing_more(report):
    for name in RADII:
        assert isinstance(report[f"{name}: AADDC lost to a doubled attack"], Estimate)
        single, doubled = report.climbs[name], report.climbs[f"{name}, doubled"]
        assert len(single.path) == 21 and len(doubled.path) == 41
        assert doubled.best == pytest.approx(single.best, rel=0.05)
        assert single.path[-1].item() <= single.best * (1 + 1e-6)  # a mean over starts, and their best


def test_the_loss_that_an_attack_reached_is_that_of_its_images_however_many_rows_go_at_once(model, x):
    found = []
    for most in (7, 512):
        bench = Bench(model, x, {}, None, Budget(images=20, attacked=8, steps=5, restarts=2), most, 0)
        measuring.codes(bench)
        attack(bench, "encoder")
        bad = bench.report.curves["encoder"].adversarial[1:, :2].flatten(0, 1)  # a quarter of eight, at three radii
        q, p = model.posterior(x[:2].repeat(3, 1, 1, 1)), model.posterior(bad)
        climb = bench.report.climbs["encoder"]
        assert climb.best == pytest.approx((q.kl(p) + p.kl(q)).mean().item() / 2, rel=1e-4)
        assert (climb.path.diff() > 0).all()
        found.append(climb.path)
    assert torch.allclose(*found, rtol=1e-5)


def test_the_scores_are_larger_for_the_more_foreign_images(model, x, noise, report):
    assert report["noise: AUROC of reconstruction error"].effect == 1
    values = [signals(model, images, generator=seeded())["negative_elbo"] for images in (x[:20], noise)]
    assert report["noise: AUROC of −ELBO"].effect == auroc(*values)


def test_exact_posteriors_leave_hmc_nothing_to_repair_but_noise(report):
    assert report["repair: clean image through HMC"].effect > 0.9
    assert 0.5 < report["repair: acceptance"].effect <= 1
    assert report["repair: divergences"].effect == 0
    gain = report["repair: attacked image, repaired"].effect - report["repair: attacked image"].effect
    assert report["repair: gain"].effect == pytest.approx(gain, abs=1e-6)


def test_a_seed_reproduces_everything(model, x, noise):
    first, second, other = (audit(model, x, outside={"n": noise}, seed=s, **QUICK).to_json() for s in (0, 0, 1))
    assert first == second
    assert first["measures"]["encoder: AADDC"] != other["measures"]["encoder: AADDC"]


def test_no_name_comes_twice_and_every_measure_has_a_unit(report):
    names = [row["measure"] for row in report.rows()]
    assert len(set(names)) == len(names) > 40
    assert all(row["unit"] for row in report.rows())
    assert {f"noise: AUROC of {score}" for score in SCORES} <= set(names)


@settings(max_examples=3, deadline=None)
@given(by=st.floats(0.1, 30))
def test_radii_are_scale_free(by):
    model = LinearGaussian(shape=(1, 8, 8), s=0.1)
    x = model.decode(torch.randn(8, 3, generator=seeded(5))).clamp(0, 1)
    plain, stretched = audit(model, x, **QUICK), audit(Stretched(model, by), x, **QUICK)
    assert stretched.settings["spread"] == pytest.approx(by * plain.settings["spread"], rel=1e-4)
    for name in AREAS:
        assert stretched[name].effect == pytest.approx(plain[name].effect, rel=1e-3)


def test_what_a_deterministic_autoencoder_lacks_is_said_and_nothing_stops(x, noise):
    torch.manual_seed(0)
    model = deterministic_ae(image_shape=(1, 8, 8), latent_dim=3, net="mlp").eval()
    report = audit(model, x, outside={"n": noise}, **QUICK)
    lacking = ["clean: ELBO", "codes: standard deviation of q(z|x)", "repair: gain", "n: AUROC of KL"]
    lacking += ["n: AUROC of −ELBO", "n: AUROC of ‖σ‖", "n: AUROC of likelihood regret"]
    for name in lacking:
        assert report[name].startswith("not defined: "), name
    assert report.settings["divergence"] == "means"
    assert isinstance(report["encoder: AADDC"], Estimate) and isinstance(report["n: AUROC of ‖μ‖"], Estimate)


def test_what_fails_in_numbers_is_said_and_nothing_stops(x):
    class NoWhite(LinearGaussian):
        """An image with a white pixel is impossible."""

        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z) + (x.amax((1, 2, 3)) < 1).to(x).log()

    images = x.clamp(0, 0.9)
    images[3, 0, 0, 0] = 1
    report = audit(NoWhite(shape=(1, 8, 8), s=0.1), images, **QUICK)
    assert report["clean: ELBO"] == "not measured: values must be finite, got 1 NaN or infinite of 30"
    assert report["repair: gain"].startswith("not measured: log_density: NaN or infinite")
    assert isinstance(report["clean: reconstruction SSIM"], Estimate)


def test_a_posterior_without_kl_is_attacked_by_its_means(model, x):
    class NoKL(LinearGaussian):
        def posterior(self, x):
            q = super().posterior(x)
            return type("Q", (), {n: getattr(q, n) for n in ("mean", "stddev", "rsample", "log_prob")} | {
                "__getitem__": lambda self, i: q[i]})()  # fmt: skip

    report = audit(NoKL(shape=(1, 8, 8), s=0.1), x, **QUICK)
    assert report.settings["divergence"] == "means"
    assert report["clean: ELBO"].effect == pytest.approx(model.log_evidence(x).mean().item(), rel=1e-4)


def test_the_report_can_be_stored_and_read(report):
    stored = json.loads(json.dumps(report.to_json()))
    area = report["encoder: AADDC"]
    assert stored["measures"]["encoder: AADDC"] == {
        "unit": "area under SSIM over the radii, 0…1", "effect": area.effect, "low": area.low, "high": area.high,
        "n": 8, "runs": None, "error": None, "df": None,
    }  # fmt: skip
    assert stored["curves"]["decoder by spreads"]["radii"] == list(RADII["decoder by spreads"])
    lines = report.table().splitlines()
    assert all(line.replace(r"\|", "").count("|") == 5 for line in lines)
    with pytest.raises(KeyError, match="encoder: AADDC"):
        report["no such thing"]


def test_labels_tell_what_a_probe_reads_before_and_after():
    """Two classes, far apart along one latent: a probe knows them, and an attack on pixels of .1 changes little."""
    model = LinearGaussian(shape=(1, 8, 8), s=0.1)
    labels = torch.arange(80) % 2
    z = torch.zeros(80, 3)
    z[:, 2] = 2.0 * labels - 1
    x = (model.decode(z) + 0.01 * torch.randn(80, 1, 8, 8, generator=seeded())).clamp(0, 1)
    budget = replace(TINY, images=80)
    report = audit(model, x, labels=labels, budget=budget, progress=False)
    assert report["labels: clean"].effect == report["labels: random step"].effect == 1
    assert {"labels: attacked", "labels: attacked, repaired", "labels: clean, repaired"} <= set(report.measures)
    few = audit(model, x[:30], labels=labels[:30], **QUICK)
    assert few["labels: clean"].startswith("not measured: 50 images or more")
    ids = audit(model, x, labels=1_000_003 * labels, budget=budget, progress=False)  # the probe has two outputs
    assert ids["labels: attacked"] == report["labels: attacked"]
    unique = audit(model, x, labels=torch.arange(80), budget=budget, progress=False)
    assert unique["labels: clean"].startswith("not measured: two images or more a label expected, got 80 different")
    with pytest.raises(ValueError, match="labels: one for each of the 80 rows"):
        audit(model, x, labels=labels[:5], budget=budget, progress=False)


def test_a_likelihood_with_the_wrong_sign_and_a_deviation_for_the_log_variance_are_told(model, x, report):
    class Upside(LinearGaussian):
        def log_likelihood(self, x, z):
            return -0.01 * super().log_likelihood(x, z)  # so little that the prior holds the chains

    class Wide(LinearGaussian):
        def posterior(self, x):
            mean = super().posterior(x).mean
            return DiagonalGaussian(mean, torch.full_like(mean, 0.1))

    told = "less likely under their own codes", "wider than a standard normal prior in every latent"
    wrong = []
    for kind in (Upside, Wide):
        found = audit(kind(shape=(1, 8, 8), s=0.1), x, **QUICK)
        wrong.append(" ".join(warnings(found, band(found))))
    right = " ".join(warnings(report, band(report)))
    for words, text in zip(told, wrong, strict=True):
        assert words in text and words not in right


def test_stopping_keeps_what_there_is(model, x, noise):
    class Stopped(LinearGaussian):
        """Ctrl-C comes when foreign images are looked at."""

        def posterior(self, x):
            if len(x) == 20:
                raise KeyboardInterrupt
            return super().posterior(x)

    with pytest.raises(AuditInterrupted) as stopped:
        audit(Stopped(shape=(1, 8, 8), s=0.1), x, outside={"noise": noise}, **QUICK)
    kept = stopped.value.report
    assert kept.stopped == "by Ctrl-C" and isinstance(kept["encoder: AADDC"], Estimate)
    assert not any("noise" in name for name in kept.measures)


def test_a_model_that_fails_midway_loses_nothing_that_was_measured(x, noise):
    class Failing(LinearGaussian):
        def posterior(self, x):
            if len(x) == 20:
                raise MemoryError("no room for 20 images\ntensor([[0.1, …")
            return super().posterior(x)

    with pytest.raises(
        AuditFailed, match=r"stopped in its part 'scores' by MemoryError: no room for 20 images \(test_"
    ) as hit:
        audit(Failing(shape=(1, 8, 8), s=0.1), x, outside={"noise": noise}, **QUICK)
    assert isinstance(hit.value.report["encoder: AADDC"], Estimate)


@pytest.mark.parametrize("method", ["posterior", "decode"])
def test_one_image_without_numbers_is_named(x, method):
    """The contract's trial call sees the first three alone."""

    class Broken(LinearGaussian):
        def posterior(self, x):
            q = super().posterior(x)
            if method == "posterior" and len(x) == 30:
                q.mean[17] = torch.nan
            return q

        def decode(self, z):
            images = super().decode(z).clone()
            if method == "decode" and len(z) == 30:
                images[17] = torch.nan
            return images

    with pytest.raises(ValueError, match=rf"{method}: NaN or infinite numbers for image\(s\) \[17\] of 30"):
        audit(Broken(shape=(1, 8, 8), s=0.1), x, **QUICK)


class Heavy(LinearGaussian):
    """Keeps so many bytes of each image for its gradient."""

    def __init__(self, kept):
        super().__init__(shape=(1, 8, 8), s=0.1)
        self.kept, self.most = kept, 0

    def decode(self, z):
        self.most = max(self.most, len(z))
        wide = z[:, :1].expand(-1, self.kept // 4).exp()  # exp keeps its result
        return super().decode(z) + 0 * wide.sum(1).view(-1, 1, 1, 1)


def test_rows_at_once_fit_into_memory(x, monkeypatch):
    assert rows_at_once(LinearGaussian(shape=(1, 8, 8)), x) == MOST_ROWS
    monkeypatch.setattr("vaenb.audit.budget.MEMORY", int(16.5 * 2**20))
    assert rows_at_once(Heavy(2**20), x) == 16  # of 1 MiB each
    assert rows_at_once(Heavy(2**26), x) == 1


def test_no_call_sees_more_rows_than_fit_and_the_numbers_are_the_same(model, x, noise, monkeypatch):
    monkeypatch.setattr("vaenb.audit.budget.MEMORY", 6 * 2**16)
    heavy = Heavy(2**16)
    bounded = audit(heavy, x, outside={"n": noise}, **QUICK)
    assert heavy.most == bounded.settings["rows at once"] == 6
    whole = audit(model, x, outside={"n": noise}, **QUICK)
    for name in ("encoder: AADDC", "clean: reconstruction SSIM", "n: AUROC of reconstruction error"):  # without draws
        assert bounded[name].effect == pytest.approx(whole[name].effect, abs=2e-3)


def test_thorough_adds_attackers_that_find_no_less(model, x):
    budget = replace(TINY, attacked=4, thorough=True)
    report = audit(model, x, budget=budget, progress=False)
    for name in RADII:
        worst = report[f"{name}: worst of all attackers"].effect
        for attacker in ("standard attack", "PGD, 4 × the steps, 5 × the restarts", "L-BFGS"):
            assert worst <= report[f"{name}: {attacker}"].effect + 1e-6
    assert isinstance(report["decoder by spreads: 1000 queries"], Estimate)
    assert isinstance(report["repair: against an attacker who knows it"], Estimate)


def test_lbfgs_finds_a_linear_decoders_top_singular_vector(model, x):
    z = model.posterior(x[:4]).mean
    bench = Bench(model, x, {}, None, TINY, 512, 0)
    where = Surface("decoder by spreads", torch.ones(1), 1.0, z, lambda z: latent.loss(model, z), model.decode, "l2")
    found = lbfgs(bench, where, 1.5)
    assert torch.allclose((found - z).norm(dim=1), torch.full((4,), 1.5), rtol=1e-3)
    assert torch.allclose(mse(model.decode(z), model.decode(found)), (1.5 * model.scale.max()) ** 2 / 64, rtol=0.1)


def test_budgets_have_names(model, x):
    assert BUDGETS["thorough"].thorough and not BUDGETS["standard"].thorough
    with pytest.raises(ValueError, match="budget: one of quick, standard, thorough expected, got 'fast'"):
        audit(model, x, budget="fast")


@pytest.mark.parametrize(
    "build",
    [
        lambda: vae(image_shape=(1, 16, 16), latent_dim=3, net="mlp"),
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
        (Wrong(decode=lambda z: good.decode(z.detach())), ValueError, r"decode\(z\): attacks need its gradient"),
        (
            Wrong(posterior=lambda x: good.posterior(x.detach())),
            ValueError,
            r"posterior\(x\).mean: attacks need its gradient",
        ),
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
            "log_likelihood: chains and attacks need its gradient in z",
        ),
        (
            Wrong(log_prior=lambda z: good.log_prior(z).detach()),
            ValueError,
            "log_prior: chains and attacks need its gradient",
        ),
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


def test_what_had_no_gradient_to_attack_is_said_to_look_robust_only(x, report):
    words = "decoder by spreads: images without a gradient"
    robust = audit(Saturated(shape=(1, 8, 8), s=0.1), x, **QUICK)
    assert robust[words].effect == 1
    assert "look robust" in robust.table() and words not in report.measures


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
    expected = audit(good, x[:6], outside={"same": x[:6]}, **QUICK)
    with torch.inference_mode():
        given = x[:6] * 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = audit(good, given, outside={"same": given}, seed=np.int64(0), **QUICK)
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
        ({"budget": replace(TINY, attacked=1)}, "attacked: a whole number ≥ 2"),
        ({"budget": replace(TINY, steps=0)}, "steps: a whole number"),
        ({"seed": 0.5}, "seed: a whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments, match, model, x):
    with pytest.raises(ValueError, match=match):
        audit(model, **{"x": x} | QUICK | arguments)


def test_a_flat_prior_keeps_the_contract():
    check_contract(Wrong(log_prior=lambda z: torch.zeros(len(z))), torch.rand(3, 1, 8, 8, generator=seeded()))


def test_one_image_shows_no_batch():
    with pytest.raises(ValueError, match=r"len\(x\): a whole number ≥ 2 expected, got 1"):
        check_contract(Wrong(), torch.rand(1, 1, 8, 8, generator=seeded()))


def test_foreign_images_without_names_are_refused():
    with pytest.raises(TypeError, match="outside: a dict of image sets by name expected, got list"):
        audit(good, torch.rand(4, 1, 8, 8), outside=[torch.rand(4, 1, 8, 8)], progress=False)
