"""Optimizers: Muon for the matrices between hidden activities, AdamW for everything else, in one optimizer.

A block has one optimizer (see :mod:`ff_lightning.module`), so two rules for two kinds of parameters must live in
one. A network says which parameters are matrices between hidden activities by making them
:class:`HiddenMatrix`; shape alone could not tell them from embeddings and readouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ff_lightning.errors import InputError, is_number, positive
from ff_lightning.processor import multiplies_bfloat16
from ff_lightning.schedules import HoldThenDecay


class HiddenMatrix(nn.Parameter):
    """A weight matrix ``(out, in)`` that maps hidden activities to hidden activities, or a bank of filters.

    Filters ``(out, in, height, width)`` count as the matrix ``(out, in * height * width)``. It behaves as any
    parameter; the mark survives ``copy.deepcopy`` and pickling.

    >>> type(HiddenMatrix(torch.zeros(2, 3))).__name__
    'HiddenMatrix'
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.data, self.requires_grad)


def _rebuild(data: Tensor, requires_grad: bool) -> HiddenMatrix:
    return HiddenMatrix(data, requires_grad)


class MuonAdamW(Optimizer):
    """Muon for every :class:`HiddenMatrix`, AdamW for all other parameters.

    Muon (Jordan 2024, kellerjordan.github.io/posts/muon): the Nesterov momentum of a matrix is orthogonalised by
    five Newton-Schulz iterations, and scaled by ``sqrt(max(1, rows / columns))``. AdamW: Loshchilov
    and Hutter (2017, 1711.05101). Both decay weights by ``weight_decay`` times their learning rate. The two
    parameter groups have learning rates of their own, which a scheduler scales alike.

    Args:
        params: parameters of one block, not groups.
        lr: learning rate of AdamW.
        muon_lr: learning rate of Muon, the spectral norm of a step.
        momentum: of Muon, in ``[0, 1)``.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both.
        bfloat16: compute Muon's iterations in bfloat16, else in float32; by default where this machine multiplies it
            faster (:mod:`ff_lightning.processor`). The choice is made once, at the first step, and stays: checkpoints
            keep it, and :class:`~ff_lightning.FFLightningModule` takes that of the first rank for all.

    Raises:
        InputError: an argument makes no sense, or there is no :class:`HiddenMatrix` to give to Muon.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 4e-3,
        *,
        muon_lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        bfloat16: bool | None = None,
    ) -> None:
        if not isinstance(betas, (list, tuple)) or len(betas) != 2:
            raise InputError(f"Passed `MuonAdamW(betas={betas!r})`. `betas` must be two numbers in [0, 1).")
        shares = {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}
        for name, value in shares.items():
            if not (is_number(value) and 0 <= value < 1):
                raise InputError(f"Passed `MuonAdamW({name}={value})`. `{name}` must be in [0, 1).")
        if not (is_number(weight_decay) and 0 <= weight_decay < math.inf):
            raise InputError(f"Passed `MuonAdamW(weight_decay={weight_decay})`. `weight_decay` must not be negative.")
        params = list(params)
        if not all(isinstance(p, Tensor) for p in params):
            raise InputError("Passed parameter groups to `MuonAdamW`. It makes its own groups: pass parameters.")
        if any(isinstance(p, DTensor) for p in params):
            raise InputError(
                "Passed sharded parameters to `MuonAdamW`. Muon needs whole matrices: use `torch.optim.AdamW`, or "
                "`strategy='ddp'` in place of `ModelParallelStrategy`."
            )
        matrices = [p for p in params if isinstance(p, HiddenMatrix)]
        if not matrices:
            raise InputError(
                "Passed parameters without a `HiddenMatrix` to `MuonAdamW`. Muon would have nothing to do: use "
                "`torch.optim.AdamW`, or a network that marks its matrices."
            )
        rest = [p for p in params if not isinstance(p, HiddenMatrix)]
        groups = [
            {"params": matrices, "lr": positive("muon_lr", muon_lr), "muon": True, "bfloat16": bfloat16},
            {"params": rest, "lr": positive("lr", lr), "muon": False},
        ]
        defaults = {"momentum": momentum, "betas": betas, "eps": positive("eps", eps), "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule = self._muon if group["muon"] else self._adamw
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    rule(p, p.grad, self.state[p], group)
        return loss

    @staticmethod
    def _muon(p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        if group.get("bfloat16") is None:  # checkpoints of earlier versions do not say
            group["bfloat16"] = multiplies_bfloat16(grad.device.type)
        average = state["momentum"].lerp_(grad, 1 - group["momentum"])
        update = orthogonalised(grad.lerp(average, group["momentum"]).flatten(1), bfloat16=group["bfloat16"])
        p.add_(update.view(p.shape), alpha=-group["lr"] * math.sqrt(max(1, update.shape[0] / update.shape[1])))

    @staticmethod
    def _adamw(p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.tensor(0.0)
            state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
        state["step"] += 1
        (beta1, beta2), step = group["betas"], float(state["step"])
        mean = state["mean"].lerp_(grad, 1 - beta1)
        square = state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        size = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        p.addcdiv_(mean, size, value=-group["lr"] / (1 - beta1**step))


def orthogonalised(matrix: Tensor, *, bfloat16: bool | None = None) -> Tensor:
    """Bring all singular values of a matrix near 1, by five Newton-Schulz iterations of order five.

    The coefficients are Jordan's: they favour speed, and leave singular values between about 0.7 and 1.2.

    In float32 the iterations of a matrix that is more than twice as long as wide run on its Gram matrix, with a third
    of the products; the result differs by rounding, by up to a thousandth of its norm where singular values span four
    orders of magnitude (bfloat16 differs by a hundredth). In bfloat16 that would not converge.

    Args:
        matrix: ``(rows, columns)``.
        bfloat16: compute in bfloat16, else in float32; by default where the device multiplies bfloat16 faster.

    Returns:
        The same shape and dtype; zero if ``matrix`` is zero.
    """
    if bfloat16 is None:
        bfloat16 = multiplies_bfloat16(matrix.device.type)
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16 if bfloat16 else torch.float32)
    x = x / x.norm().clamp_min(1e-7)
    with torch.autocast(matrix.device.type, enabled=False):  # in which Lightning lets a block's optimizer step
        x = _iterated_on_gram(x) if not bfloat16 and x.shape[1] >= 2 * x.shape[0] else _iterated(x)
    return (x.T if tall else x).to(matrix.dtype)


ITERATIONS = 5
A, B, C = 3.4445, -4.7750, 2.0315
"""Jordan's coefficients: an iteration maps a singular value ``s`` to ``A s + B s³ + C s⁵``."""


