"""Distortion curves and their areas against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaenb.attacks.pgd import pgd
from vaenb.metrics.distortion import aaddc_abs, dd_curve, scale_free, spread
from vaenb.metrics.images import mse, ssim
from vaenb.models import vae

A = torch.diag(torch.tensor([0.30, 0.20, 0.10, 0.05], dtype=torch.float64))  # singular values of the linear decoder
RADII = torch.linspace(0, 1, 6, dtype=torch.float64)
unit = st.floats(0, 1)
relaxed = settings(max_examples=50, deadline=None)  # a busy machine is no failure


def decode(z):
    return 0.5 + (z @ A).view(-1, 1, 2, 2)


def along(direction):
    """The attack that moves every latent by eps along one unit vector."""
    return lambda model, z, eps: z + eps[:, None] * torch.eye(4, dtype=z.dtype)[direction]


def latents(n=5):
    return 0.1 * torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def curves(n=1):
    return st.lists(st.lists(unit, min_size=6, max_size=6), min_size=n, max_size=n).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64).T
    )


class Decoder:
    """A model of which only the decoder matters."""

    posterior = log_prior = log_likelihood = print

    def __init__(self, decode):
        self.decode = decode


# dd_curve


def test_linear_decoder_under_its_worst_attack():
    curve = dd_curve(Decoder(decode), latents(), RADII, along(0), {"MSE": mse})
    expected = (0.30 * RADII) ** 2 / 4  # (σ₁ε)² over four pixels
    assert torch.allclose(curve.values["MSE"], expected[:, None].expand(6, 5))
    assert torch.allclose(curve.adversarial[3, 2], latents()[2] + RADII[3] * torch.eye(4, dtype=torch.float64)[0])


def test_the_worst_attack_has_the_smallest_area():
    attacked = [dd_curve(Decoder(decode), latents(), RADII, along(d), {"MSE": mse}).values["MSE"] for d in range(4)]
    areas = [aaddc_abs(RADII, values, better="lower").mean() for values in attacked]
    assert areas == sorted(areas)
    assert areas[0].item() == pytest.approx(1 - 0.09 / 4 * (1 / 3 + 1 / (6 * 5**2)))  # trapezoids over ε², n = 5


def test_projected_gradient_ascent_finds_the_worst_attack():
    def attack(model, z, eps):
        clean, g = decode(z), torch.Generator().manual_seed(0)

        def loss(other, rows):
            return mse(clean[rows], decode(other))

        return pgd(loss, z, eps=eps, alpha=2 * eps, steps=40, restarts=2, generator=g).adversarial

    curve = dd_curve(Decoder(decode), latents(), RADII, attack, {"MSE": mse})
    assert torch.allclose(curve.values["MSE"], ((0.30 * RADII) ** 2 / 4)[:, None].expand(6, 5), rtol=1e-3)


def test_all_radii_are_attacked_in_one_call_each_row_with_its_own():
    calls = []

    def attack(model, z, eps):
        calls.append((z, eps))
        return z

    z = latents(2)
    dd_curve(Decoder(decode), z, RADII[:3], attack, {"MSE": mse})
    (rows, eps), *others = calls
    assert not others
    assert torch.equal(rows, torch.cat([z, z, z]))
    assert eps.tolist() == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])


def test_a_curve_in_chunks_is_the_curve_and_a_batch_equals_its_members():
    def wide(z):
        return decode(z).repeat(1, 3, 4, 4)

    z, metrics = latents(5), {"MSE": mse, "SSIM": ssim}
    whole = dd_curve(Decoder(wide), z, RADII, along(1), metrics)
    for name, values in whole.values.items():
        assert torch.allclose(values, dd_curve(Decoder(wide), z, RADII, along(1), metrics, chunk=4).values[name])
        members = [dd_curve(Decoder(wide), z[i : i + 1], RADII, along(1), metrics).values[name] for i in range(5)]
        assert torch.allclose(values, torch.cat(members, 1))


def test_no_more_than_a_chunk_is_decoded_at_a_time_and_metrics_see_the_clean_image_first():
    sizes, z = [], latents(3)

    def counting(batch):
        sizes.append(len(batch))
        return decode(batch)

    def first(a, b):
        return a[:, 0, 0, 0]

    curve = dd_curve(Decoder(counting), z, RADII, along(0), {"clean": first}, chunk=4)
    assert max(sizes) == 4
    assert sum(sizes) == 3 + 18
    assert torch.allclose(curve.values["clean"], decode(z)[:, 0, 0, 0].expand(6, 3))


def test_radius_zero_leaves_the_latents_and_keeps_no_gradient():
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    curve = dd_curve(Decoder(lambda z: decode(z * weight)), latents().requires_grad_(), RADII, along(0), {"MSE": mse})
    assert torch.equal(curve.adversarial[0], latents())
    assert curve.values["MSE"][0].tolist() == [0] * 5
    assert not curve.values["MSE"].requires_grad and not curve.adversarial.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": vae(image_shape=(1, 8, 8), latent_dim=4, net="mlp")}, "training mode"),
        ({"z": latents()[0]}, "flat latents"),
        ({"radii": -RADII.flip(0)}, "not negative"),
        ({"radii": RADII[:0]}, "at least 1"),
        ({"attack": lambda model, z, eps: z[:2]}, r"attack: \(30, 4\), attacked latents .*got \(2, 4\)"),
        ({"attack": lambda model, z, eps: (z, eps)}, "adversarial.*got tuple"),
        ({"attack": lambda model, z, eps: z + 0.1}, "by 0.2 at radius 0;"),
        ({"chunk": 0}, "chunk: .*got 0"),
        ({"metrics": {"mean": lambda a, b: mse(a, b).mean()}}, r"metrics\['mean'\]: \(30,\), one value an image"),
    ],
)
def test_bad_arguments_of_a_curve_are_refused(change, message):
    arguments = {"model": Decoder(decode), "z": latents(), "radii": RADII, "attack": along(0), "metrics": {"MSE": mse}}
    with pytest.raises(ValueError, match=message):
        dd_curve(**(arguments | change))


# the area


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize("slope", [0, 0.4, 1])
def test_area_of_a_straight_line(better, slope):
    quality = 1 - slope * RADII  # the best value is 1, or 0 where lower is better
    values = quality if better == "higher" else 1 - quality
    assert aaddc_abs(RADII, values, better=better).item() == pytest.approx(1 - slope / 2)


def test_area_of_an_exponential_converges_as_h_squared_with_the_theoretical_constant():
    c, exact = 3.0, (1 - math.exp(-3)) / 3
    errors = []
    for n in (16, 32, 64):
        radii = torch.linspace(0, 2, n + 1, dtype=torch.float64)
        errors.append(aaddc_abs(radii, torch.exp(-c * radii / 2), better="higher").item() - exact)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.01)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.01)
    assert errors[2] == pytest.approx((c - c * math.exp(-c)) / 12 / 64**2, rel=0.01)  # h²/12 (f'(1) − f'(0))


def test_uneven_radii_weigh_by_their_distance():
    radii, values = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 0.0, 1.0])
    assert aaddc_abs(radii, values, better="higher").item() == pytest.approx(0.5)
    radii, values = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 0.0])
    assert aaddc_abs(radii, values, better="higher").item() == pytest.approx(0.2 + 0.4)


@relaxed
@given(curves(3), st.floats(1e-3, 1e3), st.sampled_from(["higher", "lower"]))
def test_areas_do_not_depend_on_the_unit_of_the_radius_and_are_those_of_the_members(values, unit_of_radius, better):
    area = aaddc_abs(RADII, values, better=better)
    assert area.shape == (3,)
    assert torch.allclose(area, aaddc_abs(unit_of_radius * RADII, values, better=better))
    assert torch.allclose(area, torch.stack([aaddc_abs(RADII, column, better=better) for column in values.T]))


@relaxed
@given(curves(), st.sampled_from(["higher", "lower"]), st.integers(0, 5), unit)
def test_areas_of_unit_metrics_lie_in_the_unit_interval_and_grow_with_the_curve(values, better, at, share):
    best = 1.0 if better == "higher" else 0.0
    improved = values.clone()
    improved[at] += share * (best - improved[at])
    area, larger = (aaddc_abs(RADII, v, better=better).item() for v in (values, improved))
    assert -1e-12 <= area <= larger + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize(
    ("radii", "values", "error", "message"),
    [
        (RADII.flip(0), RADII, ValueError, "increasing"),
        (torch.tensor([0.0, 1.0, 1.0]), RADII[:3], ValueError, "increasing"),
        (torch.tensor([0.0, 1.0, math.inf]), RADII[:3], ValueError, "finite"),
        (RADII[:1], RADII[:1], ValueError, "at least 2"),
        (RADII[:, None], RADII, ValueError, "vector"),
        (RADII.tolist(), RADII, TypeError, "float tensor"),
        (RADII, RADII[:4], ValueError, "each of the 6 radii"),
        (RADII, RADII.tolist(), TypeError, "values: a float tensor"),
        (RADII, RADII.long(), TypeError, "values: a float tensor"),
        (RADII, torch.cat([RADII[1:], torch.tensor([math.inf])]), ValueError, "PSNR is infinite"),
    ],
)
def test_bad_curves_are_refused(radii, values, error, message):
    with pytest.raises(error, match=message):
        aaddc_abs(radii, values, better="higher")


def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="better: .*got 'larger'"):
        aaddc_abs(RADII, RADII, better="larger")


# scale-free radii


def test_the_spread_of_latents_ignores_rotation_and_shift_and_follows_the_unit():
    z = torch.tensor([[-3.0, 4.0], [3.0, -4.0]], dtype=torch.float64)  # variances 18 and 32
    assert spread(z) == pytest.approx(5)
    c, s = math.cos(0.7), math.sin(0.7)
    assert spread(2 * (z @ torch.tensor([[c, -s], [s, c]], dtype=z.dtype) + 3)) == pytest.approx(10)
    with pytest.raises(ValueError, match=r"len\(latents\): .* ≥ 2"):
        spread(torch.ones(1, 2))


@relaxed
@given(st.floats(0.1, 10), curves(2))
def test_another_unit_of_the_latent_space_does_not_change_the_scale_free_curve(unit_of_latent, values):
    grid, found = scale_free(RADII, values[:, 0], unit=0.5, reach=2.0)
    other_grid, other = scale_free(unit_of_latent * RADII, values[:, 0], unit=0.5 * unit_of_latent, reach=2.0)
    assert torch.allclose(grid, other_grid) and torch.allclose(found, other)


def test_a_scale_free_curve_is_the_curve_at_the_multiples():
    values = torch.stack([1 - RADII, RADII**2], 1)
    grid, found = scale_free(RADII, values, unit=0.5, reach=1.2)
    assert grid[0] == 0 and grid[-1] == pytest.approx(1.2)
    assert torch.allclose(found[:, 0], 1 - 0.5 * grid)
    assert found[:, 1].tolist() == pytest.approx(np.interp(0.5 * grid, RADII, RADII**2).tolist())
    few, there = scale_free(RADII, values, unit=0.5, reach=1.2, points=4)
    assert few.tolist() == pytest.approx([0, 0.4, 0.8, 1.2])
    assert there[:, 0].tolist() == pytest.approx([1, 0.8, 0.6, 0.4])
    assert aaddc_abs(grid, found[:, 0], better="higher") == pytest.approx(1 - 0.5 * 1.2 / 2)


@pytest.mark.parametrize(
    ("radii", "unit", "reach", "says"),
    [
        (RADII, 0.5, 2.1, "reach: at most 2 units"),
        (RADII[1:], 0.5, 1.0, "radii from 0"),
        (RADII, 0.0, 1.0, "unit: a positive number"),
    ],
)
def test_a_scale_free_curve_is_not_extrapolated(radii, unit, reach, says):
    with pytest.raises(ValueError, match=says):
        scale_free(radii, radii, unit=unit, reach=reach)


def test_an_attack_beyond_its_radius_is_refused():
    corner = lambda model, z, eps: z + eps[:, None]  # noqa: E731
    with pytest.raises(ValueError, match=r"stay within it \(L2\)"):
        dd_curve(Decoder(decode), latents(), RADII, corner, {"MSE": mse})
    with pytest.raises(TypeError, match="names and functions"):
        dd_curve(Decoder(decode), latents(), RADII, corner, mse)
