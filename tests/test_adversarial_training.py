"""Latent adversarial training: what the second update touches, what it attacks, and that it helps."""

import pytest
import torch

from tests.oracles import seeded
from vaenb.attacks import latent
from vaenb.checkpoints import trained
from vaenb.data import load
from vaenb.defences.adversarial_training import AdversarialVAE, adversarial_vae
from vaenb.metrics.images import ssim
from vaenb.models import vae
from vaenb.training import fit

SMALL = {"image_shape": (1, 8, 8), "latent_dim": 3, "net": "mlp"}
CONV = {"image_shape": (1, 16, 16), "latent_dim": 3}  # has BatchNorm


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train", limit=64)


@pytest.fixture(scope="module")
def larger():
    return load("digits", split="train", limit=64, size=16)


def built(build, **config):
    torch.manual_seed(0)
    return build(**config)


def fitted(model, data, **settings):
    fit(model, data, **{"epochs": 1, "batch_size": 64, "progress": False, **settings})
    return model


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def statistics(module):
    return {name: value for name, value in module.state_dict().items() if "running" in name or "tracked" in name}


@pytest.fixture
def attacks(monkeypatch):
    """What the attacks of a training were asked for, and what they found."""
    seen, attack = [], latent.attack

    def spy(model, z, *, eps, **search):
        result = attack(model, z, eps=eps, **search)
        seen.append({"z": z, "eps": eps, "result": result, "training": model.training, **search})
        return result

    monkeypatch.setattr(latent, "attack", spy)
    return seen


def test_the_second_update_leaves_the_encoder_and_batchnorm_as_the_first_one_did(larger):
    plain = fitted(built(vae, likelihood="gaussian", **CONV), larger)
    robust = fitted(built(adversarial_vae, eps=1.0, steps=2, updates=2, **CONV), larger)  # one batch is an epoch
    assert same(plain.encoder, robust.encoder)
    assert statistics(plain)
    assert all(torch.equal(v, statistics(robust)[k]) for k, v in statistics(plain).items())
    for before, after in zip(plain.decoder.parameters(), robust.decoder.parameters(), strict=True):
        assert not torch.equal(before, after)


def test_over_several_batches_the_encoder_meets_another_decoder(digits):
    plain = fitted(built(vae, likelihood="gaussian", **SMALL), digits, batch_size=32)
    robust = fitted(built(adversarial_vae, eps=1.0, steps=1, **SMALL), digits, batch_size=32)
    assert not same(plain.encoder, robust.encoder)


def test_each_further_loss_gets_a_step_of_its_own_on_what_it_reaches(digits):
    class Shift(torch.nn.Module):
        further_steps = 2

        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))
            self.seen = []

        def losses(self, x, labels, generator=None):
            return {"loss": self.a}

        def further_loss(self, x, generator=None):
            self.seen.append((self.a.item(), self.b.item()))
            return self.b

    model = fitted(Shift(), digits, lr=0.5, schedule="constant")
    assert model.seen == [pytest.approx((-0.5, 0)), pytest.approx((-0.5, -0.5))]
    assert (model.a.item(), model.b.item()) == pytest.approx((-0.5, -1))


def test_the_loss_is_that_of_the_attacked_codes(attacks):
    model = built(adversarial_vae, eps=1.5, steps=2, **SMALL)
    x = torch.rand(7, 1, 8, 8, generator=seeded())
    loss = model.further_loss(x, seeded())
    (attack,) = attacks
    squares = ((model.decode(attack["result"].adversarial) - x) ** 2).sum((1, 2, 3)).mean()
    torch.testing.assert_close(loss - 32 * torch.tensor(torch.pi).log(), squares)
    assert loss.requires_grad and not attack["z"].requires_grad
    torch.testing.assert_close(attack["z"], model.posterior(x).rsample(generator=seeded()))


def test_a_density_sees_dequantised_images_in_the_second_update_too(attacks, monkeypatch):
    model = built(adversarial_vae, eps=1.5, steps=2, likelihood="learned_gaussian", **SMALL)
    seen, log_likelihood = [], model.log_likelihood
    monkeypatch.setattr(model, "log_likelihood", lambda x, z: seen.append(x) or log_likelihood(x, z))
    model.further_loss(torch.zeros(7, 1, 8, 8), seeded())
    (x,) = seen
    assert x.min() > 0 and x.max() < 1 / 255 and len(x.unique()) > 7


@pytest.mark.parametrize("updates", [1, 3])
def test_attacks_are_pgd_on_ssim_in_the_ball_and_see_batchnorm_at_rest(attacks, larger, updates):
    model = fitted(built(adversarial_vae, eps=0.7, steps=4, updates=updates, **CONV), larger, batch_size=32)
    assert len(attacks) == 2 * updates and not model.training
    for attack in attacks:
        a = torch.rand(3, 1, 16, 16)
        b = torch.rand(3, 1, 16, 16)
        result = attack["result"]
        torch.testing.assert_close(attack["distance"](a, b), 1 - ssim(a, b))
        assert ((result.adversarial - attack["z"]).norm(dim=1) <= 0.7 * (1 + 1e-5)).all()
        assert (attack["eps"] == 0.7).all() and not attack["training"]
        assert result.gradient_calls == 4
        assert len(result.restart_losses) == 1


