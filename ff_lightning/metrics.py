"""What is measured: separation, goodness gap, and how well every block of a language model predicts.

Accuracy, confusion and the like come from torchmetrics; here is only what FF adds, and what must not keep every token
of an evaluation in memory.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ff_lightning.signals import LocalStep, true_and_hardest


def separation(g_pos: Tensor, g_neg: Tensor, threshold: Tensor | None = None) -> Tensor:
    """Share of samples on the right side.

    Args:
        g_pos: ``(B, …)`` goodness of positives.
        g_neg: ``(B, …)`` goodness of negatives; the same shape if there is no threshold.
        threshold: θ. Without it, the share of pairs in which the positive has the higher goodness.

    Returns:
        Scalar in [0, 1]; 0.5 is chance.

    >>> separation(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]), torch.tensor(1.5))
    tensor(0.5000)
    """
    if threshold is None:
        return (g_pos > g_neg).float().mean()
    return ((g_pos > threshold).float().mean() + (g_neg < threshold).float().mean()) / 2


def goodness_gap(g_pos: Tensor, g_neg: Tensor) -> Tensor:
    """Mean goodness of positives minus mean goodness of negatives, in units of goodness.

    >>> goodness_gap(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]))
    tensor(1.5000)
    """
    return g_pos.mean() - g_neg.mean()


def margin(g_pos: Tensor, g_neg: Tensor) -> Tensor:
    """Goodness gap in units of spread, so that blocks can be compared: the d' of signal detection.

    The spread is the root of the mean variance of both streams; constant streams have margin 0.

    Args:
        g_pos: ``(B, …)`` goodness of positives.
        g_neg: goodness of negatives, of any shape.

    Returns:
        Scalar.

    >>> margin(torch.tensor([4.0, 2.0]), torch.tensor([2.0, 0.0]))
    tensor(2.)
    """
    g_pos, g_neg = g_pos.float(), g_neg.float()
    spread = ((g_pos.var(correction=0) + g_neg.var(correction=0)) / 2).sqrt()
    return torch.where(spread > 0, goodness_gap(g_pos, g_neg) / spread.clamp_min(1e-30), 0.0)


def local_values(step: LocalStep, modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """What a local loss says of its block, by the name that is logged; of a pair of blocks, of each.

    Args:
        step: with its loss, and goodness of both kinds if the task has them.
        modules: what ``step.block`` counts; one may have a ``threshold``.
    """
    name = f"block_{step.block}"
    loss = step.loss.detach()
    values: dict[str, Tensor] = {}
    if step.below is not None:
        values = local_values(step.below, modules)
        loss = loss - step.below.loss.detach()
    values[f"train/loss/{name}"] = loss
    if step.g_pos is not None and step.g_neg is not None:
        threshold = getattr(modules[step.block], "threshold", None)
        values[f"train/separation/{name}"] = separation(step.g_pos, step.g_neg, threshold)
        values[f"train/goodness_gap/{name}"] = goodness_gap(step.g_pos, step.g_neg)
    return values


class FoundLosses:
    """Keeps what the local losses of one batch say, while they pass to the engine.

    Args:
        modules: what ``LocalStep.block`` counts.
        shown: is shown every loss before its backward pass, on steps that are logged; ``None`` on others.

    Attributes:
        losses: detached scalars, in their order.
        values: what is logged of each block, by name; empty on steps that are not.
    """

    def __init__(self, modules: Sequence[nn.Module], shown: Callable[[LocalStep], None] | None) -> None:
        self.modules = modules
        self.shown = shown
        self.losses: list[Tensor] = []
        self.values: dict[str, Tensor] = {}

    def passing(self, losses: Iterable[LocalStep]) -> Iterator[LocalStep]:
        """The same losses; each is let go of before the next one is computed."""
        for step in losses:
            self.losses.append(step.loss.detach())
            if self.shown is not None:
                self.values |= local_values(step, self.modules)
                self.shown(step)
            yield step
            del step


def leave_inference_mode(module: nn.Module) -> None:
    """Take copies of what metrics of a module keep, where an evaluation in inference mode left it.

    Lightning evaluates in that mode, but for the validation within a training. What was made in it may not be changed
    in place outside.
    """
    for metric in module.modules():
        for name, value in metric.metric_state.items() if isinstance(metric, Metric) else ():
            if isinstance(value, Tensor) and value.is_inference() and not torch.is_inference_mode_enabled():
                setattr(metric, name, value.clone())


class ExactSums(Metric, ABC):
    """Keeps its sums in the type they were made with, whatever type the module around it is brought to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        return super()._apply(lambda value: value.to(fn(value).device), exclude_state)


