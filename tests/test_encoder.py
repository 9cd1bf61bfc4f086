"""Input attacks on posteriors whose divergence is known, and on a small trained model."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm as normal
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from tests.oracles import LinearGaussian, seeded
from vaenb import data
from vaenb.attacks import encoder
from vaenb.contract import NotDefined
from vaenb.distributions import DiagonalGaussian
from vaenb.models import dae, hierarchical_vae, seatbelt, vae
from vaenb.models.classifier import linear_probe
from vaenb.training import fit

DISTANCES = [name for name in encoder.OBJECTIVES if name != "classifier"]


class PixelsArePosterior(LinearGaussian):
    """Images (N, 1, 2, D) whose first row is the mean and whose second is the log-variance, in [-1, 1]."""

    def posterior(self, x):
        return DiagonalGaussian(x[:, 0, 0], 2 * x[:, 0, 1] - 1)


def pairs(n=5, d=3):
    """Two batches of images for `PixelsArePosterior`, and their posteriors p (of x') and q (of the reference)."""
    a, b = torch.rand(2, n, 1, 2, d, generator=seeded())
    model = PixelsArePosterior()
    return model, a, b, model.posterior(a), model.posterior(b)


def distance(name, model, a, b, **arguments):
    return encoder.loss(model, b, objective=name, **arguments)(a, torch.arange(len(a)))


@pytest.fixture(scope="module")
def digits():
    """A VAE trained on the embedded digits, a probe of its means, and 16 test images."""
    train, test = data.load("digits"), data.load("digits", split="test")
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=6, net="mlp")
    fit(model, train, epochs=8, batch_size=64, lr=3e-3, progress=False)
    probe = linear_probe(model.posterior(train.float()).mean, train.labels)
    return model, probe, test.float(slice(16))


def test_kullback_leibler_objectives_are_torchs_and_document_002as_formula():
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
    class Point:
        def __init__(self, mean):
            self.mean, self.stddev = mean, torch.zeros_like(mean)

        def __getitem__(self, index):
            return Point(self.mean[index])

    class Deterministic(LinearGaussian):
        def posterior(self, x):
            return Point(x.flatten(1))

    a, b = torch.rand(2, 5, 1, 4, 4, generator=seeded())
    squares = ((a - b) ** 2).flatten(1).sum(1)
    for name in ("means", "w2"):
        torch.testing.assert_close(distance(name, Deterministic(), a, b), squares)


def test_the_classifiers_objective_is_minus_the_log_probability_of_the_references_label():
    model, a, b, p, q = pairs()
    probe = lambda z: 3 * z  # noqa: E731
    loss = distance("classifier", model, a, b, classifier=probe)
    label = probe(q.mean).argmax(1)
    torch.testing.assert_close(loss, -probe(p.mean).softmax(1)[torch.arange(5), label].log())
    assert not torch.equal(label, probe(p.mean).argmax(1))


def test_a_callable_gets_the_attacked_posterior_and_then_the_reference():
    model, a, b, p, q = pairs()
    first = lambda p, q: (p.mean[:, 0] - 2 * q.mean[:, 0]) ** 2  # noqa: E731
    torch.testing.assert_close(distance(first, model, a, b), (p.mean[:, 0] - 2 * q.mean[:, 0]) ** 2)


def test_the_worst_small_change_of_a_linear_encoder_is_found():
    model = LinearGaussian()
    x = torch.full((3, 1, 4, 4), 0.5)
    gain = model.posterior(torch.eye(16).view(16, 1, 4, 4)).mean - model.posterior(torch.zeros(16, 1, 4, 4)).mean
    whitened = gain / model.posterior(x[:1]).stddev  # SKL = ½‖whitened shift‖² as the variance is constant
    for objective, linear, factor in (("skl", whitened, 0.5), ("means", gain, 1), ("w2", gain, 1)):
        worst = factor * (0.1 * torch.linalg.matrix_norm(linear, ord=2)) ** 2
        result = encoder.attack(
            model, x, eps=0.1, objective=objective, norm="l2", steps=60, alpha=0.1, restarts=3, generator=seeded()
        )
        torch.testing.assert_close(result.loss, worst.expand(3), rtol=1e-2, atol=0)


