"""The image classifier, and the linear probe against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.oracles import seeded
from vaenb import data
from vaenb.checkpoints import trained
from vaenb.models.classifier import cnn_classifier, linear_probe


def clusters(classes, n=300, d=4):
    """Overlapping clusters of latents on very different scales, one of them constant."""
    g = seeded()
    labels = torch.tensor(classes)[torch.randint(len(classes), (n,), generator=g)]
    centres = torch.randn(max(classes) + 1, d, generator=g)
    z = (centres[labels] + torch.randn(n, d, generator=g)) * torch.tensor([0.01, 1.0, 50.0, 0.0]) + 3
    return z, labels


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2, 3, 4], [1, 2, 5], [3, 7]])
def test_probabilities_are_scikit_learns(classes):
    z, labels = clusters(classes)
    probe = linear_probe(z.double(), labels)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z.double(), labels)
    probabilities = probe(z.double()).softmax(1).numpy()
    np.testing.assert_allclose(probabilities[:, classes], reference.predict_proba(z.double()), atol=1e-9)
    absent = [k for k in range(max(classes) + 1) if k not in classes]
    assert (probe.in_features, probe.out_features) == (4, max(classes) + 1) and (probabilities[:, absent] == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_whole_type_are_the_same_labels(dtype):
    z, labels = torch.randn(60, 3, generator=seeded()), torch.arange(60) % 3
    assert torch.equal(linear_probe(z, labels.to(dtype)).weight, linear_probe(z, labels).weight)


def test_an_absent_label_is_not_predicted_however_far_out():
    z, labels = clusters([1, 2, 5])
    probe = linear_probe(z, labels)
    far = 1e6 * torch.randn(1000, 4, generator=seeded())
    assert set(probe(far).argmax(1).tolist()) <= {1, 2, 5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probe_is_a_frozen_layer_of_the_latents_dtype_and_draws_nothing(dtype):
    z, labels = clusters([0, 1, 2])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    probe = linear_probe(z.to(dtype).requires_grad_(), labels)
    assert type(probe) is torch.nn.Linear and probe.weight.dtype == probe.bias.dtype == dtype
    assert not probe.training and not any(p.requires_grad for p in probe.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(
        probe(z.to(dtype)), linear_probe(z.double(), labels)(z.double()).to(dtype), rtol=0, atol=1e-3
    )


def test_separable_labels_are_learnt():
    z = torch.cat([torch.randn(50, 2, generator=seeded()) - 20, torch.randn(50, 2, generator=seeded()) + 20])
    labels = torch.arange(100) // 50
    probe = linear_probe(z, labels)
    assert torch.equal(probe(z).argmax(1), labels)


@pytest.mark.parametrize(
    ("argument", "value", "error", "says"),
    [
        ("z", torch.full((4, 2), torch.nan), ValueError, "z: NaN"),
        ("z", torch.zeros(4, 2, 2), ValueError, r"z: flat latents \(N, D\) expected"),
        (
            "labels",
            torch.zeros(3, dtype=torch.long),
            ValueError,
            r"labels: one for each of the 4 rows, \(4,\), expected",
        ),
        ("labels", torch.rand(4), TypeError, "labels: a tensor of integers expected, got torch.float32"),
        ("labels", torch.full((4,), 2), ValueError, "labels: at least two different ones expected, got only 2"),
    ],
)
def test_bad_arguments_are_refused(argument, value, error, says):
    arguments = {"z": torch.randn(4, 2, generator=seeded()), "labels": torch.tensor([0, 1, 0, 1]), argument: value}
    with pytest.raises(error, match=says):
        linear_probe(**arguments)


def test_the_net_is_document_000s():
    net = cnn_classifier(image_shape=(1, 32, 32), classes=10)
    sizes = [5 * 5 * 32 + 32, 16 * 16 * 32 * 128 + 128, 128 * 10 + 10]
    assert sum(p.numel() for p in net.parameters()) == sum(sizes)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 2)])
def test_logits_are_the_last_layer_of_the_features(shape):
    net, x = cnn_classifier(image_shape=shape, classes=7), torch.rand(5, *shape, generator=seeded())
    features = net.features(x)
    assert features.shape == (5, 128) and (features >= 0).all()
    torch.testing.assert_close(net(x), features @ net.head.weight.T + net.head.bias)


def test_losses_are_the_cross_entropy_and_the_accuracy():
    net, x, labels = (
        cnn_classifier(image_shape=(1, 8, 8), classes=4),
        torch.rand(6, 1, 8, 8),
        torch.tensor([0, 1, 2, 3, 0, 1]),
    )
    losses, p = net.losses(x, labels, seeded()), net(x).log_softmax(1)
    assert losses["loss"].item() == pytest.approx(-sum(p[i, k].item() for i, k in enumerate(labels)) / 6, rel=1e-5)
    assert losses["accuracy"].item() == pytest.approx(np.mean(p.argmax(1).numpy() == labels.numpy()))
    assert losses["loss"].requires_grad and not losses["accuracy"].requires_grad


def test_it_learns_the_digits_and_comes_back_from_the_store(tmp_path):
    train, test = data.load("digits"), data.load("digits", split="test")
    config = {"image_shape": train.shape, "classes": 10}
    net, history = trained(cnn_classifier, config, train, epochs=15, batch_size=64, folder=tmp_path, progress=False)
    assert (net(test.float()).argmax(1) == test.labels).float().mean() > 0.95
    assert history.epochs[-1]["accuracy"] > history.epochs[0]["accuracy"]
    again, _ = trained(cnn_classifier, config, train, epochs=15, batch_size=64, folder=tmp_path, progress=False)
    assert torch.equal(again(test.float()), net(test.float()))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, -1], "labels: ≥ 0 expected, got -1; −1 stands for no label"),
        ([0, 1, 3], "labels: 0 to 2 expected, one of 3 classes, got 3"),
        ([0, 1], r"labels: one for each of the 3 rows, \(3,\), expected"),
    ],
)
def test_bad_labels_are_refused(labels, says):
    with pytest.raises(ValueError, match=says):
        cnn_classifier(image_shape=(1, 8, 8), classes=3).losses(torch.rand(3, 1, 8, 8), torch.tensor(labels))


@pytest.mark.parametrize("shape", [(4, 1, 8, 9), (4, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"x: a batch \(N, 1, 8, 8\) expected"):
        cnn_classifier(image_shape=(1, 8, 8), classes=3)(torch.rand(shape))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("image_shape", (8, 8)), ("image_shape", (1, 8, 1)), ("image_shape", (0, 8, 8)), ("image_shape", (1, 8.0, 8)),
     ("classes", 1), ("classes", 2.0)],
)  # fmt: skip
def test_a_net_that_cannot_be_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}: .* expected, got"):
        cnn_classifier(**({"image_shape": (1, 8, 8), "classes": 3} | {argument: value}))
