"""Small real trainings for the tests: scikit-learn's digits, a few steps, one line each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import Softmax
from ff_lightning.goodness import ChannelGroups
from ff_lightning.losses import SymBa
from ff_lightning.networks import MLP, LabelBias, LabelledConvNet

SGD = partial(torch.optim.SGD, lr=0.05)
ADAM = partial(torch.optim.Adam, lr=1e-3)


def digits(count: int = 1797, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The first ``count`` real digits: images (N, 64) in [0, 1] and classes (N,)."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:count] / 16, dtype=dtype), torch.tensor(y[:count])


def loader(count: int, batch_size: int, dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    """Digits in their order, not shuffled."""
    return DataLoader(TensorDataset(*digits(count, dtype)), batch_size=batch_size)


def mlp(depth: int = 3, width: int = 16, **kwargs: Any) -> MLP:
    """A small labelled stack with the same weights at every call."""
    torch.manual_seed(0)
    return MLP(64, [width] * depth, **{"overlay": False, "label_scale": 3.0, "loss": SymBa(4.0)} | kwargs)


def conv(depth: int = 2, *, batch_statistics: bool = False) -> ff.BlockStack:
    """A small convolutional stack under a softmax over classes, with the same weights at every call."""
    torch.manual_seed(0)
    blocks = []
    for index in range(depth):
        norm = nn.BatchNorm2d(20) if batch_statistics else nn.Identity()
        layer = nn.Sequential(nn.Conv2d(20 if index else 1, 20, 3, padding=1), norm, nn.ReLU())
        blocks.append(ClassBlock(layer, ChannelGroups(10), Softmax()))
    return ff.BlockStack(blocks)


def labelled_conv() -> ff.BlockStack:
    """A small convolutional stack whose blocks are all told the label, with the same weights at every call."""
    torch.manual_seed(0)
    return LabelledConvNet((1, 8, 8), [8, 8, 8], pool_after=[1], labels=LabelBias())


def classifier(depth: int = 3, **kwargs: Any) -> ff.FFClassifier:
    """A small classifier with the same weights and the same negatives at every call."""
    network = kwargs.pop("network", None) or mlp(depth)
    module = ff.FFClassifier(network, **{"optimizer": ADAM} | kwargs)
    module.seed = 0
    return module


def trainer(tmp_path: Path, **kwargs: Any) -> pl.Trainer:
    """A silent one-device Trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
        "max_epochs": 1,
    }
    return pl.Trainer(**quiet | kwargs)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor], **tolerance: float) -> None:
    """Bit for bit, unless tolerances are given."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        if tolerance:
            torch.testing.assert_close(value, second[name], **tolerance)
        else:
            assert torch.equal(value, second[name]), name
