"""Attacks on classifiers against foolbox, a linear classifier's closed form, and scipy."""

import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import seeded
from tests.test_lbfgs import scipys
from vaenb.attacks import classifier as attacks
from vaenb.models.classifier import cnn_classifier, mlp_classifier

with warnings.catch_warnings():  # 2026-11: foolbox 3.3 imports scipy.ndimage.filters, which is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox


def net(build=cnn_classifier, seed=0, shape=(1, 8, 8), classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(image_shape=shape, classes=classes).eval()


def images(n=6, shape=(1, 8, 8)):
    return torch.rand(n, *shape, generator=seeded())


class Linear:
    """Two classes: f(x) = (0, w·x + b)."""

    w, b = torch.linspace(-1, 1, 16), -0.1

    def __call__(self, x):
        margin = x.flatten(1) @ self.w.to(x.dtype) + self.b
        return torch.stack([torch.zeros_like(margin), margin], 1)


@pytest.mark.parametrize("build", [cnn_classifier, mlp_classifier])
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_and_pgd_are_foolboxs(build, targeted):
    f, x = net(build), images()
    labels = attacks.predict(f, x)
    labels = attacks.random_targets(labels, 4, generator=seeded()) if targeted else labels
    model = foolbox.PyTorchModel(f, bounds=(0, 1), device="cpu")
    wish = foolbox.criteria.TargetedMisclassification(labels) if targeted else labels
    given = {"eps": 0.1, "targeted": targeted}
    if not targeted:  # foolbox's FGSM takes no target
        _, reference, _ = foolbox.attacks.FGSM()(model, x, wish, epsilons=0.1)
        assert torch.equal(attacks.fgsm(f, x, labels, eps=0.1).adversarial, reference)
    for norm, kind in (("linf", foolbox.attacks.LinfPGD), ("l2", foolbox.attacks.L2PGD)):
        _, reference, _ = kind(rel_stepsize=0.2, steps=7, random_start=False)(model, x, wish, epsilons=0.1)
        ours = attacks.attack(f, x, labels, norm=norm, steps=7, alpha=0.02, random_start=False, **given)
        torch.testing.assert_close(ours.adversarial, reference, rtol=0, atol=1e-6)


@given(eps=st.floats(0, 1), targeted=st.booleans())
@settings(deadline=None, max_examples=25)
def test_nothing_leaves_its_ball_or_the_box_and_pgd_beats_fgsm(eps, targeted):
    f, x = net(), images(3)
    labels = torch.tensor([0, 1, 2])
    one = attacks.fgsm(f, x, labels, eps=eps)
    many = attacks.attack(f, x, labels, eps=eps, targeted=targeted, restarts=2, steps=10, generator=seeded())
    for result in (one, many):
        assert (result.adversarial - x).abs().max() <= eps + 1e-6
        assert result.adversarial.min() >= 0
        assert result.adversarial.max() <= 1


def test_fgsm_on_a_linear_classifier_is_the_best_there_is():
    x, eps = 0.3 + 0.4 * images(5, (1, 4, 4)), 0.1  # the box is never reached
    result = attacks.fgsm(Linear(), x, torch.ones(5, dtype=torch.long), eps=eps)
    margin = Linear()(x)[:, 1] - eps * Linear.w.abs().sum()
    torch.testing.assert_close(result.loss, torch.nn.functional.softplus(-margin))
    assert (result.gradient_calls, result.forward_calls) == (1, 1)


def test_a_saturated_softmax_is_said_and_its_images_are_counted():
    x = 0.3 + 0.4 * images(5, (1, 4, 4))
    labels = attacks.predict(Linear(), x)
    x[4] += (1e-5 - Linear()(x[4:])[0, 1]) * Linear.w.view(1, 4, 4) / Linear.w.norm() ** 2  # close to the plane
    labels[4] = 1
    quiet = [attacks.fgsm(Linear(), x, labels, eps=0.2), attacks.attack(Linear(), x, labels, eps=0.2, steps=5)]

    def loud(x):
        return 1e6 * Linear()(x)

    with pytest.warns(UserWarning, match=r"4 of 5 inputs \(80%\) had no gradient .* a loss that does not saturate"):
        still = attacks.fgsm(loud, x, labels, eps=0.2)
    assert still.stuck.tolist() == [True, True, True, True, False]
    assert torch.equal(still.adversarial[:4], x[:4])
    for result in quiet:
        assert not result.stuck.any()
        assert (attacks.predict(Linear(), result.adversarial) != labels).all()


def test_a_label_that_no_gradient_leads_to_is_stuck_unless_it_is_there_already():
    def dead(x):  # of class 0 everywhere in the box
        rise = torch.relu(x.sum((1, 2, 3)) - 100)
        return torch.stack([2 + rise.detach(), rise], 1)

    with pytest.warns(UserWarning, match=r"3 of 6 inputs \(50%\)"):
        found = attacks.lbfgs(dead, images(), torch.tensor([0, 1, 0, 1, 0, 1]), searches=3)
    assert found.stuck.tolist() == [False, True] * 3
    assert torch.equal(found.success, ~found.stuck)


def test_the_noise_control_moves_every_pixel_by_eps_and_does_less():
    f, x = net(seed=1), 0.3 + 0.4 * images(20)
    labels = attacks.predict(f, x)
    noise = attacks.random_direction(f, x, labels, eps=0.1, generator=seeded())
    torch.testing.assert_close((noise.adversarial - x).abs(), torch.full_like(x, 0.1))
    assert (noise.loss < attacks.fgsm(f, x, labels, eps=0.1).loss).all()


def test_the_smallest_change_of_a_linear_label_is_the_distance_to_its_plane():
    """min ‖d‖ with w·(x+d)+b ≥ 0: the search over c comes from above, the nearer the finer it is."""
    x = 0.4 + 0.2 * images(8, (1, 4, 4)).double()
    f, wanted = Linear(), torch.where(attacks.predict(Linear(), x) == 1, 0, 1)
    plane = f(x)[:, 1].abs() / f.w.double().norm()
    coarse, fine = (attacks.lbfgs(f, x, wanted, searches=n) for n in (5, 20))
    assert fine.success.all()
    assert (attacks.predict(f, fine.adversarial) == wanted).all()
    assert (coarse.distance >= plane - 1e-9).all()
    assert (fine.distance >= plane - 1e-9).all()
    torch.testing.assert_close(fine.distance, plane, rtol=0.01, atol=1e-3)
    torch.testing.assert_close(coarse.distance, (coarse.adversarial - x).flatten(1).norm(dim=1))


def test_one_search_is_as_low_as_scipys():
    f, x, c = net(mlp_classifier, seed=2).double(), images(2).double(), 0.05
    target = attacks.random_targets(attacks.predict(f, x), 4, generator=seeded(1))
    found = attacks.lbfgs(f, x, target, c=c, searches=1, steps=300).adversarial
    cross_entropy = attacks.loss(f, x, target)

    def weighted(x_adv, i):
        return c * (x_adv - x[i]).flatten(1).square().sum(1) + cross_entropy(x_adv, i)

    _, least = scipys(weighted, x)
    assert (weighted(found, torch.arange(2)) <= least + 1e-3).all()  # the net has kinks


def test_more_searches_never_find_a_larger_change_and_a_batch_equals_its_members():
    f, x = net(mlp_classifier, seed=3), images()
    target = attacks.random_targets(attacks.predict(f, x), 4, generator=seeded())
    results = [attacks.lbfgs(f, x, target, searches=n) for n in (1, 3, 5)]
    for fewer, more in pairwise(results):
        assert (more.success >= fewer.success).all()
        assert (more.distance <= fewer.distance + 1e-6)[fewer.success].all()
    alone = attacks.lbfgs(f, x[2:3], target[2:3], searches=3)
    torch.testing.assert_close(alone.adversarial, results[1].adversarial[2:3], rtol=0, atol=1e-4)


def test_a_label_that_is_there_already_needs_no_change_and_an_impossible_one_fails():
    f, x = net(), images()
    for searches in (1, 5):
        free = attacks.lbfgs(f, x, attacks.predict(f, x), searches=searches)
        assert free.success.all()
        assert free.distance.max() == 0
        assert torch.equal(free.adversarial, x)

    def stubborn(x):
        return torch.stack([x.sum((1, 2, 3)), -10 - x.sum((1, 2, 3))], 1)

    never = attacks.lbfgs(stubborn, x, torch.ones(6, dtype=torch.long))
    assert not never.success.any() and never.adversarial.isfinite().all()


def test_random_targets_are_other_labels_all_equally_likely():
    labels = torch.arange(5).repeat(20_000)
    targets = attacks.random_targets(labels, 5, generator=seeded())
    counts = torch.bincount(labels * 5 + targets, minlength=25).view(5, 5)
    assert (counts.diagonal() == 0).all()
    off = counts[~torch.eye(5, dtype=torch.bool)].double()
    assert ((off - 5000) ** 2 / 5000).sum() < 45  # chi-square with 15 degrees of freedom: p = .0001


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": torch.full((6,), 4)}, "labels: 0 to 3 expected, one of 4 classes, got 4"),
        ({"labels": torch.full((6,), -1)}, "labels: ≥ 0 expected"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "labels: one for each of the 6 rows"),
        ({"labels": torch.zeros(6)}, "labels: a tensor of integers"),
        ({"x": 255 * torch.ones(6, 1, 8, 8)}, "x: pixels in .* divide by 255"),
        ({"classifier": net().train()}, "classifier: it is in training mode"),
        ({"classifier": None}, "classifier: a callable"),
        ({"classifier": lambda x: net()(x).softmax(1)}, "classifier: it gives probabilities"),
        ({"classifier": lambda x: net()(x).argmax(1)}, r"classifier: logits \(1, K\)"),
        ({"classifier": lambda x: net()(x) / 0}, "classifier: NaN or infinite"),
    ],
)
@pytest.mark.parametrize("attack", [attacks.fgsm, attacks.attack, attacks.lbfgs])
def test_bad_input_is_refused(attack, wrong, says):
    given = {"classifier": net(), "x": images(), "labels": torch.zeros(6, dtype=torch.long)} | wrong
    if attack is not attacks.lbfgs:
        given["eps"] = 0.1
    with pytest.raises((TypeError, ValueError), match=says):
        attack(given.pop("classifier"), given.pop("x"), given.pop("labels"), **given)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"c": 0.0}, "c: a positive weight of the norm expected, got 0.0"),
        ({"c": float("nan")}, "c: a positive weight"),
        ({"searches": 0}, "searches: a whole number"),
    ],
)
def test_bad_searches_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        attacks.lbfgs(net(), images(), torch.zeros(6, dtype=torch.long), **wrong)


@pytest.mark.parametrize("classes", [0, 1, 2.0])
def test_random_targets_need_another_class(classes):
    with pytest.raises(ValueError, match="classes: a whole number ≥ 2 expected"):
        attacks.random_targets(torch.zeros(3, dtype=torch.long), classes)
