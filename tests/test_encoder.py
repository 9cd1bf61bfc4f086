"""Input attacks on posteriors whose divergence is known, and on a small trained model."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm as normal
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from tests.oracles import LinearGaussian, images, seeded
from vaenb import data
from vaenb.attacks import encoder
from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian, Point
from vaenb.models import deterministic_ae, hierarchical_vae, seatbelt, vae
from vaenb.models.classifier import linear_probe
from vaenb.training import fit

DISTANCES = [name for name in encoder.DIVERGENCES if name != "classifier"]


class PixelsArePosterior(LinearGaussian):
    """Images (N, 1, 2, D) whose first row is the mean and whose second is the log-variance, in [-1, 1]."""

    def posterior(self, x):
        return DiagonalGaussian(x[:, 0, 0], 2 * x[:, 0, 1] - 1)

    def decode(self, z):
        return torch.stack([z, z], 1)[:, None]


def pairs(n=5, d=3):
    """Two batches of images for `PixelsArePosterior`, and their posteriors p (of x') and q (of the reference)."""
    a, b = torch.rand(2, n, 1, 2, d, generator=seeded())
    model = PixelsArePosterior()
    return model, a, b, model.posterior(a), model.posterior(b)


def distance(name, model, a, b, **arguments):
    return encoder.loss(model, b, divergence=name, **arguments)(a, torch.arange(len(a)))


@pytest.fixture(scope="module")
def digits():
    """A VAE trained on the embedded digits, a probe of its means, and 16 test images."""
    train, test = data.load("digits"), data.load("digits", split="test")
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=6, net="mlp")
    fit(model, train, epochs=8, batch_size=64, lr=3e-3, progress=False)
    probe = linear_probe(model.posterior(train.float()).mean, train.labels)
    return model, probe, test.float(slice(16))


def test_kullback_leibler_divergences_are_torchs_and_document_002as_formula():
    model, a, b, p, q = pairs()
    p_, q_ = (Independent(Normal(d.mean, d.stddev), 1) for d in (p, q))
    torch.testing.assert_close(distance("kl_forward", model, a, b), kl_divergence(q_, p_))
    torch.testing.assert_close(distance("kl_reverse", model, a, b), kl_divergence(p_, q_))
    skl = distance("skl", model, a, b)
    torch.testing.assert_close(skl, (kl_divergence(p_, q_) + kl_divergence(q_, p_)) / 2)
    shift, lv = (p.mean - q.mean) ** 2, p.logvar - q.logvar
    formula = (lv.exp() + (-lv).exp() + shift * ((-p.logvar).exp() + (-q.logvar).exp())) / 4 - 0.5
    torch.testing.assert_close(skl, formula.sum(1))
    torch.testing.assert_close(skl, encoder.symmetric_kl(p, q))


def test_forward_averages_over_the_reference_and_reverse_over_the_attacked_posterior():
    model, a, b, p, q = pairs(n=1)
    values = {}
    for name, first, second in (("kl_forward", q, p), ("kl_reverse", p, q)):
        many = first[torch.zeros(200_000, dtype=torch.long)]
        z = many.rsample(generator=seeded())
        values[name] = (many.log_prob(z) - second.log_prob(z)).mean().item()
        assert distance(name, model, a, b).item() == pytest.approx(values[name], abs=0.01)
    assert abs(values["kl_forward"] - values["kl_reverse"]) > 0.1  # so that the test tells them apart


def test_w2_is_the_squared_wasserstein_distance_of_gaussians():
    model, a, b, p, q = pairs()
    for i, value in enumerate(distance("w2", model, a, b).double().numpy()):
        A, B = (np.diag(d.stddev[i].double().numpy() ** 2) for d in (p, q))
        bures = np.trace(A + B - 2 * sqrtm(sqrtm(A) @ B @ sqrtm(A)))
        shift = (p.mean[i] - q.mean[i]).double().numpy()
        assert value == pytest.approx(shift @ shift + bures, rel=1e-4)


