"""Callbacks: what is shown and kept of a run. Nothing in training depends on them."""

from ff_lightning.callbacks.checkpoints import BestCheckpoint as BestCheckpoint
from ff_lightning.callbacks.checkpoints import LastCheckpoint as LastCheckpoint
from ff_lightning.callbacks.pictures import ClassificationPictures as ClassificationPictures
from ff_lightning.callbacks.table import BlockTable as BlockTable
