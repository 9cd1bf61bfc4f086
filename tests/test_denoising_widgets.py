"""The explorer of denoisers shows what the models make of the noise, and counts its errors from what it shows."""

import math
import re

import pytest
import torch

from tests.oracles import seeded
from vaenb import plots
from vaenb.models.diffusion import DDGM, ddgm, denoiser
from vaenb.widgets import DenoisingExplorer
from vaenb.widgets.chart import Chart

STEPS, BETAS = [1, 4, 9, 16], (0.2, 0.05)
SHAPE = 1, 8, 8


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    walker = ddgm(image_shape=SHAPE, steps=25, channels=8).eval()
    denoisers = {beta: denoiser(image_shape=SHAPE, beta_1=beta, channels=8).eval() for beta in BETAS}
    for model in (walker, *denoisers.values()):
        for weight in model.parameters():
            if not weight.any():  # where a U-Net begins with zeros it would predict no noise at all
                torch.nn.init.normal_(weight, std=0.1)
    return walker, denoisers


@pytest.fixture(scope="module")
def images():
    x = torch.rand(2, 3, *SHAPE, generator=seeded())
    return {"training": x[0], "unseen": x[1]}


@pytest.fixture(scope="module")
def computed(models, images):
    return DenoisingExplorer(images, *models, steps=STEPS, seed=7)


@pytest.fixture
def explorer(computed):
    """Once computed for all tests, with its sliders where they begin."""
    computed.source.value, computed.step.value, computed.beta.value, computed.image.value = 0, 9, 0.2, 0
    return computed


def dots(explorer) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in re.findall(r'<circle cx="(.*?)" cy="(.*?)"', bytes(explorer.curve.value).decode())
    ]


def printed(explorer) -> list[float]:
    return [float(number) for number in re.findall("<b>(.*?)</b>", explorer.numbers.value)]


@pytest.mark.parametrize(
    ("source", "t", "beta", "i"), [(0, 9, 0.2, 0), (1, 4, 0.05, 2), (1, 16, 0.2, 1), (0, 1, 0.05, 2)]
)
def test_it_shows_what_the_models_make_of_the_noise_and_prints_the_errors_of_that(
    explorer, models, images, source, t, beta, i
):
    explorer.source.value, explorer.step.value, explorer.beta.value, explorer.image.value = source, t, beta, i
    (walker, denoisers), clean = models, torch.cat(list(images.values()))
    g, at = seeded(7), 3 * source + i
    level = walker.alpha_bar[t].item()
    x_t = walker.noised(clean, t, generator=g)
    with torch.no_grad():
        walk, guess = walker.denoise(x_t, t, generator=g), walker.denoise(x_t, t, evaluations=1)
        own = denoisers[beta].denoise(x_t * math.sqrt((1 - beta) / level), 1)
    noisy = ((x_t / math.sqrt(level) + 1) / 2).clamp(0, 1)
    row = torch.stack([way[at] for way in (clean, noisy, walk, guess, own)])
    assert explorer.picture.value == plots.tile([row], zoom=14)
    assert printed(explorer) == pytest.approx((row[1:] - row[0]).square().mean((1, 2, 3)).tolist(), rel=6e-3)
    captions = re.findall(r"top\">(.*?)<br>", explorer.numbers.value)
    assert captions == ["clean", "noisy", "walk back", "single guess", f"denoiser β₁ = {beta:g}"]


def test_the_dots_are_the_means_over_the_sources_images_at_the_chosen_noise(explorer, models):
    explorer.source.value, explorer.step.value = 1, 9
    noise = 1 - models[0].alpha_bar
    mean = []
    for i in range(3):
        explorer.image.value = i
        mean.append(printed(explorer))
    mean = torch.tensor(mean).mean(0).tolist()
    (xs, ys), left, right, bottom, top = zip(*dots(explorer), strict=True), Chart.left, Chart.width - 20, 290, 20
    assert xs == pytest.approx([left + (right - left) * (noise[9] / noise[16]).item()] * 4, abs=0.06)
    highest = 1.5 * max(
        v[:, 1].mean(1).max().item() for name, v in explorer.errors.items() if name != "denoiser β₁ = 0.05"
    )
    assert ys == pytest.approx([bottom - (bottom - top) * m / highest for m in mean], abs=1)


