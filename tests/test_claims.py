"""Claims, cells, the rule, what is recorded, and the ledger."""

import errno
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaenb import claims, files
from vaenb.claims import Claim, Gate, gates, ledger, rule, start_run, tables
from vaenb.claims.evidence import compact
from vaenb.claims.statistics import evaluate
from vaenb.stats import Estimate

KINDS = ("greater", "less", "equivalent", "not_less", "not_greater")
SEEDS = (100, 101, 102, 103, 104)
SIM = "002a.hmc.sim"  # four cells, MS-SSIM after HMC and before, on two sets
CELLS = ("delta .1, MNIST", "delta .2, MNIST")
number = st.floats(-10, 10)
width = st.floats(1e-3, 5)


def made_up(kind, bound=0.0, margin=0.0, **fields):
    texts = dict.fromkeys(("words", "statement", "statistic", "primary", "data", "published", "note"), "")
    texts |= {"id": "000.test", "role": "claim"} | fields
    return Claim(**texts, kind=kind, bound=bound, margin=margin, cells=())


def interval(low, high):
    effect, error = (low + high) / 2, (high - low) / 4
    return Estimate(effect, low, high, error=error, df=50)


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("VAENB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(files, "project_folder", lambda: tmp_path)  # whose figures/ are none
    return tmp_path / "runs"


def begin(data="mnist", *, profile="paper", seeds=SEEDS, **settings):
    settings |= {"profile": profile, "data": data}
    return start_run("05_hmc_defence", settings, data={data: "d1"}, seeds=seeds)


def noise(mean, *, runs=5, images=100, spread=0.05, seed=0):
    return mean + spread * np.random.default_rng(seed).normal(size=(runs, images))


def passed(run, *kinds, claim=SIM, but=""):
    for kind in kinds or gates.KINDS:
        run.gate(Gate(kind, "conv002a", kind != but, {"gain": 0.001}, (claim,)))


def record(run, gain, cells=("delta .1", "delta .2"), **sizes):
    name = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[run.data]
    for k, cell in enumerate(cells):
        before = noise(0.6, seed=k, **sizes)
        after = before + noise(gain, seed=10 + k, **sizes)
        run.record(SIM, f"{cell}, {name}", {"HMC MS-SSIM": after, "draw MS-SSIM": before})


def measured(mnist, fashion, *, but="", **begun):
    """Runs on both sets with these gains, gates passed but one."""
    made = []
    for data, gain in (("mnist", mnist), ("fashion_mnist", fashion)):
        run = begin(data, **begun)
        passed(run, but=but)
        record(run, gain, runs=len(run.seeds))
        made.append(run)
    return made


def finding(claim_id=SIM, measure=None):
    found = [f for f in ledger(claims.found()) if f.claim.id == claim_id]
    return next(f for f in found if measure in (None, f.measure))


# --- claims and cells


def test_all_claims_are_there_and_each_has_primary_cells():
    book = claims.load()
    assert len(book) == 71 and sum(claim.role == "claim" for claim in book.values()) == 48
    for claim in book.values():
        assert claim.cells and claim.kind in KINDS and claim.margin >= 0
        assert claim.role == ("question" if claim.id.startswith("q.") else "claim")
        names = [cell.name for cell in claim.cells]
        assert len(set(names)) == len(names)
    assert book["q.joint.two-surfaces"].document == "joint" and book["002a.hmc.acc"].document == "002a"


def test_cells_of_one_measure_share_images_and_runs_on_each_data_set():
    for claim in claims.load().values():
        sizes = {}
        for cell in claim.cells:
            for data in cell.parts:
                sizes.setdefault((cell.measure, data), set()).add((cell.images, cell.runs))
        assert all(len(found) == 1 for found in sizes.values()), claim.id


def test_every_cell_has_a_known_statistic_gates_and_enough_listed_images():
    from vaenb.claims.statistics import STATISTICS

    listed = claims.images()
    for claim in claims.load().values():
        for cell in claim.cells:
            assert cell.statistic in STATISTICS and set(cell.gates) <= set(gates.KINDS)
            assert ("converged" in cell.gates) == (cell.runs > 0)
            for name in cell.data.replace(" vs ", " - ").replace(" to ", " - ").split(" - "):
                whole = cell.images == 10_000  # the test set
                assert name == "analytic" or whole or cell.images <= len(listed[name])
    assert all(len(set(indices)) == len(indices) for indices in listed.values())


def test_a_difference_of_sets_has_two_signed_parts():
    first, second = claims.find("001.rank.fades").cells
    assert first.parts == {"mnist": 1, "fashion_mnist": -1}
    assert second.parts == {"fashion_mnist": 1, "celeba_10k": -1}


def test_an_unknown_claim_names_the_close_ones():
    with pytest.raises(ValueError, match=r"'002a\.hmc\.sin' is not in claims\.csv; close to it: .*002a\.hmc\.sim"):
        claims.find("002a.hmc.sin")
    with pytest.raises(ValueError, match=r"^claim 'nope' is not in claims\.csv; docs/claims\.md lists them all$"):
        claims.find("nope")


# --- the rule


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [
        ("greater", ("contradicted", "inconclusive", "reproduced")),
        ("not_less", ("contradicted", "inconclusive", "reproduced")),
        ("less", ("reproduced", "inconclusive", "contradicted")),
        ("not_greater", ("reproduced", "inconclusive", "contradicted")),
        ("equivalent", ("contradicted", "reproduced", "contradicted")),
    ],
)
def test_an_interval_below_across_and_above_the_bound(kind, verdicts):
    across = (0.5, 1.5) if kind != "equivalent" else (-0.5, 0.5)
    for ends, word in zip(((-3, -2), across, (2, 3)), verdicts, strict=True):
        assert rule.judge(made_up(kind, 1.0), interval(*ends)) == word