def test_w2_in_one_dimension_is_the_distance_of_the_quantiles():
    model, a, b, p, q = pairs(d=1)
    u = (np.arange(200_000) + 0.5) / 200_000
    quantiles = [normal.ppf(u[:, None], d.mean[:, 0], d.stddev[:, 0]) for d in (p, q)]
    transport = ((quantiles[0] - quantiles[1]) ** 2).mean(0)
    np.testing.assert_allclose(distance("w2", model, a, b), transport, rtol=1e-3, atol=1e-6)


def test_means_and_w2_need_no_more_than_mean_and_stddev():
    class Deterministic(LinearGaussian):
        def posterior(self, x):
            return Point(x.flatten(1))

        def decode(self, z):
            return z.view(-1, 1, 4, 4)

    a, b = torch.rand(2, 5, 1, 4, 4, generator=seeded())
    squares = ((a - b) ** 2).flatten(1).sum(1)
    for name in ("means", "w2"):
        torch.testing.assert_close(distance(name, Deterministic(), a, b), squares)


def test_the_classifiers_divergence_is_minus_the_log_probability_of_the_references_label():
    model, a, b, p, q = pairs()

    def probe(z):
        return 3 * z

    loss = distance("classifier", model, a, b, classifier=probe)
    label = probe(q.mean).argmax(1)
    torch.testing.assert_close(loss, -probe(p.mean).softmax(1)[torch.arange(5), label].log())
    assert not torch.equal(label, probe(p.mean).argmax(1))


def test_a_callable_gets_the_attacked_posterior_and_then_the_reference():
    model, a, b, p, q = pairs()

    def first(p, q):
        return (p.mean[:, 0] - 2 * q.mean[:, 0]) ** 2

    torch.testing.assert_close(distance(first, model, a, b), (p.mean[:, 0] - 2 * q.mean[:, 0]) ** 2)


def test_the_worst_small_change_of_a_linear_encoder_is_found():
    model = LinearGaussian()
    x = torch.full((3, 1, 4, 4), 0.5)
    gain = model.posterior(torch.eye(16).view(16, 1, 4, 4)).mean - model.posterior(torch.zeros(16, 1, 4, 4)).mean
    whitened = gain / model.posterior(x[:1]).stddev  # SKL = ½‖whitened shift‖² as the variance is constant
    search = {"norm": "l2", "steps": 60, "alpha": 0.1, "restarts": 3, "generator": seeded()}
    for divergence, linear, factor in (("skl", whitened, 0.5), ("means", gain, 1), ("w2", gain, 1)):
        worst = factor * (0.1 * torch.linalg.matrix_norm(linear, ord=2)) ** 2
        result = encoder.attack(model, x, eps=0.1, divergence=divergence, **search)
        torch.testing.assert_close(result.loss, worst.expand(3), rtol=1e-2, atol=0)


def test_a_target_within_reach_is_reached_and_one_beyond_is_approached_in_a_straight_line():
    model, x = LinearGaussian(), torch.full((2, 1, 4, 4), 0.5)
    direction = model.q[:, 2].view(1, 4, 4)  # the encoder's mean moves along the third latent dimension only
    target = x[0] + direction * 0.3
    arguments = {"divergence": "means", "norm": "l2", "steps": 60, "restarts": 2, "generator": seeded()}
    result = encoder.attack(model, x, eps=torch.tensor([0.1, 0.4]), target=target, **arguments)
    clean = encoder.loss(model, x, target=target, divergence="means")(x, torch.arange(2))
    torch.testing.assert_close(result.loss[0], clean[0] * (0.2 / 0.3) ** 2, rtol=1e-2, atol=0)
    assert result.loss[1] < 1e-3 * clean[1]


