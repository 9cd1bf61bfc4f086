"""An experiment gives what a notebook would build by hand: the same numbers as direct calls, and evidence of them."""

import numpy as np
import pytest
import torch

from vaenb import claims, data, zoo
from vaenb.attacks import latent
from vaenb.checkpoints import trained
from vaenb.claims import gates
from vaenb.experiment import FIRST_SEED, Experiment
from vaenb.metrics.distortion import dd_curve
from vaenb.metrics.images import mse, ssim
from vaenb.models import vae

RADII = torch.tensor([0.0, 0.5, 1.0])
METRICS = {"SSIM": ssim, "MSE": mse}


@pytest.fixture(scope="module")
def train():
    return data.load("mnist_small", size=32, limit=200)


@pytest.fixture(scope="module")
def test():
    return data.load("mnist_small", split="test", size=32)


@pytest.fixture(autouse=True)
def folders(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path_factory.mktemp("runs")))
    monkeypatch.setenv("VAENB_CACHE", str(tmp_path_factory.getbasetemp() / "models"))


@pytest.fixture
def experiment(train, test):
    return Experiment("03_latent_attacks", {"num_seeds": 2, "profile": "quick"}, train=train, test=test)


def config(train):
    return {"image_shape": train.shape, "latent_dim": 3, "net": "mlp", "width": 0.1}


@pytest.fixture
def models(experiment, train):
    return experiment.train({"KLD": (vae, config(train))}, train, epochs=1, progress=False)


def test_seeds_start_at_100_and_five_of_them_count(train):
    def seeds(**parameters):
        return Experiment("03_latent_attacks", parameters, train=train).seeds

    assert seeds() == (FIRST_SEED,) == (100,)
    assert seeds(profile="paper") == (100, 101, 102, 103, 104)
    assert seeds(profile="paper", seed=7, num_seeds=2) == (7, 8)
    with pytest.raises(ValueError, match="profile"):
        seeds(profile="papre")
    with pytest.raises(ValueError, match="num_seeds"):
        seeds(num_seeds=-1)


def test_models_are_those_of_the_store(experiment, models, train):
    model, _ = trained(vae, config(train), train, seed=101, epochs=1, progress=False)
    for ours, theirs in zip(models["KLD"][1].parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_curves_are_those_of_direct_calls(experiment, models, test):
    x = experiment.images(test, 6)
    found = experiment.curves(latent.attack, models["KLD"], x, RADII, METRICS, restarts=2, steps=3)
    assert found["SSIM"].shape == (2, 6, 3)
    model = models["KLD"][1]
    z = model.posterior(x).mean
    curve = dd_curve(model, z, RADII, latent.attack, METRICS, restarts=2, steps=3, generator=experiment.rng())
    for name in METRICS:
        assert np.allclose(found[name][1], curve.values[name].T, atol=1e-6)


def test_measuring_stacks_training_runs(experiment, models, test):
    x = experiment.images(test, 4)
    found = experiment.measure(lambda model: model.posterior(x).mean, models["KLD"])
    assert found.shape == (2, 4, 3)
    assert np.allclose(found[0], experiment.codes(models["KLD"], x)[0])


def test_evidence_is_measured_on_the_listed_images(experiment, test, train):
    listed = claims.images()["mnist"]
    mnist = test.take(slice(None))
    object.__setattr__(mnist, "name", "mnist")
    whole = Experiment("03_latent_attacks", {"profile": "paper"}, train=train)
    chosen = torch.tensor([index for index in listed if index < len(mnist)][:1])
    with pytest.raises(ValueError, match="count: at most 1000 test images of mnist, got 2000"):
        whole.images(mnist, 2000)
    with pytest.raises(ValueError, match="test images expected, got those of the split 'train' of mnist_small"):
        whole.images(train, 5)
    with pytest.raises(ValueError, match="count"):
        whole.images(test, 0)
    assert len(experiment.images(test, 100, quick=7)) == 7
    assert len(whole.images(test, 100, quick=7)) == 100
    assert torch.equal(whole.images(test, 3), test.float(slice(0, 3)))  # of a set without a list
    assert chosen.numel() == 1


def test_what_is_recorded_is_in_the_folder_and_in_the_table(experiment):
    base = np.random.default_rng(0).normal(0.6, 0.05, size=(2, 20, 9))
    experiment.run.data = "mnist"
    gate = gates.dose("training", 0.1, 0.9, least=0.1, claims=["001.vulnerable"])
    assert experiment.gate(gate) is gate
    experiment.record("001.vulnerable", "KLD, MNIST", {"KLD untargeted SSIM": base + np.linspace(0.4, 0, 9)})
    told = experiment.claims()
    assert "reconstructions get worse as the latent attack grows" in told and "not measured" in told
    again = claims.read(experiment.folder)
    assert again.gates == [gate] and again.records[0].radii == claims.find("001.vulnerable").cells[0].radii
    (row,) = claims.measured(again)
    assert row["effect"] == pytest.approx(0.4, abs=0.03)


def test_a_metric_without_its_weights_is_left_out_and_that_is_said(experiment, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    assert experiment.metrics("SSIM", "LPIPS", "MSE") == {"SSIM": ssim, "MSE": mse}
    assert "LPIPS is left out: LPIPS('squeeze') needs squeezenet1_1" in capsys.readouterr().out
    with pytest.raises(ValueError, match="metric"):
        experiment.metrics("SIM")


def test_reference_models_come_from_the_zoo_in_quick_and_are_trained_by_its_recipe_else(train, monkeypatch):
    model = object()
    monkeypatch.setattr("vaenb.zoo.load", lambda name, device: model)
    entry = zoo.Entry("vae", config(train), {"epochs": 1}, "latent attack", data="mnist_small", held_out=3_900)
    monkeypatch.setattr("vaenb.zoo.recipe", lambda name: entry)
    quick = Experiment("03_latent_attacks", {}, train=train)
    assert quick.zoo({"KLD": "mnist/kld"}) == {"KLD": [model]}
    anew = Experiment("03_latent_attacks", {"train": True}, train=train)
    assert anew.zoo({"KLD": "mnist/kld"}, progress=False)["KLD"] != [model]
    two = Experiment("03_latent_attacks", {"num_seeds": 2}, train=train)  # the zoo has seed 100 alone
    found = two.zoo({"KLD": "mnist/kld"}, progress=False)["KLD"]
    lessons, held_out = entry.images()
    assert len(lessons) == 100 and len(found) == 2
    theirs, _ = trained(vae, config(train), lessons, seed=101, epochs=1, validation=held_out, progress=False)
    assert torch.equal(next(theirs.parameters()), next(found[1].parameters()))


def test_figures_are_saved_with_their_table(experiment):
    import plotly.graph_objects as go

    fig = experiment.save(go.Figure(), "nothing", table=[{"eps": 1, "SSIM": 0.5}])
    assert isinstance(fig, go.Figure)
    assert (experiment.folder / "nothing.csv").read_text() == "eps,SSIM\n1,0.5\n"
