"""Networks: stacks assembled from blocks; no training code."""

from ff_lightning.networks.gpt import GPT as GPT
from ff_lightning.networks.hinton import HintonGPT as HintonGPT
from ff_lightning.networks.hinton import HintonMLP as HintonMLP
from ff_lightning.networks.mlp import MLP as MLP
from ff_lightning.networks.mlp import DenseReLU as DenseReLU
from ff_lightning.networks.mlp import LabelledReLU as LabelledReLU
from ff_lightning.networks.predictive import PredictiveCircuits as PredictiveCircuits
from ff_lightning.networks.window_mlp import WindowMLP as WindowMLP
