"""The command line: ``ff-lightning``."""

from ff_lightning.cli.app import main as main

__all__ = ["main"]
