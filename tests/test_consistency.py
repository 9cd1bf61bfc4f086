"""What a classifier says of a VAE's reconstructions, against plain loops and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor, nn

from tests.oracles import seeded
from tests.test_detection import Fixed, images
from vaenb.metrics.consistency import consistency
from vaenb.models import deterministic_ae


def classifier(x: Tensor, classes: int = 4) -> Tensor:
    """A linear one that is undecided about the oracle's images, so that its reconstructions disagree."""
    return 3 * (x.flatten(1) - 0.5) @ torch.randn(16, classes, generator=seeded(5), dtype=torch.float64).to(x)


def test_consistency_is_that_of_a_plain_loop():
    model, x, generator = Fixed(0.3), images(), seeded(3)
    found = consistency(classifier, model, x, samples=8, generator=seeded(3))
    z = torch.stack([model.posterior(x).rsample(generator=generator) for _ in range(8)], 1)
    for i in range(len(x)):
        own = classifier(x[i : i + 1]).double().softmax(1)[0].numpy()
        each = [classifier(model.decode(z[i, s : s + 1])).double().softmax(1)[0].numpy() for s in range(8)]
        labels, mean = [int(p.argmax()) for p in each], np.mean(each, axis=0)
        assert found.labels[i].tolist() == labels and found.distinct[i] == len(set(labels))
        np.testing.assert_allclose(found.own[i], own, rtol=1e-3, atol=1e-12)
        np.testing.assert_allclose(found.mean[i], mean, rtol=1e-3, atol=1e-12)
        assert found.entropy[i].item() == pytest.approx(entropy(mean), rel=1e-3)
        assert found.kl[i].item() == pytest.approx(entropy(own, mean), rel=1e-3)
    assert found.distinct.dtype == torch.long and len(found.distinct.unique()) > 1


@pytest.mark.parametrize("samples, classes", [(1, 3), (3, 7), (20, 2), (20, 5)])
def test_scores_are_in_their_ranges(samples, classes):
    model, x = Fixed(2.0), images(200)
    found = consistency(lambda x: classifier(x, classes), model, x, samples=samples, generator=seeded())
    assert found.distinct.min() >= 1 and found.distinct.max() == min(samples, classes)
    assert found.labels.shape == (200, samples) and found.own.shape == found.mean.shape == (200, classes)
    assert (found.kl >= 0).all() and (found.entropy >= 0).all() and found.entropy.max() <= math.log(classes) + 1e-12
    torch.testing.assert_close(found.mean.sum(1), torch.ones(200, dtype=torch.float64))


def test_without_noise_all_reconstructions_have_one_label():
    model, x = Fixed(1e-12), images(50)
    found = consistency(classifier, model, x, samples=5)
    expected = classifier(model.decode(model.posterior(x).mean)).double().log_softmax(1)
    assert (found.distinct == 1).all() and (found.labels == expected.argmax(1, keepdim=True)).all()
    torch.testing.assert_close(found.log_mean, expected, rtol=1e-3, atol=1e-3)


def test_a_seed_gives_the_same_again_and_another_does_not():
    one, same, other = (consistency(classifier, Fixed(0.3), images(), generator=seeded(s)) for s in (0, 0, 1))
    assert one.log_mean.equal(same.log_mean) and not one.log_mean.equal(other.log_mean)


@pytest.mark.parametrize("height", [1.0, 1000.0, 1e6])
def test_kl_stays_finite_where_probabilities_underflow(height):
    class Black(Fixed):
        def decode(self, z: Tensor) -> Tensor:
            return torch.zeros(len(z), 1, 4, 4)

    def sure(x: Tensor) -> Tensor:  # of white at p = (σ(h), σ(−h)), of black at the reverse
        return height * torch.stack([x.mean((1, 2, 3)) - 0.5, 0.5 - x.mean((1, 2, 3))], 1)

    found = consistency(sure, Black(1.0), torch.ones(2, 1, 4, 4), generator=seeded())
    assert found.kl.tolist() == pytest.approx([height * math.tanh(height / 2)] * 2, rel=1e-9)
    p = 1 / (1 + math.exp(-min(height, 700)))
    assert found.entropy.tolist() == pytest.approx([entropy([p, 1 - p])] * 2, abs=1e-9)


def test_a_reconstruction_that_is_the_image_has_no_kl():
    class Same(Fixed):
        def decode(self, z: Tensor) -> Tensor:
            return images()[:1].repeat(len(z), 1, 1, 1)

    found = consistency(classifier, Same(1.0), images()[:1].repeat(6, 1, 1, 1))
    assert found.kl.max() < 1e-12 and found.distinct.max() == 1


def test_a_deterministic_autoencoder_is_a_probe_whose_copies_agree():
    torch.manual_seed(0)
    model, x = deterministic_ae(image_shape=(1, 8, 8), latent_dim=3, net="mlp").eval(), torch.rand(4, 1, 8, 8)
    assert consistency(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), model, x).distinct.tolist() == [1] * 4


def test_no_gradient_is_kept():
    found = consistency(classifier, Fixed(0.3), images().requires_grad_())
    assert not found.log_own.requires_grad and not found.kl.requires_grad


@pytest.mark.parametrize(
    "bad, match",
    [
        (lambda x: classifier(x).softmax(1), "gives probabilities; logits expected"),
        (lambda x: classifier(x)[:, 0], r"logits \(6, K\)"),
        (lambda x: classifier(x).argmax(1), r"logits \(6, K\)"),
        (lambda x: classifier(x)[1:], r"logits \(6, K\)"),
        (lambda x: classifier(x) * math.nan, "NaN"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), "training mode"),
    ],
)
def test_a_classifier_that_gives_no_logits_is_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        consistency(bad, Fixed(0.3), images())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="x: "):
        consistency(classifier, Fixed(0.3), images() * 255)
    with pytest.raises(TypeError, match="model: "):
        consistency(classifier, object(), images())
    with pytest.raises(TypeError, match="classifier"):
        consistency(torch.zeros(6, 4), Fixed(0.3), images())
    with pytest.raises(ValueError, match="samples"):
        consistency(classifier, Fixed(0.3), images(), samples=0)
