"""Forward-Forward training for PyTorch Lightning: no backprop between blocks.

Nothing is loaded before it is asked for: PyTorch and Lightning take seconds, which ``ff-lightning --help`` need not.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ff_lightning.blocks import Block as Block
    from ff_lightning.blocks import ClassBlock as ClassBlock
    from ff_lightning.blocks import ContrastiveBlock as ContrastiveBlock
    from ff_lightning.conversion import convert as convert
    from ff_lightning.errors import InputError as InputError
    from ff_lightning.module import FFLightningModule as FFLightningModule
    from ff_lightning.pretrained import load as load
    from ff_lightning.signals import Labelled as Labelled
    from ff_lightning.signals import LocalStep as LocalStep
    from ff_lightning.signals import Signal as Signal
    from ff_lightning.signals import StepContext as StepContext
    from ff_lightning.stacks import BlockStack as BlockStack
    from ff_lightning.stacks import Network as Network
    from ff_lightning.tasks import BackpropTwin as BackpropTwin
    from ff_lightning.tasks import FFAnomalyDetector as FFAnomalyDetector
    from ff_lightning.tasks import FFClassifier as FFClassifier
    from ff_lightning.tasks import FFLanguageModel as FFLanguageModel
    from ff_lightning.tasks import FFMultiLabel as FFMultiLabel
    from ff_lightning.tasks import FFPredictive as FFPredictive
    from ff_lightning.tasks import FFRegressor as FFRegressor
    from ff_lightning.tasks import FFRepresentation as FFRepresentation
    from ff_lightning.tasks import FFSelfContrast as FFSelfContrast
    from ff_lightning.tasks import FFSpikingClassifier as FFSpikingClassifier
    from ff_lightning.tasks import FFSpotter as FFSpotter

    __version__: str

_HOME_OF = {
    **dict.fromkeys(("Block", "ClassBlock", "ContrastiveBlock"), "blocks"),
    "convert": "conversion",
    "InputError": "errors",
    "FFLightningModule": "module",
    "load": "pretrained",
    **dict.fromkeys(("Labelled", "LocalStep", "Signal", "StepContext"), "signals"),
    **dict.fromkeys(("BlockStack", "Network"), "stacks"),
    **dict.fromkeys(("BackpropTwin", "FFClassifier", "FFLanguageModel", "FFPredictive", "FFRepresentation"), "tasks"),
    **dict.fromkeys(("FFSelfContrast", "FFSpikingClassifier", "FFSpotter"), "tasks"),
    **dict.fromkeys(("FFAnomalyDetector", "FFMultiLabel", "FFRegressor"), "tasks"),
}
"""Names of the front door, and the modules they live in. No module may have such a name: it would take its place."""

__all__ = list(_HOME_OF)

if not TYPE_CHECKING:  # a type checker would otherwise believe in any name

    def __getattr__(name: str) -> object:
        """Load a name of the front door, or a module of the package, when it is first asked for."""
        if name == "__version__":
            from importlib.metadata import version

            value = version("ff-lightning")
        elif name in _HOME_OF:
            value = getattr(_import_module(f"ff_lightning.{_HOME_OF[name]}"), name)
        else:
            value = _module(name)
        globals()[name] = value
        return value


def _module(name: str) -> object:
    """A module of the package, such as ``ff_lightning.networks`` after ``import ff_lightning`` alone."""
    full = f"ff_lightning.{name}"
    try:
        if not name.startswith("_"):
            return _import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
    raise AttributeError(f"module 'ff_lightning' has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    """What there is, loaded or not."""
    return sorted({*globals(), *__all__, "__version__"})