def test_within_the_margin_an_effect_is_small_or_none():
    claim = made_up("greater", 0.1, margin=0.05)
    assert rule.judge(claim, interval(0.11, 0.14)) == rule.SMALL
    assert rule.judge(claim, interval(0.06, 0.14)) == rule.NO_EFFECT
    assert rule.judge(claim, interval(0.06, 0.16)) == rule.INCONCLUSIVE
    assert rule.judge(claim, interval(0.06, 0.09)) == rule.CONTRADICTED
    assert rule.judge(made_up("not_less", -0.05, margin=0.05), interval(-0.04, -0.01)) == rule.REPRODUCED


@given(kind=st.sampled_from(KINDS[:2]), bound=number, low=number, width=width, margin=st.floats(0, 5))
def test_a_mirrored_claim_has_the_mirrored_verdict(kind, bound, low, width, margin):
    mirrored = {"greater": "less", "less": "greater"}[kind]
    there = rule.judge(made_up(kind, bound, margin), interval(low, low + width))
    back = rule.judge(made_up(mirrored, -bound, margin), interval(-low - width, -low))
    assert there == back


@given(bound=number, low=number, width=width, by=st.floats(-5, 5))
def test_verdicts_move_with_the_scale(bound, low, width, by):
    if low == bound or low + width == bound:
        return
    here = rule.judge(made_up("greater", bound), interval(low, low + width))
    moved = rule.judge(made_up("greater", bound + by), interval(low + by, low + by + width))
    near = min(abs(low - bound), abs(low + width - bound)) < 1e-9
    assert near or here == moved


def test_sides_are_counted_after_holm():
    claim = made_up("greater")
    errors = [Estimate(t, t - 2, t + 2, error=1.0, df=1e9) for t in (2.3, 2.1, -2.1)]
    claimed, other = rule.sides(claim, errors)  # p = .011 and .018, against .025 / 3 and .025 / 2
    assert claimed == [False] * 3 and other == [False] * 3
    claimed, other = rule.sides(claim, errors[:2])  # .011 < .025 / 2, then .018 < .025
    assert claimed == [True, True] and other == [False, False]


def test_equivalence_is_two_one_sided_tests():
    claim = made_up("equivalent", 3.0)
    inside = Estimate(0.5, -1, 2, error=0.7, df=100)
    outside = Estimate(9, 7, 11, error=1.0, df=100)
    assert rule.sides(claim, [inside, outside]) == ([True, False], [False, True])


@pytest.mark.parametrize(
    ("published", "word"), [(0.4, "as large"), (0.9, "smaller"), (0.2, "larger"), (-0.4, "opposite"), (None, "")]
)
def test_our_number_beside_the_documents(published, word):
    assert rule.size(interval(0.3, 0.5), published) == word
    assert rule.size(interval(0.3, 0.5), published, "sizes not comparable (units)") == "not comparable"


# --- recording


def test_what_is_recorded_is_read_back_and_every_interval_with_it():
    run = begin()
    passed(run)
    record(run, 0.05)
    again = claims.read(run.folder)
    assert again.gates == run.gates and claims.measured(again) == claims.measured(run)
    for old, new in zip(run.records, again.records, strict=True):
        for name in old.arrays:
            assert np.array_equal(old.arrays[name], new.arrays[name])


@given(st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=1, max_size=20))
def test_arrays_are_rounded_by_less_than_two_to_the_minus_16(numbers):
    numbers = [value for value in numbers if value == 0 or abs(value) > 1e-30]
    values = np.array(numbers)
    kept = compact(values).astype(float)
    assert (np.abs(kept - values) <= 2.0**-16 * np.abs(values)).all()
    assert np.array_equal(compact(kept), compact(values))  # rounding again changes nothing


def test_whole_numbers_take_a_byte_each():
    assert compact(np.array([0.0, 1.0, -3.0, 127.0])).dtype == np.int8
    assert compact(np.array([0.0, 128.0])).dtype == np.float32


def test_what_rounding_makes_infinite_is_refused():
    with pytest.raises(ValueError, match="array must be finite, got 1 NaN or infinite of 2"):
        compact(np.array([1.5, 3.4028e38]))


def test_an_array_that_two_cells_share_is_stored_once():
    run = begin()
    before, after = noise(0.6), noise(0.7, seed=1)
    for cell in CELLS:
        run.record(SIM, cell, {"HMC MS-SSIM": after, "draw MS-SSIM": before})
    with np.load(run.folder / "evidence.npz") as held:
        assert len(held.files) == 2 + 1  # and the list


