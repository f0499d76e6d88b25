"""One HTML page about runs, made from what their folders hold; nothing else is read, and nothing is loaded from it."""

from ff_lightning.report.page import write_report as write_report

__all__ = ["write_report"]
