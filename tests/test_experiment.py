"""An experiment gives what a notebook would build by hand: the same numbers as direct calls, and evidence of them."""

import json

import numpy as np
import pytest
import torch

from vaenb import claims, data, zoo
from vaenb.attacks import encoder, latent
from vaenb.checkpoints import trained
from vaenb.claims import gates
from vaenb.contract import reconstruct
from vaenb.experiment import FIRST_SEED, Experiment
from vaenb.metrics.distortion import dd_curve
from vaenb.metrics.images import mse, ssim
from vaenb.models import vae

RADII = torch.tensor([0.0, 0.5, 1.0])
METRICS = {"SSIM": ssim, "MSE": mse}
ONE = torch.ones(2)


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
    return experiment.train({"KLD": (vae, config(train))}, train, epochs=1)


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
    model, _ = trained(vae, config(train), train, seed=101, epochs=1)
    for ours, theirs in zip(models["KLD"][1].parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_curves_are_those_of_direct_calls(experiment, models, test):
    x = experiment.images(test, 6)
    found = experiment.curves(latent.attack, models["KLD"], x, RADII, METRICS, restarts=2, steps=3)
    assert found["SSIM"].shape == (2, 6, 3)
    model = models["KLD"][1]
    z = model.posterior(x).mean
    away = RADII > 0  # codes are not attacked at radius 0, and the generator draws nothing for them
    curve = dd_curve(model, z, RADII[away], latent.attack, METRICS, restarts=2, steps=3, generator=experiment.rng())
    for name, at_zero in {"SSIM": 1.0, "MSE": 0.0}.items():
        assert np.allclose(found[name][1, :, 1:], curve.values[name].T, atol=1e-6)
        assert np.allclose(found[name][:, :, 0], at_zero, atol=1e-6)
    codes = found["codes"]
    assert codes.shape == (2, 6, 3, 3) and np.allclose(codes[1, :, 0], z.detach())
    assert (np.linalg.norm(codes - codes[:, :, :1], axis=-1) <= RADII.numpy() + 1e-5).all()
    with pytest.raises(ValueError, match="radii from 0 expected, got 0.5 first"):
        experiment.curves(latent.attack, models["KLD"], x, RADII[1:], METRICS)


def test_images_are_attacked_in_every_run(experiment, models, test):
    x = experiment.images(test, 4)
    search = {"steps": 3, "restarts": 1}
    found = experiment.image_curves(models["KLD"], x, torch.tensor([0.0, 0.1]), {"SSIM": ssim}, **search)
    model = models["KLD"][1]
    attacked = encoder.attack(model, x, eps=0.1, generator=experiment.rng(), **search).adversarial
    clean, copy = reconstruct(model, x), reconstruct(model, attacked)
    assert found["SSIM"].shape == (2, 4, 2) and np.allclose(found["own SSIM"][..., 0], 1)
    assert np.allclose(found["SSIM"][1, :, 1], ssim(x, copy), atol=1e-6)
    assert np.allclose(found["own SSIM"][1, :, 1], ssim(clean, copy), atol=1e-6)


def test_what_a_paper_run_measured_is_not_measured_again(models, train, test, monkeypatch):
    calls = []

    monkeypatch.setattr("vaenb.experiment.dd_curve", lambda *a, **k: calls.append(1) or dd_curve(*a, **k))
    x = test.float(slice(0, 4))
    for profile, count in (("paper", 2), ("paper", 2), ("quick", 4)):  # two runs; kept; not kept
        run = Experiment("03_latent_attacks", {"num_seeds": 2, "profile": profile}, train=train)
        found = run.curves(latent.random_direction, models["KLD"], x, RADII, METRICS)
        assert len(calls) == count and found["SSIM"].shape == (2, 4, 3)


def doubled(x):
    CALLS.append(1)
    return {"twice": 2 * x}


CALLS = []


def test_what_a_paper_run_found_once_is_not_computed_again(train):
    x = torch.rand(3, 2)
    for profile, about, count in (("paper", 1, 1), ("paper", 1, 1), ("paper", 2, 2), ("quick", 1, 3), ("quick", 1, 4)):
        run = Experiment("02_alarms_and_cleaning", {"profile": profile}, train=train)
        assert torch.equal(run.once(doubled, x, steps=about)["twice"], 2 * x)
        assert len(CALLS) == count


def test_every_training_run_is_measured_once(train):
    runs, before = [torch.rand(4), torch.rand(4)], len(CALLS)
    for steps, count in ((1, 2), (1, 2), (2, 4)):
        paper = Experiment("02_alarms_and_cleaning", {"profile": "paper"}, train=train)
        found = paper.of_runs(doubled, runs, steps=steps)
        assert np.array_equal(found["twice"], 2 * torch.stack(runs))
        assert len(CALLS) - before == count


def test_measures_by_name_are_stacked_over_training_runs(experiment):
    runs = [ONE, 2 * ONE]
    found = experiment.measure_all(lambda a, b, c: {"sum": a + b + c}, {"A": runs, "B": [ONE, ONE]}, 1)
    assert np.array_equal(found["sum"], [[3, 3], [4, 4]])
    alone = experiment.measure_all(lambda a, c: {"sum": a + c}, runs, 1)["sum"]
    assert np.array_equal(alone, [[2, 2], [3, 3]]) and alone.dtype == np.float64


def test_every_cell_whose_arrays_are_there_is_recorded_with_its_gates(experiment):
    ids = ["001.vulnerable", "001.black-target"]
    falling = np.linspace(0.9, 0.4, 9) + np.zeros((2, 30, 1))
    arrays = {"KLD untargeted SSIM": falling, "MMD untargeted SSIM": falling, "another": falling}
    assert experiment.record_all(ids, arrays) == []  # of other data
    experiment.run.data = "mnist"
    assert experiment.record_all(ids, arrays) == ["001.vulnerable: KLD, MNIST", "001.vulnerable: MMD, MNIST"]
    longer = {"KLD untargeted SSIM": falling[:1]}
    (grown,) = experiment.converged(ids, arrays, longer, 0.001)
    (strong,) = experiment.strong_attack(ids, arrays, {"KLD untargeted SSIM": falling[:1, :20] ** 2})
    assert grown.cells == ("KLD, MNIST",)
    assert grown.passed and not strong.passed and strong.numbers["images"] == 20
    assert claims.read(experiment.folder).gates == [grown, strong]


def test_another_stream_has_other_random_numbers(experiment):
    first, again, other = (torch.randn(1000, generator=experiment.rng(stream)) for stream in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first, torch.randn(1000, generator=experiment.rng()))
    assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.1
    with pytest.raises(ValueError, match="stream"):
        experiment.rng(-1)


def test_again_is_the_same_attack_with_other_random_numbers(experiment, models, test):
    experiment.run.data = "mnist"
    x = experiment.images(test, 20)

    def measured(model, steps, stream):
        search = {"steps": steps, "restarts": 1, "generator": experiment.rng(stream)}
        hit = encoder.attack(model, x, eps=0.1, **search).adversarial
        with torch.no_grad():
            draws = [model.posterior(images).rsample(generator=experiment.rng(stream)) for images in (x, hit)]
        # labels that hang on a draw
        found = [(z[:, 0] > 0).float()[None].numpy() for z in draws]
        return {"HMC label kept": found[0], "draw label kept": found[1]}

    first, doubled, again = (measured(models["KLD"][0], *budget) for budget in ((2, 0), (4, 0), (2, 1)))
    (strict,) = experiment.strong_attack(["002a.hmc.acc"], first, doubled, radius=0.1)
    (gate,) = experiment.strong_attack(["002a.hmc.acc"], first, doubled, again, radius=0.1)
    gains = [found["HMC label kept"] - found["draw label kept"] for found in (first, again)]
    error = np.std(gains[1] - gains[0]) / 20**0.5
    assert gate.numbers["chance moves it by"] == pytest.approx(2.093 * error, rel=0.15)
    assert strict.numbers == {name: gate.numbers[name] for name in strict.numbers}
    assert gate.cells == ("delta .1, MNIST",)


def test_cells_that_differ_in_the_radius_are_told_apart_by_it(experiment):
    experiment.run.data = "mnist"
    found = {"HMC MS-SSIM": np.full((2, 30), 0.7), "draw MS-SSIM": np.full((2, 30), 0.6)}
    assert experiment.record_all(["002a.hmc.sim"], found, radius=0.2) == ["002a.hmc.sim: delta .2, MNIST"]
    (gate,) = experiment.converged(["002a.hmc.sim"], found, found, 0.001, radius=0.1)
    assert gate.cells == ("delta .1, MNIST",)
    assert experiment.record_all(["002a.hmc.sim"], found, radius=0.3) == []


def test_cells_of_two_sets_belong_to_the_one_that_is_trained_on(experiment):
    scores = np.random.default_rng(0).random((2, 30))
    found = {"inside MSE": scores, "outside MSE": scores + 0.5}
    experiment.run.data = "fashion_mnist"
    assert experiment.record_all(["000.ood.reconstruction"], found) == []
    experiment.run.data = "mnist"
    assert experiment.record_all(["000.ood.reconstruction"], found) == ["000.ood.reconstruction: VAE"]
    (record,) = experiment.run.records
    assert record.data == "mnist vs fashion_mnist"


def test_a_cell_from_one_set_to_another_belongs_to_the_one_that_is_trained_on(experiment):
    found = {"noisy MSE": np.full((2, 100), 0.03), "walk MSE": np.full((2, 100), 0.01)}
    experiment.run.data = "mnist"
    assert experiment.record_all(["002b.transition"], found) == []
    experiment.run.data = "fashion_mnist"
    assert experiment.record_all(["002b.transition"], found) == ["002b.transition: the walk, t = 20"]
    assert experiment.run.records[0].data == "fashion_mnist to mnist"


def test_longer_models_have_four_thirds_of_the_passes(experiment, train, monkeypatch):
    entry = zoo.Entry("vae", config(train), {"epochs": 3}, "latent attack", data="mnist_small", held_out=3_900)
    monkeypatch.setattr("vaenb.zoo.recipe", lambda name: entry)
    models, gain = experiment.longer({"KLD": "mnist/kld"})
    lessons, held_out = entry.images()
    recipe = {"seed": FIRST_SEED, "validation": held_out, "progress": False}
    short, before = trained(vae, config(train), lessons, epochs=3, **recipe)
    long, after = trained(vae, config(train), lessons, epochs=4, **recipe)
    assert torch.equal(next(models["KLD"][0].parameters()), next(long.parameters()))
    fall = before.epochs[-1]["validation_loss"] - after.epochs[-1]["validation_loss"]
    assert gain == pytest.approx(fall / (32 * 32))


def test_measuring_stacks_training_runs(experiment, models, test):
    x = experiment.images(test, 4)
    found = experiment.measure(lambda model: model.posterior(x).mean, models["KLD"])
    assert found.shape == (2, 4, 3)
    assert np.allclose(found[0], experiment.codes(models["KLD"], x)[0])


def test_evidence_is_measured_on_the_listed_images(experiment, test, train):
    mnist = test.take(slice(None))
    object.__setattr__(mnist, "name", "mnist")
    whole = Experiment("03_latent_attacks", {"profile": "paper"}, train=train)
    with pytest.raises(ValueError, match="count: at most 1000 test images of mnist, got 2000"):
        whole.images(mnist, 2000)
    with pytest.raises(ValueError, match="test: all of mnist expected, as its images are listed; got 1000 of them"):
        whole.images(mnist, 5)
    with pytest.raises(ValueError, match="test images expected, got those of the split 'train' of mnist_small"):
        whole.images(train, 5)
    with pytest.raises(ValueError, match="count"):
        whole.images(test, 0)
    assert torch.equal(whole.images(test, 3), test.float(slice(0, 3)))  # of a set without a list
    assert torch.equal(whole.chosen(test, 3).labels, test.labels[:3])


def test_two_parts_of_one_set_keep_their_digests(train):
    parts = {"train": train.take(slice(0, 20)), "validation": train.take(slice(20, 30))}
    folder = Experiment("03_latent_attacks", {}, **parts).folder
    kept = json.loads((folder / "run.json").read_text())["data"]
    assert kept == {"mnist_small": parts["train"].digest, "mnist_small [validation]": parts["validation"].digest}


def test_what_is_recorded_is_in_the_folder(experiment):
    base = np.random.default_rng(0).normal(0.6, 0.05, size=(2, 20, 9))
    experiment.run.data = "mnist"
    gate = gates.dose("training", 0.1, 0.9, least=0.1, claims=["001.vulnerable"])
    assert experiment.gate(gate) is gate
    experiment.record("001.vulnerable", "KLD, MNIST", {"KLD untargeted SSIM": base + np.linspace(0.4, 0, 9)})
    again = claims.read(experiment.folder)
    assert again.gates == [gate] and again.records[0].radii == claims.find("001.vulnerable").cells[0].radii
    (row,) = claims.measured(again)
    assert row["effect"] == pytest.approx(0.4, abs=0.03)


def test_a_metric_without_its_weights_is_left_out_and_that_is_said(experiment, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    assert experiment.metrics("SSIM", "LPIPS", "MSE") == {"SSIM": ssim, "MSE": mse}
    assert "LPIPS is left out: LPIPS needs squeezenet1_1" in capsys.readouterr().out
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
    assert anew.zoo({"KLD": "mnist/kld"})["KLD"] != [model]
    two = Experiment("03_latent_attacks", {"num_seeds": 2}, train=train)  # the zoo has seed 100 alone
    found = two.zoo({"KLD": "mnist/kld"})["KLD"]
    lessons, held_out = entry.images()
    assert len(lessons) == 100 and len(found) == 2
    theirs, _ = trained(vae, config(train), lessons, seed=101, epochs=1, validation=held_out)
    assert torch.equal(next(theirs.parameters()), next(found[1].parameters()))
    (first,) = two.zoo({"KLD": "mnist/kld"}, runs=1)["KLD"]
    assert torch.equal(next(first.parameters()), next(found[0].parameters()))


def test_figures_are_saved_with_their_table(experiment):
    import plotly.graph_objects as go

    fig = experiment.save(go.Figure(), "nothing", table=[{"eps": 1, "SSIM": 0.5}])
    assert isinstance(fig, go.Figure)
    assert (experiment.folder / "nothing.csv").read_text() == "eps,SSIM\n1,0.5\n"


def test_half_precision_is_measured_too(experiment):
    found = experiment.measure_all(lambda a: {"twice": 2 * a}, [ONE.bfloat16()])
    assert np.array_equal(found["twice"], [[2, 2]])
