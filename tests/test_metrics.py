"""Separation and goodness gap, a batch at a time and over a whole evaluation; loss and calibration of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from ff_lightning.language.gpt import GPT
from ff_lightning.metrics import LabelContrast, TokenMetrics, goodness_gap, separation
from tests import references
from tests.texts import Batches, model, text, windows
from tests.training import trainer


def goodness_pair(*shape: int) -> tuple[Tensor, Tensor]:
    draw = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    return draw[0] + 0.2, draw[1]


@pytest.mark.parametrize("theta", [None, 0.6, -1.0, 5.0])
@pytest.mark.parametrize("shape", [(20,), (5, 4)])
def test_equal_the_reference(theta: float | None, shape: tuple[int, ...]) -> None:
    g_pos, g_neg = goodness_pair(*shape)
    rows = g_pos.flatten().tolist(), g_neg.flatten().tolist()
    found = separation(g_pos, g_neg, None if theta is None else torch.tensor(theta))
    assert found.item() == pytest.approx(references.separation(*rows, theta))
    assert goodness_gap(g_pos, g_neg).item() == pytest.approx(references.mean(rows[0]) - references.mean(rows[1]))


def test_a_tie_is_not_separated() -> None:
    g = torch.ones(4)
    assert separation(g, g).item() == 0
    assert separation(g, g, torch.tensor(1.0)).item() == 0


def test_streams_may_differ_in_size_if_there_is_a_threshold() -> None:
    found = separation(torch.tensor([2.0, 2.0, 2.0, 0.0]), torch.tensor([0.0]), torch.tensor(1.0))
    assert found.item() == pytest.approx((0.75 + 1.0) / 2)


# Over a whole evaluation ---------------------------------------------------------------------------------------


def evaluation(count: int) -> tuple[Tensor, Tensor]:
    """Goodness of two blocks for four labels, the true one a little higher, and the true labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (count,), generator=generator)
    goodness = torch.rand(2, count, 4, generator=generator) + 0.3 * torch.nn.functional.one_hot(labels, 4)
    return goodness, labels


@pytest.mark.parametrize("size", [1, 5, 23])
def test_a_whole_evaluation_equals_the_reference_however_it_is_cut(size: int) -> None:
    goodness, labels = evaluation(23)
    contrast = LabelContrast(2)
    for g, y in zip(goodness.split(size, dim=1), labels.split(size), strict=True):
        contrast.update(g, y, [None, torch.tensor(0.9)])
    found = contrast.compute()
    assert found.keys() == {"accuracy", "separation", "goodness_gap"}
    assert all(value.dtype == torch.float32 and value.shape == (2,) for value in found.values())
    for block, theta in enumerate((None, 0.9)):
        expected = references.label_contrast(goodness[block].tolist(), labels.tolist(), theta)
        for name, value in expected.items():
            assert found[name][block].item() == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_reset_forgets() -> None:
    goodness, labels = evaluation(10)
    contrast = LabelContrast(2)
    contrast.update(-goodness, labels, [None, None])
    contrast.reset()
    contrast.update(goodness, labels, [None, None])
    fresh = LabelContrast(2)
    fresh.update(goodness, labels, [None, None])
    for name, value in fresh.compute().items():
        assert torch.equal(contrast.compute()[name], value)


def test_every_sample_of_a_long_evaluation_counts() -> None:
    # In float32 a sum of 2 ** 24 stands still when 1 is added.
    contrast = LabelContrast(1)
    contrast.right += 2**24
    contrast.correct += 2**24
    contrast.samples += 2**24
    contrast.update(torch.tensor([[[1.0, 0.0]]]), torch.tensor([0]), [None])
    assert contrast.right.item() == contrast.correct.item() == contrast.samples.item() == 2**24 + 1


# Of every token -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> GPT:
    """A network after 30 updates on real text."""
    module = model()
    trainer(tmp_path_factory.mktemp("run")).fit(module, Batches(960, 32))
    return module.network


def predictions(network: GPT, scale: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """What two blocks predict of a real text, the last more and more sharply with ``scale``, and the text."""
    tokens = windows(300, 20_000)
    with torch.no_grad():
        first, *_, last = network.predictions(tokens[:, :-1])
    return [first, scale * last], tokens[:, 1:]


def drawn(logits: Tensor) -> Tensor:
    """Answers that are as likely as predicted: bins are off by chance alone, in both directions."""
    rows = logits.flatten(0, 1).softmax(-1)
    return torch.multinomial(rows, 1, generator=torch.Generator().manual_seed(0)).view(logits.shape[:2])


@pytest.mark.parametrize("size", [7, 300])
@pytest.mark.parametrize("answers", ["text", "drawn"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 1000.0])
def test_loss_accuracy_and_calibration_are_those_of_torch_and_torchmetrics(
    network: GPT, scale: float, answers: str, size: int
) -> None:
    blocks, targets = predictions(network, scale)
    targets = drawn(blocks[1]) if answers == "drawn" else targets
    metrics = TokenMetrics(2)
    for index, logits in enumerate(blocks):
        for some, truth in zip(logits.split(size), targets.split(size), strict=True):
            metrics.update(index, some, truth)
    found = metrics.compute()
    assert found.keys() == {"loss", "accuracy", "calibration_error"}
    for index, logits in enumerate(blocks):
        rows, truth = logits.flatten(0, 1), targets.flatten()
        assert found["loss"][index].item() == pytest.approx(
            F.cross_entropy(rows.double(), truth).item(), rel=1e-5, abs=1e-5
        )
        assert found["accuracy"][index].item() == pytest.approx((rows.argmax(-1) == truth).double().mean().item())
        # A confidence of exactly 1 has a bin of its own there, and belongs to the last one here.
        exact = rows.softmax(-1).clamp_max(1 - 1e-7) if scale == 1000 else rows.softmax(-1)
        expected = MulticlassCalibrationError(text()[1], n_bins=15)(exact, truth).item()
        assert found["calibration_error"][index].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_calibration_of_a_text_that_is_as_likely_as_predicted_is_near_0(network: GPT) -> None:
    """If the prediction is sharper than the truth, the error is large."""
    (_, logits), _ = predictions(network)
    right, sharp = TokenMetrics(1), TokenMetrics(1)
    right.update(0, logits, drawn(logits))
    sharp.update(0, 3 * logits, drawn(logits))
    assert right.compute()["calibration_error"] < 0.05
    assert sharp.compute()["calibration_error"] > 0.15


def test_no_token_is_kept(network: GPT) -> None:
    metrics = TokenMetrics(2)
    sizes = {name: getattr(metrics, name).shape for name in metrics._defaults}
    blocks, targets = predictions(network)
    for index, logits in enumerate(blocks):
        metrics.update(index, logits, targets)
    assert {name: getattr(metrics, name).shape for name in metrics._defaults} == sizes
    assert sum(shape.numel() for shape in sizes.values()) == 2 * 3 + 2 * 15


def test_sums_stay_exact_in_a_module_of_low_precision() -> None:
    module = torch.nn.ModuleList([TokenMetrics(2), LabelContrast(2)]).to(torch.bfloat16)
    for metric in module:
        assert {state.dtype for state in metric.metric_state.values()} <= {torch.float64, torch.int64}
    logits, targets = torch.zeros(4, 100, 8, dtype=torch.bfloat16), torch.zeros(4, 100, dtype=torch.int64)
    for _ in range(3):
        module[0].update(0, logits, targets)
    assert int(module[0].tokens[0]) == 1200  # which bfloat16 cannot hold