@pytest.mark.parametrize(
    ("claim", "cell", "change", "message"),
    [
        ("002a.hmc.sin", CELLS[0], {}, r"is not in claims\.csv; close to it"),
        (SIM, "delta .3, MNIST", {}, r"no primary cell of 002a\.hmc\.sim .* recorded with role='probe'"),
        (SIM, CELLS[0], {"role": "probe"}, r"is primary \(cells\.csv\); give the probe another name"),
        (SIM, CELLS[0], {"arrays": {}}, r"must be named HMC MS-SSIM, draw MS-SSIM, got "),
        (SIM, "a probe", {"role": "probe", "statistic": "mean", "arrays": {}}, r"raw \(training runs, images\) .*none"),
        (SIM, "a probe", {"role": "probe", "statistic": "average"}, "statistic"),
        (SIM, CELLS[0], {"role": "tertiary"}, "role"),
        (SIM, CELLS[0], {"radii": [0.3]}, r"radii of cell .* is frozen in cells\.csv at \(0\.1,\), got \(0\.3,\)"),
        (SIM, CELLS[0], {"statistic": "ratio"}, r"statistic of cell .* is frozen in cells\.csv at 'difference'"),
        (SIM, CELLS[0], {"data": "kmnist"}, r"data of cell 'delta \.1, MNIST' .* must be mnist, got 'kmnist'"),
        (SIM, CELLS[0], {"runs": 3}, r"with 5 runs, one for each seed, got shape \(3, 100\)"),
        (
            SIM,
            CELLS[0],
            {"images": 30},
            r"is frozen at 100 images \(the first of .*\['mnist'\]\), got 30",
        ),
        (SIM, CELLS[0], {"spoil": True}, r"draw MS-SSIM must be finite, got 1 NaN or infinite of 500"),
    ],
)
def test_what_does_not_fit_is_refused(claim, cell, change, message):
    sizes = {name: change.pop(name) for name in ("runs", "images") if name in change}
    spoiled = noise(0.6, **sizes)
    if change.pop("spoil", False):
        spoiled[2, 7] = np.nan
    arrays = change.pop("arrays", {"HMC MS-SSIM": noise(0.7, **sizes), "draw MS-SSIM": spoiled})
    run = begin()
    with pytest.raises(ValueError, match=message):
        run.record(claim, cell, arrays, **change)
    assert not run.records and not claims.read(run.folder).records


def test_a_statistic_refuses_what_it_can_not_take_when_it_is_recorded():
    run = begin()
    with pytest.raises(ValueError, match="statistic 'difference' of a .* b "):
        run.record(SIM, "odd", {"a": noise(0, images=9), "b": noise(0)[:, :9, None] * np.ones(4)}, role="probe",
                   statistic="difference")  # fmt: skip


def test_images_of_arrays_must_be_the_same():
    with pytest.raises(ValueError, match=r"the same images along axis 1, got .*\(5, 9\).*\(5, 100\)"):
        begin().record(SIM, "odd", {"a": noise(0, images=9), "b": noise(0)}, role="probe", statistic="difference")


def test_a_damaged_file_is_named_and_skipped():
    run = begin()
    record(run, 0.1)
    path = run.folder / "evidence.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"evidence\.npz is damaged"):
        claims.read(run.folder)
    with pytest.warns(UserWarning, match=r"evidence\.npz is damaged .*skipped"):
        assert claims.found() == []
    command = subprocess.run([sys.executable, "-m", "vaenb", "claims"], capture_output=True, text=True, check=True)
    assert re.search(r"^vaenb: .*evidence\.npz is damaged .*; it is skipped$", command.stderr.strip())


def test_an_altered_array_is_noticed():
    run = begin()
    record(run, 0.1)
    with np.load(run.folder / "evidence.npz") as held:
        arrays = {key: held[key] for key in held.files}
    first = next(iter(arrays))
    arrays[first] = arrays[first] + np.float32(0.01)
    np.savez_compressed(run.folder / "evidence.npz", **arrays)
    with pytest.raises(ValueError, match="was altered"):
        claims.read(run.folder)


def test_curves_have_the_frozen_radii_and_shares_lie_in_0_1():
    run = begin()
    with pytest.raises(ValueError, match=r"must have 9 radii along an axis.* got shape \(5, 100, 2\)"):
        run.record("001.vulnerable", "KLD, MNIST", {"KLD untargeted SSIM": noise(0.5)[..., None] * np.ones(2)})
    labels = {"HMC label kept": np.full((5, 300), 3), "draw label kept": np.zeros((5, 300))}
    with pytest.raises(ValueError, match=r"HMC label kept of .* must lie in \[0, 1\], got 3 to 3"):
        run.record("002a.hmc.acc", CELLS[0], labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.bool])
def test_tensors_of_any_precision_are_taken(dtype):
    values = (torch.arange(500).reshape(5, 100) % 2).to(dtype)
    begin().record(SIM, CELLS[0], {"HMC MS-SSIM": values, "draw MS-SSIM": values})


def test_no_flipped_byte_is_read_as_evidence():
    run = begin()
    record(run, 0.1, cells=("delta .1",))
    path = run.folder / "evidence.npz"
    whole, kept = path.read_bytes(), claims.measured(run)
    for place in range(0, len(whole), len(whole) // 200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            again = claims.read(run.folder)
        except ValueError as error:
            assert "evidence.npz is damaged" in str(error)
        else:  # a date or a comment of the archive
            assert claims.measured(again) == kept


def test_a_crash_after_the_arrays_are_written_loses_nothing(monkeypatch):
    run = begin()
    record(run, 0.1)
    write = files.write

    def crash(path, content):
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path.parent))
        write(path, content)

    monkeypatch.setattr(files, "write", crash)
    with pytest.raises(OSError, match="No space left"):
        run.record(SIM, CELLS[0], {"HMC MS-SSIM": noise(0.9), "draw MS-SSIM": noise(0.6)})
    monkeypatch.undo()
    assert claims.measured(claims.read(run.folder)) == claims.measured(run)