def test_the_dashed_line_stands_where_the_denoiser_was_trained_if_there(explorer, models, images):
    drawn = bytes(explorer.curve.value).decode()
    ((line, _, ends),) = re.findall(r'<polyline points="([\d.]+),(\S+) (\S+?),[^>]*dasharray', drawn)
    noise = 1 - models[0].alpha_bar[16].item()
    assert (
        float(line)
        == float(ends)
        == pytest.approx(Chart.left + (Chart.width - 20 - Chart.left) * 0.2 / noise, abs=0.06)
    )
    short = DenoisingExplorer(images, *models, steps=[1])  # less noise than either denoiser was trained for
    assert b"dasharray" not in bytes(short.curve.value)


def test_a_legend_stands_over_the_curves(explorer):
    drawn = bytes(explorer.curve.value).decode()
    names = [int(y) for y in re.findall(r'y="(\d+)" text-anchor="end" fill', drawn)]
    curves = [float(p.split(",")[1]) for line in re.findall(r'points="(.*?)"', drawn) for p in line.split()]
    assert len(names) == 5 and min(curves) > max(names) + 6


@pytest.mark.parametrize(
    ("slider", "value", "same"),
    [("source", 1, set()), ("step", 16, set()), ("beta", 0.05, set()), ("image", 2, {"curve"})],
)
def test_every_slider_changes_what_it_is_about(explorer, slider, value, same):
    shown = "picture", "numbers", "curve"
    before = {name: getattr(explorer, name).value for name in shown}
    getattr(explorer, slider).value = value
    assert {name for name in shown if getattr(explorer, name).value == before[name]} == same


def test_the_levels_are_called_by_their_step_and_noise(models, images):
    levels = torch.tensor([1, 0.9997, 0.93, 0.5, 0.0001], dtype=torch.float64)
    named = DenoisingExplorer(images, DDGM(models[0].net, levels, image_shape=SHAPE), models[1], steps=[4, 1, 3, 2, 2])
    assert [label for label, _ in named.step.options] == [
        "t = 1 · 0.03 % noise",
        "t = 2 · 7 % noise",
        "t = 3 · 50 % noise",
        "t = 4 · 100 % noise",
    ]


def test_a_seed_repeats_the_noise_and_another_does_not(explorer, models, images):
    again, other = (DenoisingExplorer(images, *models, steps=STEPS[1:], seed=seed) for seed in (7, 8))
    for name, pictures in explorer.pictures.items():  # also without the first step: the noise is the same at each
        assert torch.allclose(pictures[1:], again.pictures[name], atol=1e-6)
        assert not torch.allclose(pictures[1:], other.pictures[name], atol=1e-2)


def test_the_noise_is_the_same_at_every_step(explorer, models, images):
    clean, level = torch.stack(list(images.values())), models[0].alpha_bar
    inside = (explorer.pictures["noisy"] > 0) & (explorer.pictures["noisy"] < 1)
    epsilon = [
        2 * (explorer.pictures["noisy"][k] - clean) / ((1 - level[t]) / level[t]).sqrt() for k, t in enumerate(STEPS)
    ]
    both = inside[1] & inside[2]
    assert both.sum() > 50 and torch.allclose(epsilon[1][both], epsilon[2][both], atol=1e-3)


def test_one_step_one_source_and_one_image_are_enough(models, images):
    one = DenoisingExplorer({"a": images["training"][:1]}, *models, steps=[3])
    assert len(printed(one)) == 4 and len(dots(one)) == 4 and b"nan" not in bytes(one.curve.value)


X = torch.zeros(2, *SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "images, denoisers, steps: one or more"),
        ({"images": {"a": 255 + X}}, r"x: pixels in \[0, 1\]"),
        ({"images": {"a": X, "b": X[:1]}}, "images: as many of each source expected, got {'a': 2, 'b': 1}"),
        ({"images": {"a": X[..., :4]}}, r"x: a batch \(N, 1, 8, 8\) expected, got \(2, 1, 8, 4\)"),
        ({"steps": []}, "images, denoisers, steps: one or more"),
        ({"steps": [0, 1]}, "steps: a whole number from 1 to 25 expected, got 0"),
        ({"steps": [26]}, "steps: .* from 1 to 25"),
        ({"denoisers": {}}, "images, denoisers, steps: one or more"),
    ],
)
def test_bad_input_is_refused(models, change, message):
    good = {"images": {"a": X}, "ddgm": models[0], "denoisers": models[1], "steps": [1]}
    with pytest.raises(ValueError, match=message):
        DenoisingExplorer(**good | change)


def test_a_denoiser_of_another_level_is_refused(models):
    walker, denoisers = models
    for wrong, own in ((walker, "0.0"), (denoisers[0.2], "0.2")):
        with pytest.raises(ValueError, match=f"the key is not the model's β₁, which is {own}"):
            DenoisingExplorer({"a": X}, walker, {0.1: wrong}, steps=[1])