class LabelContrast(ExactSums):
    """What every block makes of the labels over a whole evaluation: accuracy, separation, goodness gap.

    The true label is contrasted with the wrong one that the block likes best.

    Args:
        num_blocks: ``L``.
    """

    full_state_update = False
    correct: Tensor
    right: Tensor
    gap: Tensor
    samples: Tensor

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        for name in ("correct", "right", "gap"):
            self.add_state(name, torch.zeros(num_blocks, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, goodness: Tensor, labels: Tensor, thresholds: Sequence[Tensor | None]) -> None:
        """Take in one batch.

        Args:
            goodness: ``(L, B, C)`` goodness of every label.
            labels: ``(B,)`` the true ones.
            thresholds: θ of every block, ``None`` where pairs are compared.
        """
        leave_inference_mode(self)
        for index, (g, threshold) in enumerate(zip(goodness, thresholds, strict=True)):
            g_pos, g_neg = true_and_hardest(g, labels)
            self.correct[index] += (g_pos > g_neg).sum()
            self.right[index] += len(labels) * separation(g_pos, g_neg, threshold)
            self.gap[index] += len(labels) * goodness_gap(g_pos, g_neg)
        self.samples += len(labels)

    def compute(self) -> dict[str, Tensor]:
        """Means over all samples, each ``(L,)``: ``accuracy``, ``separation``, ``goodness_gap``.

        (torchmetrics makes a scalar of each if ``L`` is 1.)
        """
        return {
            "accuracy": (self.correct / self.samples).float(),
            "separation": (self.right / self.samples).float(),
            "goodness_gap": (self.gap / self.samples).float(),
        }


class TokenMetrics(ExactSums):
    """Loss, accuracy and calibration of every block over all tokens of an evaluation, in sums of a fixed size.

    The expected calibration error (Guo et al. 2017, 1706.04599) sorts tokens by the probability of the likeliest one
    into 15 equal bins, and is the mean over tokens of how far accuracy and mean probability of their bin lie apart.

    Args:
        num_blocks: ``L``.
    """

    full_state_update = False
    bins = 15
    nats: Tensor
    correct: Tensor
    tokens: Tensor
    binned: Tensor
    """``(L, bins)``: what is right less what was expected to be."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        for name in ("nats", "correct", "tokens"):
            self.add_state(name, torch.zeros(num_blocks, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("binned", torch.zeros(num_blocks, self.bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, block: int, logits: Tensor, targets: Tensor) -> None:
        """Take in what one block predicts: logits ``(B, T, V)`` and the real next tokens ``(B, T)``."""
        leave_inference_mode(self)
        logits, targets = logits.float().flatten(0, 1), targets.flatten()
        total = logits.logsumexp(-1)
        best, likeliest = logits.max(-1)
        right = (likeliest == targets).double()
        confidence = (best - total).exp()
        edges = torch.linspace(0, 1, self.bins + 1, device=logits.device)[1:-1]
        self.nats[block] += (total - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).sum(dtype=torch.float64)
        self.correct[block] += right.sum()
        self.tokens[block] += targets.numel()
        self.binned[block].index_add_(0, torch.bucketize(confidence, edges, right=True), right - confidence)

    def compute(self) -> dict[str, Tensor]:
        """``loss`` in nats a token, ``accuracy`` and ``calibration_error``, each ``(L,)``.

        (torchmetrics makes a scalar of each if ``L`` is 1.)
        """
        return {
            "loss": (self.nats / self.tokens).float(),
            "accuracy": (self.correct / self.tokens).float(),
            "calibration_error": (self.binned.abs().sum(-1) / self.tokens).float(),
        }
