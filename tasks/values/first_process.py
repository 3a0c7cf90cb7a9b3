"""The one process of a distributed run that writes to the terminal."""

import os
import sys

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # variables of launchers


def is_first_process() -> bool:
    """Tell whether this process is the first of its run; also before Lightning is loaded."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")  # knows better than the environment
    rank = getattr(getattr(lightning, "rank_zero_only", None), "rank", None)
    return int(rank if rank is not None else next((os.environ[name] for name in RANKS if name in os.environ), 0)) == 0
