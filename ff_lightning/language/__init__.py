"""Language models: blocks that score every next token, how they are trained, judged and written with."""

from ff_lightning.candidates import CandidateLoss as CandidateLoss
from ff_lightning.candidates import LinearContrast as LinearContrast
from ff_lightning.candidates import LogisticContrast as LogisticContrast
from ff_lightning.candidates import Softmax as Softmax
from ff_lightning.language.channels import OwnChannels as OwnChannels
from ff_lightning.language.combination import Combination as Combination
from ff_lightning.language.combination import Independent as Independent
from ff_lightning.language.combination import Residual as Residual
from ff_lightning.language.floors import WittenBell as WittenBell
from ff_lightning.language.floors import nats_per_token as nats_per_token
from ff_lightning.language.generation import Sampler as Sampler
from ff_lightning.language.gpt import GPT as GPT
from ff_lightning.language.hinton import HintonGPT as HintonGPT
from ff_lightning.language.hinton import HintonMLP as HintonMLP
from ff_lightning.language.rollouts import SleepBuffer as SleepBuffer
from ff_lightning.language.window_mlp import WindowMLP as WindowMLP

__all__ = [
    "GPT",
    "CandidateLoss",
    "Combination",
    "HintonGPT",
    "HintonMLP",
    "Independent",
    "LinearContrast",
    "LogisticContrast",
    "OwnChannels",
    "Residual",
    "Sampler",
    "SleepBuffer",
    "Softmax",
    "WindowMLP",
    "WittenBell",
    "nats_per_token",
]
