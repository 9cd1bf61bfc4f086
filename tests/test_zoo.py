"""The zoo: a model is what its card says, and what is damaged, altered or unknown is refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb import data, tensorfile, zoo
from vaenb.__main__ import main
from vaenb.audit import reference
from vaenb.checkpoints import trained
from vaenb.metrics.detection import auroc
from vaenb.metrics.images import ssim
from vaenb.models import VAE, denoiser, deterministic_ae, reconstruct
from vaenb.tensorfile import DamagedCheckpoint
from vaenb.training import History
from vaenb.zoo import building, recipes, shelf
from vaenb.zoo.quality import STATISTICS, Statistic, accuracy, quality

TINY = recipes.Entry(
    "vae",
    {"image_shape": (1, 16, 16), "latent_dim": 2, "net": "mlp", "width": 0.05},
    {"epochs": 3, "lr": 1e-6},  # four passes gain as little as three
    "error",
    data="mnist_small",
    size=16,
    held_out=1_000,
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A zoo of one recipe, with a shelf, a store and a documentation of its own."""
    error = Statistic("error", lambda model, images: quality(model, images)["SSIM"], margin=0.2)
    monkeypatch.setitem(STATISTICS, "error", error)
    monkeypatch.setattr(recipes, "RECIPES", {"mnist/tiny": TINY})
    for module in (shelf, building):
        monkeypatch.setattr(module, "RECIPES", recipes.RECIPES)
    monkeypatch.setattr(shelf, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr("vaenb.files.project_folder", lambda: tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "plan.json").write_text("[]")
    monkeypatch.setenv("VAENB_CACHE", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def built(tiny):
    building.build("mnist/tiny", progress=False)
    return tiny


def test_the_page_of_the_docs_shows_what_is_on_the_shelf():
    assert (Path(__file__).parents[1] / "docs" / "zoo.md").read_text() == building.page()


def test_a_model_is_built_and_loads_as_its_card_says(tiny, capsys):
    before = torch.get_rng_state()
    assert main(["zoo", "build"]) == 0
    about, model = zoo.card("mnist/tiny"), zoo.load("mnist/tiny")
    assert isinstance(model, VAE) and not model.training
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert quality(model, data.load("mnist_small", split="test", size=16)) == about["quality"]
    assert about["gate"]["passed"] and about["gate"]["numbers"]["longer"] == 4
    assert about["data"]["train"] == TINY.images()[0].digest
    assert "| mnist/tiny | mlp | 2 |" in (tiny / "docs" / "zoo.md").read_text()
    assert torch.equal(torch.get_rng_state(), before)  # initial weights are drawn aside
    assert building.stale() == [] and main(["zoo", "build"]) == 0
    assert capsys.readouterr().out.count("built") == 1


def test_weights_are_those_of_the_training_rounded_to_float16(built):
    lessons, held_out = TINY.images()
    model, _ = trained(TINY.build, TINY.arguments, lessons, validation=held_out, seed=zoo.FIRST_SEED, **TINY.training)
    loaded = zoo.load("mnist/tiny").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value.half().float())


def test_a_changed_recipe_is_built_anew(built, monkeypatch):
    changed = recipes.Entry(TINY.builder, TINY.arguments, {"epochs": 4}, "error", "mnist_small", 16, 1_000)
    monkeypatch.setitem(recipes.RECIPES, "mnist/tiny", changed)
    assert building.stale() == ["mnist/tiny"]
    zoo.load("mnist/tiny")  # the old one is there until then


def test_a_recipe_that_fails_its_gate_is_kept_out(tiny, monkeypatch, capsys):
    monkeypatch.setitem(STATISTICS, "error", Statistic("error", lambda model, images: id(model), margin=1e-9))
    assert main(["zoo", "build", "mnist/tiny"]) == 1
    assert "mnist/tiny can't go into the zoo; lengthen its recipe" in capsys.readouterr().err
    assert zoo.names() == []


@pytest.mark.parametrize(
    ("gain", "after", "runs_differ", "passed"),
    [(0.0029, 1.04, 0, True), (0.003, 1.04, 0, False), (-0.1, 1.04, 0, True), (float("nan"), 1.0, 0, False)]
    + [(0, 1.05, 0, False), (0, 0.95, 0, False)]
    + [(0, 1.1, 0.09, False), (0, 1.1, 0.11, True), (0.003, 1.1, 0.11, False)],
)
def test_the_gate_is_below_three_thousandths_and_half_the_margin_or_what_runs_differ_by(
    tiny, monkeypatch, gain, after, runs_differ, passed
):
    models = [TINY.build(**TINY.arguments).eval() for _ in range(2)]
    histories = [History([{"validation_loss": loss}] * n) for loss, n in ((100.0, 3), (99.0, 4))]
    monkeypatch.setattr(building, "lengthened", lambda *a, **k: list(zip(models, histories, strict=True)))
    monkeypatch.setattr(building, "gain", lambda *a: gain)
    watched = Statistic("error", lambda model, images: 1.0 if model is models[0] else after, 0.1 - 1e-9, runs_differ)
    monkeypatch.setitem(STATISTICS, "error", watched)
    if not passed:
        with pytest.raises(building.NotConverged, match="loss 100, longer loss 99, gain in nats a pixel"):
            building.build("mnist/tiny")
        return
    numbers = building.build("mnist/tiny")["gate"]["numbers"]
    assert list(numbers.values())[:8] == [3, 4, 100, 99, gain, 0.003, 1, after]
    assert ("runs differ by" in numbers) == (runs_differ > 0)


def test_the_same_weights_give_the_same_bytes(built):
    """An audit belongs to its model by the digest of the file: a rebuild of the same weights must not lose it."""
    weights, _ = shelf.paths("mnist/tiny")
    tensors, notes = tensorfile.read(weights)
    first = weights.read_bytes()
    again = weights.with_name("again.safetensors")
    for _ in range(20):  # safetensors leaves the order of the notes to chance
        tensorfile.write(again, tensors, notes)
        assert again.read_bytes() == first
    assert tensorfile.read(again)[1] == notes


def test_damaged_and_altered_files_are_refused(built):
    weights, card = shelf.paths("mnist/tiny")
    whole, about = weights.read_bytes(), json.loads(card.read_text())
    weights.write_bytes(whole[:-100])
    with pytest.raises(
        DamagedCheckpoint, match="one was altered; install vaenb again, or in a clone take both from git"
    ):
        zoo.load("mnist/tiny")
    weights.write_bytes(whole)
    card.write_text(json.dumps(about | {"recipe": about["recipe"] | {"size": 32}}))
    with pytest.raises(DamagedCheckpoint, match="another recipe than its card"):
        zoo.load("mnist/tiny")
    card.write_text(json.dumps(about)[:-9])
    with pytest.raises(ValueError, match=r"tiny.json is damaged"):
        zoo.card("mnist/tiny")
    card.write_text(json.dumps(about))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="is not there, though its card is"):
        zoo.load("mnist/tiny")


