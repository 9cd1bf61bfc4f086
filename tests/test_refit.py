"""An encoder refitted to samples: their distribution is found, and nothing else changes."""

import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb.defences.refit import refit_encoder
from vaenb.models import hierarchical_vae, vae


@pytest.fixture
def model():
    torch.manual_seed(0)
    return vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()


def test_the_encoder_learns_the_samples_distribution_and_the_decoder_stays(model):
    x = torch.rand(128, 1, 8, 8, generator=seeded())
    mean, stddev = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1])
    samples = mean + stddev * torch.randn(128, 400, 2, generator=seeded(1))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    rough, _ = refit_encoder(model, x, samples, epochs=60, lr=2e-3, progress=False)
    refit, history = refit_encoder(rough, x, samples, epochs=60, lr=1e-4, progress=False)
    q = refit.posterior(x)
    torch.testing.assert_close(q.mean, mean.expand(128, 2), atol=0.1, rtol=0)
    torch.testing.assert_close(q.stddev, stddev.expand(128, 2), atol=0, rtol=0.25)
    entropy = (0.5 * (1 + torch.log(torch.tensor(2 * torch.pi))) + stddev.log()).sum()
    assert history.epochs[-1]["loss"] == pytest.approx(entropy.item(), abs=0.15)  # the least there is
    after = refit.state_dict()
    assert all(torch.equal(p, model.state_dict()[name]) for name, p in before.items())
    assert all(torch.equal(p, after[name]) == name.startswith("decoder") for name, p in before.items())


def test_the_same_seed_gives_the_same_encoder(model):
    x = torch.rand(16, 1, 8, 8, generator=seeded())
    samples = torch.randn(16, 3, 2, generator=seeded())
    first, second = (refit_encoder(model, x, samples, epochs=2, seed=5, progress=False)[0] for _ in range(2))
    assert torch.equal(first.posterior(x).mean, second.posterior(x).mean)


def test_the_loss_is_the_samples_log_density_at_the_images_as_they_are(model):
    x = torch.rand(16, 1, 8, 8, generator=seeded())
    samples = torch.randn(16, 1, 2, generator=seeded())
    _, history = refit_encoder(model, x, samples, epochs=1, batch_size=16, progress=False)
    expected = -model.posterior(x).log_prob(samples[:, 0]).mean()
    assert history.epochs[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_bad_input_is_named(model):
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"samples: \(4, S, 2\), .* got \(3, 5, 2\)"):
        refit_encoder(model, x, torch.zeros(3, 5, 2))
    with pytest.raises(ValueError, match="samples: NaN"):
        refit_encoder(model, x, torch.full((4, 5, 2), torch.nan))
    with pytest.raises(TypeError, match="model: a torch module expected"):
        refit_encoder(LinearGaussian(shape=(1, 8, 8)), x, torch.zeros(4, 5, 3))
    model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="no weight is left to refit"):
        refit_encoder(model, x, torch.zeros(4, 5, 2))


def test_the_decoder_of_a_hierarchy_stays_though_its_posterior_goes_through_it():
    torch.manual_seed(0)
    deep = hierarchical_vae(image_shape=(1, 8, 8), channels=4, groups=((1, 3), (4, 1))).eval()
    x = torch.rand(16, 1, 8, 8, generator=seeded())
    samples = torch.full((16, 5, deep.latent_dim), 1.0)
    refitted, history = refit_encoder(deep, x, samples, epochs=3, lr=1e-3, batch_size=8, progress=False)
    before, after = deep.state_dict(), refitted.state_dict()
    of_q = {name for name in before if name.startswith("encoder") or ".q." in name}
    assert {name for name in before if not torch.equal(before[name], after[name])} == of_q
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert all(p.requires_grad for p in refitted.parameters())
    with pytest.raises(ValueError, match=rf"samples: \(16, S, {deep.latent_dim}\)"):
        refit_encoder(deep, x, samples[..., :1])