@pytest.mark.parametrize("divergence", encoder.DIVERGENCES)
def test_every_divergence_beats_noise_with_and_without_a_target(digits, divergence):
    model, probe, x = digits
    goal = {"divergence": divergence, "classifier": probe if divergence == "classifier" else None}
    away = encoder.attack(model, x, eps=0.1, steps=10, restarts=2, generator=seeded(), **goal)
    assert (away.loss > encoder.random_direction(model, x, eps=0.1, generator=seeded(), **goal).loss).all()
    goal["target"] = x.roll(1, 0)
    towards = encoder.attack(model, x, eps=0.1, steps=10, restarts=2, generator=seeded(), **goal)
    noise = encoder.random_direction(model, x, eps=0.1, generator=seeded(), **goal)
    clean = encoder.loss(model, x, **goal)(x, torch.arange(16))
    assert (towards.loss < noise.loss).all()
    assert (towards.loss < clean).all()


def test_one_target_serves_all_images_and_a_name_is_a_target(digits):
    model, _, x = digits
    one, each, black = (
        encoder.attack(model, x, eps=0.1, target=target, steps=3, restarts=1, generator=seeded()).adversarial
        for target in (torch.zeros(1, 8, 8), torch.zeros_like(x), "black")
    )
    assert torch.equal(one, each) and torch.equal(one, black)


def test_the_classifiers_attack_changes_more_labels_than_noise(digits):
    model, probe, x = digits

    def label(images):
        return probe(model.posterior(images).mean).argmax(1)

    shared = {"eps": 0.1, "divergence": "classifier", "classifier": probe, "generator": seeded()}
    hit = encoder.attack(model, x, steps=10, restarts=2, **shared).adversarial
    noisy = encoder.random_direction(model, x, restarts=2, **shared).adversarial
    assert (label(hit) != label(x)).sum() > 1.5 * (label(noisy) != label(x)).sum()


def test_the_published_attack_is_the_authors_loop(digits):
    model, _, x = digits
    reference = model.posterior(x)
    delta = 0.2 * torch.randn(x.shape, generator=seeded())
    for _ in range(50):
        delta = ((x + delta).clamp(0, 1) - x).detach().requires_grad_()
        encoder.symmetric_kl(model.posterior(x + delta), reference[:]).sum().neg().backward(inputs=[delta])
        delta = (delta.detach() - 1.0 * delta.grad).clamp(-0.1, 0.1)
    published = encoder.attack(model, x, eps=0.1, generator=seeded(), **encoder.PUBLISHED | {"restarts": 1})
    found = encoder.loss(model, x)((x + delta).clamp(0, 1), torch.arange(16)).detach()
    torch.testing.assert_close(published.loss, found, rtol=1e-3, atol=1e-3)


def test_repeated_images_are_the_restarts(digits):
    model, _, x = digits
    settings = {"eps": 0.1, **encoder.PUBLISHED, "steps": 3}
    together = encoder.attack(model, x, generator=seeded(), **settings)
    apart = encoder.attack(model, x.repeat(10, 1, 1, 1), generator=seeded(), **settings | {"restarts": 1})
    torch.testing.assert_close(apart.loss.view(10, 16), together.restart_losses)


def test_the_published_attack_depends_on_the_scale_of_the_loss_and_ours_does_not(digits):
    model, _, x = digits

    def small(p, q):
        return 1e-3 * encoder.symmetric_kl(p, q)

    found = {}
    for name, settings in (("published", encoder.PUBLISHED | {"restarts": 2}), ("ours", {"steps": 50, "restarts": 2})):
        for divergence in ("skl", small):
            result = encoder.attack(model, x, eps=0.1, divergence=divergence, generator=seeded(), **settings)
            found[name, divergence] = encoder.loss(model, x)(result.adversarial, torch.arange(16)).mean().item()
    assert found["ours", small] == pytest.approx(found["ours", "skl"], rel=0.05)
    assert found["published", small] < 0.5 * found["ours", small]


@pytest.mark.parametrize("divergence", ["skl", "classifier"])
def test_chunks_compare_each_image_with_its_own_reference(divergence):
    model, x = LinearGaussian(), torch.rand(5, 1, 4, 4, generator=seeded())
    torch.manual_seed(0)
    probe = nn.Linear(3, 3).eval() if divergence == "classifier" else None
    arguments = {"divergence": divergence, "classifier": probe, "eps": 0.1, "steps": 5, "restarts": 2}
    for target in (None, x.flip(0)):
        whole = encoder.attack(model, x, target=target, generator=seeded(), **arguments)
        parts = encoder.attack(model, x, target=target, generator=seeded(), chunk=3, **arguments)
        torch.testing.assert_close(parts.loss, whole.loss)