def test_a_target_within_reach_is_reached_and_one_beyond_is_approached_in_a_straight_line():
    model, x = LinearGaussian(), torch.full((2, 1, 4, 4), 0.5)
    direction = model.q[:, 2].view(1, 4, 4)  # the encoder's mean moves along the third latent dimension only
    target = x[0] + direction * 0.3
    arguments = {"objective": "means", "norm": "l2", "steps": 60, "restarts": 2, "generator": seeded()}
    result = encoder.attack(model, x, eps=torch.tensor([0.1, 0.4]), target=target, **arguments)
    clean = encoder.loss(model, x, target=target, objective="means")(x, torch.arange(2))
    torch.testing.assert_close(result.loss[0], clean[0] * (0.2 / 0.3) ** 2, rtol=1e-2, atol=0)
    assert result.loss[1] < 1e-3 * clean[1]


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


@pytest.mark.parametrize("objective", encoder.OBJECTIVES)
def test_every_objective_beats_noise_with_and_without_a_target(digits, objective):
    model, probe, x = digits
    shared = {"eps": 0.1, "objective": objective, "classifier": probe if objective == "classifier" else None}
    away = encoder.attack(model, x, steps=10, restarts=2, generator=seeded(), **shared)
    assert (away.loss > encoder.random_direction(model, x, generator=seeded(), **shared).loss).all()
    target = x.roll(1, 0)
    towards = encoder.attack(model, x, target=target, steps=10, restarts=2, generator=seeded(), **shared)
    noise = encoder.random_direction(model, x, target=target, generator=seeded(), **shared)
    clean = encoder.loss(model, x, target=target, objective=objective, classifier=shared["classifier"])(
        x, torch.arange(16)
    )
    assert (towards.loss < noise.loss).all() and (towards.loss < clean).all()


def test_one_target_serves_all_images_and_a_name_is_a_target(digits):
    model, _, x = digits
    one = encoder.attack(model, x, eps=0.1, target=torch.zeros(1, 8, 8), steps=3, restarts=1, generator=seeded())
    each = encoder.attack(model, x, eps=0.1, target=torch.zeros_like(x), steps=3, restarts=1, generator=seeded())
    black = encoder.attack(model, x, eps=0.1, target="black", steps=3, restarts=1, generator=seeded())
    assert torch.equal(one.adversarial, each.adversarial) and torch.equal(one.adversarial, black.adversarial)


def test_the_classifiers_attack_changes_more_labels_than_noise(digits):
    model, probe, x = digits
    label = lambda images: probe(model.posterior(images).mean).argmax(1)  # noqa: E731
    shared = {"eps": 0.1, "objective": "classifier", "classifier": probe, "generator": seeded()}
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
    small = lambda p, q: 1e-3 * encoder.symmetric_kl(p, q)  # noqa: E731
    found = {}
    for name, settings in (("published", encoder.PUBLISHED | {"restarts": 2}), ("ours", {"steps": 50, "restarts": 2})):
        for objective in ("skl", small):
            result = encoder.attack(model, x, eps=0.1, objective=objective, generator=seeded(), **settings)
            found[name, objective] = encoder.loss(model, x)(result.adversarial, torch.arange(16)).mean().item()
    assert found["ours", small] == pytest.approx(found["ours", "skl"], rel=0.05)
    assert found["published", small] < 0.5 * found["ours", small]


@pytest.mark.parametrize("objective", ["skl", "classifier"])
def test_chunks_compare_each_image_with_its_own_reference(objective):
    model, x = LinearGaussian(), torch.rand(5, 1, 4, 4, generator=seeded())
    torch.manual_seed(0)
    probe = nn.Linear(3, 3).eval() if objective == "classifier" else None
    arguments = {"objective": objective, "classifier": probe, "eps": 0.1, "steps": 5, "restarts": 2}
    for target in (None, x.flip(0)):
        whole = encoder.attack(model, x, target=target, generator=seeded(), **arguments)
        parts = encoder.attack(model, x, target=target, generator=seeded(), chunk=3, **arguments)
        torch.testing.assert_close(parts.loss, whole.loss)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"x": torch.full((1, 1, 4, 4), 255.0)}, ValueError, "x: pixels in .* divide by 255"),
        ({"objective": "kl"}, ValueError, r"objective: skl, kl_forward, .* or a callable \(p, q\) expected, got 'kl'"),
        ({"objective": None}, ValueError, "objective: skl"),
        ({"objective": lambda p, q: p.mean}, ValueError, "one loss for each input"),
        ({"objective": "classifier"}, ValueError, "classifier: objective='classifier' needs a callable"),
        (
            {"classifier": nn.Linear(3, 2).eval()},
            ValueError,
            "used by objective='classifier' only, got objective='skl'",
        ),
        ({"objective": "classifier", "classifier": nn.Linear(3, 2)}, ValueError, r"classifier: .* classifier.eval\(\)"),
        ({"target": torch.zeros(1, 4, 5)}, ValueError, r"target: an image of shape \(1, 4, 4\) or \(2, 1, 4, 4\)"),
        ({"target": torch.zeros(3, 1, 4, 4)}, ValueError, "target: an image of shape"),
        ({"target": torch.full((1, 4, 4), 2.0)}, ValueError, "target: pixels in"),
        ({"target": "red"}, ValueError, "target: black, white, noise, inverted or a tensor"),
        ({"target": 3}, TypeError, "target: a torch tensor of images"),
    ],
)
@pytest.mark.parametrize("run", [encoder.attack, encoder.random_direction])
def test_bad_arguments_are_refused(run, arguments, error, says):
    arguments = {"x": torch.full((2, 1, 4, 4), 0.5), "eps": 0.1, **arguments}
    with pytest.raises(error, match=says):
        run(LinearGaussian(), arguments.pop("x"), **arguments)


