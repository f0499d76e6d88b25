"""How the predictions of the blocks of a language model belong together."""

from __future__ import annotations

from ff_lightning.parts import Part


class Combination(Part):
    """What a block predicts from, and how a model predicts with all of its blocks.

    Attributes:
        residual: whether a block corrects the prediction of the block below.
        average: whether a prediction is the mean of what the blocks say.
        inherit: whether blocks above the first are read by its readout.
    """

    residual: bool = False
    average: bool = False
    inherit: bool = False


class Independent(Combination):
    """Every block predicts the next token by itself, from how often tokens occur.

    Args:
        average: predict with the mean of what the blocks say, as Hinton adds the goodness of layers (2212.13345,
            section 3.3), instead of with the last one alone. It changes no training.
        inherit: blocks above the first are read with a constant copy of its readout instead of their own.
    """

    def __init__(self, *, average: bool = False, inherit: bool = False) -> None:
        self.average = average
        self.inherit = inherit


class Residual(Combination):
    """Every block corrects the prediction of the block below; the last one's prediction is that of all of them."""

    residual = True