def test_from_the_image_itself_no_gradient_leads_away_and_it_is_said():
    model = LinearGaussian()
    x = torch.full((3, 1, 4, 4), 0.5)
    eps = torch.tensor([0.1, 0.0, 0.1])
    with pytest.warns(UserWarning, match=r"2 of 3 inputs \(67%\) .*What helps: a random start"):
        still = encoder.attack(model, x, eps=eps, random_start=False, restarts=1)
    assert still.stuck.tolist() == [True, False, True]
    assert (still.loss == 0).all()
    moved = encoder.attack(model, x, eps=eps, restarts=1, steps=5, generator=seeded())
    assert not moved.stuck.any() and (moved.loss[[0, 2]] > 0).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"x": torch.full((1, 1, 4, 4), 255.0)}, "x: pixels in .* divide by 255"),
        ({"divergence": "kl"}, r"divergence: skl, kl_forward, .* or a callable \(p, q\) expected, got 'kl'"),
        ({"divergence": None}, "divergence: skl"),
        ({"divergence": lambda p, q: p.mean}, r"divergence: .* one number for each image"),
        ({"divergence": "classifier"}, "classifier: a callable .* expected, got NoneType"),
        ({"classifier": nn.Linear(3, 2).eval()}, "used by divergence='classifier' only, got divergence='skl'"),
        ({"divergence": "classifier", "classifier": nn.Linear(3, 2)}, r"classifier: .* classifier.eval\(\)"),
        ({"divergence": "output"}, "target: divergence='output' asks .* target image; give one"),
        ({"divergence": encoder.of_layers("means", [1])}, "layers: a model with layers .* DiagonalGaussian"),
        ({"target": torch.zeros(1, 4, 5)}, r"target: an image of shape \(1, 4, 4\) or \(2, 1, 4, 4\)"),
        ({"target": torch.zeros(3, 1, 4, 4)}, "target: an image of shape"),
        ({"target": "red"}, "target: black, white, noise, inverted or a tensor"),
        ({"target": 3}, "target: a torch tensor of images"),
    ],
)
@pytest.mark.parametrize("run", [encoder.attack, encoder.random_direction])
def test_bad_arguments_are_refused(run, wrong, says):
    with pytest.raises((TypeError, ValueError), match=says):
        run(**{"model": LinearGaussian(), "x": torch.full((2, 1, 4, 4), 0.5), "eps": 0.1} | wrong)


class DoubleGaussian(LinearGaussian):
    """The oracle in double precision."""

    def __init__(self):
        super().__init__()
        self.scale, self.w = self.scale.double(), self.w.double()


def doubles(n, seed=0, shape=(1, 4, 4)):
    return torch.rand(n, *shape, generator=seeded(seed), dtype=torch.float64)


def test_output_is_minus_the_elbo_of_the_target_with_the_attacked_posterior():
    model, x, target = DoubleGaussian(), doubles(5), doubles(5, 1)
    value = encoder.loss(model, x, target=target, divergence="output", generator=seeded())(x, torch.arange(5))
    p = model.posterior(x)
    noise = torch.randn(5, 4, 3, generator=seeded(), dtype=torch.float64)
    prior, posterior = Normal(0.0, 1.0), Normal(p.mean, p.stddev)
    draws = [p.mean + p.stddev * noise[:, k] for k in range(4)]
    likelihood = [Normal(model.decode(z), model.s).log_prob(target).flatten(1).sum(1) for z in draws]
    ratio = [(posterior.log_prob(z) - prior.log_prob(z)).sum(1) for z in draws]
    expected = sum(r - fit for r, fit in zip(ratio, likelihood, strict=True)) / 4
    torch.testing.assert_close(value, expected)


