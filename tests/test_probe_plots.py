"""The figures and explorers of notebook 01 carry the numbers that they were given."""

import numpy as np
import pytest
import torch

from tests.oracles import seeded
from vaenb import plots, widgets
from vaenb.metrics import calibration
from vaenb.models import vae
from vaenb.stats import Estimate


def guesses(n=200, k=4):
    logits = 2 * torch.randn(n, k, generator=seeded())
    return logits, torch.randint(k, (n,), generator=seeded(1))


def test_intervals_stand_in_rows_with_their_two_arms():
    values = {
        "FGSM": {"n(x)": Estimate(0.6, 0.5, 0.8), "KL": Estimate(0.9, 0.85, 0.92)},
        "noise": {"KL": Estimate(0, 0, 0)},
    }
    fig = plots.intervals(values, x="AUROC", mark=0.5)
    first, second = fig.data
    assert first.x == (0.6, 0.9) and second.x == (0.0,)
    assert first.error_x.array == pytest.approx([0.2, 0.02]) and first.error_x.arrayminus == pytest.approx([0.1, 0.05])
    assert fig.layout.yaxis.ticktext == ("n(x)", "KL") and round(first.y[1]) == round(second.y[0]) == 1
    assert first.y[1] != second.y[0] and fig.layout.shapes[0].x0 == 0.5


def test_an_effect_outside_its_interval_has_one_arm():
    (trace,) = plots.intervals({"a": {"b": Estimate(1.0, 1.2, 1.5)}}).data
    assert trace.error_x.arrayminus == (0.0,) and trace.error_x.array == (0.5,)


def test_binned_draws_means_and_counts_and_leaves_empty_bins_out():
    values, confidence = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.21, 0.29, 0.95])
    mean, count = plots.binned({"here": calibration.binned(values, confidence, bins=10)}).data
    assert count.x == (0.25, 0.95) and count.y == pytest.approx((2 / 3, 1 / 3), rel=1e-5)
    assert [v for v in mean.y if v is not None] == [2.0, 5.0] and (mean.y[2], mean.y[9]) == (2.0, 5.0)
    assert set(mean.marker.symbol) == {"circle-open"} and set(mean.error_y.array) == {0.0}  # too few for a bar
    many = calibration.binned(values.repeat(4), confidence.repeat(4), bins=10)
    assert plots.binned({"here": many}).data[0].error_y.array[2] == pytest.approx(2 * many.error[2].item(), rel=1e-5)


def test_a_reliability_diagram_is_drawn_as_computed():
    logits, labels = guesses()
    diagram = calibration.reliability(logits.softmax(1), labels, bins=5)
    diagonal, line, count = plots.reliability({"as it is": diagram}).data
    full = diagram.count > 0
    assert diagonal.x == diagonal.y == (0, 1)
    assert line.x == pytest.approx(diagram.confidence[full].tolist(), rel=1e-5)
    assert line.y == pytest.approx(diagram.accuracy[full].tolist(), rel=1e-5)
    assert np.add(line.y, line.error_y.array) == pytest.approx(diagram.high[full].tolist(), rel=1e-4)
    assert sum(count.y) == len(labels)


@pytest.mark.parametrize("few", [500, 3])
def test_histograms_leave_out_a_hundredth_at_most_also_of_a_small_group_far_out(few):
    groups = {"a": torch.randn(2000, generator=seeded()), "b": 30 + torch.randn(few, generator=seeded(1))}
    groups["constant"] = torch.zeros(5)
    for trace in plots.histograms(groups).data:
        area = (np.diff(trace.x) * trace.y[:-1]).sum()
        assert 0.99 - 1e-4 <= area <= 1 + 1e-4


def test_a_histogram_has_no_peak_of_what_lies_beyond_its_bins():
    values = torch.cat([torch.linspace(0, 1, 991), torch.full((9,), 50.0)])
    (trace,) = plots.histograms({"a": values}, bins=10).data
    assert trace.x[-1] == pytest.approx(1, abs=0.01)
    assert trace.y[:-1] == pytest.approx(np.full(10, 0.991), abs=0.02)


def state(explorer):
    return explorer.picture.value, explorer.numbers.value, explorer.curve.value


@pytest.fixture
def consistency():
    torch.manual_seed(0)
    model = vae(image_shape=(1, 8, 8), latent_dim=3, net="mlp").eval()
    weights = torch.randn(64, 5, generator=seeded(4))  # grey is undecided
    x = torch.rand(4, 1, 8, 8, generator=seeded())
    brighter, noisy = {}, {}
    for eps in (0.0, 0.2, 0.5):
        brighter[eps] = (x + eps).clamp(0, 1)
        noisy[eps] = (x + eps * torch.rand(x.shape, generator=seeded(2))).clamp(0, 1)
    changed = {"brighter": brighter, "noise": noisy}
    return widgets.ConsistencyExplorer(
        model, lambda x: (x.flatten(1) - 0.5) @ weights, changed, samples=9, generator=seeded(3)
    )


def test_the_consistency_explorer_counts_the_labels_of_what_it_shows(consistency):
    consistency.kind.value, consistency.eps.value = "noise", 1
    consistency.samples.value, consistency.image.value = 6, 2
    labels = consistency.labels["noise"][1, 2, :6]
    assert f"n = <b>{len(labels.unique())}</b>" in consistency.numbers.value
    for label, count in zip(*labels.unique(return_counts=True), strict=True):
        assert f"{count} × {label}" in consistency.numbers.value
    row = torch.cat([consistency.changed["noise"][0.2][2:3], consistency.copies["noise"][1, 2, :6]])
    assert consistency.picture.value == plots.tile([row], zoom=8)


def test_more_samples_never_agree_more(consistency):
    shares = torch.tensor([consistency.share("noise", s) for s in range(1, 10)])
    assert (
        shares.shape == (9, 3) and (shares[0] == 0).all() and (shares.diff(dim=0) >= 0).all() and shares[-1].max() > 0
    )


@pytest.mark.parametrize(("slider", "value"), [("kind", "noise"), ("eps", 2), ("samples", 3), ("image", 1)])
def test_every_consistency_slider_changes_something(consistency, slider, value):
    consistency.eps.value = 1
    before = state(consistency)
    getattr(consistency, slider).value = value
    changed = [a != b for a, b in zip(before, state(consistency), strict=True)]
    assert changed[0] and changed[1] and (changed[2] or slider == "image")


def test_changed_images_begin_without_a_change(consistency):
    with pytest.raises(ValueError, match="0 and larger"):
        widgets.ConsistencyExplorer(None, None, {"noise": {0.1: torch.rand(2, 1, 8, 8), 0.2: torch.rand(2, 1, 8, 8)}})


def test_the_thermostat_shows_the_error_at_its_temperature():
    logits, labels = guesses()
    thermostat = widgets.TemperatureExplorer({"clean": logits, "noisy": 3 * logits}, {"clean": labels, "noisy": labels})
    before = state(thermostat)
    thermostat.temperature.value = 4.0
    error = calibration.ece((logits.double() / 4).softmax(1), labels, bins=15)
    assert f"ECE <b>{error:.3f}</b>" in thermostat.numbers.value
    between = state(thermostat)
    thermostat.condition.value = "noisy"
    assert all(a != b for a, b in zip(before, between, strict=True))
    assert all(a != b for a, b in zip(between, state(thermostat), strict=True))
    with pytest.raises(ValueError, match="labels: one for each"):
        widgets.TemperatureExplorer({"clean": logits}, {"noisy": labels})
