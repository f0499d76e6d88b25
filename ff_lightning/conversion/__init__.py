"""Any model as a stack of blocks, each trained by a local loss of its own: ``ff_lightning.convert(model)``."""

from ff_lightning.conversion.stack import ConvertedStack as ConvertedStack
from ff_lightning.conversion.stack import convert as convert

__all__ = ["ConvertedStack", "convert"]