def test_a_full_disk_leaves_what_was_there(monkeypatch):
    run = begin()
    record(run, 0.1)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path.parent))

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run.record(SIM, CELLS[0], {"HMC MS-SSIM": noise(0.9), "draw MS-SSIM": noise(0.6)})
    monkeypatch.undo()
    assert claims.measured(claims.read(run.folder)) == claims.measured(run)


def test_start_run_clears_an_earlier_runs_evidence():
    run = begin()
    record(run, 0.1)
    assert begin().folder == run.folder and claims.read(run.folder).records == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"profile": "papre"}, ValueError, "profile"),
        ({"seeds": ()}, ValueError, "seeds must hold at least one seed"),
        ({"seeds": (-1,)}, ValueError, "seeds"),
    ],
)
def test_a_run_that_can_not_be_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        begin(**change)


def test_parameters_are_the_plain_values_of_a_notebook():
    namespace = {"beta": 4.0, "deltas": [0.1], "folder": "x", "_hidden": 1, "In": [""], "np": np, "name": "mnist"}
    assert claims.parameters(namespace) == {"beta": 4.0, "deltas": [0.1], "name": "mnist"}


# --- gates


VULNERABLE = claims.find("001.vulnerable")  # SSIM lost, margin .05
KLD = VULNERABLE.cell("KLD, MNIST")


def curves(lost, runs=1, images=20):
    """SSIM that falls by `lost` on average over nine radii, in runs that differ by .02."""
    apart = 0.02 * (np.arange(runs) - (runs - 1) / 2)[:, None, None]
    fall = np.linspace(0, lost, 9) + apart * np.linspace(0, 1, 9)
    return {"KLD untargeted SSIM": 0.9 - fall + np.zeros((runs, images, 1))}


def test_an_attack_that_more_steps_make_stronger_fails_its_gate():
    weak = gates.strong_attack(VULNERABLE, [KLD], curves(0.3), curves(0.34))
    strong = gates.strong_attack(VULNERABLE, [KLD], curves(0.3), curves(0.32))
    assert not weak.passed and strong.passed
    assert weak.numbers == pytest.approx({"images": 20, "statistic": 0.3, "doubled": 0.34, "allowed": 0.025})
    assert "FAILED: 001.vulnerable in SSIM, doubled" in str(weak) and "passed" in str(strong)
    assert (
        weak.failure
        == "the attack is too weak: doubled, it moves the first run's number from 0.3 to 0.34, and 0.025 is allowed"
    )
    assert weak.covers("001.vulnerable", "KLD, MNIST") and not weak.covers("001.vulnerable", "MMD, MNIST")


def test_where_chance_has_a_part_a_move_within_it_is_no_strength():
    steps = np.linspace(0, 1, 9)
    name = "KLD untargeted SSIM"
    measured = curves(0.3)
    chance = 0.1 * np.random.default_rng(0).normal(size=(1, 20, 1))
    again = {name: measured[name] + chance * steps}
    stronger = {name: measured[name] - 0.03 * steps}
    assert not gates.strong_attack(VULNERABLE, [KLD], measured, stronger).passed
    gate = gates.strong_attack(VULNERABLE, [KLD], measured, stronger, again)
    # the t range of a mean of 20
    assert gate.numbers["chance moves it by"] == pytest.approx(2.093 * chance.std() / 20**0.5, rel=0.1)
    assert gate.passed
    assert not gates.strong_attack(VULNERABLE, [KLD], measured, curves(0.45), again).passed


@pytest.mark.parametrize(
    "moved, gain, passed", [(0.02, 0.001, True), (0.02, 0.004, False), (0.05, 0.001, True), (0.2, 0.001, False)]
)
def test_longer_runs_must_gain_little_and_move_the_statistic_no_more_than_runs_differ(moved, gain, passed):
    gate = gates.converged(VULNERABLE, [KLD], curves(0.3, runs=5), curves(0.3 + moved), gain)
    assert gate.passed is passed
    # the t range of one run beside five: 2.776 · .0316 · √(1 + 1/5)
    assert gate.numbers["runs differ by"] == pytest.approx(0.0961, abs=1e-4)
    assert gate.numbers["longer statistic"] - gate.numbers["statistic"] == pytest.approx(moved)
    assert gate.within_chance is (passed and moved > 0.025)  # half the margin
    if not passed:
        told = "gain 0.004 nats a pixel" if gain > 0.003 else "move the number from 0.3 to 0.5"
        assert gate.failure == f"the models had not converged: more passes {told}"


def test_with_one_run_only_the_margin_says_how_far_the_statistic_may_move():
    assert gates.converged(VULNERABLE, [KLD], curves(0.3), curves(0.32), 0.0).passed
    assert not gates.converged(VULNERABLE, [KLD], curves(0.3), curves(0.33), 0.0).passed


def test_a_gate_is_of_the_mean_over_cells_as_the_verdict_is():
    mmd = VULNERABLE.cell("MMD, MNIST")
    apart = {}
    for name, fall in {"KLD": 0.35, "MMD": 0.25}.items():
        apart[f"{name} untargeted SSIM"] = curves(fall)["KLD untargeted SSIM"]
    together = {name: curves(0.3)["KLD untargeted SSIM"] for name in apart}
    gate = gates.strong_attack(VULNERABLE, [KLD, mmd], apart, together)
    assert gate.passed and gate.cells == ("KLD, MNIST", "MMD, MNIST")
    assert not gates.strong_attack(VULNERABLE, [KLD], apart, together).passed


