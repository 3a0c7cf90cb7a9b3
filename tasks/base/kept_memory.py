"""Keep freed memory in the process, so that a training step finds the pages of the step before."""

import ctypes
from collections.abc import Mapping

VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # of a user
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Let malloc give nothing back to the system from now on; call it before torch makes tensors.

    GNU's malloc maps blocks above some 32 MiB and unmaps them when they are freed, and gives back the end of its heap.
    The maps of a training step are such blocks: each step has the system clear all their pages again, a quarter of the
    step's time on a CPU. Kept, they cost the process its highest use of memory up to its end.

    Args:
        environment: Variables of this process; one of `VARIABLES` says that the user has chosen.

    Returns:
        Whether it could be set: not where the user has chosen, and not where malloc is another library's.

    Source: mallopt(3).
    """
    if {*VARIABLES} & {*environment}:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl; TypeError on Windows
        return False
    return bool(mallopt(TRIM_THRESHOLD, -1) and mallopt(MMAP_MAX, 0))
