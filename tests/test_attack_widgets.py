"""The explorers of two units and of two attacks show what their sliders say, and rank models by the numbers shown."""

import re

import numpy as np
import pytest
import torch

from tests.oracles import seeded
from vaenb import plots
from vaenb.attacks import encoder, latent
from vaenb.contract import reconstruct
from vaenb.metrics.distortion import DDCurve, aaddc_abs, dd_curve
from vaenb.metrics.images import ssim
from vaenb.models import vae
from vaenb.widgets import TwoAttacksExplorer, UnitExplorer
from vaenb.widgets.chart import Chart
from vaenb.widgets.units import LATENT, OWN, ordered

RADII = torch.tensor([0.0, 1.0, 2.0, 3.0])
DELTAS = torch.tensor([0.0, 0.05, 0.2])
NAMES = "KLD", "MMD", "SWT"
SPREADS = {100.0: {"KLD": 1.0, "MMD": 1.5, "SWT": 3.0}, 10.0: {"KLD": 1.0, "MMD": 2.0, "SWT": 4.0}}
FALLS = {100.0: {"KLD": 0.2, "MMD": 0.16, "SWT": 0.1}, 10.0: {"KLD": 0.2, "MMD": 0.05, "SWT": 0.12}}


def some_vae(seed: int):
    torch.manual_seed(seed)
    return vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp").eval()


def falling(slope: float, seed: int) -> DDCurve:
    """SSIM that falls by `slope` a latent unit, and by a little more or less for each of three images."""
    g = seeded(seed)
    own = slope * torch.tensor([0.7, 1.0, 1.3])
    codes = torch.randn(4, 3, 2, generator=g) * (0.1 + RADII[:, None, None])
    return DDCurve(RADII, {"SSIM": 1 - RADII[:, None] * own}, codes)


@pytest.fixture
def units():
    models, curves = {}, {}
    for lam, falls in FALLS.items():
        models[lam] = {name: some_vae(int(lam) + k) for k, name in enumerate(NAMES)}
        curves[lam] = {name: falling(slope, int(lam) + k) for k, (name, slope) in enumerate(falls.items())}
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    return UnitExplorer(models, curves, x, SPREADS)


def state(explorer):
    return explorer.picture.value, explorer.numbers.value, explorer.curve.value


def ranked(explorer, line: int) -> dict[str, float]:
    """The models of a line, as they are ordered there, with their numbers."""
    found = re.findall(r"(\w+) (-?\d\.\d\d)", explorer.numbers.value.split("<br>")[line].split(":")[1])
    return {name: float(number) for name, number in found}


def test_the_order_is_that_of_the_numbers_and_flips_with_the_unit(units):
    for line in (0, 1):
        assert list(ranked(units, line)) == ["SWT", "MMD", "KLD"]
    units.unit.value = OWN  # there they fall by .2, .24 and .3
    for line in (0, 1):
        assert list(ranked(units, line)) == ["KLD", "MMD", "SWT"]
        numbers = list(ranked(units, line).values())
        assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("unit", [LATENT, OWN])
def test_means_and_areas_are_those_of_the_curves_in_this_unit(units, unit, k):
    units.unit.value, units.eps.value = unit, k
    radii = RADII if unit == LATENT else torch.linspace(0, 1, 4)  # as far as SWT was measured
    assert [label for label, _ in units.eps.options] == [f"{eps:.3g}" for eps in radii.tolist()]
    for name, fall in FALLS[100.0].items():
        slope = fall if unit == LATENT else fall * SPREADS[100.0][name]
        line = 1 - slope * radii
        assert ranked(units, 0)[name] == pytest.approx(line[k].item(), abs=0.006)
        assert ranked(units, 1)[name] == pytest.approx(aaddc_abs(radii, line, better="higher").item(), abs=0.006)


def test_between_measured_radii_ssim_is_interpolated_as_numpy_does(units):
    bent = torch.rand(4, 3, generator=seeded(5))
    units.curves[10.0]["MMD"].values["SSIM"] = bent
    multiples, values = units.compared(OWN, 10.0)
    assert torch.allclose(multiples, torch.linspace(0, 0.75, 4))
    for i in range(3):
        expected = np.interp(2.0 * multiples.numpy(), RADII.numpy(), bent[:, i].numpy())
        assert values["MMD"][:, i].numpy() == pytest.approx(expected, abs=1e-6)


