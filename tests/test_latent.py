"""Latent attacks on decoders whose worst perturbation is known."""

import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import latent
from vaenb.models import vae


def test_the_worst_direction_of_a_linear_decoder_is_its_top_singular_vector():
    model = LinearGaussian()
    z, eps = torch.randn(4, 3, generator=seeded()), torch.tensor([0.0, 0.5, 1.0, 2.0])
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
    assert (near.loss > result.loss).all() and (near.loss < ((model.decode(z) - goal) ** 2).mean()).all()


def test_named_targets_are_what_they_say():
    images = torch.rand(2, 1, 4, 4, generator=seeded())
    target = {name: latent.target_images(name, images, generator=seeded()) for name in latent.TARGETS}
    assert (target["black"] == 0).all() and (target["white"] == 1).all()
    torch.testing.assert_close(target["inverted"] + images, torch.ones(2, 1, 4, 4))
    assert 0.3 < target["noise"].mean() < 0.7 and target["noise"].std() > 0.2
    one = images[0]
    assert torch.equal(latent.target_images(one, images), torch.stack([one, one]))


def test_any_distance_can_be_attacked():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    z = torch.randn(3, 2, generator=seeded())
    largest = lambda a, b: (a - b).abs().flatten(1).amax(1)  # noqa: E731
    result = latent.attack(model, z, eps=1.0, distance=largest, generator=seeded())
    torch.testing.assert_close(result.loss, largest(model.decode(result.adversarial), model.decode(z)).detach())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": "grey"}, "target: black, white, noise, inverted or a tensor"),
        ({"target": torch.zeros(3, 4, 4)}, r"target: an image of shape \(1, 4, 4\)"),
        ({"target": torch.full((1, 4, 4), 255.0)}, "target: pixels in .* divide by 255"),
        ({"z": torch.zeros(3)}, "z: flat latents"),
        ({"eps": -1.0}, "eps: finite and ≥ 0"),
        ({"restarts": 0}, "restarts: a whole number"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    arguments = {"z": torch.zeros(2, 3), "eps": 1.0, **change}
    with pytest.raises(ValueError, match=says):
        latent.attack(LinearGaussian(), arguments.pop("z"), **arguments)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        latent.attack(vae(image_shape=(1, 32, 32), latent_dim=2), torch.zeros(1, 2), eps=1.0)
