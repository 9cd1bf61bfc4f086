"""The ledger: what became of every claim, computed from the stored arrays and from nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vaenb.checks import NotDefined
from vaenb.claims import book, rule
from vaenb.claims.book import Cell, Claim
from vaenb.claims.evidence import Record, Run
from vaenb.claims.gates import Gate
from vaenb.claims.statistics import evaluate
from vaenb.stats import Estimate, Values, needed, pooled
from vaenb.zoo import FIRST_SEED

Source = tuple[Run, Record]


@dataclass(frozen=True)
class Finding:
    """What became of a claim in one unit of measure.

    `pooled` is the interval that decides, `cells` holds one for each primary cell, of which those named in `claimed`
    lie on the claimed side of the bound and those in `other` on the other. `why` says what is missing, which gate
    failed, or what would settle an open verdict.
    """

    claim: Claim
    measure: str
    verdict: str
    why: str = ""
    pooled: Estimate | None = None
    cells: dict[str, Estimate] = field(default_factory=dict)
    claimed: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def total(self) -> int:
        """How many primary cells there are in this measure."""
        return sum(cell.measure == self.measure for cell in self.claim.cells)

    @property
    def published(self) -> float | None:
        """The mean of the document's numbers, where it prints one for every cell of this measure."""
        numbers = [cell.published for cell in self.claim.cells if cell.measure == self.measure]
        known = [number for number in numbers if number is not None]
        return sum(known) / len(known) if len(known) == len(numbers) else None

    @property
    def size(self) -> str:
        """Our number beside the document's: "as large", "smaller", "larger", "opposite" or "not comparable"."""
        if self.pooled is None or self.claim.role == "question":
            return ""
        return rule.size(self.pooled, self.published, self.claim.note)

    @property
    def answer(self) -> str:
        """The verdict, as one answers a question: "yes", "no", "mixed", "open"; else why there is none."""
        if self.claim.role == "question":
            return rule.ANSWERS.get(self.verdict, self.verdict)
        return self.verdict

    def named(self, text: str) -> str:
        """The text with the unit of measure behind it, where the claim has several."""
        return f"{text} ({self.measure})" if len(self.claim.measures) > 1 else text

    def side(self, cell: str) -> str:
        """On which side of the claim's bound a cell lies, where it is sure."""
        if cell in self.claimed:
            return "yes" if self.claim.role == "question" else "as claimed"
        if cell in self.other:
            return "no" if self.claim.role == "question" else "the other side"
        return "open"

    def to_json(self) -> dict:
        """Give plain values, as figures/claims.json holds them."""
        return {
            "claim": self.claim.id,
            "measure": self.measure,
            "verdict": self.verdict,
            "why": self.why,
            "pooled": _numbers(self.pooled) if self.pooled else None,
            "cells": {name: _numbers(estimate) for name, estimate in self.cells.items()},
            "claimed": list(self.claimed),
            "other": list(self.other),
            "total": self.total,
            "size": self.size,
            "notebooks": list(self.notebooks),
        }


def ledger(runs: Iterable[Run]) -> list[Finding]:
    """Judge every claim by these runs, the oldest first: one finding for each claim and unit of measure.

    Of each data set one run counts for a claim: of the paper profile before quick, then the one with most of its
    cells, then one with enough training runs, then the newest.
    """
    runs = list(runs)
    findings = []
    for claim in book.load().values():
        findings += judged(claim, runs)
    return findings


