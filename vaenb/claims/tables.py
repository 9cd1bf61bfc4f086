"""The ledger in words: a table of the documents' claims, one of our questions, the counts, and what surprises most."""

import math
from collections import Counter
from collections.abc import Sequence

from vaenb.claims import rule
from vaenb.claims.book import Claim
from vaenb.claims.verdicts import Finding
from vaenb.stats import Estimate

# what a reader would least expect comes first
_SURPRISE = (
    rule.CONTRADICTED,
    rule.MIXED,
    rule.NO_EFFECT,
    rule.SMALL,
    rule.INCONCLUSIVE,
    rule.REPRODUCED,
    rule.NOT_TESTABLE,
)
_SAYS = {
    rule.CONTRADICTED: "not so here",
    rule.MIXED: "so in some settings, not in others",
    rule.NO_EFFECT: "there is no effect that matters",
    rule.NOT_TESTABLE: "it could not be tested here",
    rule.SMALL: "it replicates, but the effect is small",
    rule.INCONCLUSIVE: "still open",
    rule.REPRODUCED: "it replicates",
}
LEGEND = (
    "*Here*: the mean over training runs and test images, pooled over the claim's primary cells, with its 95 % "
    "interval. *k of n*: primary cells that lie on the claimed side of the bound on their own, after Holm's "
    "correction. Where the truth lies at the bound, each side has a 2.5 % chance of a false verdict. A claim in "
    "several units of measure has a line for each, and holds where all do; where they part, it counts once, as mixed."
)


def documents(findings: Sequence[Finding], *, root: str = "") -> str:
    """Lay out the documents' claims as a Markdown table; notebooks are linked in the folder `root` (none without)."""
    lines = [["claim", "document", "here [95 %]", "verdict", "k of n"]]
    for finding in findings:
        if finding.claim.role == "claim":
            lines.append([_statement(finding, root), _document(finding), *_found(finding)])
    return _table(lines)


def questions(findings: Sequence[Finding], *, root: str = "") -> str:
    """Lay out our own questions as a Markdown table, never counted under a document."""
    lines = [["question", "here [95 %]", "answer", "k of n"]]
    for finding in findings:
        if finding.claim.role == "question":
            lines.append([_statement(finding, root), *_found(finding)])
    return _table(lines)


def unsettled(findings: Sequence[Finding], *, root: str = "") -> str:
    """Lay out what was measured and has no answer: which gate failed, or what would settle it, as a Markdown table."""
    lines = [["claim or question", "measured, not judged [95 %]", "why"]]
    for finding in findings:
        if finding.verdict in (rule.INCONCLUSIVE, rule.NOT_TESTABLE):
            lines.append([_statement(finding, root), str(finding.pooled or "–"), finding.why])
    return _table(lines)


def cells(findings: Sequence[Finding]) -> str:
    """Lay out the primary cells of claims that have several, each with its own interval, as a Markdown table."""
    lines = [["claim or question", "cell", "here [95 %]", "on its own"]]
    for finding in findings:
        if finding.total == 1:
            continue
        for name, estimate in finding.cells.items():
            lines.append([finding.named(f"`{finding.claim.id}`"), name, str(estimate), _side(finding, name)])
    return _table(lines) if len(lines) > 1 else ""


def _side(finding: Finding, cell: str) -> str:
    """What a cell says on its own; nothing, where its claim has no verdict."""
    if finding.verdict in (rule.NOT_TESTABLE, rule.NOT_MEASURED, rule.NO_VERDICT):
        return finding.verdict
    return finding.side(cell)


def within_chance(findings: Sequence[Finding]) -> str:
    """Lay out the verdicts that hang on how runs of one length differ, a line for each such gate, as Markdown."""
    lines = [["claim or question", "verdict", "the runs' mean", "a longer run", "half the margin", "runs differ by"]]
    for finding in findings:
        if finding.verdict in rule.DECIDED:
            name = finding.named(f"`{finding.claim.id}`")
            for gate in finding.gates:
                if gate.within_chance:
                    told = [gate.numbers[key] for key in ("statistic", "longer statistic", "allowed", "runs differ by")]
                    lines.append([name, finding.answer, *(f"{number:.3g}" for number in told)])
    return _table(lines)


def plain(findings: Sequence[Finding]) -> str:
    """Lay findings out for a terminal: by id, with padded columns."""
    lines = [["claim", "document", "here [95 %]", "verdict", "k of n"]]
    for finding in findings:
        name = finding.named(finding.claim.id)
        lines.append([name, _document(finding), *_found(finding)])
    return _table(lines, padded=True)


def measurements(rows: Sequence[dict]) -> str:
    """Lay out what `measured` gives of one run, for a terminal."""
    lines = [["claim", "cell", "here [95 %]", "in", "role"]]
    for row in rows:
        estimate = Estimate(row["effect"], row["low"], row["high"])
        lines.append([row["claim"], row["cell"], str(estimate), row["measure"], row["role"]])
    return _table(lines, padded=True)


