"""Lightning strategies for what the stock ones cannot do."""

from ff_lightning.strategies.layer_parallel import LayerParallelStrategy as LayerParallelStrategy