def judged(claim: Claim, runs: Sequence[Run]) -> list[Finding]:
    """Judge one claim: the first that applies of missing data, a failed gate, too few training runs, and the rule."""
    sources = _sources(claim, runs)
    values, undefined = _values(claim, sources)
    estimates = {}
    for name, parts in values.items():
        estimates[name] = pooled(_groups([parts]), cells=1)
    claimed, other = rule.sides(claim, list(estimates.values()))
    findings = []
    for measure in claim.measures:
        cells = [cell for cell in claim.cells if cell.measure == measure]
        names = [cell.name for cell in cells if cell.name in estimates]
        groups = _groups([values[name] for name in names])
        whole = len(names) == len(cells) and _alike(groups)
        used = _runs_of(cells, sources)
        finding = Finding(
            claim=claim,
            measure=measure,
            verdict=rule.NOT_MEASURED,
            pooled=pooled(groups, cells=len(cells)) if whole else None,
            cells={name: estimates[name] for name in names},
            claimed=_named(names, estimates, claimed),
            other=_named(names, estimates, other),
            notebooks=tuple(sorted({run.notebook for run in used})),
            gates=_gates_of(claim, cells, used),
        )
        why_not = _unjudged(finding, cells, sources, undefined)
        verdict, why = why_not or _verdict(finding, groups)
        findings.append(replace(finding, verdict=verdict, why=why))
    return findings


def _values(
    claim: Claim, sources: dict[tuple[str, str], Source]
) -> tuple[dict[str, dict[str, Values]], dict[str, str]]:
    """The signed values of each measured cell by data set; and why there are none where a statistic is not defined."""
    values, undefined = {}, {}
    for cell in claim.cells:
        if all((cell.name, data) in sources for data in cell.parts):
            try:
                values[cell.name] = _parts(cell, sources)
            except NotDefined as reason:
                undefined[cell.name] = f"{cell.name}: {reason}"
    return values, undefined


def _alike(groups: Sequence[Sequence[Values]]) -> bool:
    """Whether the cells of each data set have the same runs and images, as those of quick runs need not."""
    return all(len({values.array.shape for values in group}) == 1 for group in groups)


def _runs_of(cells: Sequence[Cell], sources: dict[tuple[str, str], Source]) -> list[Run]:
    """The runs that measured these cells, each once."""
    used = {}
    for cell in cells:
        for data in cell.parts:
            if (cell.name, data) in sources:
                run, _ = sources[cell.name, data]
                used[run.folder] = run
    return list(used.values())


def _gates_of(claim: Claim, cells: Sequence[Cell], runs: Sequence[Run]) -> tuple[Gate, ...]:
    """The runs' gates of any of these cells."""
    found = []
    for run in runs:
        for gate in run.gates:
            if any(gate.covers(claim.id, cell.name) for cell in cells):
                found.append(gate)
    return tuple(found)


def _named(names: Sequence[str], estimates: dict[str, Estimate], chosen: Sequence[bool]) -> tuple[str, ...]:
    """Those of the names that were chosen among all estimates."""
    yes = [name for name, is_chosen in zip(estimates, chosen, strict=True) if is_chosen]
    return tuple(name for name in names if name in yes)


def recorded(claim_id: str, data: str, runs: Sequence[Run]) -> dict[str, Record]:
    """The records, by cell, of the paper run that counts for a claim on a data set, probes too; none: {}."""
    counting = set()
    for (_, of_data), (run, _) in _sources(book.find(claim_id), runs).items():
        if of_data == data and run.profile == "paper":
            counting.add(run.folder)
    found = {}
    for run in runs:
        for record in run.records:
            if run.folder in counting and record.claim == claim_id and record.data == data:
                found[record.cell] = record
    return found


def measured(run: Run) -> list[dict]:
    """Give one flat row for every record of a run, probes too: what was measured, with its interval, no verdict.

    Where a statistic is not defined there is no row.
    """
    rows = []
    for record in run.records:
        try:
            values = evaluate(record.statistic, record.arrays, levels=record.levels, radii=record.radii)
        except NotDefined:
            continue
        estimate = pooled([[values]])
        row: dict = {"claim": record.claim, "cell": record.cell, "role": record.role, "measure": record.measure}
        row |= {"effect": estimate.effect, "low": estimate.low, "high": estimate.high}
        row |= {"n": estimate.n, "data": record.data, "profile": run.profile, "notebook": run.notebook}
        rows.append(row | {"seeds": " ".join(map(str, run.seeds))})
    return rows