FADES = claims.find("001.rank.fades")  # (max - min)/mean of three areas: a statistic of each run


def test_a_statistic_of_each_run_is_judged_as_the_ledger_computes_it():
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("KLD", "MMD", "SWT"):
        arrays[f"{name} untargeted SSIM"] = 0.9 - 0.05 * np.arange(9) + 0.1 * rng.normal(size=(2, 20, 9))
    cell = FADES.cells[0]
    gate = gates.converged(FADES, [cell], arrays, {name: array[:1] for name, array in arrays.items()}, 0.0)
    whole = evaluate(cell.statistic, arrays, radii=cell.radii)
    assert gate.numbers["statistic"] == pytest.approx(whole.effect) != pytest.approx(whole.array.mean())


DIVERSE = claims.find("001.less-diverse")  # at the radius where SSIM has fallen by .3


def spread_codes(lost):
    ssim = 0.9 - np.linspace(0, lost, 9) + np.zeros((1, 20, 1))
    codes = np.random.default_rng(0).normal(size=(1, 20, 9, 3))
    return {"KLD untargeted codes": codes, "KLD untargeted SSIM": ssim}


def test_where_the_statistic_is_not_defined_there_is_no_gate_or_a_failed_one():
    cell = DIVERSE.cell("KLD, untargeted, Fashion-MNIST")
    with pytest.warns(UserWarning, match="no converged gate of 001.less-diverse: ssim: a fall by 0.3"):
        assert gates.converged(DIVERSE, [cell], spread_codes(0.2), spread_codes(0.5), 0.0) is None
    failed = gates.strong_attack(DIVERSE, [cell], spread_codes(0.5), spread_codes(0.2))
    assert failed.kind == "strong attack" and not failed.passed and "a fall by 0.3 expected" in failed.name


def test_a_failed_gate_in_one_unit_of_measure_says_nothing_of_another(runs):
    claim = claims.find("001.rank.mnist")
    run = begin()
    for cell in claim.cells:
        run.record(claim.id, cell.name, {name: np.zeros((5, 100, 5)) for name in cell.arrays})
    lpips = tuple(cell.name for cell in claim.cells if cell.measure == "LPIPS")
    run.gate(Gate("converged", "LPIPS", False, {"gain": 1.0}, (claim.id,), lpips))
    found = {finding.measure: finding for finding in claims.judged(claim, [run])}
    assert found["LPIPS"].verdict == rule.NOT_TESTABLE
    assert found["SSIM"].verdict == rule.NO_VERDICT and found["SSIM"].gates == ()


def test_recorded_is_of_the_run_that_counts_with_its_probes():
    claim, data = "001.vulnerable", "mnist"
    falling = np.linspace(0.9, 0.4, 9) + np.zeros((5, 100, 1))
    quick, paper = begin(profile="quick", a=1), begin(a=2)
    assert claims.recorded(claim, data, [quick, paper]) == {}
    quick.record(claim, "KLD, MNIST", {"KLD untargeted SSIM": falling})
    assert claims.recorded(claim, data, [quick, paper]) == {}
    mine = paper.record(claim, "KLD, MNIST", {"KLD untargeted SSIM": falling})
    probe = paper.record(claim, "weak", {"a": falling[..., 0]}, role="probe", statistic="mean", measure="SSIM")
    assert claims.recorded(claim, data, [paper, quick]) == {"KLD, MNIST": mine, "weak": probe}
    assert claims.recorded(claim, "fashion_mnist", [paper]) == {}


def test_a_dose_must_differ():
    assert gates.dose("nats of the top layer", 0.0, 2.5, least=0.1, claims=[SIM]).passed
    assert not gates.dose("nats of the top layer", 0.0, 0.05, least=0.1, claims=[SIM]).passed
    with pytest.raises(ValueError, match="claims must name the claims"):
        gates.dose("nats", 0.0, 1.0, least=0.1, claims=[])


# --- the ledger


def test_nothing_is_measured_without_runs():
    found = ledger([])
    assert {f.verdict for f in found} == {rule.NOT_MEASURED} and len(found) > 71


def test_a_gain_in_all_cells_is_reproduced_and_a_loss_contradicted():
    measured(0.05, 0.08)
    found = finding()
    assert found.verdict == rule.REPRODUCED and len(found.claimed) == 4 and found.total == 4
    assert found.pooled.effect == pytest.approx(0.065, abs=0.01)
    measured(-0.05, -0.08)
    assert finding().verdict == rule.CONTRADICTED


def test_a_cell_on_each_side_is_mixed_and_says_which():
    measured(0.05, -0.05)
    found = finding()
    assert found.verdict == rule.MIXED
    assert found.why.startswith("as claimed: delta .1, MNIST") and "other side: delta .1, Fashion-MNIST" in found.why


def test_nothing_there_is_no_effect():
    measured(0.0, 0.0)
    assert finding().verdict == rule.NO_EFFECT


def test_an_open_claim_says_what_would_settle_it():
    for data in ("mnist", "fashion_mnist"):
        run = begin(data)
        passed(run)
        record(run, 0.02, spread=0.8)
    found = finding()
    assert found.verdict == rule.INCONCLUSIVE
    assert found.why.endswith("might settle it") and "training runs of" in found.why


