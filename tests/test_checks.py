"""What is refused, and in which words."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracles import LinearGaussian, seeded
from vaenb import checks
from vaenb.distributions import DiagonalGaussian
from vaenb.models.classifier import logits

NET = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))


HOLDERS = {
    "itself": NET,
    "a bound method": NET.forward,
    "a part of it": lambda x: NET[1](x),
    "a dict": lambda x: {"encoder": NET}["encoder"](x),
    "a partial": partial(lambda net, x: net(x), NET),
    "a lambda that closes over it": (lambda net: lambda x: net(x))(NET),
}


@pytest.mark.parametrize("how", HOLDERS)
def test_training_mode_is_found_however_the_network_is_held(how):
    NET.train()
    with pytest.raises(ValueError, match="net: it is in training mode"), checks.evaluating("net"):
        list(HOLDERS[how](torch.zeros(1, 4)))
    NET.eval()
    with checks.evaluating("net"):
        list(HOLDERS[how](torch.zeros(1, 4)))


def test_another_thread_may_train_meanwhile():
    other = nn.Linear(2, 2).train()
    with checks.evaluating("net"), ThreadPoolExecutor() as pool:
        assert pool.submit(other, torch.zeros(1, 2)).result().shape == (1, 2)


def test_a_refused_network_has_not_run():
    norm = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match="norm: it is in training mode"), checks.evaluating("norm"):
        norm(torch.ones(1, 4))  # torch itself would refuse one row, in other words
    assert not norm.running_mean.any() and norm.num_batches_tracked == 0


@pytest.mark.parametrize("check", [checks.check_classifier, lambda net: checks.check_rest(net, "classifier")])
def test_a_part_in_training_mode_is_refused_unseen(check):
    NET.eval()[1].train()
    with pytest.raises(ValueError, match=r"classifier: it is in training mode.*call classifier.eval\(\)"):
        check(NET)
    check(NET.eval())


class Hidden(LinearGaussian):
    """A model whose network is out of sight: a global behind a property."""

    @property
    def net(self):
        return NET

    def posterior(self, x):
        q = super().posterior(x)
        return DiagonalGaussian(q.mean + 0 * self.net(x.flatten(1)[:, :4]).sum(), q.logvar)


class HiddenDecoder(Hidden):
    def posterior(self, x):
        return LinearGaussian.posterior(self, x)

    def decode(self, z):
        return super().decode(z) + 0 * self.net(torch.zeros(1, 4)).sum()


@pytest.mark.parametrize("model", [Hidden(), HiddenDecoder()], ids=["encoder", "decoder"])
def test_a_network_in_training_mode_is_found_as_it_runs_however_it_is_held(model):
    x = torch.rand(3, 1, 4, 4, generator=seeded())
    NET.train()
    refusal = "model: it is in training mode.* a Linear was about to run in it; call model.eval"
    with pytest.raises(ValueError, match=refusal):
        checks.check_model_and_images(model, x)
    NET.eval()
    checks.check_model_and_images(model, x)


def test_a_classifier_behind_a_function_must_be_in_evaluation_mode():
    x = torch.rand(3, 1, 2, 2, generator=seeded())
    NET.train()
    with pytest.raises(ValueError, match="classifier: it is in training mode"):
        logits(lambda x: NET(x.flatten(1)), x)
    NET.eval()
    assert logits(lambda x: NET(x.flatten(1)), x).shape == (3, 4)


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", True, None])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match=f"steps: a whole number ≥ 1 expected, got {value!r}"):
        checks.check_counts(steps=value)


def test_numpys_numbers_are_numbers():
    checks.check_counts(steps=np.int64(3))
    checks.check_number("lr", np.float32(0.5), "a positive learning rate", above=0)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_what_is_no_such_number_is_refused(value):
    with pytest.raises(ValueError, match=f"lr: a positive learning rate expected, got {value!r}"):
        checks.check_number("lr", value, "a positive learning rate", above=0)


def test_bounds_may_belong_or_not():
    checks.check_number("jitter", 0, "a share", least=0, below=1)
    with pytest.raises(ValueError, match="jitter: a share expected, got 1"):
        checks.check_number("jitter", 1, "a share", least=0, below=1)
    checks.check_number("eta", 1, "0 to 1", least=0, most=1)


def test_a_choice_names_the_choices():
    with pytest.raises(ValueError, match="norm: one of l2, linf expected, got 'l1'"):
        checks.check_choice("norm", "l1", ("l2", "linf"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1.0], "a torch tensor \\(N,\\) expected, got list"),
        (torch.zeros(0), "one number for each image, \\(3,\\), expected, got shape \\(0,\\)"),
        (torch.zeros(4), "one number for each image, \\(3,\\), expected, got shape \\(4,\\)"),
        (torch.tensor([0, float("nan"), 0]), "NaN or infinite values at \\[1\\]"),
    ],
)
def test_what_is_no_vector_is_refused(value, says):
    with pytest.raises((TypeError, ValueError), match=f"scores: {says}"):
        checks.check_vector(value, "scores", 3)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.tensor(3.0), "got shape \\(\\); sum over pixels or dimensions, never over the images"),
        (torch.zeros(2, 5), "got shape \\(2, 5\\); use .flatten\\(1\\).sum\\(1\\)"),
        (torch.tensor([0, float("inf")]), "finite nats expected"),
        (7.0, "got float"),
    ],
)
def test_a_density_has_one_number_for_each_image(value, says):
    with pytest.raises(ValueError, match=f"log_prior: .*{says}"):
        checks.check_nats(value, "log_prior", 2)


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [
        (0.0, 1.0000002, "x.clamp(0, 1) cuts off what a resize or noise left outside"),  # of a resize
        (0.0, 1.5, "x.clamp(0, 1)"),
        (-0.3, 1.3, "x.clamp(0, 1)"),  # unclipped noise
        (-0.6, 1.7, "x.clamp(0, 1)"),
        (0.0, 255.0, "divide by 255"),
        (0.0, 65535.0, "divide by 65535"),
        (0.0, 3.2, "divide by 255; if they were standardised, x · std + mean undoes it"),
        (-1.0, 1.0, "(x + 1) / 2 maps −1…1 to 0…1; of images with noise, x.clamp(0, 1)"),
        (
            -0.42,
            2.8,
            "if they were standardised, x · std + mean undoes it",
        ),  # MNIST, as torchvision's examples do
    ],
)
def test_the_remedy_for_pixels_out_of_range_depends_on_them(low, high, remedy):
    x = torch.full((2, 1, 3, 3), 0.5)
    x[0, 0, 0, 0], x[1, 0, 2, 2] = low, high
    with pytest.raises(ValueError, match=re.escape(remedy)):
        checks.check_images(x)


@pytest.mark.parametrize(
    ("decoded", "says"),
    [
        (lambda images: images * float("nan"), "decode: NaN or infinite values"),
        (
            lambda images: images * 80 - 40,
            r"decode: pixels in \[0, 1\] expected, .*; these look like logits: use .sigmoid",
        ),
        (lambda images: images * 255, "decode: pixels in .* divide by 255"),
    ],
)
def test_the_door_refuses_a_decoder_that_gives_no_pixels(decoded, says):
    model = LinearGaussian()
    plain = model.decode
    model.decode = lambda z: decoded(plain(z))
    with pytest.raises(ValueError, match=says):
        checks.check_model_and_images(model, torch.rand(3, 1, 4, 4, generator=seeded()))