def test_document_003s_recipes_are_those_of_its_cells():
    belt = recipes.recipe("sprites/seatbelt-beta4")
    lessons, held_out = belt.images()
    about = {"layers": 2, "latent_dim": 8, "beta": 4.0, "free_bits": 0.125, "top_free_bits": 0.75, "net": "conv003"}
    assert belt.arguments.items() >= about.items() and belt.arguments["size"] == len(lessons) == 9_360
    assert len(held_out) == 1_000
    plain = recipes.recipe("fashion_mnist/seatbelt-plain-beta10").arguments
    assert "top_free_bits" not in plain and plain["latent_dim"] == 10 and plain["size"] == 55_000
    flat = recipes.recipe("sprites/vae-beta2").arguments
    assert flat["regularizer"] == "kl" and "size" not in flat


def test_unknown_names_get_close_ones(tiny, capsys):
    assert main(["zoo", "build", "mnist/tiny", "mnist/tyni"]) == 1
    assert "did you mean 'mnist/tiny'?" in capsys.readouterr().err and zoo.names() == []  # before anything is trained
    with pytest.raises(ValueError, match="mnist/tiny has a recipe but is not built yet"):
        zoo.load("mnist/tiny")
    with pytest.raises(ValueError, match=r"got 'mnist/tyni' \(did you mean 'mnist/tiny'\?\); there are mnist/tiny"):
        zoo.recipe("mnist/tyni")
    with pytest.raises(ValueError, match="got 'x'; there are none"):
        zoo.card("x")


def test_weights_beyond_float16_are_refused(tiny):
    model = TINY.build(**TINY.arguments)
    with torch.no_grad():
        model.decoder[0].bias[0] = 1e5
    with pytest.raises(ValueError, match=r"decoder.0.bias: numbers up to 65504"):
        building.put(model, {"name": "mnist/tiny", "recipe": TINY.description}, data.load("mnist_small", split="test"))


