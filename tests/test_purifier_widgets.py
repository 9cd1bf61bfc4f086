"""The explorer of a purifier shows the images and counts the labels that its sliders say."""

import pytest
import torch

from tests.oracles import seeded
from vaenb import plots
from vaenb.widgets import PurifierExplorer

NOISE = [0.0, 0.1, 0.4]
LABELS = torch.tensor([0, 1, 1, 0])
WEIGHTS = torch.randn(64, 2, generator=seeded(4))
X = torch.rand(4, 1, 8, 8, generator=seeded())


def classifier(x):
    return (x.flatten(1) - 0.5) @ WEIGHTS


def made():
    """Images by (delta, attacker), attacked with growing noise and cleaned: (3, 4, 1, 8, 8)."""
    attacked, cleaned = {}, {}
    for delta in (0.1, 0.3):
        for number, attacker in enumerate(("blind", "knows")):
            noise = torch.rand(3, *X.shape, generator=seeded(number + 1)) - 0.5
            attacked[delta, attacker] = (X + delta * noise).clamp(0, 1)
            levels = torch.tensor(NOISE).view(3, 1, 1, 1, 1)
            cleaned[delta, attacker] = (1 - levels) * attacked[delta, attacker] + levels / 2
    return attacked, cleaned


@pytest.fixture
def explorer():
    return PurifierExplorer(classifier, X, LABELS, NOISE, *made())


def test_it_shows_the_image_the_attacked_one_and_the_cleaned_one(explorer):
    explorer.delta.value, explorer.attacker.value = 0.3, "knows"
    explorer.level.value, explorer.image.value = 2, 3
    attacked, cleaned = (images[0.3, "knows"] for images in made())
    row = torch.stack([X[3], attacked[2, 3], cleaned[2, 3]])
    assert explorer.picture.value == plots.tile([row], zoom=16)


def test_it_says_the_label_and_counts_what_is_right_behind_the_purifier(explorer):
    explorer.delta.value, explorer.level.value, explorer.image.value = 0.1, 1, 2
    labels = classifier(made()[1][0.1, "blind"][1]).argmax(1)
    right = int((labels == LABELS).sum())
    for text in ("1, attacked within δ = 0.1: behind 10% noise", f"says <b>{labels[2]}</b>", f"<b>{right}</b> of 4"):
        assert text in explorer.numbers.value
    assert explorer.share(0.1, "blind")[1] == right / 4
    explorer.level.value = 0
    assert "without a purifier" in explorer.numbers.value


def test_classes_stand_for_the_labels():
    explorer = PurifierExplorer(classifier, X, LABELS, NOISE, *made(), classes=["coat", "bag"])
    explorer.delta.value, explorer.level.value, explorer.image.value = 0.1, 1, 2
    label = classifier(made()[1][0.1, "blind"][1]).argmax(1)[2]
    assert "bag, attacked within" in explorer.numbers.value
    assert f"says <b>{['coat', 'bag'][label]}</b>" in explorer.numbers.value
    with pytest.raises(ValueError, match="classes: a word for each of the labels 0 to 1 expected, got 1"):
        PurifierExplorer(classifier, X, LABELS, NOISE, *made(), classes=["coat"])


@pytest.mark.parametrize(("slider", "value"), [("level", 2), ("delta", 0.3), ("attacker", "knows"), ("image", 1)])
def test_every_slider_changes_the_picture(explorer, slider, value):
    before = explorer.picture.value
    getattr(explorer, slider).value = value
    assert explorer.picture.value != before


def test_what_does_not_fit_is_refused():
    attacked, cleaned = made()
    for noise in ([0.1, 0.2, 0.4], [0.0, 0.4, 0.1], [0.0]):
        with pytest.raises(ValueError, match="noise: two shares or more expected that rise from 0"):
            PurifierExplorer(classifier, X, LABELS, noise, attacked, cleaned)
    with pytest.raises(ValueError, match=r"attacked\[\(0.1, 'blind'\)\]"):
        PurifierExplorer(classifier, X, LABELS, [0.0, 0.2], attacked, cleaned)
    del cleaned[0.1, "blind"]
    with pytest.raises(ValueError, match="cleaned"):
        PurifierExplorer(classifier, X, LABELS, NOISE, attacked, cleaned)
