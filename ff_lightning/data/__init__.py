"""Lightning data modules, and what they are made of."""

from ff_lightning.data.augment import ShiftAndFlip as ShiftAndFlip
from ff_lightning.data.images import ImageDataModule as ImageDataModule
from ff_lightning.data.loader import Images as Images
from ff_lightning.data.loader import MemoryLoader as MemoryLoader
from ff_lightning.data.loader import ShuffledLoader as ShuffledLoader
