"""The standard audit of any LatentModel, and its page."""

from vaenb.audit.page import audit_page
from vaenb.audit.report import Report, audit

__all__ = ["Report", "audit", "audit_page"]
