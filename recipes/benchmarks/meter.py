"""Memory of a training step, measured from outside: what is saved for a backward pass, and the allocator's peak."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


class Reading:
    """What was measured: ``bytes`` once the context is left."""

    bytes = 0


@contextmanager
def allocated_peak() -> Iterator[Reading]:
    """Largest number of bytes allocated above what is there on entry.

    Torch's profiler reports every block that the CPU allocator gives out and takes back, whichever operator asked
    for it, temporaries included. Blocks that were there before count as 0, also if they are freed. What BLAS keeps
    to itself is not torch's and is not seen. On a GPU the caching allocator keeps the count itself.
    """
    reading = Reading()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield reading
        torch.cuda.synchronize()
        reading.bytes = torch.cuda.max_memory_allocated() - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        yield reading
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        run.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    reading.bytes = max(accumulate((event["args"]["Bytes"] for event in events), initial=0))


class Saved:
    """A tensor kept by autograd; it leaves the count when autograd lets go of it."""

    def __init__(self, tensor: Tensor, let_go: Callable[[Tensor], None]) -> None:
        self.tensor, self.let_go = tensor, let_go

    def __del__(self) -> None:
        self.let_go(self.tensor)


@contextmanager
def saved_peak(persistent: Iterable[Tensor]) -> Iterator[Reading]:
    """Largest number of bytes that autograd keeps at one time for backward passes.

    A storage counts once, however many views of it are kept. What activation checkpointing recomputes inside a
    backward pass is not in this count, but in that of :func:`allocated_peak`.

    Args:
        persistent: parameters and buffers, which live anyway and do not count.
    """
    reading = Reading()
    known = {tensor.untyped_storage().data_ptr() for tensor in persistent}
    held: Counter[int] = Counter()
    size: dict[int, int] = {}

    def pack(tensor: Tensor) -> Saved | Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() in known:
            return tensor
        held[storage.data_ptr()] += 1
        size[storage.data_ptr()] = storage.nbytes()
        reading.bytes = max(reading.bytes, sum(size.values()))
        return Saved(tensor, let_go)

    def let_go(tensor: Tensor) -> None:
        place = tensor.untyped_storage().data_ptr()
        held[place] -= 1
        if not held[place]:
            del held[place], size[place]

    with saved_tensors_hooks(pack, lambda kept: kept.tensor if isinstance(kept, Saved) else kept):
        yield reading


def persistent_bytes(module: nn.Module, optimizers: Iterable[Optimizer]) -> int:
    """Parameters, buffers, and the state of their optimizers."""
    tensors = [*module.parameters(), *module.buffers()]
    for optimizer in optimizers:
        tensors += [x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
    return sum(tensor.nbytes for tensor in tensors)
