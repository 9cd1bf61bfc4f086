"""Calibration against scikit-learn, scipy, torchmetrics, and temperatures that were planted."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from tests.oracles import seeded
from vaenb.metrics.calibration import _minimise, binned, brier, ece, fit_temperature, reliability


def classified(n=2000, k=5, scale=2.0, seed=0):
    """True logits (float64), and labels drawn from their softmax: perfectly calibrated."""
    g = seeded(seed)
    logits = scale * torch.randn(n, k, generator=g).double()
    return logits, torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]


def classified_probabilities(n=2000, **settings):
    logits, labels = classified(n, **settings)
    return logits.softmax(1), labels


def nll(probabilities, labels):
    return F.nll_loss(probabilities.log(), labels).item()


def two_class_rows(confidence):
    """Two classes, the first predicted with these confidences."""
    p = torch.tensor(confidence, dtype=torch.float64)
    return torch.stack([p, 1 - p], 1)


# --- proper scores and calibration errors


@pytest.mark.parametrize("k", [2, 3, 10])
def test_brier_is_scikit_learns(k):
    p, labels = classified_probabilities(k=k)
    reference = brier_score_loss(labels, p, labels=list(range(k)), scale_by_half=False)
    assert brier(p, labels).mean().item() == pytest.approx(reference, rel=1e-12)


def test_brier_for_two_classes_is_twice_the_one_sided_score():
    p, labels = classified_probabilities(k=2)
    assert brier(p, labels).mean().item() == pytest.approx(2 * brier_score_loss(labels, p[:, 1]), rel=1e-12)


def test_brier_per_image():
    p = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0.25, 0.25, 0.5]])
    assert brier(p, torch.tensor([0, 1, 2], dtype=torch.int32)).tolist() == [0, 2, 0.375]


def by_hand(p, labels, bins):
    confidence, correct, error = p.max(1), p.argmax(1) == labels, 0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].mean()
            error += inside.mean() * abs(gap)
    return error


@pytest.mark.parametrize("bins", [1, 2, 15, 20])
@pytest.mark.parametrize("scale", [0.1, 2.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ece_is_that_of_a_loop_and_of_the_diagram(bins, scale, dtype):
    logits, labels = classified(scale=scale)
    p = (3 * logits).to(dtype).softmax(1)
    diagram, found = reliability(p, labels, bins=bins), ece(p, labels, bins=bins)
    assert found == pytest.approx(by_hand(p.double().numpy(), labels.numpy(), bins), abs=1e-12)
    gaps = (diagram.accuracy - diagram.confidence).abs() * diagram.count / len(p)
    assert found == pytest.approx(gaps.nansum().item(), abs=1e-12)
    assert diagram.count.sum() == len(p) and torch.equal(diagram.count == 0, diagram.accuracy.isnan())


def test_ece_is_torchmetrics_where_no_confidence_is_on_an_edge():
    logits, labels = classified()
    p = (2 * logits).softmax(1)
    reference = multiclass_calibration_error(p, labels, num_classes=5, n_bins=15, norm="l1")
    assert ece(p, labels) == pytest.approx(reference.item(), abs=1e-6) and ece(p, labels) > 0.1


def test_exactly_one_or_a_float_above_is_in_the_last_bin():
    p = torch.tensor([[1.0, 0.0], [1 + 2e-7, 0.0], [0.95, 0.05], [0.95, 0.05]])
    labels = torch.tensor([1, 1, 0, 0])
    diagram = reliability(p, labels, bins=10)
    assert diagram.count.tolist() == [0] * 9 + [4] and diagram.accuracy[-1] == 0.5
    assert ece(p, labels, bins=10) == pytest.approx(0.975 - 0.5, abs=1e-7)  # two bins would give 0.525


def test_an_edge_belongs_to_the_bin_below():
    diagram = reliability(two_class_rows([0.5, 0.75, 0.7500001]), torch.tensor([0, 1, 0]), bins=4)
    assert diagram.count.tolist() == [0, 1, 1, 1]
    assert ece(two_class_rows([0.75, 0.8]), torch.tensor([1, 0]), bins=4) == pytest.approx((0.75 + 0.2) / 2)


def test_for_a_calibrated_classifier_ece_falls_with_the_root_of_n():
    few = np.mean([ece(*classified_probabilities(400, seed=s)) for s in range(40)])
    many = np.mean([ece(*classified_probabilities(40000, seed=s)) for s in range(8)])
    assert few < 0.5 * math.sqrt(15 / 400) and many < 0.5 * math.sqrt(15 / 40000)
    assert few / many == pytest.approx(10, rel=0.25)


def test_ece_of_one_confidence_is_its_distance_from_the_accuracy():
    assert ece(two_class_rows([0.9] * 10), torch.tensor([0] * 6 + [1] * 4)) == pytest.approx(0.3)


def test_the_interval_is_wilsons():
    logits, labels = classified(300)
    diagram = reliability(logits.softmax(1), labels, bins=8)
    for n, accuracy, low, high in zip(diagram.count, diagram.accuracy, diagram.low, diagram.high, strict=True):
        if n == 0:
            assert low.isnan() and high.isnan()
            continue
        interval = binomtest(round((n * accuracy).item()), n.item()).proportion_ci(method="wilson")
        assert (low.item(), high.item()) == pytest.approx((interval.low, interval.high), abs=1e-7)
    assert (diagram.count == 0).any() and (diagram.count > 0).sum() > 4


def test_the_order_of_images_and_of_classes_does_not_matter():
    logits, labels = classified()
    p, rows, classes = (2 * logits).softmax(1), torch.randperm(2000, generator=seeded()), torch.randperm(5)
    moved, renamed = p[rows][:, classes], classes.argsort()[labels[rows]]
    assert ece(moved, renamed) == pytest.approx(ece(p, labels), abs=1e-12)
    torch.testing.assert_close(brier(moved, renamed), brier(p, labels)[rows])
    assert torch.equal(reliability(moved, renamed).count, reliability(p, labels).count)


# --- document 000's experiment B


def test_binned_means_by_upper_edge():
    values, confidence = torch.tensor([1.0, 2, 4, 8, 16]), torch.tensor([0.0, 0.5, 0.50001, 1.0, 0.75])
    found = binned(values, confidence, bins=2)
    assert found.edges.tolist() == [0, 0.5, 1] and found.count.tolist() == [2, 3]
    assert found.mean.tolist() == pytest.approx([1.5, 28 / 3])
    assert found.error.tolist() == pytest.approx([0.5, np.std([4, 8, 16], ddof=1) / math.sqrt(3)])


def test_binned_has_no_mean_of_nothing_and_no_error_of_one():
    found = binned(torch.tensor([3.0, 1, 2]), torch.tensor([0.1, 0.9, 0.95]), bins=3)
    assert found.count.tolist() == [1, 0, 2]
    assert found.mean.isnan().tolist() == [False, True, False] and found.error.isnan().tolist() == [True, True, False]


# --- temperatures


@pytest.mark.parametrize("t", [0.2, 1.0, 5.0])
def test_a_planted_temperature_is_found(t):
    logits, labels = classified(20000)
    fitted = fit_temperature(t * logits, labels)
    assert fitted.temperature().item() == pytest.approx(t, rel=0.03) and fitted.w.shape == (0,)
    torch.testing.assert_close(fitted.probabilities(t * logits), (t * logits / fitted.temperature()).softmax(1))
    if t == 5:
        assert ece(fitted.probabilities(t * logits), labels) < 0.015 < 0.2 < ece((t * logits).softmax(1), labels)


def test_for_two_classes_it_is_a_logistic_regression_on_the_margin():
    logits, labels = classified(k=2)
    margin = (3 * logits[:, 1:] - 3 * logits[:, :1]).numpy()
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(margin, labels)
    assert fit_temperature(3 * logits, labels).temperature().item() == pytest.approx(1 / regression.coef_.item())


def planted(n=20000, seed=0):
    """Logits that are overconfident where the first of two signals is high."""
    logits, labels = classified(n, seed=seed)
    signals = torch.randn(n, 2, generator=seeded(seed + 1)).double()
    t = F.softplus(1.5 + 0.8 * signals[:, 0])
    return logits * t[:, None], labels, signals * torch.tensor([1e-3, 50.0]) + torch.tensor([0.02, 400.0]), t


def test_a_planted_dependence_on_a_signal_is_found():
    logits, labels, signals, t = planted()
    fitted = fit_temperature(logits, labels, signals)
    assert (fitted.a, *fitted.w.tolist()) == pytest.approx((1.5, 0.8, 0), abs=0.05)
    test_logits, test_labels, test_signals, test_t = planted(5000, seed=7)
    torch.testing.assert_close(fitted.temperature(test_signals), test_t, rtol=0.1, atol=0.05)
    one = fit_temperature(logits, labels)
    better = nll(fitted.probabilities(test_logits, test_signals), test_labels)
    assert better < nll(one.probabilities(test_logits), test_labels) - 0.005


def test_the_fit_is_a_stationary_point_of_the_nll():
    logits, labels, signals, _ = planted(2000)
    fitted = fit_temperature(logits, labels, signals)
    s = (signals - fitted.mean) / fitted.deviation
    theta = torch.tensor([fitted.a, *fitted.w], dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(logits / F.softplus(theta[0] + s @ theta[1:])[:, None], labels)
    (gradient,) = torch.autograd.grad(loss, theta)
    assert gradient.abs().max() < 1e-6
    assert loss.item() == pytest.approx(nll(fitted.probabilities(logits, signals), labels))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
    st.sampled_from([0.0, 1.0, 5.0]),
)
def test_signals_never_make_the_validation_nll_worse(seed, n, features, scale, tail):
    g = seeded(seed)
    logits, labels = scale * torch.randn(n, 3, generator=g).double(), torch.randint(3, (n,), generator=g)
    signals = (tail * torch.randn(n, features, generator=g)).exp()  # constant, or log-normal with heavy tails
    one, fitted = fit_temperature(logits, labels), fit_temperature(logits, labels, signals)

    def loss(t):
        return F.cross_entropy(logits / t.view(-1, 1), labels).item()

    assert loss(fitted.temperature(signals)) <= loss(one.temperature()) * (1 + 1e-12) + 1e-15
    assert loss(one.temperature()) <= min(loss(torch.tensor(t)) for t in (0.01, 0.5, 1.0, 2.0, 100.0)) + 1e-6
    assert (fitted.temperature(signals) >= 1e-3).all() and 0.0099 < one.temperature() < 101


def test_the_labels_and_the_dtype_stay():
    logits, labels, signals, _ = planted(1000)
    p = fit_temperature(logits, labels, signals).probabilities(logits.float(), signals.float())
    assert p.dtype == torch.float32 and torch.equal(p.argmax(1), logits.argmax(1))
    torch.testing.assert_close(p.sum(1), torch.ones(1000))


def test_a_perfect_validation_set_and_one_of_chance_end_at_the_bounds():
    logits, labels = classified(200)
    best, worst, one_class = logits.argmax(1), logits.argmin(1), torch.zeros(200, dtype=torch.long)
    assert fit_temperature(logits, best).temperature().item() == pytest.approx(0.01)
    assert fit_temperature(logits, worst).temperature().item() == pytest.approx(100)
    assert 0.01 < fit_temperature(logits, one_class).temperature() <= 101
    signals = torch.randn(200, 1, generator=seeded())
    assert fit_temperature(logits, best, signals).probabilities(logits, signals).isfinite().all()
    assert fit_temperature(logits[:1], labels[:1], signals[:1]).temperature(signals).isfinite().all()


def test_a_signal_that_tells_the_errors_has_a_bounded_weight():
    logits, labels = classified(300)
    wrong = (logits.argmax(1) != labels).double()[:, None]
    fitted = fit_temperature(logits, labels, wrong)
    t = fitted.temperature(wrong)
    assert fitted.w.abs() <= 100 and t[wrong[:, 0] == 1].min() > 10 * t[wrong[:, 0] == 0].max()


def test_far_outside_the_temperature_is_linear_or_at_its_floor():
    logits, labels, signals, _ = planted(2000)
    fitted = fit_temperature(logits, labels, signals[:, :1])
    far = fitted.mean + fitted.deviation * torch.tensor([[-1e6], [-1e3], [1e3], [2e3], [1e30]])
    t = fitted.temperature(far)
    assert t[:2].tolist() == [1e-3, 1e-3] and (t[3] - t[2]).item() == pytest.approx(1e3 * fitted.w.item())
    p = fitted.probabilities(logits[:5].float() * 100, far)
    assert p.isfinite().all() and p[-1].tolist() == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("u", [-10.0, -1000.0])
def test_an_image_at_the_floor_has_no_slope_and_does_not_stop_the_fit(u):
    logits, labels = classified(50)
    labels[0] = logits[0].argmin()
    gaps, s = logits - logits.gather(1, labels[:, None]), torch.zeros(50, 1).double()
    s[0] = u - 1
    a, w = _minimise(gaps, s, np.array([1.0, 1.0]))
    (others,) = _minimise(gaps[1:], s[1:, :0], np.array([1.0]))
    assert a == pytest.approx(others, abs=1e-4) and w == 1 and abs(a - 1) > 0.1


def test_a_constant_signal_has_no_influence_whatever_it_is_later():
    logits, labels, signals, _ = planted(2000)
    with_constant = torch.cat([signals, torch.full((2000, 1), 0.1)], 1)
    fitted, reference = fit_temperature(logits, labels, with_constant), fit_temperature(logits, labels, signals)
    with_constant[:, 2] = 1e9
    torch.testing.assert_close(fitted.temperature(with_constant), reference.temperature(signals), rtol=1e-5, atol=0)


def test_it_works_without_gradients_and_keeps_them():
    logits, labels, signals, _ = planted(500)
    with torch.inference_mode():
        fitted = fit_temperature(logits * 1, labels, signals * 1)
    signals.requires_grad_()
    fitted.probabilities(logits, signals)[:, 0].sum().backward()
    assert signals.grad.abs().sum() > 0


# --- bad input

P, Y = torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize("function", [brier, ece, reliability])
@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        (P.log(), Y, "probabilities: rows in .* look like logits, use .float"),
        (P * 0.9, Y, "probabilities: rows in .* that sum to 1"),
        (P + torch.tensor([0.6, -0.6]), Y, "probabilities: rows in .* values from -0.1 and sums up to"),
        (P * torch.nan, Y, "probabilities: NaN"),
        (P[:, 0], Y, r"probabilities: probabilities \(N, K\) expected, got shape"),
        (P, Y[:3], "labels: one for each of the 4 rows"),
        (P, Y + 1, "labels: 0 to 1 expected, one of 2 classes, got 2"),
    ],
)
def test_bad_probabilities_and_labels_are_refused(function, probabilities, labels, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        function(probabilities, labels)


@pytest.mark.parametrize("function", [ece, reliability])
def test_bad_bins_are_refused(function):
    with pytest.raises(ValueError, match="^bins: a whole number ≥ 1 expected, got 0"):
        function(P, Y, bins=0)


@pytest.mark.parametrize(
    ("values", "confidence", "says"),
    [
        (torch.rand(3), torch.rand(4), "one number for each image"),
        (torch.rand(4), torch.rand(4, 1), "confidence: one number for each image"),
        (torch.rand(2), torch.tensor([0.5, torch.nan]), r"confidence: NaN or infinite values at \[1\]"),
        (torch.tensor([torch.inf, 0.0]), torch.rand(2), r"NaN or infinite values at \[0\]"),
    ],
)
def test_bad_vectors_are_refused(values, confidence, says):
    with pytest.raises(ValueError, match=says):
        binned(values, confidence)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"confidence": torch.tensor([0.5, -0.1])}, r"confidence: \[0, 1\] expected, got"),
        ({"confidence": torch.tensor([0.5, 1.1])}, r"confidence: \[0, 1\] expected, got"),
        ({"bins": 0}, "bins: a whole number ≥ 1 expected, got 0"),
    ],
)
def test_binned_needs_bins_and_a_confidence_in_the_unit_interval(wrong, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        binned(**{"values": torch.rand(2), "confidence": torch.rand(2)} | wrong)


L, S = torch.randn(4, 2, generator=seeded()), torch.rand(4, 3, generator=seeded())


@pytest.mark.parametrize(
    ("logits", "labels", "signals", "says"),
    [
        (P, Y, None, "logits: .* probabilities; logits expected"),
        (L * torch.inf, Y, None, "logits: NaN or infinite"),
        (L[:, :1], Y * 0, None, "logits: .* K ≥ 2 expected"),
        (L, Y - 1, None, "labels: ≥ 0 expected"),
        (L, Y, S[:3], r"signals: \(4, 3\), a row for each of the logits, expected"),
        (L, Y, S[:, 0], r"signals: signals \(N, F\) expected"),
        (L, Y, S * torch.nan, "signals: NaN"),
    ],
)
def test_a_bad_validation_set_is_refused(logits, labels, signals, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        fit_temperature(logits, labels, signals)


def test_signals_must_be_those_of_the_fit():
    one, fitted = fit_temperature(L, Y), fit_temperature(L, Y, S)
    for temperature, signals, says in [
        (one, S, r"\(4, 0\), those of the fit, expected, got \(4, 3\)"),
        (fitted, None, r"\(N, 3\) expected, as this temperature was fitted with them; got None"),
        (fitted, S[:3], r"\(4,\), a row for each of the logits, expected, got \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=f"^signals: {says}"):
            temperature.probabilities(L, signals)
