"""Latent attacks on decoders whose worst perturbation is known."""

import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import latent
from vaenb.models import vae

SMALL = {"image_shape": (1, 8, 8), "latent_dim": 3, "net": "mlp"}


def test_the_worst_direction_of_a_linear_decoder_is_its_top_singular_vector():
    model = LinearGaussian()
    z = torch.randn(4, 3, generator=seeded())
    eps = torch.tensor([0.0, 0.5, 1.0, 2.0])
    result = latent.attack(model, z, eps=eps, steps=50, alpha=eps, generator=seeded())
    worst = (eps * model.scale.max()) ** 2 / 16  # mean over 16 pixels of ‖W(z' − z)‖²
    torch.testing.assert_close(result.loss, worst, rtol=1e-3, atol=1e-7)
    _, _, v = torch.linalg.svd(model.w)
    step = (result.adversarial - z)[1:] / eps[1:, None]
    torch.testing.assert_close((step @ v[0]).abs(), torch.ones(3), rtol=1e-3, atol=0)


def test_the_attack_beats_a_random_direction_of_the_same_radius():
    model, z = LinearGaussian(), torch.randn(8, 3, generator=seeded())
    attack = latent.attack(model, z, eps=1.0, restarts=3, steps=50, generator=seeded())
    noise = latent.random_direction(model, z, eps=1.0, restarts=3, generator=seeded())
    assert (attack.loss > noise.loss).all()
    assert noise.mean_loss.mean().item() == pytest.approx((model.scale**2).mean().item() / 16, rel=0.5)


def test_a_reachable_target_is_reached():
    model, z = LinearGaussian(), torch.zeros(3, 3)
    goal = model.decode(torch.tensor([[0.6, -0.6, 0.2]]).expand(3, 3))
    result = latent.attack(model, z, eps=1.0, target=goal, steps=200, alpha=0.05, generator=seeded())
    assert (result.loss < 1e-5).all()
    near = latent.attack(model, z, eps=0.1, target=goal, steps=50, generator=seeded())
    assert (near.loss > result.loss).all()
    assert (near.loss < ((model.decode(z) - goal) ** 2).mean()).all()


def test_named_targets_are_what_they_say():
    images = torch.rand(2, 1, 4, 4, generator=seeded())
    target = {name: latent.target_images(name, images, generator=seeded()) for name in latent.TARGETS}
    assert (target["black"] == 0).all() and (target["white"] == 1).all()
    torch.testing.assert_close(target["inverted"] + images, torch.ones(2, 1, 4, 4))
    assert 0.3 < target["noise"].mean() < 0.7
    assert target["noise"].std() > 0.2
    one = images[0]
    assert torch.equal(latent.target_images(one, images), torch.stack([one, one]))


def test_any_distance_can_be_attacked():
    torch.manual_seed(0)
    model, z = vae(**SMALL).eval(), torch.randn(3, 3, generator=seeded())

    def largest(a, b):
        return (a - b).abs().flatten(1).amax(1)

    result = latent.attack(model, z, eps=1.0, distance=largest, generator=seeded())
    torch.testing.assert_close(result.loss, largest(model.decode(result.adversarial), model.decode(z)).detach())