def test_a_deterministic_autoencoder_has_no_bound_to_show():
    model = deterministic_ae(image_shape=(1, 16, 16), latent_dim=2, net="mlp", regularizer="mmd").eval()
    test = data.load("mnist_small", split="test", size=16).take(slice(20))
    found = quality(model, test)
    x = test.float()
    assert found == {"images": 20, "SSIM": pytest.approx(ssim(x, reconstruct(model, x)).mean().item())}


def test_a_denoisers_quality_is_what_it_leaves_of_its_noise():
    test = data.load("mnist_small", split="test", size=16).take(slice(300))
    model = denoiser(image_shape=(1, 16, 16), beta_1=0.1, channels=8).eval()
    found = quality(model, test)
    x = test.float()
    x_1 = model.noised(x, 1, generator=seeded(0))
    noisy = ((x_1 / 0.9**0.5 + 1) / 2).clamp(0, 1)  # a new network finds no noise
    assert found["noisy MSE"] == pytest.approx((noisy - x).square().mean().item())
    assert found["MSE"] == pytest.approx(found["noisy MSE"])
    assert STATISTICS["denoising"].measure(model, test) == pytest.approx(found["MSE"], rel=0.1)


def test_what_a_model_of_another_set_makes_of_digits_is_in_its_gate():
    model = LinearGaussian((1, 16, 16))  # its ELBO is log p(x)
    clothes, digits = (data.load(name, split="test", size=16) for name in ("fashion_small", "mnist_small"))
    scores = [-model.log_evidence(images.float()) for images in (clothes, digits)]
    measure = STATISTICS["digits outside"].measure
    assert measure(model, clothes) == pytest.approx(auroc(*scores), abs=1e-3)
    assert measure(model, digits) == 0.5


def test_the_last_training_images_are_held_out():
    lessons, held_out = TINY.images()
    every = data.load("mnist_small", size=16)
    assert torch.equal(torch.cat([lessons.images, held_out.images]), every.images)
    assert len(held_out) == 1_000


def test_recipes_build_what_they_describe():
    for name, entry in (recipes.RECIPES | recipes.FOR_EVIDENCE).items():
        assert entry.statistic in STATISTICS, name
        assert name.startswith(f"{entry.data.removeprefix('little_')}/")
        model = entry.build(**entry.arguments)
        channels = 3 if entry.data in ("celeba_10k", "cifar10", "svhn_7k") else 1
        assert model.image_shape == (channels, entry.size, entry.size)


@pytest.mark.parametrize("name", zoo.names())
def test_the_package_carries_models_that_are_as_good_as_their_cards_say(name):
    """On the small sets' 1,000 test images, which were drawn from all of the originals'."""
    about, model = zoo.card(name), zoo.load(name)
    small = {"mnist": "mnist_small", "fashion_mnist": "fashion_small"}
    known = zoo.recipe(name).data
    images = data.load(small.get(known, known), split="test", size=about["recipe"]["size"])
    assert about["gate"]["passed"] and about["recipe"] == zoo.recipe(name).description
    if "accuracy" in about["quality"]:
        assert accuracy(model, images) == pytest.approx(about["quality"]["accuracy"], abs=0.02)
    elif "MSE" in about["quality"]:
        assert quality(model, images) == pytest.approx(about["quality"], rel=0.1)
    else:
        x = images.float()
        assert ssim(x, reconstruct(model, x)).mean().item() == pytest.approx(about["quality"]["SSIM"], abs=0.02)


def test_every_model_that_can_be_a_reference_is_audited(capsys):
    assert reference.missing() == []
    for name, why in {"sprites/vae-beta1": "little_sprites", "mnist/cnn": "classifier"}.items():
        assert main(["zoo", "audit", name]) == 1
        assert why in capsys.readouterr().err


def test_no_audit_begins_where_a_later_name_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(reference, "make", lambda name: pytest.fail(f"{name} was audited"))
    for wrong in ("mnist/cnn", "mnist/kdl", "sprites/vae-beta1"):
        assert main(["zoo", "audit", "mnist/kld", wrong]) == 1
        assert wrong in capsys.readouterr().err


def test_a_page_is_written_in_a_checkout_only(tiny):
    (tiny / "figures" / "plan.json").unlink()
    building.write_page()
    assert not (tiny / "docs").exists()


def test_the_zoo_is_small():
    total = sum(path.stat().st_size for path in shelf.WEIGHTS.rglob("*") if path.is_file())
    assert total < 36e6