def test_missing_data_come_first_and_are_named():
    run = begin()
    passed(run, but="converged")
    record(run, 0.1, cells=("delta .1",))
    found = finding()
    assert found.verdict == rule.NOT_MEASURED
    assert found.why == "missing: delta .2, MNIST; delta .1, Fashion-MNIST; delta .2, Fashion-MNIST"
    assert list(found.cells) == ["delta .1, MNIST"] and found.pooled is None


@pytest.mark.parametrize("kind", gates.KINDS)
def test_a_failed_gate_makes_a_claim_not_testable(kind):
    measured(0.05, 0.05, but=kind)
    found = finding()
    assert found.verdict == rule.NOT_TESTABLE and f"{kind} gate FAILED: conv002a (gain 0.001)" in found.why


def test_without_a_gate_there_is_no_verdict():
    for data in ("mnist", "fashion_mnist"):
        run = begin(data)
        passed(run, "strong attack", "dose")
        record(run, 0.05)
    assert (finding().verdict, finding().why) == (
        rule.NO_VERDICT,
        "no converged gate was recorded on mnist (delta .1, MNIST)",
    )


def test_a_gate_of_some_cells_does_not_cover_the_others():
    for data in ("mnist", "fashion_mnist"):
        run = begin(data)
        passed(run, "strong attack", "dose")
        run.gate(Gate("converged", "one", True, {"gain": 0.0}, (SIM,), ("delta .1, MNIST", "delta .1, Fashion-MNIST")))
        record(run, 0.05)
    assert finding().why == "no converged gate was recorded on mnist (delta .2, MNIST)"


def test_gates_of_different_cells_stand_beside_each_other():
    run = begin()
    for cell, well in zip(CELLS, (False, True), strict=True):
        run.gate(Gate("converged", "conv002a", well, {"gain": 0.0}, (SIM,), (cell,)))
    assert [gate.passed for gate in claims.read(run.folder).gates] == [False, True]


def test_cells_of_a_data_set_come_from_one_run():
    measured(0.05, 0.05)
    run = begin(seeds=tuple(range(200, 206)))
    passed(run)
    record(run, -0.9, cells=("delta .1",), runs=6)  # newer, and of one cell alone
    assert finding().verdict == rule.REPRODUCED
    record(run, -0.9, runs=6)
    assert finding().verdict == rule.MIXED


def test_quick_runs_of_different_sizes_are_no_reason_to_fail():
    run = begin(profile="quick", seeds=(100,))
    for cell, images in zip(CELLS, (10, 20), strict=True):
        arrays = {name: noise(0.5, runs=1, images=images) for name in ("HMC MS-SSIM", "draw MS-SSIM")}
        run.record(SIM, cell, arrays)
    assert finding().verdict == rule.NOT_MEASURED and len(finding().cells) == 2


def test_seeds_that_tuned_do_not_count():
    measured(0.05, 0.05, seeds=(0, 1, 2, 3, 4))
    assert finding().why == "seed 0: those that count begin at 100"


def test_a_missing_measure_leaves_the_other_its_verdict():
    claim = claims.find("001.rank.mnist")
    run = begin()
    passed(run, "converged", "strong attack", "dose", claim=claim.id)
    for cell in claim.cells:
        if cell.measure == "SSIM":
            base = noise(0.5, spread=0.01)[..., None] * np.ones(len(cell.radii))
            run.record(claim.id, cell.name, {cell.arrays[0]: base + 0.1, cell.arrays[1]: base})
    assert finding(claim.id, "SSIM").verdict == rule.REPRODUCED
    assert finding(claim.id, "LPIPS").verdict == rule.NOT_MEASURED


def test_fewer_than_five_training_runs_and_quick_ones_have_no_verdict():
    measured(0.05, 0.05, seeds=SEEDS[:4])
    assert finding().verdict == rule.NO_VERDICT and finding().why.startswith("4 training runs of 5")
    measured(0.05, 0.05, profile="quick", seeds=SEEDS[:1])
    assert finding().why.startswith("4 training runs of 5")  # the paper profile counts before a quick one


def test_a_quick_run_alone_has_no_verdict():
    measured(0.05, 0.05, profile="quick", seeds=SEEDS[:1])
    assert (finding().verdict, finding().why) == (rule.NO_VERDICT, "quick profile")


def test_probes_are_stored_and_never_decide():
    measured(0.05, 0.05)
    before = finding()
    run = begin(note="probes")
    run.record(SIM, "delta .4", {"gain": noise(-0.9)}, role="probe", statistic="mean", measure="MS-SSIM")
    assert finding() == before
    assert [row["role"] for row in claims.measured(claims.read(run.folder))] == ["probe"]


def test_a_statistic_on_one_set_minus_the_same_on_another_joins_two_runs():
    spread = {"mnist": (0.5, 0.6, 0.8), "fashion_mnist": (0.6, 0.6, 0.6), "celeba_10k": (0.6, 0.6, 0.6)}
    cells = claims.find("001.rank.fades").cells
    radii = np.array(cells[0].radii)
    for data, ends in spread.items():
        run = begin(data)
        passed(run, "converged", "strong attack", "dose", claim="001.rank.fades")
        curves = {}
        for name, end in zip(cells[0].arrays, ends, strict=True):
            curves[name] = noise(0, spread=0.01)[..., None] + 1 - (1 - end) * radii / radii[-1]
        for cell in cells:
            if data in cell.parts:
                run.record("001.rank.fades", cell.name, curves)
    found = finding("001.rank.fades")
    areas = [(1 + end) / 2 for end in spread["mnist"]]
    there = (max(areas) - min(areas)) / np.mean(areas)
    assert found.cells[cells[0].name].effect == pytest.approx(there, abs=0.01)
    assert found.cells[cells[1].name].effect == pytest.approx(0, abs=0.01)
    assert found.pooled.effect == pytest.approx(there / 2, abs=0.01)