class DoubleGaussian(LinearGaussian):
    """The oracle in double precision."""

    def __init__(self):
        super().__init__()
        self.scale, self.w = self.scale.double(), self.w.double()


def doubles(n, seed=0, shape=(1, 4, 4)):
    return torch.rand(n, *shape, generator=seeded(seed), dtype=torch.float64)


def test_output_is_minus_the_elbo_of_the_target_with_the_attacked_posterior():
    model, x, target = DoubleGaussian(), doubles(5), doubles(5, 1)
    value = encoder.loss(model, x, target=target, objective="output", generator=seeded())(x, torch.arange(5))
    p, noise = model.posterior(x), torch.randn(5, 4, 3, generator=seeded(), dtype=torch.float64)
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
    images, goals, rows = x.repeat(many, 1, 1, 1), target.repeat(many, 1, 1, 1), torch.arange(many)
    loss = encoder.loss(model, images, target=goals, objective="output", generator=seeded())
    torch.testing.assert_close(loss(goals, rows), -evidence.expand(many), rtol=1e-5, atol=0)
    values, kl = loss(images, rows), model.posterior(x).kl(model.posterior(target)).item()
    error = values.std().item() / many**0.5
    assert values.mean().item() == pytest.approx(-evidence.item() + kl, abs=4 * error)
    assert kl > 10 * error  # so that the test sees it


def test_output_has_the_same_noise_at_every_call_and_for_a_row_whichever_others_there_are():
    model, x, target = DoubleGaussian(), doubles(5), doubles(5, 1)
    loss, some = encoder.loss(model, x, target=target, objective="output"), torch.tensor([3, 0, 3])
    whole = loss(x, torch.arange(5))
    assert torch.equal(whole, loss(x, torch.arange(5)))
    torch.testing.assert_close(loss(x[some], some), whole[some])
    assert loss(x[[1, 1]], torch.tensor([1, 1])).diff() == 0 and loss(x[[1, 1]], torch.tensor([1, 2])).diff() != 0


@pytest.mark.parametrize("order", ["bottom_up", "top_down"])
def test_the_attack_on_the_output_lowers_it_and_beats_noise(digits, order):
    torch.manual_seed(0)
    layered = seatbelt(image_shape=(1, 8, 8), latent_dim=2, layers=2, size=9, net="mlp", order=order).eval()
    x = digits[2]
    for model in (digits[0], layered):
        shared = {"target": x.roll(1, 0), "objective": "output"}
        hit = encoder.attack(model, x, eps=0.1, steps=10, restarts=2, generator=seeded(), **shared)
        noise = encoder.random_direction(model, x, eps=0.1, restarts=2, generator=seeded(), **shared)
        loss = encoder.loss(model, x, generator=seeded(), **shared)
        torch.testing.assert_close(hit.loss, loss(hit.adversarial, torch.arange(16)))
        assert (hit.loss < noise.loss).all() and (hit.loss < loss(x, torch.arange(16))).all()


def test_output_needs_a_target_and_densities():
    x = torch.rand(2, 1, 8, 8, generator=seeded())
    model = vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
    for run in (encoder.attack, encoder.random_direction):
        with pytest.raises(ValueError, match="target: objective='output' asks .* target image; give one"):
            run(model, x, eps=0.1, objective="output")
    with pytest.raises(NotDefined, match="no density"):
        deterministic = dae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()
        encoder.attack(deterministic, x, eps=0.1, target="black", objective="output")