def _sources(claim: Claim, runs: Sequence[Run]) -> dict[tuple[str, str], Source]:
    """The record that counts for each primary cell and data set of it; all of a data set are of one run."""
    wanted: dict[str, set[str]] = {}
    for cell in claim.cells:
        for data in cell.parts:
            wanted.setdefault(data, set()).add(cell.name)
    enough = max((cell.runs for cell in claim.cells), default=0)
    sources: dict[tuple[str, str], Source] = {}
    for data, names in wanted.items():
        best: tuple[bool, int, bool, int] | None = None
        for age, run in enumerate(runs):
            held = {}
            for record in run.records:
                if record.claim == claim.id and record.role == "primary" and record.data == data:
                    held[record.cell] = record
            enough_runs = len(set(run.seeds)) >= enough
            rank = (run.profile == "paper", len(held.keys() & names), enough_runs, age)
            if held and (best is None or rank > best):
                best = rank
                chosen = {(name, data): (run, record) for name, record in held.items()}
        if best is not None:
            sources |= chosen
    return sources


def _parts(cell: Cell, sources: dict[tuple[str, str], Source]) -> dict[str, Values]:
    """A cell's values of each data set that it is measured on, with the sign that they enter with."""
    parts = {}
    for data, sign in cell.parts.items():
        record = sources[cell.name, data][1]
        values = evaluate(cell.statistic, record.arrays, levels=cell.levels, radii=record.radii)
        parts[data] = values if sign > 0 else -values
    return parts


def _groups(cells: Sequence[dict[str, Values]]) -> list[list[Values]]:
    """Group the cells' values by data set, whose images and training runs they share."""
    groups: dict[str, list[Values]] = {}
    for parts in cells:
        for data, values in parts.items():
            groups.setdefault(data, []).append(values)
    return list(groups.values())


def _unjudged(
    finding: Finding, cells: Sequence[Cell], sources: dict[tuple[str, str], Source], undefined: dict[str, str]
) -> tuple[str, str] | None:
    """Why a claim can't be judged in these cells, if so: the word and the reason."""
    needs = [(cell, data) for cell in cells for data in cell.parts]
    missing = []
    for cell, data in needs:
        if (cell.name, data) not in sources:
            missing.append(cell.name if data == cell.data else f"{cell.name} on {data}")
    if missing:
        why = f"missing: {'; '.join(missing)}" if len(missing) < len(needs) else ""
        return rule.NOT_MEASURED, why
    obstacles = [gate.failure for gate in finding.gates if not gate.passed]
    obstacles += [undefined[cell.name] for cell in cells if cell.name in undefined]
    if obstacles:
        return rule.NOT_TESTABLE, "; ".join(obstacles)
    for cell, data in needs:
        run, _ = sources[cell.name, data]
        if run.profile == "quick":
            return rule.NO_VERDICT, "quick profile"
        if cell.runs and len(set(run.seeds)) < cell.runs:
            return rule.NO_VERDICT, f"{len(set(run.seeds))} training runs of {cell.runs} ({cell.name})"
        if cell.runs and min(run.seeds) < FIRST_SEED:
            return rule.NO_VERDICT, f"seed {min(run.seeds)}: those that count begin at {FIRST_SEED}"
        for kind in cell.gates:
            if not any(gate.kind == kind and gate.covers(cell.claim, cell.name) for gate in run.gates):
                return rule.NO_VERDICT, f"no {kind} gate was recorded on {data} ({cell.name})"
    return None


def _verdict(finding: Finding, groups: list[list[Values]]) -> tuple[str, str]:
    """Apply the rule to one measure whose cells are all there."""
    assert finding.pooled
    if finding.claimed and finding.other:
        why = f"as claimed: {'; '.join(finding.claimed)}. On the other side: {'; '.join(finding.other)}"
        return rule.MIXED, why
    verdict = rule.judge(finding.claim, finding.pooled)
    if verdict != rule.INCONCLUSIVE:
        return verdict, ""
    design = needed(groups, rule.edges(finding.claim, finding.pooled), cells=finding.total)
    why = f"{design} might settle it" if design else "no affordable number of runs and images would settle it"
    return verdict, why.replace("images", finding.claim.cells[0].sampled)


def _numbers(estimate: Estimate) -> dict[str, float | int | None]:
    return {name: getattr(estimate, name) for name in ("effect", "low", "high", "error", "df", "n", "runs")}