def test_two_measures_have_a_verdict_each_and_the_claim_holds_where_both_do():
    claim = claims.find("001.rank.mnist")
    run = begin()
    passed(run, "converged", "strong attack", "dose", claim=claim.id)
    for cell in claim.cells:
        up = 0.1 if cell.measure == "SSIM" else 0.0
        first, second = cell.arrays
        base = noise(0.5, spread=0.01)[..., None] * np.ones(len(cell.radii))
        run.record(claim.id, cell.name, {first: base + up, second: base})
    found = {f.measure: f.verdict for f in ledger(claims.found()) if f.claim.id == claim.id}
    assert found["SSIM"] == rule.REPRODUCED and found["LPIPS"] != rule.REPRODUCED
    assert rule.overall(list(found.values())) == found["LPIPS"]
    assert rule.overall([rule.REPRODUCED, rule.CONTRADICTED]) == rule.MIXED
    assert rule.overall([rule.REPRODUCED, rule.REPRODUCED]) == rule.REPRODUCED


def test_of_two_runs_the_newer_counts():
    measured(0.05, 0.05)
    measured(-0.05, -0.05, attempt=2)
    assert finding().verdict == rule.CONTRADICTED


def test_a_newer_run_of_fewer_trainings_hides_none():
    measured(0.05, 0.05)
    measured(-0.05, -0.05, attempt=2, seeds=(100,))
    assert finding().verdict == rule.REPRODUCED


def test_an_unfinished_run_does_not_count():
    run = begin()
    passed(run)
    record(run, 0.1)
    part = run.folder / claims.UNFINISHED
    part.mkdir()
    for name in ("evidence.json", "evidence.npz"):
        (run.folder / name).rename(part / name)
    assert claims.found() == []


def test_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match="folders must be existing folders, got .*nowhere"):
        claims.found([tmp_path / "nowhere"])
    command = [sys.executable, "-m", "vaenb", "verify", SIM, "-o", str(tmp_path / "nowhere")]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    assert re.fullmatch(r"vaenb: -o: an existing folder expected, got .*nowhere\n", told)


# --- in words


def test_documents_and_questions_are_told_apart_in_at_most_five_columns():
    found = ledger([])
    documents, questions = tables.documents(found).splitlines(), tables.questions(found).splitlines()
    assert documents[0] == "| claim | document | here [95 %] | verdict | k of n |"
    assert questions[0] == "| question | here [95 %] | answer | k of n |"
    assert len(questions) == 2 + 23 and not any("does cleaning survive" in line for line in documents)


def test_a_row_says_the_number_the_verdict_and_k_of_n():
    measured(0.05, 0.08)
    (line,) = [row for row in tables.documents(ledger(claims.found()), root="..").splitlines() if "brings recon" in row]
    assert "[HMC brings reconstructions back](../05_hmc_defence.ipynb)" in line
    assert "0.06" in line and "| reproduced | 4 of 4 |" in line


def test_a_failed_gate_and_mixed_cells_are_named_in_the_tables():
    measured(0.05, 0.05, but="converged")
    assert "not testable (converged gate FAILED: conv002a" in tables.documents(ledger(claims.found()))
    assert "it could not be tested here. Converged gate FAILED" in tables.surprises(ledger(claims.found()))[0]
    measured(0.05, -0.05, attempt=2)
    assert "On the other side: delta .1, Fashion-MNIST" in tables.surprises(ledger(claims.found()))[0]


def test_what_has_no_answer_stands_with_its_reason():
    measured(0.05, 0.05, but="converged")
    (line,) = tables.unsettled(ledger(claims.found())).splitlines()[2:]
    assert "`002a.hmc.sim`" in line and "converged gate FAILED: conv002a" in line


def test_each_primary_cell_has_a_line_with_its_side():
    measured(0.05, -0.05, attempt=2)
    listed = tables.cells(ledger(claims.found())).splitlines()
    assert listed[0] == "| claim or question | cell | here [95 %] | on its own |"
    sides = {}
    for line in listed[2:]:
        name, cell, here, side = line.strip("| ").split(" | ")
        assert name == "`002a.hmc.sim`" and here.count("[") == 1
        sides[cell] = side
    assert sides["delta .1, MNIST"] == "as claimed" and sides["delta .1, Fashion-MNIST"] == "the other side"
    assert len(sides) == len(claims.find("002a.hmc.sim").cells)


def test_cells_of_a_failed_gate_are_not_told_apart_and_a_single_cell_has_no_line():
    measured(0.05, 0.05, but="converged")
    assert tables.cells(ledger(claims.found())).count("| not testable |") == 4
    single = replace(ledger([])[0], claim=claims.find("001.black-target"))
    assert tables.cells([single]) == ""


