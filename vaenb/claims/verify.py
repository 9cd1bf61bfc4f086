"""Computing a claim's verdict again from the stored arrays, with every step shown."""

from collections.abc import Sequence
from pathlib import Path

from vaenb import files
from vaenb.claims import book
from vaenb.claims.evidence import Run
from vaenb.claims.verdicts import Finding, judged


def verify(claim_id: str, runs: Sequence[Run], published: Path | None = None) -> tuple[str, bool]:
    """Judge a claim anew and say how, and whether the list `published` (figures/claims.json) says the same.

    Without a list, or where it does not name the claim, there is nothing to disagree with. Raises ValueError for an
    unknown claim or a damaged list.
    """
    claim = book.find(claim_id)
    lines = [claim.statement, f"{claim.statistic}: claimed to be {claim.bounded}, margin {claim.margin:g}"]
    listed = _listed(published)
    agrees = True
    for finding in judged(claim, runs):
        lines += ["", *_steps(finding)]
        before = listed.get((claim.id, finding.measure))
        if before and not _same(before, finding.to_json()):
            agrees = False
            lines.append(f"DISAGREES with {published}: {before['verdict']}, {before['pooled']}")
        elif before:
            lines.append(f"agrees with {published}")
    return "\n".join(lines), agrees


def _steps(finding: Finding) -> list[str]:
    lines = [f"{finding.measure}: {finding.verdict}" + (f" ({finding.why})" if finding.why else "")]
    for gate in finding.gates:
        lines.append(f"  {gate}")
    for name, cell in finding.cells.items():
        side = finding.side(name)
        counts = [f"{cell.runs} training runs"] if cell.runs else []
        counts += [f"{cell.n} {finding.claim.cell(name).sampled}"] if cell.n else []
        lines.append(f"  {name}: {cell} ({', '.join(counts) or 'exact'}): {side}")
    if finding.pooled:
        df = f", {finding.pooled.df:.1f} degrees of freedom" if finding.pooled.df else ""
        lines.append(f"  pooled: {finding.pooled}{df}; {len(finding.claimed)} of {finding.total} cells as claimed")
    return lines


def _listed(published: Path | None) -> dict[tuple[str, str], dict]:
    if published is None or not published.is_file():
        return {}
    rows = files.read_json(published, list)
    return {(row["claim"], row["measure"]): row for row in rows if row["verdict"] and "pooled" in row}


def _same(before: dict, now: dict) -> bool:
    """Whether verdict and pooled interval agree, the latter as far as different processors do."""
    if before["verdict"] != now["verdict"] or bool(before["pooled"]) != bool(now["pooled"]):
        return False
    for name in ("effect", "low", "high") if now["pooled"] else ():
        if abs(before["pooled"][name] - now["pooled"][name]) > 1e-6 * (1 + abs(now["pooled"][name])):
            return False
    return True
