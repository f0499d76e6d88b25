"""Converted stacks: what is a block, locality, that plain and real models learn, errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import LinearContrast
from ff_lightning.conversion import convert
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, MeanOfSquares, WeightedEnergy
from ff_lightning.losses import SymBa
from ff_lightning.signals import Signal
from tests.training import ADAM, digits, trainer

PIXELS, CLASSES = digits(600)
IMAGES = PIXELS.view(-1, 1, 8, 8)


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU())


def vgg() -> nn.Sequential:
    torch.manual_seed(0)

    def layer(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]

    return nn.Sequential(*layer(1, 16), nn.MaxPool2d(2), *layer(16, 24), *layer(24, 32), nn.MaxPool2d(2))


def by_class(modules: Any, example: Tensor = IMAGES[:1], num_classes: int = 10) -> Any:
    return convert(modules, goodness=WeightedEnergy(num_classes), loss=LinearContrast(), example=example)


def accuracy(network: Any, tmp_path: Path, epochs: int) -> float:
    """On digits that were not trained on."""
    model = ff.FFClassifier(network, optimizer=ADAM)
    model.seed = 0
    data = DataLoader(TensorDataset(IMAGES[:500], CLASSES[:500]), batch_size=50)
    held_out = DataLoader(TensorDataset(IMAGES[500:], CLASSES[500:]), batch_size=100)
    run = trainer(tmp_path, max_epochs=epochs)
    run.fit(model, data, held_out)
    return float(run.callback_metrics["val/accuracy"])


def assert_local(network: Any, signal: Signal) -> None:
    """The loss of a block reaches its own parameters, all that learn, and no other."""
    steps = 0
    for index, step in enumerate(network.local_losses(signal)):
        network.zero_grad()
        step.loss.backward()
        reached = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None}
        assert (step.block, reached) == (index, {str(index)})
        steps += 1
    assert steps == len(network)


def test_a_block_begins_at_a_module_with_weights() -> None:
    names = [[type(module).__name__ for module in block.layer] for block in by_class(vgg())]
    assert names == [
        ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"],
        ["Conv2d", "BatchNorm2d", "ReLU"],
        ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"],
    ]
    assert [len(block.layer) for block in by_class(dense())] == [3, 2]
    assert len(by_class([nn.Sequential(*vgg()[:7]), vgg()[7:]])) == 2, "groups stay together"


def test_the_modules_themselves_are_trained_and_left_as_they_were() -> None:
    net = vgg()
    net[1].eval()
    before = [value.clone() for value in net.state_dict().values()]
    network = by_class(net)
    assert [module.training for module in net] == [True, False, *[True] * 9]
    assert all(torch.equal(*pair) for pair in zip(before, net.state_dict().values(), strict=True))
    assert network[0].layer[0].weight is net[0].weight


def test_goodness_is_sized_for_every_block() -> None:
    network = by_class(vgg())
    assert [block.goodness.weight.shape for block in network] == [(10, 16 * 16), (10, 24 * 16), (10, 32 * 4)]
    assert (network.num_classes, network.out_features) == (10, 32 * 4)


def test_gradients_stay_in_their_block() -> None:
    assert_local(by_class(vgg()), Signal(IMAGES[:8], CLASSES[:8]))
    contrastive = convert(dense(), goodness=MeanOfSquares(), loss=SymBa(), example=IMAGES[:1])
    assert_local(contrastive, Signal.pair(IMAGES[:8], IMAGES[8:16]))
    assert contrastive.num_classes is None


@pytest.mark.parametrize("net", [dense, vgg])
def test_plain_nets_learn_digits_by_class(net: Any, tmp_path: Path) -> None:
    assert accuracy(by_class(net()), tmp_path, epochs=6) > 0.8


class AgainstScrambled(ff.FFLightningModule):
    """Digits against digits whose pixels changed places."""

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, _ = batch
        places = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        return x, x.flatten(1)[:, places].view_as(x)


@pytest.mark.parametrize("net", [dense, vgg])
def test_a_plain_net_learns_to_tell_digits_from_scrambled_ones(net: Any, tmp_path: Path) -> None:
    goodness = MeanOfSquares(3 if net is vgg else 1)
    network = convert(net(), goodness=goodness, loss=SymBa(), example=IMAGES[:1])
    run = trainer(tmp_path, max_epochs=4, log_every_n_steps=1)
    run.fit(AgainstScrambled(network, optimizer=ADAM), DataLoader(TensorDataset(IMAGES, CLASSES), batch_size=50))
    values = [float(run.callback_metrics[f"train/separation/block_{index}"]) for index in range(len(network))]
    assert min(values) > 0.8, values


def test_the_twin_of_a_converted_net_is_its_chain(tmp_path: Path) -> None:
    model = ff.BackpropTwin(by_class(vgg()), optimizer=ADAM)
    trainer(tmp_path, limit_train_batches=2).fit(
        model, DataLoader(TensorDataset(IMAGES[:100], CLASSES[:100]), batch_size=50)
    )
    assert model(IMAGES[:3]).shape == (3, 10)


def test_what_cannot_be_a_stack_is_refused() -> None:
    with pytest.raises(InputError, match=r"Passed `model=Linear`, which cannot take an input of shape \(1, 1, 8, 8\)"):
        by_class(nn.Linear(64, 10))
    with pytest.raises(InputError, match=r"Passed `model=int`. It must be a model, or a list of modules"):
        by_class(3)
    with pytest.raises(InputError, match="without weights"):
        by_class([nn.Flatten(), nn.ReLU()])
    with pytest.raises(InputError, match="Passed a `str` among the modules of `model`"):
        by_class(["flatten"])
    with pytest.raises(InputError, match=r"block 1 cannot take what it gets, shape \(1, 60\)"):
        by_class([nn.Flatten(), nn.Linear(64, 60), nn.Linear(61, 10)])
    with pytest.raises(InputError, match="must not share"):
        by_class([nn.Flatten(), *[nn.Linear(64, 64)] * 2])
    with pytest.raises(InputError, match="A `CandidateLoss` needs a goodness for every class"):
        convert(dense(), goodness=MeanOfSquares(), loss=LinearContrast(), example=IMAGES[:1])
    with pytest.raises(InputError, match="a `ContrastiveLoss` one number"):
        convert(dense(), goodness=ChannelGroups(10), loss=SymBa(), example=IMAGES[:1])
    with pytest.raises(InputError, match="num_classes=None"):
        ff.FFClassifier(convert(dense(), goodness=MeanOfSquares(), loss=SymBa(), example=IMAGES[:1]))
    for blocks in (3, 0, 1.5, "2"):
        says = rf"Passed `blocks={blocks!r}` for a model of 2 parts with weights. Pass 1 to 2"
        with pytest.raises(InputError, match=says):
            convert(WithHead(), example=(1, 8, 8), blocks=blocks)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without a head, and no `num_classes`"):
        convert(dense(), example=(1, 8, 8))
    with pytest.raises(InputError, match=r"without `example`\. Pass an input of it, or its shape"):
        convert(dense())


@pytest.mark.parametrize("example", [64, "1, 8, 8", (1, 8.5, 8), (1, 0, 8), np.zeros((1, 1, 8, 8))])
def test_an_example_that_is_no_input_and_no_shape_is_refused(example: Any) -> None:
    with pytest.raises(InputError, match=r"^Passed `example=[^\n]*`. It must be a tensor \(B, …\), or"):
        by_class(dense(), example=example)


@pytest.mark.parametrize(
    ("norm", "says"),
    [
        ("l2", r"`ConvertedStack\(norm='l2'\)`. It must be an object, a `torch.nn.Module`"),
        (nn.LayerNorm, r"`ConvertedStack\(norm=LayerNorm\)`, a class"),
        (torch.relu, "Passed `norm=relu`. It must be a module"),
        (nn.BatchNorm1d(60), "Passed `norm=BatchNorm1d` with parameters"),
        (nn.BatchNorm1d(60, affine=False), r"`norm` that cannot take what a block passes on, shape \(1, 40\): running"),
    ],
)
def test_a_norm_that_cannot_stand_between_blocks_is_refused(norm: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        convert(dense(), example=(1, 8, 8), num_classes=10, norm=norm)


def test_a_norm_over_the_batch_is_not_moved_by_the_example() -> None:
    norm = nn.BatchNorm1d(60, affine=False)
    network = convert(
        [nn.Flatten(), nn.Linear(64, 60), nn.Linear(60, 60)], example=(1, 8, 8), num_classes=10, norm=norm
    )
    assert network[0].norm.training
    assert torch.equal(network[0].norm.running_mean, torch.zeros(60))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Linear, r"Passed `model=Linear`, which builds no model when it is called: .*'out_features'. Pass a model"),
        (partial(nn.Linear, 3), "Passed `model=partial`, which builds no model"),
        ([nn.Flatten, nn.Linear(64, 10)], "Passed a class `Flatten` among the modules of `model`"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(30)), "`LazyLinear`, whose weights have no shape yet"),
        ([nn.Flatten(), nn.LazyLinear(30)], "`LazyLinear`, whose weights have no shape yet"),
        ([nn.Flatten(), torch.compile(nn.Linear(64, 9))], "`OptimizedModule`, made by `torch.jit` or `torch.compile`"),
    ],
)
def test_a_model_that_is_none_yet_or_cannot_be_watched_is_refused(model: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        convert(model, example=(1, 8, 8), num_classes=10)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: [model[0], torch.jit.trace(model[1:], PIXELS[:1])]])
def test_a_scripted_model_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match=r"Module`, made by `torch.jit` or `torch.compile`"):
        by_class(make(dense()))


@pytest.mark.parametrize("task", [ff.FFClassifier, ff.BackpropTwin, AgainstScrambled])
def test_a_task_says_how_a_model_becomes_a_network(task: Any) -> None:
    with pytest.raises(InputError, match=r"Passed `network=Sequential` to `\w+`.*`ff_lightning.convert\(model\)`"):
        task(dense())


class WithHead(nn.Module):
    """A model that applies its modules one after the other, up to the pooling before its head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(inplace=True))
        self.stage = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.stage(self.stem(x)).mean((2, 3)))
        return scores


