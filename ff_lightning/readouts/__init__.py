"""How a prediction is taken from a stack trained by local losses."""

from ff_lightning.readouts.early_exit import EarlyExit as EarlyExit
from ff_lightning.readouts.goodness import Answer as Answer
from ff_lightning.readouts.goodness import ChosenBlocks as ChosenBlocks
from ff_lightning.readouts.goodness import GoodnessReadout as GoodnessReadout
from ff_lightning.readouts.goodness import LastBlock as LastBlock
from ff_lightning.readouts.goodness import MeanLogProbability as MeanLogProbability
from ff_lightning.readouts.goodness import Readout as Readout
from ff_lightning.readouts.goodness import all_labels as all_labels
from ff_lightning.readouts.goodness import label_goodness as label_goodness
from ff_lightning.readouts.goodness import swept as swept
from ff_lightning.readouts.linear import LinearReadout as LinearReadout
from ff_lightning.readouts.linear import NestedReadout as NestedReadout

__all__ = [
    "Answer",
    "ChosenBlocks",
    "EarlyExit",
    "GoodnessReadout",
    "LastBlock",
    "LinearReadout",
    "MeanLogProbability",
    "NestedReadout",
    "Readout",
    "all_labels",
    "label_goodness",
    "swept",
]
