"""Tasks: final subclasses of :class:`~ff_lightning.FFLightningModule`."""

import ff_lightning.strategies  # noqa: F401  # so that Lightning knows them by name
from ff_lightning.tasks.anomaly import FFAnomalyDetector as FFAnomalyDetector
from ff_lightning.tasks.classifier import FFClassifier as FFClassifier
from ff_lightning.tasks.language import FFLanguageModel as FFLanguageModel
from ff_lightning.tasks.multi_label import FFMultiLabel as FFMultiLabel
from ff_lightning.tasks.predictive import FFPredictive as FFPredictive
from ff_lightning.tasks.regressor import FFRegressor as FFRegressor
from ff_lightning.tasks.representation import FFRepresentation as FFRepresentation
from ff_lightning.tasks.self_contrast import FFSelfContrast as FFSelfContrast
from ff_lightning.tasks.spiking import FFSpikingClassifier as FFSpikingClassifier
from ff_lightning.tasks.spotting import FFSpotter as FFSpotter
from ff_lightning.tasks.twin import BackpropTwin as BackpropTwin

__all__ = [
    "BackpropTwin",
    "FFAnomalyDetector",
    "FFClassifier",
    "FFLanguageModel",
    "FFMultiLabel",
    "FFPredictive",
    "FFRegressor",
    "FFRepresentation",
    "FFSelfContrast",
    "FFSpikingClassifier",
    "FFSpotter",
]