LAYERED = {
    "bottom_up": lambda: seatbelt(image_shape=(1, 8, 8), latent_dim=2, layers=3, size=9, net="mlp"),
    "top_down": lambda: seatbelt(image_shape=(1, 8, 8), latent_dim=2, layers=3, size=9, net="mlp", order="top_down"),
    "hierarchical": lambda: hierarchical_vae(image_shape=(1, 8, 8), channels=4, groups=((1, 2), (2, 1), (4, 1))),
}


@pytest.fixture(params=LAYERED)
def layered(request):
    torch.manual_seed(0)
    return LAYERED[request.param]().double().eval()


@pytest.mark.parametrize("objective", DISTANCES)
def test_the_layers_sum_up_to_the_objective(layered, objective):
    a, b = doubles(4, 0, (1, 8, 8)), doubles(4, 1, (1, 8, 8))
    whole = distance(objective, layered, a, b)
    for every in ([1, 2, 3], (3, 1, 2)):
        torch.testing.assert_close(distance(encoder.of_layers(objective, every), layered, a, b), whole)
    each = [distance(encoder.of_layers(objective, [i]), layered, a, b) for i in (1, 2, 3)]
    assert all((part > 0).all() for part in each)
    torch.testing.assert_close(sum(each), whole)
    torch.testing.assert_close(distance(encoder.of_layers(objective, [3, 1]), layered, a, b), each[2] + each[0])


def test_a_layers_objective_is_that_of_its_columns_and_of_its_kl(layered):
    a, b = doubles(4, 0, (1, 8, 8)), doubles(4, 1, (1, 8, 8))
    p, q = layered.posterior(a), layered.posterior(b)
    for i, part in enumerate(p.layer_slices, start=1):
        means, stddevs = ((u - v)[:, part] ** 2 for u, v in ((p.mean, q.mean), (p.stddev, q.stddev)))
        forward, reverse = q.kl_layers(p)[:, i - 1], p.kl_layers(q)[:, i - 1]
        for name, expected in (
            ("means", means.sum(1)),
            ("w2", (means + stddevs).sum(1)),
            ("kl_forward", forward),
            ("kl_reverse", reverse),
            ("skl", (forward + reverse) / 2),
        ):
            torch.testing.assert_close(encoder.of_layers(name, [i])(p, q), expected)


@pytest.mark.parametrize("objective", ["kl_reverse", "w2"])
def test_an_attack_on_a_layer_brings_it_closer_than_one_on_another_layer(layered, objective):
    x, target = doubles(4, 0, (1, 8, 8)), doubles(4, 1, (1, 8, 8))
    first, second = (encoder.of_layers(objective, [i]) for i in (1, 2))
    shared = {"eps": 0.1, "target": target, "steps": 15, "restarts": 1, "generator": seeded()}
    on_first, on_second = (encoder.attack(layered, x, objective=o, **shared) for o in (first, second))
    measure = encoder.loss(layered, x, target=target, objective=first)
    torch.testing.assert_close(on_first.loss, measure(on_first.adversarial, torch.arange(4)))
    assert (on_first.loss < measure(on_second.adversarial, torch.arange(4))).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("kl", [1]), "objective: one of skl, .*means expected, got 'kl'"),
        (("output", [1]), "objective: one of"),
        (("classifier", [1]), "objective: one of"),
        (("skl", []), r"layers: a list of one layer or more, each once, expected, got \[\]"),
        (("skl", [1, 2, 1]), r"layers: a list of one layer or more, each once, expected, got \[1, 2, 1\]"),
        (("skl", [0]), r"layers: numbers from 1 to 3 expected, got \[0\]"),
        (("skl", [1, 4]), r"layers: numbers from 1 to 3 expected, got \[1, 4\]"),
        (("skl", [-1]), "layers: numbers from 1 to 3"),
        (("w2", [1.0]), "layers: numbers from 1 to 3"),
    ],
)
def test_wrong_layers_are_refused(arguments, says):
    x = torch.rand(2, 1, 8, 8, generator=seeded())
    with pytest.raises(ValueError, match=says):
        encoder.attack(LAYERED["bottom_up"]().eval(), x, eps=0.1, objective=encoder.of_layers(*arguments))


@pytest.mark.parametrize("objective", ["kl_reverse", "means"])
def test_a_flat_model_has_no_layers(objective):
    with pytest.raises(ValueError, match="layers: a model with layers expected, got a DiagonalGaussian"):
        encoder.attack(LinearGaussian(), torch.rand(2, 1, 4, 4), eps=0.1, objective=encoder.of_layers(objective, [1]))