def summary(findings: Sequence[Finding]) -> str:
    """Count the claims of each document by verdict, as a Markdown table; a claim in two measures counts once."""
    verdicts = by_claim(findings)
    documents: dict[str, Counter] = {}
    for finding in findings:
        if finding.claim.role == "claim":
            documents.setdefault(finding.claim.document, Counter())
    for (claim_id, document), verdict in verdicts.items():
        if not claim_id.startswith("q."):
            documents[document][verdict] += 1
    total: Counter = sum(documents.values(), Counter())
    heads = [verdict for verdict in reversed(rule.VERDICTS) if total[verdict]]
    lines = [["document", "claims", *heads]]
    for document, counts in [*documents.items(), ("all", total)]:
        lines.append([document, str(counts.total()), *(str(counts[verdict] or "") for verdict in heads)])
    return _table(lines)


def by_claim(findings: Sequence[Finding]) -> dict[tuple[str, str], str]:
    """Give each claim's verdict over its measures, by id and document."""
    found: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        found.setdefault((finding.claim.id, finding.claim.document), []).append(finding.verdict)
    return {key: rule.overall(verdicts) for key, verdicts in found.items()}


def surprises(findings: Sequence[Finding]) -> list[str]:
    """Say the five most surprising verdicts on documents' claims in words, one Markdown sentence or two each."""
    verdicts = by_claim(findings)
    judged: dict[str, list[Finding]] = {}  # of a claim its measures
    for finding in findings:
        if finding.claim.role == "claim" and verdicts[finding.claim.id, finding.claim.document] in _SURPRISE:
            judged.setdefault(finding.claim.id, []).append(finding)

    def rank(measures: list[Finding]) -> tuple[int, bool, float]:
        claim = measures[0].claim
        as_large = all(finding.size in ("", "as large", "not comparable") for finding in measures)
        return _SURPRISE.index(verdicts[claim.id, claim.document]), as_large, -max(map(_contrast, measures))

    sentences = []
    for measures in sorted(judged.values(), key=rank)[:5]:
        claim = measures[0].claim
        verdict = verdicts[claim.id, claim.document]
        statement = f"**{_capital(claim.statement)}** ({claim.document})"
        sentences.append(f"{statement}: {_SAYS[verdict]}. {_capital(_evidence(measures, verdict))}.{_caution(claim)}")
    return sentences


def _contrast(finding: Finding) -> float:
    """How clear both halves of a mixed verdict are: the lengths of their own intervals that cells lie off the bound."""
    sides = []
    for names in (finding.claimed, finding.other):
        clearest = 0.0
        for cell in (finding.cells[name] for name in names):
            length = cell.high - cell.low
            off = abs(cell.effect - finding.claim.bound)
            clearest = max(clearest, off / length if length else math.inf)
        sides.append(clearest)
    return min(sides)


def _caution(claim: Claim) -> str:
    """Where we read the document's sentence otherwise than it is written, that we do, and why."""
    return f" {_capital(claim.note)}." if claim.note.startswith("read literally") else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _evidence(measures: list[Finding], verdict: str) -> str:
    """What a claim's verdict rests on: the number of the measure that has it, or what parts the measures."""
    decided = [finding for finding in measures if finding.verdict == verdict]
    if not decided:
        return "; ".join(f"{finding.measure} {finding.pooled} ({finding.verdict})" for finding in measures)
    finding = decided[0]
    if verdict in (rule.NOT_TESTABLE, rule.MIXED):
        return finding.why
    published = "" if finding.published is None else f", and {finding.published:.3g} in the document"
    return f"{finding.claim.statistic} is {finding.pooled}{published}"


def _document(finding: Finding) -> str:
    """The document's number: the mean over its cells, as ours is."""
    published = finding.published
    return "–" if published is None else f"{published:.3g}"


def _found(finding: Finding) -> list[str]:
    """The last columns: our number, the verdict, and k of n."""
    if finding.pooled is None or finding.verdict == rule.NOT_TESTABLE:
        here = count = "–"
    else:
        here = f"{finding.pooled}" + (f" ({finding.size})" if finding.size else "")
        count = f"{len(finding.claimed)} of {finding.total}"
    verdict = finding.answer + (f" ({finding.why})" if finding.why else "")
    return [here, verdict, count]


def _statement(finding: Finding, root: str) -> str:
    """The claim in words and its id; with `root`, where there is room, also its notebook and what the number is."""
    text = finding.named(finding.claim.statement)
    if root and finding.notebooks:
        text = f"[{text}]({root}/{finding.notebooks[0]}.ipynb)"
    if not root:
        return f"{text} `{finding.claim.id}`"
    claim = finding.claim
    return f"{text} `{claim.id}`<br>{claim.statistic}: {claim.bounded}.{_caution(claim)}"


def _table(lines: list[list[str]], *, padded: bool = False) -> str:
    escaped = []
    for line in lines:
        escaped.append([" ".join(text.splitlines()).replace("|", "\\|") for text in line])
    widths = [max(map(len, column)) if padded else 0 for column in zip(*escaped, strict=True)]
    rows = []
    for line in escaped:
        rows.append("| " + " | ".join(map(str.ljust, line, widths)) + " |")
    rows.insert(1, "|" + "|".join("-" * max(width + 2, 3) for width in widths) + "|")
    return "\n".join(rows)
