"""What all attacks and defences have in common: what they let in, and how many rows a model sees at a time."""

from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb.attacks import adaptive, classifier, encoder, latent, lbfgs, penalized, pgd, queries
from vaenb.contract import check_contract, reconstruct
from vaenb.defences import purify
from vaenb.defences.refit import refit_encoder
from vaenb.defences.repair import repair
from vaenb.metrics.distortion import dd_curve
from vaenb.metrics.images import mse
from vaenb.models import vae
from vaenb.models.classifier import mlp_classifier
from vaenb.sampling.posterior import posterior_density


class Watched(LinearGaussian):
    """A model, and a classifier, that keep the sizes of the batches they see."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __call__(self, x):
        self.seen.append(len(x))
        return x.flatten(1)[:, :3] - x.flatten(1)[:, 3:6]

    def posterior(self, x):
        self.seen.append(len(x))
        return super().posterior(x)

    def decode(self, z):
        self.seen.append(len(z))
        return super().decode(z)


def squares(x, index):
    return (x**2).flatten(1).sum(1)


def given(model, net, n=7, **changed):
    """What the calls below are made with: a model, a classifier, images, codes, labels and small numbers."""
    g = SimpleNamespace(model=model, net=net, eps=0.1, chunk=512, two=2)
    g.x = 0.2 + 0.6 * torch.rand(n, 1, 4, 4, generator=seeded())
    g.z = torch.randn(n, 3, generator=seeded())
    g.y = torch.arange(n) % 3
    g.__dict__.update(changed)
    g.search = {"steps": g.two, "restarts": g.two, "chunk": g.chunk, "generator": seeded()}
    g.draws = {"restarts": g.two, "chunk": g.chunk, "generator": seeded()}
    return g


def adapted(g):
    defence = repair(LinearGaussian(), g.x, warmup=0, num_samples=2, generator=seeded())
    chains = {"defence": defence, "transitions": g.two, "leapfrog_steps": g.two, "draws": g.two}
    return adaptive.attack(g.model, g.x, squares, eps=g.eps, **chains, **g.search)


CALLS = {
    "pgd": lambda g: pgd.pgd(squares, g.z, eps=g.eps, **g.search),
    "minimize": lambda g: lbfgs.minimize(squares, g.x, steps=g.two, memory=g.two, chunk=g.chunk),
    "classifier": lambda g: classifier.attack(g.net, g.x, g.y, eps=g.eps, **g.search),
    "classifier noise": lambda g: classifier.random_direction(g.net, g.x, g.y, eps=g.eps, **g.draws),
    "predict": lambda g: classifier.predict(g.net, g.x, chunk=g.chunk),
    "encoder": lambda g: encoder.attack(g.model, g.x, eps=g.eps, **g.search),
    "encoder output": lambda g: encoder.attack(
        g.model, g.x, eps=g.eps, target="noise", divergence="output", **g.search
    ),
    "encoder noise": lambda g: encoder.random_direction(g.model, g.x, eps=g.eps, target=g.x.flip(0), **g.draws),
    "penalized": lambda g: penalized.attack(
        g.model, g.x, "noise", penalties=torch.tensor([0.0, 0.1]), steps=g.two, chunk=g.chunk, generator=seeded()
    ),
    "latent": lambda g: latent.attack(g.model, g.z, eps=g.eps, **g.search),
    "latent noise": lambda g: latent.random_direction(g.model, g.z, eps=g.eps, target="noise", **g.draws),
    "queries": lambda g: queries.query_attack(g.model, g.z, eps=g.eps, queries=10 * g.two, **g.draws),
    "adaptive": adapted,
}


def refitted(g):
    model, _ = refit_encoder(g.model, g.x, g.z[:, None], epochs=1, progress=False)
    return model.posterior(given(None, None).x).mean


WITHOUT_CHUNK = {
    "fgsm": lambda g: classifier.fgsm(g.net, g.x, g.y, eps=g.eps),
    "classifier lbfgs": lambda g: classifier.lbfgs(g.net, g.x, g.y, searches=g.two, steps=g.two),
    "spectral": lambda g: latent.spectral_attack(g.model, g.z, eps=g.eps, iterations=g.two, generator=seeded()),
    "tilt": lambda g: adaptive.posterior_tilt(g.model, g.x, g.z, g.z[:2], eps=g.eps),
    "elbo ascent": lambda g: purify.elbo_ascent(
        g.model, g.x, eps=g.eps, steps=g.two, samples=g.two, generator=seeded()
    ),
    "passes": lambda g: purify.passes(g.model, g.x, samples=g.two, generator=seeded()),
    "refit": refitted,
}


def tensors(result):
    """The tensors of a result, by name."""
    if not is_dataclass(result):
        return {"": result}
    return {field.name: getattr(result, field.name) for field in fields(result)}


def nets():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 4, 4), latent_dim=3, net="mlp").eval()
    return model, mlp_classifier(image_shape=(1, 4, 4), classes=3).eval()


def assert_same(found, expected):
    for name, value in tensors(expected).items():
        torch.testing.assert_close(tensors(found)[name], value, msg=name)


@pytest.mark.parametrize("name", CALLS)
def test_chunk_bounds_what_a_model_sees_and_changes_nothing(name):
    model = Watched()
    whole = CALLS[name](given(model, model))
    model.seen.clear()
    parts = CALLS[name](given(model, model, chunk=3))
    assert max(model.seen, default=0) <= 3
    assert_same(parts, whole)


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_chunk_is_refused_by_name(name):
    with pytest.raises(ValueError, match="chunk: a whole number ≥ 1 expected, got 0"):
        CALLS[name](given(*nets(), chunk=0))


@pytest.mark.parametrize("name", [*CALLS, *WITHOUT_CHUNK])
def test_numpys_numbers_are_numbers(name):
    call = (CALLS | WITHOUT_CHUNK)[name]
    plain = call(given(*nets(), chunk=3))
    numpys = call(given(*nets(), chunk=np.int64(3), two=np.int64(2), eps=np.float32(0.1)))
    assert_same(numpys, plain)
    for value in tensors(numpys).values():
        assert not isinstance(value, np.generic)


def test_numpys_small_numbers_do_not_overflow():
    z, x = torch.zeros(2, 3), given(None, None).x
    found = queries.query_attack(LinearGaussian(), z, eps=1.0, queries=np.uint8(200), restarts=np.uint8(3))
    assert found.forward_calls == 199
    assert pgd.pgd(squares, z, eps=1.0, steps=np.uint8(20), restarts=np.uint8(20)).gradient_calls == 400
    whole, small = (lbfgs.minimize(squares, x, memory=memory, steps=4).x for memory in (1, np.uint8(1)))
    assert torch.equal(whole, small)
    assert len(penalized.penalty_grid(np.int8(127))) == 128


@pytest.mark.parametrize("name", [*CALLS, *WITHOUT_CHUNK])
def test_tensors_made_in_inference_mode_are_as_good_as_others(name):
    call = (CALLS | WITHOUT_CHUNK)[name]
    expected = call(given(*nets()))
    with torch.inference_mode():
        made = given(None, None)
    model, net = nets()
    made.model, made.net = model, net
    assert made.x.is_inference()
    assert_same(call(made), expected)


GRADIENTS = ["pgd", "minimize", "fgsm", "encoder", "penalized", "latent", "spectral", "adaptive", "tilt", "elbo ascent"]


@pytest.mark.parametrize("name", [*GRADIENTS, "refit"])
def test_inside_inference_mode_there_are_no_gradients_and_it_is_said(name):
    g = given(*nets())
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"needs gradients, which torch\.inference_mode"):
        (CALLS | WITHOUT_CHUNK)[name](g)


IMAGES = ["encoder", "encoder noise", "encoder output", "penalized", "adaptive", "tilt", "elbo ascent"]


@pytest.mark.parametrize("name", [*IMAGES, "refit"])
def test_a_likelihood_that_sums_over_the_batch_is_refused(name):
    class Summed(LinearGaussian):
        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z).sum()

    with pytest.raises(ValueError, match=r"log_likelihood: .* one number for each image, \(2,\)"):
        (CALLS | WITHOUT_CHUNK)[name](given(Summed(), None))


@pytest.mark.parametrize("name", ["latent", "latent noise", "spectral", "queries", "passes", *IMAGES])
def test_a_decode_that_returns_a_tuple_is_refused(name):
    class Two(LinearGaussian):
        def decode(self, z):
            return super().decode(z), z

    with pytest.raises(TypeError, match="decode: a tensor of images expected, got tuple"):
        (CALLS | WITHOUT_CHUNK)[name](given(Two(), None))


class Adapter:
    """Holds bound methods of a net, not the net."""

    def __init__(self, net):
        self.posterior, self.decode = net.posterior, net.decode
        self.log_prior, self.log_likelihood = net.log_prior, net.log_likelihood


@pytest.mark.parametrize("name", ["latent", "latent noise", "spectral", "queries", "refit", "passes", *IMAGES])
def test_training_mode_is_found_behind_bound_methods_and_a_cleaner(name):
    adapter = Adapter(vae(image_shape=(1, 4, 4), latent_dim=3, net="mlp").train())
    for model in (adapter, purify.Cleaned(adapter, clean=lambda x: x)):
        with pytest.raises(ValueError, match="model: it is in training mode"):
            (CALLS | WITHOUT_CHUNK)[name](given(model, None))


@pytest.mark.parametrize(
    "door",
    [
        check_contract,
        reconstruct,
        posterior_density,
        lambda model, x: dd_curve(model, torch.zeros(2, 3), torch.tensor([0.1]), lambda model, z, eps: z, {"MSE": mse}),
    ],
)
def test_training_mode_is_found_behind_bound_methods_by_what_is_no_attack(door):
    with pytest.raises(ValueError, match="it is in training mode"):
        door(Adapter(vae(image_shape=(1, 4, 4), latent_dim=3, net="mlp").train()), given(None, None).x)


@pytest.mark.parametrize("name", ["fgsm", "classifier", "classifier noise", "classifier lbfgs", "predict"])
def test_training_mode_is_found_behind_a_defended_classifier(name):
    model, net = nets()
    adapter = Adapter(model.train())
    defended = purify.defended(net, lambda x: adapter.decode(adapter.posterior(x).mean))
    with pytest.raises(ValueError, match="classifier: it is in training mode"):
        (CALLS | WITHOUT_CHUNK)[name](given(None, defended))
