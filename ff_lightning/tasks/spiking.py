"""Event-driven Forward-Forward for spiking networks."""

from __future__ import annotations

from typing import Any

from ff_lightning.errors import InputError
from ff_lightning.networks.spiking import SpikingMLP
from ff_lightning.tasks.classifier import FFClassifier


class FFSpikingClassifier(FFClassifier):
    """Classifier of spiking units that learn at every time step (Ororbia 2023, arXiv 2303.18187). Tier T1.

    Right and wrong labels are the context of all layers; a batch gives every block one update a time step. The
    prediction is the label with the highest goodness, added up over time and blocks, or that of a readout which sees
    firing rates without a label (:class:`~ff_lightning.readouts.LinearReadout`, one pass for all labels). The
    optimizer moves at every time step, its scheduler and ``global_step`` once a batch.

    Its twin, trained by surrogate gradients through time, is :class:`~ff_lightning.BackpropTwin` of the same network.

    Args:
        network: the spiking network.
        **kwargs: see :class:`~ff_lightning.FFClassifier`.

    Raises:
        InputError: the network does not spike.
    """

    def __init__(self, network: SpikingMLP, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        if not isinstance(network, SpikingMLP):
            raise InputError(
                f"Passed `network={type(network).__name__}`. An `FFSpikingClassifier` trains a spiking network: pass a "
                "`SpikingMLP`."
            )
