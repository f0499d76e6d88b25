"""What the processor can do, settings under which networks train faster on a CPU, and sums that a GPU can repeat."""

from __future__ import annotations

import ctypes
import math
import os
from functools import cache
from time import perf_counter
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ff_lightning.errors import InputError

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4

SETTING: Final = "FF_LIGHTNING_BFLOAT16"
"""Environment variable that answers for the machine whether bfloat16 is worth it, in one of :data:`WORDS`."""

WORDS: Final = {"yes": True, "no": False}

INSTRUCTIONS: Final = {torch.bfloat16: ("amx_bf16", "avx512_bf16"), torch.float16: ("amx_fp16", "avx512_fp16")}
"""What torch calls the instructions of x86 processors for products of a half precision; one of them is enough."""

LIMITS: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that let oneDNN use fewer instructions than the processor has; torch does not look at them."""

TENSOR_CORES: Final = (7, 0)
"""Compute capability from which NVIDIA's GPUs multiply float16 faster than float32."""

WORTH_IT: Final = 0.8
"""Share of the time of a product in float32 below which one in half precision pays for turning weights into it."""


FREE_BITS: Final = 62
"""Of a whole number of 64 bits: one is the sign, and one is left over for rounding."""


def prepare_cpu() -> None:
    """Set up this process for training on a CPU; elsewhere it does no harm.

    Numbers too small for the usual form count as zero: as a network learns, many weights and moments of Adam fade
    into such denormal numbers, with which CPUs compute many times more slowly. Threads started later inherit this.

    Freed memory is kept: the C library of most Linux systems gives a large tensor back when it is freed, and the next
    step waits while the system hands out zeroed pages for it again, convolutional networks longest (``mallopt(3)``).

    The command line calls it. A script with a Trainer of its own does so once, before it trains.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


class Answer(NamedTuple):
    """Whether matrix products of a half precision are worth it on a kind of device, and how that is known.

    Attributes:
        pays: they take less time than products in float32.
        why: what it rests on, in words.
    """

    pays: bool
    why: str


def multiplies_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 are worth it on this machine; see :func:`ask`."""
    return ask(device_type, torch.bfloat16).pays


def ask(device_type: str, dtype: torch.dtype = torch.bfloat16) -> Answer:
    """Whether matrix products of a half precision are worth it on this machine, and how that is known.

    A processor without instructions for them imitates them, several times slower than products in float32. Where torch
    can tell which instructions there are, it is asked; elsewhere a product is timed, once a process (about 40 ms).
    The environment variable ``FF_LIGHTNING_BFLOAT16``, ``yes`` or ``no``, answers for bfloat16 instead.

    Args:
        device_type: of a ``torch.device``, such as ``"cpu"``.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Returns:
        The answer. It is yes of a device that is not in this machine.

    Raises:
        InputError: the environment variable holds something else.

    >>> ask("hpu").pays
    True
    """
    said = os.environ.get(SETTING) if dtype == torch.bfloat16 else None
    if said is None:
        return _found(device_type, dtype)
    if said not in WORDS:
        raise InputError(f"Passed `{SETTING}={said}` in the environment. It must be yes or no, or not be set.")
    return Answer(WORDS[said], f"{SETTING} says {said}")


@cache
def _found(device_type: str, dtype: torch.dtype) -> Answer:
    if device_type == "cuda" and torch.cuda.is_available():
        return _known_of_cuda(dtype)
    known = _known_of_cpu(dtype) if device_type == "cpu" else None
    if known is not None:
        return known
    present = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device_type not in ("cpu", present and present.type):
        return Answer(True, f"this machine has no {device_type} to ask")
    return _timed(device_type, dtype)


def _known_of_cuda(dtype: torch.dtype) -> Answer:
    name = torch.cuda.get_device_name()
    if dtype == torch.bfloat16:
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.version.hip is not None or torch.cuda.get_device_capability() >= TENSOR_CORES
    return Answer(has, f"{name} has {'' if has else 'no '}instructions for {_name(dtype)}")


def _known_of_cpu(dtype: torch.dtype) -> Answer | None:
    """What torch knows of a processor of type x86 whose instructions oneDNN may use."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    wanted = INSTRUCTIONS[dtype]
    limited = any(name in os.environ for name in LIMITS)
    mkldnn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if limited or not mkldnn or not set(wanted) <= capabilities.keys():
        return None
    has = [name for name in wanted if capabilities[name]]
    return Answer(bool(has), f"this processor has {' and '.join(has) if has else 'neither ' + ' nor '.join(wanted)}")


def _timed(device_type: str, dtype: torch.dtype) -> Answer:
    """Time a product of the size that a small network has, the best of several in turns."""
    best = dict.fromkeys((torch.float32, dtype), math.inf)
    factors = {kind: torch.randn(2, 512, 512, device=device_type).to(kind) for kind in best}
    for _ in range(5):
        for kind, (a, b) in factors.items():
            started = perf_counter()
            a @ b
            if device_type != "cpu":
                torch.accelerator.synchronize()
            best[kind] = min(best[kind], perf_counter() - started)
    share = best[dtype] / best[torch.float32]
    return Answer(share < WORTH_IT, f"a product in {_name(dtype)} took {share:.1f} times as long as one in float32")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def running_sums(x: Tensor, dim: int) -> Tensor:
    """Running sums along a dimension, in an order of additions that does not matter in torch's deterministic mode.

    ``torch.cumsum`` of floating-point numbers has no fixed order of additions on a GPU, and refuses to run there after
    ``torch.use_deterministic_algorithms(True)``, which is what ``Trainer(deterministic=True)`` says. Whole numbers
    have the same sums in any order, so that in this mode the sums are made of whole multiples of a power of two: as
    exact as float64, or more so. Elsewhere this is ``torch.cumsum``.

    Args:
        x: any shape, finite floating-point numbers.
        dim: along which.

    Returns:
        Like ``x``. What is not finite makes all sums meaningless in the deterministic mode.
    """
    if not torch.are_deterministic_algorithms_enabled() or not x.numel():
        return x.cumsum(dim)
    _, exponent = torch.frexp(x.detach().abs().amax().double())
    shift = FREE_BITS - x.shape[dim].bit_length() - exponent
    wholes = torch.ldexp(x.double(), shift).round().long()
    return torch.ldexp(wholes.cumsum(dim).double(), -shift).to(x.dtype)
