"""The explorers of detectors and of contrast show what their sliders say, and count as scikit-learn does."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore
from sklearn.metrics import confusion_matrix, roc_auc_score
from torchvision.transforms.v2.functional import adjust_contrast

from tests.oracles import LinearGaussian, seeded
from vaenb import plots
from vaenb.data import recolor
from vaenb.metrics.likelihood import elbo
from vaenb.widgets import ContrastExplorer, DetectorExplorer
from vaenb.widgets.chart import Chart

THERE, BACK = "fashion → digits", "digits → fashion"


@pytest.fixture
def guard():
    """Two pairs, each with an innocent set of its own, of other sizes; images whose grey tells their place."""
    a, b = torch.randn(300, generator=seeded()), 1 + torch.randn(100, generator=seeded(1))
    scores = {
        "ELBO": {THERE: (a, b), BACK: (b - 3, a - 1)},
        "n(x)": {THERE: (a.round().int(), b.round()), BACK: (b.round(), a.exp())},
    }
    ramps = {n: torch.linspace(0, 1, n).view(n, 1, 1, 1).expand(n, 1, 8, 8) for n in (300, 100)}
    return DetectorExplorer(scores, {THERE: (ramps[300], ramps[100]), BACK: (ramps[100], ramps[300])})


@pytest.mark.parametrize("detector", ["ELBO", "n(x)"])
@pytest.mark.parametrize("pair", [THERE, BACK])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 1.0])
def test_the_guard_counts_as_scikit_learn_does_and_keeps_its_promise(guard, detector, pair, rate):
    guard.detector.value, guard.pair.value, guard.alarms.value = detector, pair, rate
    clean, bad = guard.scores[detector][pair]
    limit = guard.threshold(detector, pair, rate)
    truth, both = [0] * len(clean) + [1] * len(bad), torch.cat([clean, bad])
    (passed, accused), (missed, caught) = confusion_matrix(truth, (both > limit).int(), labels=[0, 1])
    assert accused <= rate * len(clean)
    for text in (
        f"caught <b>{caught}</b>, missed <b>{missed}</b>",
        f"accused <b>{accused}</b>, let pass <b>{passed}</b>",
        f"AUROC {roc_auc_score(truth, both):.3f}",
    ):
        assert text in guard.numbers.value


def test_the_guard_shows_the_worst_of_both_mistakes(guard):
    guard.alarms.value = 0.02
    (clean, bad), (inside, outside) = guard.scores["ELBO"][THERE], guard.images[THERE]
    limit = guard.threshold("ELBO", THERE, 0.02)
    accused = sorted((i for i in range(300) if clean[i] > limit), key=lambda i: -clean[i])
    missed = sorted((i for i in range(100) if bad[i] <= limit), key=lambda i: bad[i])
    assert len(accused) == 6 and len(missed) > 8
    two_left = torch.ones(2, 1, 8, 8)
    assert guard.accused.value == plots.tile([torch.cat([inside[accused], two_left])], zoom=8)
    assert guard.missed.value == plots.tile([outside[missed[:8]]], zoom=8)
    assert "6 of 6" in guard.who[0].value and f"8 of {len(missed)}" in guard.who[1].value


def test_who_accuses_nobody_shows_nobody(guard):
    guard.alarms.value = 0.0
    assert guard.accused.value == plots.tile([torch.ones(8, 1, 8, 8)], zoom=8) and "0 of 0" in guard.who[0].value


@pytest.mark.parametrize(("slider", "value"), [("alarms", 0.3), ("detector", "n(x)"), ("pair", BACK)])
def test_every_slider_of_the_guard_changes_everything(guard, slider, value):
    shown = "picture", "numbers", "curve", "accused", "missed"
    before = [getattr(guard, name).value for name in shown]
    getattr(guard, slider).value = value
    same = {name for name, old in zip(shown, before, strict=True) if getattr(guard, name).value == old}
    assert same == ({"accused", "missed"} if slider == "alarms" else set())  # the worst are so at both thresholds


def test_equal_scores_are_drawn(guard):
    scores = {"none": {THERE: (torch.full((4,), 1e8), torch.full((3,), 1e8))}}
    same = DetectorExplorer(scores, {THERE: guard.images[THERE]})
    assert "caught <b>0</b>, missed <b>3</b>" in same.numbers.value and "AUROC 0.500" in same.numbers.value
    assert all(b"nan" not in bytes(drawing.value) for drawing in (same.picture, same.curve))


TWO = (torch.zeros(3), torch.ones(2))


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({}, ValueError, "scores: the same pairs"),
        ({"KL": {}}, ValueError, "scores: the same pairs"),
        ({"KL": {"a": TWO}, "n": {"b": TWO}}, ValueError, "scores: the same pairs"),
        (
            {"KL": {"clean": torch.zeros(2), "FGSM": torch.zeros(2)}},
            ValueError,
            r"scores\['KL'\]\['clean'\], innocent: one number",
        ),
        ({"KL": {"a": (TWO[0], torch.tensor([1.0, np.nan]))}}, ValueError, r"\['a'\], suspicious: NaN"),
        ({"KL": {"a": (torch.zeros(0), TWO[1])}}, ValueError, r"\['a'\], innocent: one number"),
    ],
)
def test_a_guard_of_bad_scores_is_refused(scores, error, message):
    with pytest.raises(error, match=message):
        DetectorExplorer(scores, {})


def test_a_guard_of_bad_images_is_refused():
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    for images, message in (
        ({"b": (x, x)}, "images: one for each"),
        ({"a": (x[:2], x)}, r"images\['a'\]: 3 expected, as scores, got 2"),
        ({"a": (x, 255 * x)}, r"images\['a'\]: pixels in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            DetectorExplorer({"KL": {"a": TWO}}, images)


@given(contrast=st.floats(0, 1), brightness=st.floats(-0.2, 0.2), seed=st.integers(0, 99))
def test_recolouring_scales_the_deviations_and_moves_the_mean(contrast, brightness, seed):
    x = 0.2 + 0.6 * torch.rand(3, 3, 4, 4, generator=seeded(seed), dtype=torch.float64)  # so that nothing is clipped
    changed = recolor(x, contrast=contrast, brightness=brightness).flatten(1)
    assert torch.allclose(changed.mean(1), x.flatten(1).mean(1) + brightness)
    assert torch.allclose(changed.std(1), contrast * x.flatten(1).std(1), atol=1e-9)


def test_recolouring_is_torchvisions_contrast_on_grey_images_clips_and_can_do_nothing():
    x = torch.rand(5, 1, 8, 8, generator=seeded())
    for contrast in (0.0, 0.3, 1.5):
        assert torch.allclose(recolor(x, contrast=contrast), adjust_contrast(x, contrast), atol=1e-6)
    assert torch.equal(recolor(x), x)
    assert (recolor(x, brightness=2.0) == 1).all() and (recolor(x, brightness=-2.0) == 0).all()


@pytest.mark.parametrize(
    ("x", "change", "message"),
    [
        (torch.rand(1, 1, 2, 2), {"contrast": -1}, "contrast: a number ≥ 0"),
        (torch.rand(1, 1, 2, 2), {"brightness": float("nan")}, "brightness: a finite number"),
        (torch.rand(1, 2, 2), {}, r"x: images \(N, C, H, W\) expected, got shape \(1, 2, 2\)"),
    ],
)
def test_recolouring_refuses_bad_input(x, change, message):
    with pytest.raises(ValueError, match=message):
        recolor(x, **change)


@pytest.fixture
def fader():
    model, x = LinearGaussian(), torch.rand(3, 1, 4, 4, generator=seeded())
    scores = {
        "log p(x)": model.log_evidence,
        "ELBO": lambda images: elbo(model, images, samples=2, generator=seeded()),
    }
    usual = torch.rand(200, 1, 4, 4, generator=seeded(2))
    return ContrastExplorer(scores, x, {name: score(usual) for name, score in scores.items()}), model


@pytest.mark.parametrize(("contrast", "brightness", "i"), [(1.0, 0.0, 0), (0.0, 0.0, 1), (0.3, -0.2, 2), (1.5, 0.4, 1)])
def test_the_numbers_are_those_of_the_picture(fader, contrast, brightness, i):
    fader, model = fader
    fader.contrast.value, fader.brightness.value = fader.contrasts.index(contrast), fader.levels.index(brightness)
    fader.image.value = i
    image = fader.x[i : i + 1]
    changed = recolor(image, contrast=contrast, brightness=brightness)
    now, before = model.log_evidence(changed).item(), model.log_evidence(image).item()
    rank = percentileofscore(fader.reference["log p(x)"], now, kind="strict")
    assert fader.picture.value == plots.tile([torch.cat([image, changed])], zoom=48)
    assert f"<b>{now:.5g}</b> (as it is: {before:.5g}), higher than that of <b>{rank:.1f}%</b>" in fader.numbers.value


def test_a_fader_begins_with_the_image_as_it_is_and_its_curve_has_a_point_for_each_contrast(fader):
    fader, model = fader
    assert fader.picture.value == plots.tile([fader.x[[0, 0]]], zoom=48)
    curve = torch.cat([model.log_evidence(recolor(fader.x, contrast=c)) for c in fader.contrasts])
    assert fader.values["log p(x)"][4].flatten().tolist() == pytest.approx(curve.tolist(), rel=1e-5)
    lines = re.findall(r'<polyline points="(.*?)"', bytes(fader.curve.value).decode())
    assert [len(line.split()) for line in lines] == [16, 16]


def test_a_grey_image_is_likelier_for_a_model_of_smooth_images(fader):
    """Nalisnick's effect in closed form: around b = ½, log p(x) falls with the square of the contrast."""
    fader, _ = fader
    values = fader.values["log p(x)"].mean(2)[4]
    assert (values[:11].diff() < 0).all()


