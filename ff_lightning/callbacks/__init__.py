"""Callbacks: what is shown and kept of a run. Nothing in training depends on them."""

from ff_lightning.callbacks.checkpoints import BestCheckpoint as BestCheckpoint
from ff_lightning.callbacks.checkpoints import LastCheckpoint as LastCheckpoint
from ff_lightning.callbacks.classes import ClassTable as ClassTable
from ff_lightning.callbacks.collapse import StopOnCollapse as StopOnCollapse
from ff_lightning.callbacks.generated import GeneratedPictures as GeneratedPictures
from ff_lightning.callbacks.interrupt import KeepOnInterrupt as KeepOnInterrupt
from ff_lightning.callbacks.language_table import LanguageTable as LanguageTable
from ff_lightning.callbacks.locality import LocalityMonitor as LocalityMonitor
from ff_lightning.callbacks.monitor import GoodnessMonitor as GoodnessMonitor
from ff_lightning.callbacks.monitored import MonitorCheck as MonitorCheck
from ff_lightning.callbacks.pictures import BlockPictures as BlockPictures
from ff_lightning.callbacks.pictures import ClassificationPictures as ClassificationPictures
from ff_lightning.callbacks.progress import TrainingProgress as TrainingProgress
from ff_lightning.callbacks.record import RunRecord as RunRecord
from ff_lightning.callbacks.sample_text import SampleText as SampleText
from ff_lightning.callbacks.sounds import SoundPictures as SoundPictures
from ff_lightning.callbacks.summary import BlockSummary as BlockSummary
from ff_lightning.callbacks.table import BlockTable as BlockTable

__all__ = [
    "BestCheckpoint",
    "BlockPictures",
    "BlockSummary",
    "BlockTable",
    "ClassTable",
    "ClassificationPictures",
    "GeneratedPictures",
    "GoodnessMonitor",
    "KeepOnInterrupt",
    "LanguageTable",
    "LastCheckpoint",
    "LocalityMonitor",
    "MonitorCheck",
    "RunRecord",
    "SampleText",
    "SoundPictures",
    "StopOnCollapse",
    "TrainingProgress",
]
