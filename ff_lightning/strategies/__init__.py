"""Lightning strategies for what the stock ones cannot do.

Importing them enters them into Lightning's registry: ``Trainer(strategy="layer_parallel", devices=2)``. Every task of
this package imports them.
"""

from lightning.pytorch.strategies import StrategyRegistry

from ff_lightning.strategies.layer_parallel import LayerParallelStrategy as LayerParallelStrategy

StrategyRegistry.register("layer_parallel", LayerParallelStrategy, LayerParallelStrategy.__doc__, override=True)

__all__ = ["LayerParallelStrategy"]