def test_output_of_an_exact_posterior_is_the_evidence_and_in_expectation_its_kl_more():
    model, (x, target) = DoubleGaussian(), doubles(2)[:, None]
    evidence = LinearGaussian().log_evidence(target.float()).double()
    many = 4000  # rows, each with its own four draws
    images = x.repeat(many, 1, 1, 1)
    goals = target.repeat(many, 1, 1, 1)
    rows = torch.arange(many)
    loss = encoder.loss(model, images, target=goals, divergence="output", generator=seeded())
    torch.testing.assert_close(loss(goals, rows), -evidence.expand(many), rtol=1e-5, atol=0)
    values = loss(images, rows)
    kl = model.posterior(x).kl(model.posterior(target)).item()
    error = values.std().item() / many**0.5
    assert values.mean().item() == pytest.approx(-evidence.item() + kl, abs=4 * error)
    assert kl > 10 * error  # so that the test sees it


def test_output_has_the_same_noise_at_every_call_and_for_a_row_whichever_others_there_are():
    model, x, target = DoubleGaussian(), doubles(5), doubles(5, 1)
    loss = encoder.loss(model, x, target=target, divergence="output")
    some = torch.tensor([3, 0, 3])
    whole = loss(x, torch.arange(5))
    assert torch.equal(whole, loss(x, torch.arange(5)))
    torch.testing.assert_close(loss(x[some], some), whole[some])
    assert loss(x[[1, 1]], torch.tensor([1, 1])).diff() == 0
    assert loss(x[[1, 1]], torch.tensor([1, 2])).diff() != 0


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_the_attack_on_the_output_lowers_it_and_beats_noise(digits, order):
    torch.manual_seed(0)
    layered = seatbelt(image_shape=(1, 8, 8), latent_dim=2, layers=2, size=9, net="mlp", order=order).eval()
    x = digits[2]
    for model in (digits[0], layered):
        shared = {"target": x.roll(1, 0), "divergence": "output"}
        hit = encoder.attack(model, x, eps=0.1, steps=10, restarts=2, generator=seeded(), **shared)
        noise = encoder.random_direction(model, x, eps=0.1, restarts=2, generator=seeded(), **shared)
        loss = encoder.loss(model, x, generator=seeded(), **shared)
        torch.testing.assert_close(hit.loss, loss(hit.adversarial, torch.arange(16)))
        assert (hit.loss < noise.loss).all()
        assert (hit.loss < loss(x, torch.arange(16))).all()


def test_output_needs_densities():
    deterministic = deterministic_ae(image_shape=(1, 4, 4), latent_dim=2, net="mlp").eval()
    with pytest.raises(NotDefined, match="no density"):
        encoder.attack(deterministic, torch.rand(2, 1, 4, 4), eps=0.1, target="black", divergence="output")


LAYERED = {
    "bottom_up": lambda: seatbelt(image_shape=(1, 8, 8), latent_dim=2, layers=3, size=9, net="mlp"),
    "top_down": lambda: seatbelt(image_shape=(1, 8, 8), latent_dim=2, layers=3, size=9, net="mlp", order="top_down"),
    "hierarchical": lambda: hierarchical_vae(image_shape=(1, 8, 8), channels=4, groups=((1, 2), (2, 1), (4, 1))),
}


@pytest.fixture(params=LAYERED)
def layered(request):
    torch.manual_seed(0)
    return LAYERED[request.param]().double().eval()


@pytest.mark.parametrize("divergence", DISTANCES)
def test_the_layers_sum_up_to_the_divergence(layered, divergence):
    a, b = doubles(4, 0, (1, 8, 8)), doubles(4, 1, (1, 8, 8))
    whole = distance(divergence, layered, a, b)
    for every in ([1, 2, 3], (3, 1, 2)):
        torch.testing.assert_close(distance(encoder.of_layers(divergence, every), layered, a, b), whole)
    each = [distance(encoder.of_layers(divergence, [i]), layered, a, b) for i in (1, 2, 3)]
    assert all((part > 0).all() for part in each)
    torch.testing.assert_close(sum(each), whole)
    torch.testing.assert_close(distance(encoder.of_layers(divergence, [3, 1]), layered, a, b), each[2] + each[0])


