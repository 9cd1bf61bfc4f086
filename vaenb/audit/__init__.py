"""The standard audit of any LatentModel: measures, words, reference models, a page."""

from vaenb.audit.adapters import from_diffusers, from_pythae, wrap
from vaenb.audit.budget import BUDGETS, Budget
from vaenb.audit.report import AuditFailed, AuditInterrupted, Measure, Report
from vaenb.audit.run import audit
from vaenb.audit.verdicts import verdicts

__all__ = [
    "BUDGETS",
    "AuditFailed",
    "AuditInterrupted",
    "Budget",
    "Measure",
    "Report",
    "audit",
    "from_diffusers",
    "from_pythae",
    "verdicts",
    "wrap",
]