def test_a_linear_decoder_falls_to_one_spectral_step():
    model, z = LinearGaussian(), torch.randn(4, 3, generator=seeded())
    eps = torch.tensor([0.0, 0.5, 1.0, 2.0])
    result = latent.spectral_attack(model, z, eps=eps, generator=seeded())
    torch.testing.assert_close(result.loss, (eps * model.scale.max()) ** 2 / 16, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close((result.adversarial - z).norm(dim=1), eps, rtol=1e-4, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_top_singular_pair_is_that_of_the_dense_jacobian(layout):
    torch.manual_seed(0)
    model = vae(image_shape=(1, 16, 16), latent_dim=4).eval().double().to(memory_format=layout)
    z = torch.randn(2, 4, generator=seeded(), dtype=torch.float64)
    dense = torch.stack([torch.func.jacrev(lambda a: model.decode(a[None]).flatten())(row) for row in z])
    _, values, right = torch.linalg.svd(dense.detach(), full_matrices=False)
    sigma, v = latent.top_singular(model.decode, z, iterations=200, generator=seeded())
    torch.testing.assert_close(sigma, values[:, 0], rtol=1e-6, atol=0)
    torch.testing.assert_close((v * right[:, 0]).sum(1).abs(), torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0)


def test_power_iteration_converges_at_its_rate():
    model = LinearGaussian()
    model.w, model.b = model.w.double(), 0.5
    _, values, right = torch.linalg.svd(model.w, full_matrices=False)
    z = torch.zeros(5, 3, dtype=torch.float64)
    slants = {}
    for k in (1, 2, 5, 10):
        sigma, v = latent.top_singular(model.decode, z, iterations=k, generator=seeded())
        slants[k] = ((v @ right[1]) / (v @ right[0])).abs()
    for k in (1, 4):
        torch.testing.assert_close(slants[1 + k] / slants[1], ((values[1] / values[0]) ** (2 * k)).expand(5))
    assert (sigma <= values[0] * (1 + 1e-12)).all()
    assert (sigma > values[0] * (1 - 1e-8)).all()


def test_the_better_sign_is_taken():
    class Bent(LinearGaussian):
        def decode(self, z):  # steeper to the right than to the left
            return super().decode(z + 0.2 * z**2)

    model, z = Bent(), torch.zeros(3, 3)
    result = latent.spectral_attack(model, z, eps=0.5, generator=seeded())
    assert torch.equal(result.loss, result.restart_losses.amax(0))
    assert (result.restart_losses[0] - result.restart_losses[1]).abs().min() > 1e-6
    assert (result.adversarial.sum(1) > 0).all()


def test_the_spectral_attack_counts_what_it_spends():
    asked = []

    class Counted(LinearGaussian):
        def decode(self, z):
            asked.append(len(z))
            return super().decode(z)

    result = latent.spectral_attack(Counted(), torch.zeros(5, 3), eps=1.0, iterations=7)
    assert result.gradient_calls == 14
    assert sum(asked) == 5 * result.forward_calls == 20


def test_seeds_reproduce_and_gradients_being_off_outside_changes_nothing():
    torch.manual_seed(0)
    model, z = vae(**SMALL).eval(), torch.randn(3, 3, generator=seeded())

    def run(seed):
        return latent.spectral_attack(model, z, eps=1.0, iterations=1, generator=seeded(seed))

    with torch.no_grad():
        off = run(1)
    assert torch.equal(off.adversarial, run(1).adversarial)
    assert not torch.equal(off.adversarial, run(2).adversarial)


def test_a_constant_decoder_has_a_direction_and_no_damage():
    class Constant(LinearGaussian):
        def decode(self, z):
            return super().decode(0 * z)

    z = torch.randn(3, 3, generator=seeded())
    sigma, v = latent.top_singular(Constant().decode, z, generator=seeded())
    assert (sigma == 0).all()
    torch.testing.assert_close(v.norm(dim=1), torch.ones(3))
    eps = torch.tensor([1.0, 0.0, 1.0])
    with pytest.warns(UserWarning, match=r"2 of 3 inputs .* for decoders .queries\.query_attack"):
        result = latent.spectral_attack(Constant(), z, eps=eps, generator=seeded())
    assert (result.loss == 0).all()
    assert result.stuck.tolist() == [True, False, True]
    assert not latent.spectral_attack(LinearGaussian(), z, eps=1.0).stuck.any()


def test_one_latent_dimension_has_one_direction():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=1, net="mlp").eval()
    z = torch.zeros(2, 1)
    jacobian = torch.func.jacrev(lambda a: model.decode(a[None]).flatten())(z[0])
    sigma, v = latent.top_singular(model.decode, z, iterations=1)
    torch.testing.assert_close(sigma, jacobian.norm().detach().expand(2))
    assert (v.abs() == 1).all()


@pytest.mark.parametrize("decode", [lambda z: torch.zeros(len(z), 1, 4, 4), torch.no_grad()(LinearGaussian().decode)])
def test_a_decoder_without_a_gradient_is_named(decode):
    with pytest.raises(ValueError, match=r"function: no gradient of its output reaches z; .queries\.query_attack"):
        latent.top_singular(decode, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("attack", "wrong", "says"),
    [
        (latent.attack, {"target": "grey"}, "target: black, white, noise, inverted or a tensor"),
        (latent.attack, {"target": torch.zeros(3, 4, 4)}, r"target: an image of shape \(1, 4, 4\)"),
        (latent.attack, {"target": torch.zeros(4, 4)}, r"target: .*\(4, 4\)"),
        (latent.attack, {"target": torch.full((1, 4, 4), 255.0)}, "target: pixels in .* divide by 255"),
        (latent.attack, {"z": torch.zeros(3)}, "z: flat latents"),
        (latent.attack, {"model": vae(**SMALL)}, r"call model\.eval\(\)"),
        (latent.spectral_attack, {"eps": -1.0}, "eps: finite and ≥ 0"),
        (latent.spectral_attack, {"iterations": 0}, "iterations: a whole number"),
    ],
)
def test_bad_arguments_are_refused(attack, wrong, says):
    with pytest.raises(ValueError, match=says):
        attack(**{"model": LinearGaussian(), "z": torch.zeros(2, 3), "eps": 1.0} | wrong)


@pytest.mark.parametrize("attack", [latent.attack, latent.random_direction, latent.spectral_attack])
def test_one_image_for_many_latents_is_refused(attack):
    class One(LinearGaussian):
        def decode(self, z):
            return super().decode(z)[:1]

    with pytest.raises(ValueError, match="decode: an image for each of 3 latents expected, got 1"):
        attack(One(), torch.zeros(3, 3), eps=1.0)


def test_a_decoder_without_a_jacobian_is_named():
    class Broken(LinearGaussian):
        def decode(self, z):
            return super().decode(z) + (0 * z.sum()).sqrt()  # adds 0, whose gradient is NaN

    with pytest.raises(ValueError, match=r"function: NaN or infinite Jacobian for row\(s\) \[0, 1\] of 2"):
        latent.top_singular(Broken().decode, torch.randn(2, 3, generator=seeded()), generator=seeded())