@pytest.mark.parametrize(
    ("slider", "value", "same"),
    [("contrast", 3, set()), ("brightness", 6, set()), ("image", 2, set()), ("score", "ELBO", {"picture"})],
)
def test_every_slider_of_the_fader_changes_what_it_is_about(fader, slider, value, same):
    fader, _ = fader
    shown = "picture", "numbers", "histogram", "curve"
    before = {name: getattr(fader, name).value for name in shown}
    getattr(fader, slider).value = value
    assert {name for name in shown if getattr(fader, name).value == before[name]} == same


def test_a_score_far_out_is_drawn_at_the_end(fader):
    fader, _ = fader
    far = ContrastExplorer({"s": lambda x: x.mean((1, 2, 3)) - 1e6}, fader.x, {"s": torch.zeros(5)})
    assert "<b>0.0%</b> of 5" in far.numbers.value
    left_end = f'points="{Chart.left:.1f},{Chart.bottom:.1f} {Chart.left:.1f},{Chart.top:.1f}"'
    assert left_end in bytes(far.histogram.value).decode()


def brightness_of(x):
    return x.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.rand(3, 4, 4)}, ValueError, "x: images"),
        ({"scores": {}}, ValueError, "reference: one for each"),
        ({"reference": {"other": torch.zeros(3)}}, ValueError, "reference: one for each"),
        ({"reference": {"s": torch.zeros(3, 1)}}, ValueError, r"reference\['s'\]: one number"),
        ({"scores": {"s": lambda x: x.mean((2, 3))}}, ValueError, r"scores\['s'\], what it gives: one number"),
        ({"scores": {"s": lambda x: brightness_of(x).log()}}, ValueError, r"scores\['s'\], what it gives: NaN"),
    ],
)
def test_a_fader_of_bad_input_is_refused(change, error, message):
    good = {"scores": {"s": brightness_of}, "x": torch.zeros(2, 1, 4, 4), "reference": {"s": torch.zeros(3)}}
    with pytest.raises(error, match=message):
        ContrastExplorer(**good | change)