def test_a_mixture_draws_a_radius_for_each_image(attacks):
    model = built(adversarial_vae, eps=2.0, steps=1, mixture=True, **SMALL)
    model.further_loss(torch.rand(400, 1, 8, 8, generator=seeded()), seeded())
    radius = attacks[0]["eps"]
    moved = attacks[0]["result"].adversarial - attacks[0]["z"]
    assert ((radius > 0) & (radius < 2)).all()
    assert len(radius.unique()) == 400
    assert radius.mean().item() == pytest.approx(1, abs=4 * 2 / 12**0.5 / 20)
    assert (moved.norm(dim=1) <= radius * (1 + 1e-5)).all()


@pytest.mark.parametrize("mode", [True, False])
def test_the_further_loss_leaves_the_model_in_its_mode(larger, mode):
    model = built(adversarial_vae, eps=1.0, steps=1, **CONV).train(mode)
    model.further_loss(larger.float(), seeded())
    assert all(m.training == mode for m in model.modules())


def test_it_rests_at_the_end_even_of_a_training_that_failed(larger, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no attack today")

    model = built(adversarial_vae, eps=1.0, **CONV)
    monkeypatch.setattr(latent, "attack", broken)
    with pytest.raises(RuntimeError, match="no attack today"):
        fitted(model, larger)
    assert not any(m.training for m in model.modules())


def test_the_same_seed_gives_the_same_weights(digits):
    def mixed():
        return built(adversarial_vae, eps=1.0, steps=2, mixture=True, **SMALL)

    first, again, other = (fitted(mixed(), digits, batch_size=16, seed=seed) for seed in (3, 3, 4))
    assert same(first, again) and not same(first, other)


def test_the_store_keeps_the_radius_apart(digits, tmp_path):
    settings = {"epochs": 1, "folder": tmp_path, "progress": False}
    first, _ = trained(adversarial_vae, {"eps": 1.0, "steps": 1, **SMALL}, digits, **settings)
    again, _ = trained(adversarial_vae, {"eps": 1.0, "steps": 1, **SMALL}, digits, **settings)
    other, _ = trained(adversarial_vae, {"eps": 2.0, "steps": 1, **SMALL}, digits, **settings)
    assert same(first, again) and not same(first, other)
    assert isinstance(again, AdversarialVAE)
    assert (again.eps, again.further_steps, again.mixture) == (1.0, 1, False)


def test_it_is_more_robust_than_its_twin_and_reconstructs_as_well():
    train = load("digits", split="train", limit=500)
    x = load("digits", split="test", limit=64).float()
    config = {"image_shape": (1, 8, 8), "latent_dim": 4, "net": "mlp", "beta": 0.1}
    eps = 3.0

    def after_training(model):
        fitted(model, train, epochs=12, batch_size=50)
        with torch.no_grad():
            z = model.posterior(x).mean
        attack = latent.attack(model, z, eps=eps, distance=lambda a, b: 1 - ssim(a, b), generator=seeded())
        return 1 - attack.loss.mean().item(), ssim(model.decode(z), x).mean().item()

    plain = after_training(built(vae, likelihood="gaussian", **config))
    robust = after_training(built(adversarial_vae, eps=eps, steps=2, **config))
    assert plain[0] < 0.65
    assert robust[0] > plain[0] + 0.15  # measured .50 and .84
    assert robust[1] > plain[1] - 0.06


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"eps": float("nan")}, "eps: a finite radius ≥ 0"),
        ({"eps": float("inf")}, "eps: a finite radius ≥ 0"),
        ({"steps": 0}, "steps: a whole number ≥ 1 expected, got 0"),
        ({"updates": 1.5}, "updates: a whole number ≥ 1 expected, got 1.5"),
        ({"net": "resnet"}, "net: one of"),
    ],
)
def test_bad_arguments_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        adversarial_vae(**{"eps": 1.0, **SMALL} | wrong)


def test_the_control_makes_its_steps_on_codes_that_are_not_attacked(monkeypatch):
    monkeypatch.setattr("vaenb.attacks.latent.attack", None)  # it is not called
    model = built(adversarial_vae, eps=0.0, **SMALL).eval()
    x = torch.rand(6, 1, 8, 8, generator=seeded())
    expected = -model.log_likelihood(x, model.posterior(x).rsample(generator=seeded(1))).mean()
    torch.testing.assert_close(model.further_loss(x, seeded(1)), expected)
