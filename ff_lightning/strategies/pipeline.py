"""How signals travel between processes that each compute some blocks of a stack."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch import distributed as dist
from torch.utils._pytree import register_pytree_node, tree_any, tree_leaves, tree_map_only

from ff_lightning.errors import InputError
from ff_lightning.signals import Labelled
from ff_lightning.stages import AnySignal, Stage, Value

IN_FLIGHT = 2
"""Signals that a process may have sent and the next one not yet taken."""

ENVELOPE = 8192
"""Bytes of the message that says what follows it."""

STOP, LEND = "stop", "lend"
"""What an envelope says that no signal follows: none ever will, or the process below asks for weights."""

# What a stack shares among passes belongs to its first block and does not travel.
register_pytree_node(Labelled, lambda x: ([x.image, x.labels], None), lambda parts, _: Labelled(*parts))


@dataclass(frozen=True)
class Sent:
    """Stands in an envelope for a tensor that follows it."""

    shape: torch.Size
    dtype: torch.dtype


class PipelineStage(Stage):
    """Some blocks of a stack; signals come from the process below and go to the process above.

    A signal is an envelope (a message of fixed size on the CPU: how its tensors are held, their shapes and dtypes, and
    the state of torch's generator, so that dropout goes on as in one process), then every tensor in it. Sends are
    asynchronous, receives wait.

    Args:
        groups: the blocks of every process, from the input upwards.
        rank: whose stage this is; it has ``groups[rank]``.
        device: of this process.
        envelopes: process group for messages on the CPU.
        tensors: process group for messages on the device.
        lent: weights of the first block here, for a process below whose last block looks ahead.
    """

    def __init__(
        self,
        groups: Sequence[range],
        rank: int,
        *,
        device: torch.device,
        envelopes: dist.ProcessGroup,
        tensors: dist.ProcessGroup,
        lent: Iterable[Tensor] = (),
    ) -> None:
        super().__init__(groups[rank], groups[-1].stop)
        self.rank = rank
        self.is_last = rank == len(groups) - 1
        self.device = device
        self.envelopes = envelopes
        self.tensors = tensors
        self.lent = tuple(lent)
        self.in_flight: deque[list[tuple[dist.Work, Tensor]]] = deque()

    def receive(self, signal: AnySignal) -> AnySignal:
        """The signal that the process below sent, with what is no tensor taken from ``signal``.

        Raises:
            SIGTERMException: the processes below have been told to stop.
            InputError: what came is no signal of this task.
        """
        if self.reads_input:
            return signal
        while (content := self._opened()) == LEND:
            for weight in self.lent:
                dist.send(weight.detach().contiguous(), dst=self.rank - 1, group=self.tensors)
        if content == STOP:
            self.stop()
            raise SIGTERMException
        parts, random = content
        coming = [leaf for leaf in tree_leaves(parts) if isinstance(leaf, Sent)]
        received = [torch.empty(sent.shape, dtype=sent.dtype, device=self.device) for sent in coming]
        for work in [dist.irecv(tensor, src=self.rank - 1, group=self.tensors) for tensor in received]:
            assert work is not None
            work.wait()
        _generator(self.device).set_state(random)
        return put_together(signal, parts, received)

    def send(self, block: int, signal: AnySignal) -> None:
        """Start sending what the last block here passes on, if one above learns; wait if the next lags too far."""
        if block != self.blocks[-1] or self.is_last or block >= self.highest:
            return
        while len(self.in_flight) >= IN_FLIGHT:
            self._wait_for_oldest()
        parts, tensors = taken_apart(signal)
        content = parts, _generator(self.device).get_state()
        self.in_flight.append(
            [self._sent(_envelope(content), self.envelopes), *(self._sent(tensor, self.tensors) for tensor in tensors)]
        )

    def stop(self) -> None:
        """Tell the processes above that no further signal comes."""
        if not self.is_last:
            self.flush()
            self.in_flight.append([self._sent(_envelope(STOP), self.envelopes)])
            self.flush()

    def borrow(self, block: int, weights: Iterable[Tensor]) -> None:
        """Ask the process above for the weights of its first block, and wait for them.

        It sends them once it has done all earlier updates, so that they are those of one process. Until then this one
        stands still.
        """
        if block in self.blocks:
            return
        self.in_flight.append([self._sent(_envelope(LEND), self.envelopes)])
        for weight in weights:
            sent = torch.empty_like(weight, memory_format=torch.contiguous_format)
            dist.recv(sent, src=self.rank + 1, group=self.tensors)
            with torch.no_grad():
                weight.copy_(sent)

    def flush(self) -> None:
        """Wait until the next process has taken all that was sent."""
        while self.in_flight:
            self._wait_for_oldest()

    def gather(self, value: Value) -> list[Value]:
        """What all processes have, tensors on the CPU."""
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, tree_map_only(Tensor, Tensor.cpu, value))
        return parts

    def _opened(self) -> Any:
        """What the next envelope from the process below says."""
        envelope = torch.empty(ENVELOPE, dtype=torch.uint8)
        dist.recv(envelope, src=self.rank - 1, group=self.envelopes)
        return pickle.loads(envelope.numpy().tobytes())

    def _sent(self, tensor: Tensor, group: dist.ProcessGroup) -> tuple[dist.Work, Tensor]:
        """A send on its way, with what must not be freed before it has arrived."""
        tensor = tensor.contiguous()
        work = dist.isend(tensor, dst=self.rank + 1, group=group)
        assert work is not None
        return work, tensor

    def _wait_for_oldest(self) -> None:
        for work, _ in self.in_flight.popleft():
            work.wait()


def taken_apart(signal: Any) -> tuple[dict[str, Any], list[Tensor]]:
    """The fields of a signal that hold tensors, with :class:`Sent` in their places, and the tensors in their order."""
    held = _holding_tensors(signal)
    parts = tree_map_only(Tensor, lambda tensor: Sent(tensor.shape, tensor.dtype), held)
    return parts, [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]


def put_together(signal: AnySignal, parts: dict[str, Any], tensors: Sequence[Tensor]) -> AnySignal:
    """A signal with parts from elsewhere in the place of its own, however each of the two holds its tensors.

    Args:
        signal: what stays is taken from this one.
        parts: what :func:`taken_apart` gave.
        tensors: likewise.

    Raises:
        InputError: tensors came for other fields than this one has them in.
    """
    own = _holding_tensors(signal)
    if own.keys() != parts.keys():
        raise InputError(
            f"Received a signal with tensors in {', '.join(parts)} where {type(signal).__name__} has them in "
            f"{', '.join(own)}. A layer-parallel task makes signals with the same fields in every process."
        )
    rest = iter(tensors)
    changed: AnySignal = replace(signal, **tree_map_only(Sent, lambda _: next(rest), parts))  # type: ignore[type-var]
    return changed


def _holding_tensors(signal: Any) -> dict[str, Any]:
    """The fields of a signal that hold tensors, however deep."""
    values = {field.name: getattr(signal, field.name) for field in fields(signal)}
    return {name: value for name, value in values.items() if tree_any(lambda leaf: isinstance(leaf, Tensor), value)}


def _envelope(content: Any) -> Tensor:
    data = pickle.dumps(content)
    if len(data) > ENVELOPE:
        raise InputError("A signal has too many tensors to be sent to another process.")
    return torch.frombuffer(bytearray(data.ljust(ENVELOPE, b"\0")), dtype=torch.uint8)


def _generator(device: torch.device) -> torch.Generator:
    """The generator that layers on a device draw from."""
    if device.type == "cpu":
        return torch.default_generator
    generators: Sequence[torch.Generator] = torch.get_device_module(device).default_generators
    return generators[device.index or 0]
