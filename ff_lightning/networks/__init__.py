"""Networks: stacks assembled from blocks; no training code."""

from ff_lightning.networks.causal import CausalConvNet as CausalConvNet
from ff_lightning.networks.causal import CausalConvReLU as CausalConvReLU
from ff_lightning.networks.causal import FrameBlock as FrameBlock
from ff_lightning.networks.causal import FrameEnergy as FrameEnergy
from ff_lightning.networks.class_mlp import ClassMLP as ClassMLP
from ff_lightning.networks.collaborative import CollaborativeMLP as CollaborativeMLP
from ff_lightning.networks.conv import ConvNet as ConvNet
from ff_lightning.networks.conv import ConvReLU as ConvReLU
from ff_lightning.networks.heads import AveragedHead as AveragedHead
from ff_lightning.networks.heads import Head as Head
from ff_lightning.networks.heads import PrivateHead as PrivateHead
from ff_lightning.networks.label_planes import LabelBias as LabelBias
from ff_lightning.networks.label_planes import LabelPart as LabelPart
from ff_lightning.networks.label_planes import LearnedPlanes as LearnedPlanes
from ff_lightning.networks.label_planes import WavePlanes as WavePlanes
from ff_lightning.networks.labelled_conv import LabelledConvNet as LabelledConvNet
from ff_lightning.networks.labelled_conv import LabelledConvReLU as LabelledConvReLU
from ff_lightning.networks.local_fields import LocalFields as LocalFields
from ff_lightning.networks.lookahead import Lookahead as Lookahead
from ff_lightning.networks.mlp import MLP as MLP
from ff_lightning.networks.mlp import DenseReLU as DenseReLU
from ff_lightning.networks.mlp import LabelledReLU as LabelledReLU
from ff_lightning.networks.predictive import PredictiveCircuits as PredictiveCircuits
from ff_lightning.networks.recurrent import RecurrentMLP as RecurrentMLP
from ff_lightning.networks.residual import ResNet as ResNet
from ff_lightning.networks.scff import SelfContrastConv as SelfContrastConv
from ff_lightning.networks.scff import SelfContrastMLP as SelfContrastMLP
from ff_lightning.networks.spike_encodings import FrameEncoding as FrameEncoding
from ff_lightning.networks.spike_encodings import LatencyEncoding as LatencyEncoding
from ff_lightning.networks.spike_encodings import RateEncoding as RateEncoding
from ff_lightning.networks.spike_encodings import SpikeEncoding as SpikeEncoding
from ff_lightning.networks.spiking import SpikingMLP as SpikingMLP
from ff_lightning.networks.spiking_layers import LIF as LIF

__all__ = [
    "LIF",
    "MLP",
    "AveragedHead",
    "CausalConvNet",
    "CausalConvReLU",
    "ClassMLP",
    "CollaborativeMLP",
    "ConvNet",
    "ConvReLU",
    "DenseReLU",
    "FrameBlock",
    "FrameEncoding",
    "FrameEnergy",
    "Head",
    "LabelBias",
    "LabelPart",
    "LabelledConvNet",
    "LabelledConvReLU",
    "LabelledReLU",
    "LatencyEncoding",
    "LearnedPlanes",
    "LocalFields",
    "Lookahead",
    "PredictiveCircuits",
    "PrivateHead",
    "RateEncoding",
    "RecurrentMLP",
    "ResNet",
    "SelfContrastConv",
    "SelfContrastMLP",
    "SpikeEncoding",
    "SpikingMLP",
    "WavePlanes",
]
