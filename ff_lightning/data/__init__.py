"""Lightning data modules, and what they are made of."""

from ff_lightning.data.audio import AudioDataModule as AudioDataModule
from ff_lightning.data.augment import Distort as Distort
from ff_lightning.data.augment import ShiftAndFlip as ShiftAndFlip
from ff_lightning.data.events import EventDataModule as EventDataModule
from ff_lightning.data.images import ImageDataModule as ImageDataModule
from ff_lightning.data.loader import Images as Images
from ff_lightning.data.loader import MemoryLoader as MemoryLoader
from ff_lightning.data.loader import ShuffledLoader as ShuffledLoader
from ff_lightning.data.sound_augment import SoundAugment as SoundAugment
from ff_lightning.data.spectrograms import LogMel as LogMel
from ff_lightning.data.spotting import SpottingDataModule as SpottingDataModule
from ff_lightning.data.streams import Strung as Strung
from ff_lightning.data.strings import StringsDataModule as StringsDataModule
from ff_lightning.data.table_module import TableDataModule as TableDataModule
from ff_lightning.data.text import TextDataModule as TextDataModule
from ff_lightning.data.tokenizers import ByteTokenizer as ByteTokenizer
from ff_lightning.data.tokenizers import CharacterTokenizer as CharacterTokenizer
from ff_lightning.data.tokenizers import SubwordTokenizer as SubwordTokenizer
from ff_lightning.data.tokenizers import TiktokenTokenizer as TiktokenTokenizer
from ff_lightning.data.tokenizers import Tokenizer as Tokenizer
from ff_lightning.data.windows import OrderedWindows as OrderedWindows
from ff_lightning.data.windows import RandomWindows as RandomWindows

__all__ = [
    "AudioDataModule",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Distort",
    "EventDataModule",
    "ImageDataModule",
    "Images",
    "LogMel",
    "MemoryLoader",
    "OrderedWindows",
    "RandomWindows",
    "ShiftAndFlip",
    "ShuffledLoader",
    "SoundAugment",
    "SpottingDataModule",
    "StringsDataModule",
    "Strung",
    "SubwordTokenizer",
    "TableDataModule",
    "TextDataModule",
    "TiktokenTokenizer",
    "Tokenizer",
]