def _iterated(x: Tensor) -> Tensor:
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


def _iterated_on_gram(x: Tensor) -> Tensor:
    """The same: every iteration multiplies ``x`` by a polynomial ``q`` of ``G = x xᵀ``, and ``G`` by ``q²``."""
    gram = x @ x.T
    total: Tensor | None = None
    for iteration in range(ITERATIONS):
        q = torch.addmm(gram, gram, gram, beta=B, alpha=C)
        q.diagonal().add_(A)
        total = q if total is None else q @ total
        if iteration < ITERATIONS - 1:
            gram = q @ (gram @ q)
    assert total is not None
    return total @ x


class CosineDecay(HoldThenDecay):
    """Linear warm-up, then half a cosine down to ``final`` of the base rate.

    Args:
        optimizer: whose learning rate is set.
        warmup: share of the updates over which the rate rises from near 0.
        final: rate at the end, as a share of the base rate.
        total_updates: see :class:`~ff_lightning.schedules.HoldThenDecay`.
        last_epoch: as in torch: number of steps taken before, -1 for a new run.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup: float = 0.0,
        final: float = 0.05,
        total_updates: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        super().__init__(
            optimizer, warmup=warmup, hold=warmup, final=final, total_updates=total_updates, last_epoch=last_epoch
        )

    def _factor(self, done: int) -> float:
        linear = super()._factor(done)  # falls from 1 to `final` in equal steps
        if self.total_updates is None or done < self.warmup * self.total_updates or self.final == 1:
            return linear
        fall = (1 - linear) / (1 - self.final)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fall)) / 2
