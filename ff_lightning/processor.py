"""What the processor can do, and settings of the process under which networks train faster on a CPU."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

import torch

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4


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


@cache
def multiplies_bfloat16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 are worth it on this machine.

    Without instructions for them, torch falls back on loops that are tens of times slower than products in float32.

    Args:
        device_type: of a ``torch.device``, such as ``"cpu"``.

    Returns:
        For ``"cpu"``, whether oneDNN has products in bfloat16 for this processor (on x86, AVX-512 and newer); for
        ``"cuda"``, whether the GPU has them; of what torch does not tell, ``True``.
    """
    if device_type == "cpu":
        knows = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
        return bool(torch.backends.mkldnn.is_available() and knows())  # type: ignore[no-untyped-call]
    return device_type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