def test_pictures_are_of_the_nearest_measured_radius(units):
    units.unit.value, units.eps.value, units.image.value = OWN, 2, 1  # two thirds of a spread
    expected = {"KLD": 1, "MMD": 1, "SWT": 2}
    clean, attacked = [units.x[1]], [torch.ones(1, 8, 8)]
    for name, at in expected.items():
        codes = units.curves[100.0][name].adversarial[:, 1]
        decoded = units.models[100.0][name].decode(codes).detach()
        clean.append(decoded[0])
        attacked.append(decoded[at])
    assert units.picture.value == plots.tile([torch.stack(clean), torch.stack(attacked)], zoom=16)
    assert "nearest measured radii, in latent units: KLD 1, MMD 1, SWT 2" in units.numbers.value


def test_the_chart_marks_each_models_mean_and_this_image_at_the_radius(units):
    units.eps.value, units.image.value = 3, 2
    chart = Chart((0, 3), (0, 1), "", "")
    chart.make_room()
    expected = []
    for fall in FALLS[100.0].values():
        expected += [chart.y(1 - 3 * fall), chart.y(1 - 3 * 1.3 * fall)]
    found = re.findall(r'<circle cx="370.0" cy="(.*?)"', bytes(units.curve.value).decode())
    assert [float(y) for y in found] == pytest.approx(expected, abs=0.1)


def test_the_unit_and_lambda_rename_the_radii_and_leave_the_slider_where_it_is(units):
    drawn = []
    units.eps.value = 3
    units.numbers.observe(drawn.append, "value")
    units.unit.value = OWN
    assert (units.eps.value, units.eps.label, len(drawn)) == (3, "1", 1)
    units.lam.value = 10.0
    assert (units.eps.value, units.eps.label) == (3, "0.75")
    units.unit.value = LATENT
    assert (units.eps.value, units.eps.label) == (3, "3")
    units.eps.value = 1
    assert len(drawn) == 4


def test_equal_scores_are_called_equal():
    assert ordered({"a": 0.5, "b": 0.7, "c": 0.701, "d": -0.001}) == "c 0.70 = b 0.70 > a 0.50 > d 0.00"


def test_one_lambda_has_no_slider(units):
    first = {100.0: units.models[100.0]}, {100.0: units.curves[100.0]}
    one = UnitExplorer(*first, units.x, {100.0: SPREADS[100.0]})
    assert [control.description for control in one.sliders.children] == ["radius in", "attack radius ε", "test image"]
    assert len(units.sliders.children) == 4


def test_units_of_results_that_do_not_fit_are_refused(units):
    models, curves, x = units.models, units.curves, units.x
    with pytest.raises(ValueError, match="models: {λ: {name: model}}, the same names at each λ, expected, got .*VAE"):
        UnitExplorer(models[100.0], curves[100.0], x, SPREADS[100.0])
    with pytest.raises(ValueError, match="models: .* expected, got {}"):
        UnitExplorer({}, {}, x, {})
    fewer = {**models, 10.0: {"MMD": models[10.0]["MMD"]}}
    with pytest.raises(ValueError, match="models: .*the same names at each λ"):
        UnitExplorer(fewer, curves, x, SPREADS)
    with pytest.raises(ValueError, match=r"units: one for each of the models .* got {100.0"):
        UnitExplorer(models, curves, x, {100.0: SPREADS[100.0]})
    with pytest.raises(ValueError, match=r"units\[10.0\]\['SWT'\]: a positive spread expected, got 0"):
        UnitExplorer(models, curves, x, {**SPREADS, 10.0: {**SPREADS[10.0], "SWT": 0}})
    with pytest.raises(ValueError, match="curves: the same radii from 0, SSIM and 2 images"):
        UnitExplorer(models, curves, x[:2], SPREADS)


@pytest.fixture(scope="module")
def inputs():
    models = {"plain": some_vae(0), "trained": some_vae(1)}
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    codes, images = {}, {}
    for k, (name, model) in enumerate(models.items()):
        z = model.posterior(x).mean.detach()
        codes[name] = dd_curve(model, z, RADII, latent.random_direction, {"SSIM": ssim}, generator=seeded(k))
        attacked = [x]
        for delta in DELTAS[1:].tolist():
            attacked.append(encoder.random_direction(model, x, eps=delta, generator=seeded(k)).adversarial)
        images[name] = torch.stack(attacked)
    return models, codes, images, x


@pytest.fixture
def attacks(inputs):
    return TwoAttacksExplorer(*inputs, deltas=DELTAS)


def printed(explorer) -> list[float]:
    """SSIM to the own clean reconstruction and to the original: with the code attacked, with the image attacked."""
    return [float(number) for number in re.findall("<b>(.*?)</b>", explorer.numbers.value)]