class Skipping(WithHead):
    """Adds in place what a module gave: the same tensor, but not what the module gave."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h += 1
        scores: Tensor = self.head(self.stage(h).mean((2, 3)))
        return scores


class Unseen(WithHead):
    """Does something between its modules that is no module."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.stage(torch.relu(self.stem(x))).mean((2, 3)))
        return scores


def test_a_model_that_is_a_chain_is_cut_at_its_stages_without_its_head() -> None:
    model = WithHead()
    network = convert(model, example=(1, 8, 8))
    assert [len(block.layer) for block in network] == [2, 2]
    assert (network.num_classes, network.input_shape) == (10, (1, 8, 8))
    assert len(convert(WithHead(), example=(1, 8, 8), blocks=1)) == 1
    plain = convert(WithHead(), example=(1, 8, 8), norm=nn.Identity(), num_classes=3).eval()
    assert plain.num_classes == 3
    again = WithHead().eval()
    again.load_state_dict(model.state_dict())
    whole = convert(again, example=(1, 8, 8), norm=nn.Identity()).eval()
    assert torch.equal(whole(IMAGES[:2]), again.stage(again.stem(IMAGES[:2])))
    assert not any(parameter is again.head.weight for parameter in whole.parameters())
    straight = convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)), example=(1, 8, 8))
    assert (len(straight), straight.num_classes) == (1, 10), "a last linear layer is a head"