def test_a_layers_divergence_is_that_of_its_columns_and_of_its_kl(layered):
    a, b = doubles(4, 0, (1, 8, 8)), doubles(4, 1, (1, 8, 8))
    p, q = layered.posterior(a), layered.posterior(b)
    for i, part in enumerate(p.layer_slices, start=1):
        means, stddevs = ((u - v)[:, part] ** 2 for u, v in ((p.mean, q.mean), (p.stddev, q.stddev)))
        forward, reverse = q.kl_layers(p)[:, i - 1], p.kl_layers(q)[:, i - 1]
        expected = {"kl_forward": forward, "kl_reverse": reverse, "skl": (forward + reverse) / 2}
        expected |= {"means": means.sum(1), "w2": (means + stddevs).sum(1)}
        for name, value in expected.items():
            torch.testing.assert_close(encoder.of_layers(name, [i])(p, q), value)


@pytest.mark.parametrize("divergence", ["kl_reverse", "w2"])
def test_an_attack_on_a_layer_brings_it_closer_than_one_on_another_layer(layered, divergence):
    x, target = doubles(4, 0, (1, 8, 8)), doubles(4, 1, (1, 8, 8))
    first, second = (encoder.of_layers(divergence, [i]) for i in (1, 2))
    shared = {"eps": 0.1, "target": target, "steps": 15, "restarts": 1, "generator": seeded()}
    on_first, on_second = (encoder.attack(layered, x, divergence=o, **shared) for o in (first, second))
    measure = encoder.loss(layered, x, target=target, divergence=first)
    torch.testing.assert_close(on_first.loss, measure(on_first.adversarial, torch.arange(4)))
    assert (on_first.loss < measure(on_second.adversarial, torch.arange(4))).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("kl", [1]), "divergence: one of skl, .*means expected, got 'kl'"),
        (("output", [1]), "divergence: one of"),
        (("skl", []), r"layers: a list of one layer or more, each once, expected, got \[\]"),
        (("skl", [1, 2, 1]), r"layers: a list of one layer or more, each once, expected, got \[1, 2, 1\]"),
        (("skl", [0]), r"layers: numbers from 1 to 3 expected, got \[0\]"),
        (("skl", [1, 4]), r"layers: numbers from 1 to 3 expected, got \[1, 4\]"),
        (("w2", [1.0]), "layers: numbers from 1 to 3"),
    ],
)
def test_wrong_layers_are_refused(arguments, says):
    x = torch.rand(2, 1, 8, 8, generator=seeded())
    with pytest.raises(ValueError, match=says):
        encoder.attack(LAYERED["bottom_up"]().eval(), x, eps=0.1, divergence=encoder.of_layers(*arguments))


@pytest.mark.parametrize("chunk", [1, 2, 512])
@pytest.mark.parametrize("divergence", ["skl", "kl_forward", "kl_reverse"])
def test_a_kl_that_sums_over_the_batch_is_named_at_any_chunk(divergence, chunk):
    class Summed(DiagonalGaussian):
        def kl(self, other):
            return super().kl(other).sum()

        def __getitem__(self, index):
            return Summed(self.mean[index], self.logvar[index])

    class Model(LinearGaussian):
        def posterior(self, x):
            q = super().posterior(x)
            return Summed(q.mean, q.logvar)

    with pytest.raises(ValueError, match=r"posterior\.kl: nats, one number for each image"):
        encoder.attack(Model(), images(4), eps=0.1, divergence=divergence, chunk=chunk)


def test_a_latent_classifier_in_training_mode_is_found_behind_a_function():
    model = LinearGaussian()
    probe = torch.nn.Linear(3, 2)  # in training mode, as built
    x = torch.rand(2, 1, 4, 4, generator=seeded())
    held = {probe: "a key of a dict, where no search would look"}

    def classify(z):
        return next(iter(held))(z)

    with pytest.raises(ValueError, match="classifier: it is in training mode"):
        encoder.attack(model, x, eps=0.1, divergence="classifier", classifier=classify, steps=1, restarts=1)