@pytest.mark.parametrize(("name", "k", "j", "i"), [("plain", 2, 1, 0), ("trained", 1, 2, 2), ("trained", 3, 0, 1)])
def test_both_attacks_are_shown_with_their_similarities(attacks, inputs, name, k, j, i):
    attacks.model.value, attacks.image.value = name, i
    attacks.eps.value, attacks.delta.value = k, j
    models, codes, images, x = inputs
    model, original, hit = models[name], x[i : i + 1], images[name][j, i : i + 1]
    clean, copy = reconstruct(model, original), reconstruct(model, hit)
    moved = model.decode(codes[name].adversarial[k, i : i + 1]).detach()
    rows = [torch.cat([original, clean, moved]), torch.cat([hit, copy, torch.ones_like(hit)])]
    assert attacks.picture.value == plots.tile(rows, zoom=16)
    expected = [ssim(clean, moved), ssim(original, moved), ssim(clean, copy), ssim(original, copy)]
    assert printed(attacks) == pytest.approx([value.item() for value in expected], abs=6e-4)
    assert printed(attacks)[0] == pytest.approx(codes[name].values["SSIM"][k, i].item(), abs=6e-4)
    assert f"nothing attacked: 1 and {ssim(original, clean).item():.3f}" in attacks.numbers.value


def test_where_nothing_is_attacked_both_sides_are_the_clean_reconstruction(attacks):
    attacks.eps.value = attacks.delta.value = 0
    own, original, own_of_image, original_of_image = printed(attacks)
    assert own == own_of_image == 1 and original == original_of_image < 1


def test_the_chart_marks_the_means_of_both_attacks_and_this_image(attacks, inputs):
    attacks.eps.value, attacks.delta.value, attacks.image.value = 3, 2, 1
    by_code = inputs[1]["plain"].values["SSIM"][3]
    by_image = attacks.by_image["plain"].own[2]
    low = min(attacks.by_code["plain"].original.min().item(), attacks.by_image["plain"].original.min().item(), 0)
    chart = Chart((0, 1), (low, 1), "", "")
    chart.make_room()
    expected = [by_code.mean(), by_code[1], by_image.mean(), by_image[1]]
    found = re.findall(r'<circle cx="370.0" cy="(.*?)"', bytes(attacks.curve.value).decode())
    assert [float(y) for y in found] == pytest.approx([chart.y(v.item()) for v in expected], abs=0.1)


SLIDERS = {
    "units": {"eps": 1, "unit": OWN, "lam": 10.0, "image": 2},
    "attacks": {"eps": 2, "delta": 2, "model": "trained", "image": 1},
}


@pytest.mark.parametrize("name", SLIDERS)
def test_every_slider_changes_picture_numbers_and_curve(request, name):
    explorer = request.getfixturevalue(name)
    explorer.eps.value = 3
    for slider, value in SLIDERS[name].items():
        before, start = state(explorer), getattr(explorer, slider).value
        getattr(explorer, slider).value = value
        assert all(a != b for a, b in zip(before, state(explorer), strict=True)), slider
        getattr(explorer, slider).value = start
        assert state(explorer) == before


def test_attacks_that_do_not_fit_are_refused(inputs):
    models, codes, images, x = inputs
    with pytest.raises(ValueError, match=r"codes: one for each of \['plain', 'trained'\] expected"):
        TwoAttacksExplorer(models, {"plain": codes["plain"]}, images, x, deltas=DELTAS)
    with pytest.raises(ValueError, match=r"images\['plain'\]: \(2, 3, 1, 8, 8\), x at each of deltas, expected"):
        TwoAttacksExplorer(models, codes, images, x, deltas=DELTAS[:2])
    for wrong in (DELTAS + 0.1, DELTAS):
        shifted = {name: attacked.roll(int(wrong[0] == 0), 1) for name, attacked in images.items()}
        with pytest.raises(ValueError, match=r"images\['plain'\]: x itself expected first, for δ = 0"):
            TwoAttacksExplorer(models, codes, shifted, x, deltas=wrong)
    with pytest.raises(ValueError, match="codes: the same radii from 0, SSIM and 3 images"):
        other = {**codes, "plain": DDCurve(2 * RADII, codes["plain"].values, codes["plain"].adversarial)}
        TwoAttacksExplorer(models, other, images, x, deltas=DELTAS)
    with pytest.raises(ValueError, match=r"codes\['plain'\]: a curve of the codes of x expected"):
        moved = codes["plain"].adversarial.roll(1, 1)
        other = {**codes, "plain": DDCurve(RADII, codes["plain"].values, moved)}
        TwoAttacksExplorer(models, other, images, x, deltas=DELTAS)
