"""Input attacks on posteriors whose divergence is known."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import encoder
from vaenb.models import DiagonalGaussian, vae


def test_symmetric_kl_is_torchs_and_document_002as_formula():
    g = seeded()
    p, q = (DiagonalGaussian(torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)) for _ in range(2))
    a, b = (Independent(Normal(d.mean, d.stddev), 1) for d in (p, q))
    value = encoder.symmetric_kl(p, q)
    torch.testing.assert_close(value, (kl_divergence(a, b) + kl_divergence(b, a)) / 2)
    shift, lv = (p.mean - q.mean) ** 2, p.logvar - q.logvar
    formula = (lv.exp() + (-lv).exp() + shift * ((-p.logvar).exp() + (-q.logvar).exp())) / 4 - 0.5
    torch.testing.assert_close(value, formula.sum(1))


def test_the_worst_small_change_of_a_linear_encoder_is_found():
    model = LinearGaussian()
    x = torch.full((3, 1, 4, 4), 0.5)
    gain = model.posterior(torch.eye(16).view(16, 1, 4, 4)).mean - model.posterior(torch.zeros(16, 1, 4, 4)).mean
    whitened = gain / model.posterior(x[:1]).stddev  # SKL = ½‖whitened shift‖² as the variance is constant
    worst = 0.5 * (0.1 * torch.linalg.matrix_norm(whitened, ord=2)) ** 2
    result = encoder.attack(model, x, eps=0.1, norm="l2", steps=60, alpha=0.1, restarts=3, generator=seeded())
    torch.testing.assert_close(result.loss, worst.expand(3), rtol=1e-2, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_stays_in_ball_and_box_and_beats_noise(norm):
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    x = torch.rand(6, 1, 8, 8, generator=seeded())
    eps = torch.linspace(0, 0.3, 6)
    result = encoder.attack(model, x, eps=eps, norm=norm, steps=20, restarts=2, generator=seeded())
    offset = (result.adversarial - x).flatten(1)
    length = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert (length <= eps + 1e-6).all() and result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    noise = encoder.random_direction(model, x, eps=eps, norm=norm, generator=seeded())
    assert (result.loss[1:] > noise.loss[1:]).all() and torch.equal(result.adversarial[0], x[0])


def test_chunks_compare_each_image_with_its_own_posterior():
    model, x = LinearGaussian(), torch.rand(5, 1, 4, 4, generator=seeded())
    whole = encoder.attack(model, x, eps=0.1, steps=5, restarts=2, generator=seeded())
    parts = encoder.attack(model, x, eps=0.1, steps=5, restarts=2, generator=seeded(), chunk=3)
    torch.testing.assert_close(parts.loss, whole.loss)


def test_images_out_of_range_are_refused():
    with pytest.raises(ValueError, match="x: pixels in .* divide by 255"):
        encoder.attack(LinearGaussian(), torch.full((1, 1, 4, 4), 255.0), eps=0.1)
