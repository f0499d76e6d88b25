"""Forward-Forward training for PyTorch Lightning: no backprop between blocks."""

from importlib.metadata import version as _version

from ff_lightning.blocks import Block as Block
from ff_lightning.blocks import ClassBlock as ClassBlock
from ff_lightning.blocks import ContrastiveBlock as ContrastiveBlock
from ff_lightning.convert import convert as convert
from ff_lightning.errors import InputError as InputError
from ff_lightning.module import FFLightningModule as FFLightningModule
from ff_lightning.signals import Labelled as Labelled
from ff_lightning.signals import LocalStep as LocalStep
from ff_lightning.signals import Signal as Signal
from ff_lightning.stacks import BlockStack as BlockStack
from ff_lightning.tasks import BackpropTwin as BackpropTwin
from ff_lightning.tasks import FFClassifier as FFClassifier
from ff_lightning.tasks import FFLanguageModel as FFLanguageModel
from ff_lightning.tasks import FFPredictive as FFPredictive
from ff_lightning.tasks import FFRepresentation as FFRepresentation
from ff_lightning.tasks import FFSelfContrast as FFSelfContrast
from ff_lightning.tasks import FFSpikingClassifier as FFSpikingClassifier
from ff_lightning.tasks import FFSpotter as FFSpotter
from ff_lightning.tasks import LanguageTwin as LanguageTwin

__version__ = _version("ff-lightning")
