"""Figures carry the numbers they were given, and explorers show what their sliders say."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from xml.dom import minidom

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from tests.oracles import seeded
from vaenb import claims, plots
from vaenb.contract import reconstruct
from vaenb.defences.repair import repair
from vaenb.metrics.distortion import DDCurve
from vaenb.metrics.images import mse
from vaenb.models import seatbelt, vae
from vaenb.plots import ledger
from vaenb.plots.style import COLORS, picture_of
from vaenb.stats import Estimate
from vaenb.widgets import LatentAttackExplorer, LengthExplorer, RepairExplorer
from vaenb.widgets.chart import Chart, _ticks

RADII = torch.tensor([0.0, 1.0, 2.0])


def some_curve(seed=0, n=4, d=2) -> DDCurve:
    g = seeded(int(seed))
    ssim = torch.stack([torch.ones(n), torch.rand(n, generator=g) * 0.5 + 0.4, torch.rand(n, generator=g) * 0.3])
    return DDCurve(RADII, {"SSIM": ssim, "LPIPS": 1 - ssim}, torch.randn(3, n, d, generator=g) * RADII[:, None, None])


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_tile_keeps_every_pixel():
    images = torch.rand(3, 1, 5, 5, generator=seeded())
    picture = pixels(plots.tile([images, 1 - images], zoom=2, gap=1))
    assert picture.shape == (2 * 12, 3 * 12, 3)
    expected = (images * 255).round().byte()[2, 0].numpy()
    assert np.array_equal(picture[1:11:2, 25:35:2, 0], expected)
    assert (picture[0] == 255).all()


def test_colour_images_keep_their_channels():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert pixels(plots.tile([red], gap=0))[0, 0].tolist() == [255, 0, 0]


def test_dd_curves_draw_the_means_and_the_control():
    curve, noise = some_curve(), some_curve(1)
    fig = plots.dd_curves({"β = 1": curve}, controls={"β = 1": noise})
    lines = {(trace.name, trace.yaxis): trace for trace in fig.data if trace.name}
    for metric, axis in (("SSIM", "y"), ("LPIPS", "y2")):
        assert list(lines["β = 1", axis].y) == pytest.approx(curve.values[metric].mean(1).tolist(), abs=1e-5)
        assert list(lines["β = 1, random", axis].y) == pytest.approx(noise.values[metric].mean(1).tolist(), abs=1e-5)
        assert lines["β = 1, random", axis].line.dash == "dash"
    assert [fig.layout[a].title.text for a in ("xaxis", "yaxis", "yaxis2")] == [
        "attack radius ε (latent units)",
        "SSIM",
        "LPIPS",
    ]


def test_the_kernel_free_slider_has_a_frame_for_every_radius():
    images = torch.rand(3, 4, 1, 8, 8, generator=seeded())
    curve = some_curve()
    mean = {"mean over images": curve.values["SSIM"].mean(1)}
    about = {"x": "ε", "y": "SSIM", "prefix": "ε = "}
    fig = plots.image_slider(curve.radii, mean, [{"attacked": row} for row in images], **about)
    (slider,) = fig.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1", "2"] == [frame.name for frame in fig.frames]
    assert len({frame.data[0].source for frame in fig.frames}) == 3
    assert fig.layout.showlegend is False and [trace.name for trace in fig.data[1:]] == [
        "mean over images",
        "mean over images",
    ]


def slider_input(k=4):
    images = torch.rand(k, 2, 3, 1, 8, 8, generator=seeded())
    curves = {name: torch.rand(k, generator=seeded(n)) for n, name in enumerate(("training", "unseen", "noisy"))}
    return [1, 10, 500, 1000][:k], curves, [{"noisy": a, "denoised": b} for a, b in images]


def test_the_kernel_free_slider_moves_a_point_on_each_curve_and_shows_each_places_images():
    places, curves, rows = slider_input()
    fig = plots.image_slider(places, curves, rows, x="t", y="MSE", prefix="t = ")
    lines, points = fig.data[1:4], fig.data[4:]
    assert [(t.name, list(t.x)) for t in lines] == [(name, places) for name in curves]
    assert len({t.line.color for t in lines}) == len({t.line.dash for t in lines}) == 3
    assert [p.marker.color for p in points] == [t.line.color for t in lines]
    for k, frame in enumerate(fig.frames):
        assert frame.name == str(places[k]) and list(frame.traces) == [0, 4, 5, 6]
        now = [(places[k], pytest.approx(v[k].item(), rel=1e-5)) for v in curves.values()]
        assert [(d.x[0], d.y[0]) for d in frame.data[1:]] == now
        assert frame.data[0].source == picture_of(plots.tile(list(rows[k].values()))).source
    first = fig.layout.sliders[0].active
    assert [p.x[0] for p in points] == [places[first]] * 3 and fig.data[0].source == fig.frames[first].data[0].source


def test_several_curves_have_a_legend_of_their_names_and_one_has_none():
    places, curves, rows = slider_input()
    fig = plots.image_slider(places, curves, rows)
    assert fig.layout.showlegend and [t.name for t in fig.data[1:] if t.showlegend is not False] == list(curves)
    one = plots.image_slider(places, {"a": curves["noisy"]}, rows)
    assert one.layout.showlegend is False and one.layout.height < fig.layout.height
    assert one.data[1].line.color != one.data[2].marker.color


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": [], "curves": {}, "rows": []}, "as many of each, one or more, expected"),
        ({"places": [1, 2, 2, 3]}, "places: numbers that differ in three digits"),
        ({"curves": {"a": torch.zeros(3)}}, r"curves: as many of each, .* got \[4, 4, 3\]"),
        ({"rows": slider_input(3)[2]}, r"rows, curves: as many of each, .* got \[4, 3"),
        ({"rows": [{"a": torch.zeros(k, 1, 8, 8)} for k in (1, 2, 2, 2)]}, "rows: images of one shape"),
    ],
)
def test_a_kernel_free_slider_of_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plots.image_slider(**dict(zip(("places", "curves", "rows"), slider_input(), strict=True)) | change)


def test_a_rounding_difference_does_not_change_a_figure():
    curve = some_curve()
    noisy = DDCurve(RADII, {k: v * (1 + 1e-8) for k, v in curve.values.items()}, curve.adversarial)
    assert plots.dd_curves({"a": curve}).to_json() == plots.dd_curves({"a": noisy}).to_json()


def test_save_writes_the_figure_its_table_and_its_picture(tmp_path):
    bars = plots.bars({"β = 1": torch.tensor([3.0, 1.0])}, x="dimension", y="KL (nats)")
    fig = plots.save(bars, tmp_path, "bars", table=[{"dimension": 1, "nats": 3.0}, {"dimension": 2}])
    assert (tmp_path / "bars.csv").read_text() == "dimension,nats\n1,3.0\n2,\n"
    assert json.loads((tmp_path / "bars.plotly.json").read_text())["layout"]["yaxis"]["title"]["text"] == "KL (nats)"
    assert fig.data[0].y == (3.0, 1.0) and not list(tmp_path.glob("*.part"))
    if plots.chrome():
        assert pixels((tmp_path / "bars.png").read_bytes()).std() > 0


def test_images_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="rows: images of one shape expected"):
        plots.images({"a": torch.rand(2, 1, 4, 4), "b": torch.rand(2, 1, 5, 5)})


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    models = {beta: vae(image_shape=(1, 8, 8), latent_dim=2, net="mlp", beta=beta).eval() for beta in (1.0, 4.0)}
    x = torch.rand(4, 1, 8, 8, generator=seeded())
    curves = {(beta, t): some_curve(2 * beta + k) for beta in models for k, t in enumerate(("away", "black"))}
    explorer = LatentAttackExplorer(models, curves, x)
    explorer.eps.value = 1
    return explorer


def test_the_explorer_shows_what_its_sliders_say(explorer):
    explorer.model.value, explorer.target.value = 4.0, "black"
    explorer.image.value, explorer.eps.value = 2, 1
    curve, model = explorer.curves[4.0, "black"], explorer.models[4.0]
    z = torch.stack([curve.adversarial[0, 2], curve.adversarial[1, 2]])
    expected = torch.cat([explorer.x[2:3], model.decode(z).detach()])
    assert explorer.picture.value == plots.tile([expected], zoom=24)
    assert f"SSIM <b>{curve.values['SSIM'][1, 2]:.3f}</b>" in explorer.numbers.value
    assert f"LPIPS <b>{curve.values['LPIPS'][1, 2]:.3f}</b>" in explorer.numbers.value


def state(explorer):
    return explorer.picture.value, explorer.numbers.value, explorer.curve.value


SLIDERS = {
    "explorer": {"eps": 2, "target": "black", "model": 4.0, "image": 3},
    "repairs": {"delta": 0.1, "transitions": 6, "kind": 4.0, "image": 1},
}


@pytest.mark.parametrize("name", SLIDERS)
def test_every_slider_changes_picture_numbers_and_curve(request, name):
    explorer = request.getfixturevalue(name)
    for slider, value in SLIDERS[name].items():
        before, start = state(explorer), getattr(explorer, slider).value
        getattr(explorer, slider).value = value
        assert all(a != b for a, b in zip(before, state(explorer), strict=True)), slider
        getattr(explorer, slider).value = start


def test_an_explorer_of_one_target_has_no_slider_for_it(explorer):
    curves = {(name, "away"): curve for (name, target), curve in explorer.curves.items() if target == "away"}
    sliders = LatentAttackExplorer(explorer.models, curves, explorer.x).view.children[0].children
    assert [slider.description for slider in sliders] == ["attack radius ε", "weight β", "test image"]


def test_an_explorer_of_named_models_calls_them_models(explorer):
    models = {"KLD": explorer.models[1.0]}
    explorer = LatentAttackExplorer(models, {("KLD", "away"): some_curve()}, explorer.x)
    assert explorer.model.description == "model" and explorer.model.label == "KLD"


def test_bars_on_a_logarithmic_axis_stay_by_their_place():
    values = torch.rand(2, 5, generator=seeded())
    series = {name: (torch.tensor([1.0, 100.0]), values) for name in "abc"}
    fig = plots.lines(series, log_x=True)
    shifts = np.log(np.array([trace.x for trace in fig.data]) / [1.0, 100.0])
    assert np.allclose(shifts, 0.012 * np.log(100) * np.array([-1, 0, 1])[:, None], atol=1e-5)


def test_bars_of_shares_are_wilsons_and_no_bar_leaves_the_range_of_its_values():
    hits = torch.tensor([[0.0] * 8, [1.0] * 7 + [0.0]])
    similar = torch.tensor([[0.9, 1.0, 1.0, 1.0], [0.2, 0.3, 0.2, 0.3]])
    places = torch.tensor([1.0, 2.0])
    shares, alike = plots.lines({"shares": (places, hits), "MS-SSIM": (places, similar)}).data
    for k, hit in enumerate((0, 7)):
        interval = binomtest(hit, 8).proportion_ci(method="wilson")
        low, high = shares.y[k] - shares.error_y.arrayminus[k], shares.y[k] + shares.error_y.array[k]
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-5)
    assert alike.y[0] + alike.error_y.array[0] == pytest.approx(1)
    assert alike.error_y.array[1] == pytest.approx(similar[1].std().item(), abs=1e-5)


def test_bars_stay_within_an_axis_that_ends():
    series = {name: (torch.tensor([0.0, 1.0]), torch.rand(2, 5, generator=seeded())) for name in "ab"}
    fig = plots.lines(series, beside=False)
    assert {trace.x for trace in fig.data} == {(0.0, 1.0)} and fig.data[0].error_y.array is not None


def test_small_images_are_enlarged():
    widths = [plots.images({"a": torch.rand(3, 1, side, side)}).layout.width for side in (16, 32)]
    assert widths == [3 * 20 * 5 + 48, int(3 * 36 * 2.6) + 48]


def test_scatter_marks_each_group_its_own_way():
    fig = plots.scatter({"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}, x="u", y="v")
    assert [(t.name, list(t.x), list(t.y)) for t in fig.data] == [("a", [1.0], [2.0]), ("b", [3.0], [4.0])]


def test_a_dozen_groups_look_a_dozen_ways():
    names = [str(k) for k in range(12)]
    points = plots.scatter(dict.fromkeys(names, torch.zeros(1, 2)))
    assert len({(t.marker.symbol, t.marker.color) for t in points.data}) == 12
    lines = plots.lines(dict.fromkeys(names, (torch.arange(3.0), torch.zeros(3))))
    assert len({(t.marker.symbol, t.line.color) for t in lines.data}) == 12
    curves = [t for t in plots.dd_curves(dict.fromkeys(names, some_curve())).data if t.name and t.showlegend]
    assert len({(t.marker.symbol, t.line.color) for t in curves}) == 12


@pytest.fixture
def repairs():
    torch.manual_seed(0)
    models = {beta: vae(image_shape=(1, 8, 8), latent_dim=3, net="mlp", beta=beta).eval() for beta in (1.0, 4.0)}
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    noise = torch.rand(x.shape, generator=seeded(1))
    attacked = {(beta, d): (x + d * noise).clamp(0, 1) for beta in models for d in (0.1, 0.3)}
    short = {"warmup": 4, "num_samples": 3, "leapfrog_steps": 2, "generator": seeded(2)}
    chains = {at: repair(models[at[0]], images, **short) for at, images in attacked.items()}
    return RepairExplorer(models, attacked, chains, x)


def test_the_repair_explorer_shows_what_its_sliders_say(repairs):
    repairs.kind.value, repairs.delta.value = 4.0, 0.1
    repairs.image.value, repairs.transitions.value = 2, 5
    model, path = repairs.models[4.0], repairs.chains[4.0, 0.1].path[2]
    assert len(repairs.transitions.options) == len(path) == 8
    both = torch.cat([repairs.x[2:3], repairs.attacked[4.0, 0.1][2:3]])
    decoded = model.decode(torch.cat([model.posterior(both).mean, path[5:6]])).detach()
    row = [repairs.x[2], decoded[0], repairs.attacked[4.0, 0.1][2], decoded[1], decoded[2]]
    assert repairs.picture.value == plots.tile([torch.stack(row)], zoom=12)
    error = ((decoded[2] - decoded[0]) ** 2).mean().item()
    assert f"after 10 gradients <b>{error:.4f}</b>" in repairs.numbers.value
    assert [label for label, _ in repairs.transitions.options] == ["0", "2", "4", "6", "8", "10", "12", "14"]


def test_the_repair_explorer_names_what_its_chains_differ_in(repairs):
    model, (images, chains) = repairs.models[1.0], (repairs.attacked[1.0, 0.1], repairs.chains[1.0, 0.1])
    starts = dict.fromkeys(("attacked code", "clean code"), model)
    attacked = {(start, 0.1): images for start in starts}
    given = {(start, 0.1): chains for start in starts}
    named = RepairExplorer(starts, attacked, given, repairs.x, kind="chain starts at")
    assert named.kind.description == "chain starts at" and named.kind.label == "attacked code"


@pytest.fixture
def lengths():
    x, target = torch.rand(2, 3, 1, 16, 16, generator=seeded())
    models, attacked = {}, {}
    for name, layers in {"two layers": 2, "three": 3}.items():
        torch.manual_seed(layers)
        models[name] = seatbelt(image_shape=(1, 16, 16), latent_dim=2, layers=layers, size=100, net="mlp").eval()
        for share in (0.0, 0.5, 1.0):
            attacked[name, share] = x + share * (target - x)
    return LengthExplorer(models, attacked, x, target)


def test_the_explorer_of_lengths_shows_what_its_sliders_say(lengths):
    lengths.length.value, lengths.image.value = 1.0, 2
    x, target = lengths.x, lengths.target
    copies = {name: reconstruct(model, target) for name, model in lengths.models.items()}
    above = torch.stack([x[2], target[2], target[2]])  # at length 1 the image is its target
    below = torch.stack([target[2], *(copy[2] for copy in copies.values())])
    assert lengths.picture.value == plots.tile([above, below], zoom=6)
    for name, copy in copies.items():
        kept = mse(copy, x) < mse(copy, target)
        fate = "stays" if kept[2] else "turns"
        assert f"{name}: <b>{fate}</b>, {kept.double().mean():.0%} of all stay" in lengths.numbers.value


def test_explorers_of_results_that_do_not_fit_are_refused(explorer, repairs, lengths):
    with pytest.raises(ValueError, match=r"curves: one for each \(model, target\) of models \[1.0, 4.0\] expected"):
        LatentAttackExplorer(explorer.models, {(1.0, "away"): some_curve()}, explorer.x)
    with pytest.raises(ValueError, match="curves: the same radii from 0, SSIM and 3 images"):
        LatentAttackExplorer(explorer.models, explorer.curves, explorer.x[:3])
    with pytest.raises(ValueError, match="chains: of 2 images"):
        RepairExplorer(repairs.models, repairs.attacked, repairs.chains, repairs.x[:2])
    with pytest.raises(ValueError, match=r"attacked\['two layers', 0.0\]|attacked\[\('two layers', 0.0\)\]"):
        LengthExplorer(lengths.models, lengths.attacked, lengths.x[:2], lengths.target[:2])


def test_lines_draw_means_bars_and_pairs():
    places, values = torch.tensor([0.1, 0.2]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    fig = plots.lines({"before": (places, values), "after": (places, values[:, 0])}, dashed=("after",), log_x=True)
    before, after = fig.data
    assert before.y == (1.0, 1.0) and after.y == (0.0, 1.0) and fig.layout.xaxis.type == "log"
    assert before.error_y.array == pytest.approx([2 * 2**0.5 / 2**0.5, 0], abs=1e-5) and after.error_y.array is None
    assert after.x == pytest.approx([0.1, 0.2]) and before.x == pytest.approx([0.1, 0.2], abs=0.002)
    assert before.line.color == after.line.color and (before.line.dash, after.line.dash) == ("solid", "dash")
    assert before.marker.symbol != after.marker.symbol


# --- tables


def test_the_rows_of_series_are_what_lines_draw():
    places, values = torch.tensor([0.1, 2.0]), torch.tensor([[0.0, 1.0], [1.0, 4.0]])
    given = {"many": (places, values), "one": (places, values[:, :1]), "means": (places[:1], values[0, 1:])}
    assert plots.tables.series(given) == [
        {"name": "many", "place": 0.1, "mean": 0.5, "standard error": 0.5, "n": 2},
        {"name": "many", "place": 2.0, "mean": 2.5, "standard error": 1.5, "n": 2},
        {"name": "one", "place": 0.1, "mean": 0.0},
        {"name": "one", "place": 2.0, "mean": 1.0},
        {"name": "means", "place": 0.1, "mean": 1.0},
    ]
    many, one, means = plots.lines(given).data
    assert many.y == (0.5, 2.5) and many.error_y.array == many.error_y.arrayminus == (1.0, 3.0)
    assert one.y == (0.0, 1.0) and one.error_y.array is None and means.y == (1.0,)


def test_the_rows_of_curves_name_their_metric_and_their_control():
    rows = plots.tables.curves({"a": some_curve()}, {"a": some_curve(1)})
    assert len(rows) == 2 * 2 * 3
    wanted = {"metric": "LPIPS", "name": "a, random", "place": 2.0, "n": 4}
    assert wanted.items() <= rows[-1].items()
    assert rows[-1]["mean"] == pytest.approx(some_curve(1).values["LPIPS"][2].mean().item(), rel=1e-5)


def test_the_rows_of_estimates_have_a_reason_where_there_is_none():
    groups = {"g": {"one": Estimate(1, 0.5, 2, n=9)}, "h": {"one": "not defined: a point"}}
    assert plots.tables.estimates(groups) == [
        {"group": "g", "row": "one", "effect": 1.0, "low": 0.5, "high": 2.0, "n": 9},
        {"group": "h", "row": "one", "missing": "not defined: a point"},
    ]


def test_rows_become_a_markdown_table():
    rows = [{"β": 1, "SSIM": "0.88"}, {"β": 10, "SSIM": "0.16"}]
    assert plots.tables.markdown(rows).splitlines() == [
        "| β | SSIM |",
        "| --- | --- |",
        "| 1 | 0.88 |",
        "| 10 | 0.16 |",
    ]
    assert plots.tables.markdown([]) == ""


def test_the_rows_of_groups_are_their_quantiles():
    (row,) = plots.tables.quantiles({"a": torch.arange(101)})
    assert row == {"name": "a", "n": 101, "1%": 1, "5%": 5, "25%": 25, "50%": 50, "75%": 75, "95%": 95, "99%": 99}


def test_plots_cost_no_more_than_plotly_and_torch():
    code = "import sys, vaenb.plots; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    heavy = {"scipy", "sklearn", "torchmetrics", "torchvision", "kaleido"}
    heavy |= {f"vaenb.{room}" for room in ("audit", "metrics", "models", "attacks")}
    assert "plotly" in loaded and not loaded & heavy


# --- the ledger


HALF = Estimate(0.5, 0.4, 0.6)
RESULTS = {  # verdict and pool, of three claims in one measure, a question, and a claim in two measures
    "000.consistency.fgsm": [("reproduced", Estimate(0.1, 0.05, 0.15))],
    "000.consistency.order": [("contradicted", Estimate(-0.3, -0.4, -0.2))],
    "001.black-target": [("no verdict", Estimate(0.12, 0.1, 0.14))],  # claimed to be less than .2
    "q.000.weak": [("reproduced", Estimate(0.0, -0.1, 0.1))],  # 0 within ±.3
    "001.rank.mnist": [("reproduced", HALF), ("contradicted", Estimate(-2.0, -2.01, -1.99))],
}


@pytest.fixture
def findings():
    """The ledger as if these claims had been measured; a cell of each has the numbers of the pool."""
    seen, found = dict.fromkeys(RESULTS, 0), []
    for finding in claims.ledger([]):
        name = finding.claim.id
        if name in RESULTS:
            verdict, pool = RESULTS[name][seen[name]]
            seen[name] += 1
            finding = replace(finding, verdict=verdict, pooled=pool, cells={"a cell": pool, "another": HALF})
        found.append(finding)
    return found


def test_verdicts_are_counted_by_document_and_questions_are_not(findings):
    fig = ledger.verdicts(findings)
    counts = {bar.name: dict(zip(bar.x, bar.y, strict=True)) for bar in fig.data}
    claimed = [claim for claim in claims.load().values() if claim.role == "claim"]
    assert sum(sum(c.values()) for c in counts.values()) == len(claimed)
    assert counts["reproduced"]["000"] == counts["contradicted"]["000"] == counts["no verdict"]["001"] == 1
    assert counts["mixed"]["001"] == 1  # one measure reproduced, the other contradicted
    of_001 = [claim for claim in claimed if claim.document == "001"]
    assert counts["not measured"]["001"] == len(of_001) - 2


def test_margins_are_in_half_widths_and_claimed_is_right(findings):
    points = {}
    for trace in ledger.margins(findings).data:
        for k, name in enumerate(trace.y):
            points[name] = trace.x[k], trace.error_x.arrayminus[k], trace.error_x.array[k]
    assert points["000.consistency.fgsm"] == pytest.approx((2, 1, 1))
    assert points["000.consistency.order"] == pytest.approx((-3, 1, 1))
    assert points["001.black-target"] == pytest.approx((4, 1, 1))
    assert points["q.000.weak"] == pytest.approx((3, 1, 0))  # no end of it lies farther from both bounds than 0 does
    assert sorted(points) == sorted([*list(RESULTS)[:4], "001.rank.mnist (SSIM)", "001.rank.mnist (LPIPS)"])
    assert points["001.rank.mnist (LPIPS)"] == pytest.approx((-10, 0, 0))  # 200 half-widths off, drawn at the edge


def test_the_claim_slider_has_a_frame_for_every_claim_with_cells(findings):
    fig = ledger.claim_slider(findings)
    names = [frame.name for frame in fig.frames]
    assert sorted(names) == sorted([*list(RESULTS)[:4], "001.rank.mnist (SSIM)", "001.rank.mnist (LPIPS)"])
    first = fig.frames[0]
    assert list(first.layout.yaxis.ticktext) == ["all together", "a cell", "another"]
    assert list(first.data[0].x) == [0.1, 0.1, 0.5] and list(first.data[1].x) == [0, 0, None]
    weak = fig.frames[names.index("q.000.weak")]
    assert list(weak.data[1].x) == [0.3, 0.3, None, -0.3, -0.3, None]  # equivalence has two bounds
    assert "yes" in weak.layout.title.text
    assert fig.layout.sliders[0].active == names.index("000.consistency.order")  # the first that is contradicted


def test_a_ledger_without_evidence_is_drawn_too():
    findings = claims.ledger([])
    (bar,) = ledger.verdicts(findings).data
    assert bar.name == "not measured"
    assert not ledger.margins(findings).data
    assert ledger.claim_slider(findings).layout.title.text == "No claim was measured yet"


def test_a_name_is_text_in_a_drawing():
    chart = Chart((0, 1.5), (0, 1), "contrast", "A & B, σ < 1")
    chart.line([0, 1], [0, 1], COLORS[0], name="<b>")
    parsed = minidom.parseString(chart.svg())
    words = [node.firstChild.data for node in parsed.getElementsByTagName("text")]
    assert "A & B, σ < 1" in words and "<b>" in words


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((0, 1.5), ["0.00", "0.75", "1.50"]),
        ((0, 1), ["0.0", "0.5", "1.0"]),
        ((0.5, 0.5005), ["0.50000", "0.50025", "0.50050"]),
        ((-7123, -7000), ["-7123", "-7062", "-7000"]),
        ((0, 2e-7), ["0", "1e-07", "2e-07"]),
    ],
)
def test_a_tick_says_where_it_is(ends, labels):
    assert [label for _, label in _ticks(ends)] == labels