@pytest.mark.parametrize("model", [Skipping, Unseen])
def test_what_a_model_does_beside_its_modules_is_not_lost_silently(model: Any) -> None:
    with pytest.raises(InputError, match=r"more than apply its modules.*`stage` gets.*Pass its parts as a list"):
        convert(model(), example=(1, 8, 8))


class Rectified(WithHead):
    """Has its last activation in its `forward`, as DenseNet of torchvision does."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        scores: Tensor = self.head(nn.functional.relu(self.last(h), inplace=True).mean((2, 3)))
        return scores

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 16, 3, padding=1)
        del self.stage


class Pooled(Rectified):
    """The same before a module that pools."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pool(torch.relu(self.last(self.stem(x)))).flatten(1))
        return scores


class Headless(Rectified):
    """The same without a head."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(self.stem(x)))


@pytest.mark.parametrize("model", [Rectified, Pooled, Headless])
def test_a_functional_relu_before_the_head_is_kept(model: Any) -> None:
    built = model().eval()
    network = convert(built, example=(1, 8, 8), norm=nn.Identity(), num_classes=10).eval()
    with torch.no_grad():
        expected = torch.relu(built.last(built.stem(IMAGES[:2])))
        assert torch.equal(network(IMAGES[:2]), expected)
    assert (expected == 0).any()


class AddedInEnd(Pooled):
    """Leads around its last module, before it pools."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        scores: Tensor = self.head((self.last(h) + h.repeat(1, 2, 1, 1)).mean((2, 3)))
        return scores


class AddedBeforePool(Pooled):
    """The same before a module that pools."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        scores: Tensor = self.head(self.pool(self.last(h) + h.repeat(1, 2, 1, 1)).flatten(1))
        return scores


class ScaledInPlace(Pooled):
    """Changes what its last module gave, and pools that."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pool(self.last(self.stem(x)).mul_(2)).flatten(1))
        return scores


class Squashed(Pooled):
    """Has no head, and an end that is no module."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(self.stem(x)))


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (AddedInEnd, "its `head` gets"),
        (AddedBeforePool, "its `pool` gets"),
        (ScaledInPlace, "its `pool` gets"),
        (Squashed, "it returns"),
    ],
)
def test_what_a_model_does_before_its_head_is_not_lost_silently(model: Any, place: str) -> None:
    says = rf"^Passed `model={model.__name__}`, [^\n]*what {place} is neither [^\n]*list"
    with pytest.raises(InputError, match=says):
        convert(model(), example=(1, 8, 8), num_classes=10)


class Doubled(nn.Sequential):
    """Does something after its parts."""

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = super().forward(x)
        return 2 * h


def test_a_sequential_with_a_forward_of_its_own_stays_whole() -> None:
    inner = Doubled(nn.Conv2d(1, 4, 3), nn.ReLU())
    network = convert(nn.Sequential(inner, nn.Conv2d(4, 4, 3)), example=(1, 8, 8), num_classes=10, norm=nn.Identity())
    assert network[0].layer[0] is inner
    assert torch.equal(next(network.activities(IMAGES[:1])), inner(IMAGES[:1]))
