"""The claims, their frozen primary cells, what was measured, and the verdicts computed from both (docs/results.md)."""

from vaenb.claims import gates, rule, tables
from vaenb.claims.book import Cell, Claim, find, images, load
from vaenb.claims.evidence import UNFINISHED, Run, digest, found, parameters, read, start_run
from vaenb.claims.gates import Gate
from vaenb.claims.verdicts import Finding, judged, ledger, measured, recorded
from vaenb.claims.verify import verify

__all__ = [
    "UNFINISHED",
    "Cell",
    "Claim",
    "Finding",
    "Gate",
    "Run",
    "digest",
    "find",
    "found",
    "gates",
    "images",
    "judged",
    "ledger",
    "load",
    "measured",
    "parameters",
    "read",
    "recorded",
    "rule",
    "start_run",
    "tables",
    "verify",
]