def test_what_hangs_on_how_runs_differ_is_listed_with_its_numbers():
    numbers = {"statistic": 0.3, "longer statistic": 0.35, "allowed": 0.025, "runs differ by": 0.0961}
    by_chance = gates.Gate("converged", "conv002a", True, numbers, ("002a.hmc.sim",))
    sure = replace(by_chance, numbers=numbers | {"longer statistic": 0.32})
    decided = replace(ledger([])[0], claim=claims.find("002a.hmc.sim"), verdict=rule.REPRODUCED)
    listed = tables.within_chance([replace(decided, gates=(by_chance, sure))]).splitlines()[2:]
    assert listed == ["| `002a.hmc.sim` | reproduced | 0.3 | 0.35 | 0.025 | 0.0961 |"]
    still_open = replace(decided, verdict=rule.INCONCLUSIVE, gates=(by_chance,))
    assert len(tables.within_chance([still_open]).splitlines()) == 2


def test_questions_are_answered():
    claim = claims.find("q.000.noise")
    base = replace(ledger([])[0], claim=claim)
    answers = {word: replace(base, verdict=word).answer for word in rule.VERDICTS}
    assert answers[rule.REPRODUCED] == "yes" and answers[rule.CONTRADICTED] == answers[rule.NO_EFFECT] == "no"
    assert answers[rule.INCONCLUSIVE] == "open" and answers[rule.MIXED] == "mixed"
    assert answers[rule.NOT_MEASURED] == rule.NOT_MEASURED


def test_the_summary_counts_each_claim_once():
    lines = tables.summary(ledger([])).splitlines()
    assert lines[0] == "| document | claims | not measured |"
    assert lines[-1] == "| all | 48 | 48 |"


def test_contradictions_surprise_most():
    measured(-0.05, -0.08)
    sentences = tables.surprises(ledger(claims.found()))
    assert len(sentences) == 1
    assert sentences[0].startswith("**HMC brings reconstructions back** (002a): not so here. MS-SSIM to the clean")


def test_of_mixed_claims_those_with_clear_halves_come_first():
    def mixed(name, claimed, other):
        cells = {"here": interval(*claimed), "there": interval(*other)}
        sides = {"claimed": ("here",), "other": ("there",), "why": "both"}
        return replace(ledger([])[0], claim=claims.find(name), verdict=rule.MIXED, cells=cells, **sides)

    faint = mixed("001.rank.fades", (0.1, 0.9), (-0.3, -0.1))
    clear = mixed("004.cifar-svhn", (0.5, 0.6), (-0.6, -0.5))
    first, second = tables.surprises([faint, clear])
    assert first.startswith("**A VAE on CIFAR-10") and second.startswith("**Differences between regularisers")


def test_a_sentence_that_is_read_otherwise_than_written_says_so():
    (line,) = [row for row in tables.documents(ledger([]), root="..").splitlines() if "003.target-likelihood" in row]
    assert "greater than 0. Read literally the sentence says the opposite" in line


def test_measures_that_part_surprise_as_one_mixed_claim():
    claim = claims.find("001.rank.mnist")
    run = begin()
    passed(run, "converged", "strong attack", "dose", claim=claim.id)
    for cell in claim.cells:  # larger SSIM is better, and smaller LPIPS
        base = noise(0.5, spread=0.01)[..., None] * np.ones(len(cell.radii))
        run.record(claim.id, cell.name, dict(zip(cell.arrays, (base + 0.1, base), strict=True)))
    (sentence,) = tables.surprises(ledger(claims.found()))
    assert "(001): so in some settings, not in others. SSIM 0.0999" in sentence
    assert "(reproduced); LPIPS -0.0999" in sentence and "(contradicted)" in sentence


def test_verify_computes_the_verdict_again_and_compares():
    measured(0.05, 0.08)
    published = files.runs_folder() / "claims.json"
    found = claims.found()
    files.write_json(published, [f.to_json() for f in ledger(found)])
    told, agrees = claims.verify(SIM, found, published)
    assert agrees and "delta .1, MNIST: 0.0" in told and "4 of 4 cells as claimed" in told
    listed = json.loads(published.read_text())
    for row in listed:
        if row["claim"] == SIM:
            row["pooled"]["effect"] += 0.01
    files.write_json(published, listed)
    told, agrees = claims.verify(SIM, found, published)
    assert not agrees and "DISAGREES" in told


def test_a_premise_that_fails_is_stored_and_the_claim_not_testable():
    claim = claims.find("001.small-change")
    for data, place in (("mnist", "MNIST"), ("fashion_mnist", "Fashion-MNIST")):
        run = begin(data)
        passed(run, "converged", "strong attack", "dose", claim=claim.id)
        for cell in claim.cells:
            if cell.data == data:
                change, ssim = cell.arrays
                flat = noise(0.9, spread=0.01)[..., None] * np.ones(len(cell.radii))
                with pytest.warns(
                    UserWarning, match=rf"cell '.*{place}' .* is stored, but says nothing: .*fall by 0\.1"
                ):
                    run.record(claim.id, cell.name, {change: flat, ssim: flat})
    found = finding(claim.id)
    assert found.verdict == rule.NOT_TESTABLE and "a fall by 0.1 expected" in found.why
    assert len(claims.found()[0].records) == 3


def test_a_formula_is_exact():
    run = start_run("07_diffusion", {"profile": "paper"}, data={"analytic": ""}, seeds=SEEDS)
    for cell in claims.find("002b.snr").cells:
        run.record("002b.snr", cell.name, {"SNR": np.array([[7.5]])})
    found = finding("002b.snr")
    assert found.verdict == rule.REPRODUCED and found.pooled.low == found.pooled.high == 7.5
