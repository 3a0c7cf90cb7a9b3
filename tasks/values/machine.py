"""Cores and memory that this process may use, as its container, its job or its system allows."""

import math
import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from statistics import median_low
from time import perf_counter, sleep

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
STAT = Path("/proc/stat")
THREADS = Path("/proc/self/task")
LOOKS, PAUSE = 5, 0.004  # at what runs; seconds between two
LEAST = 0.1  # cores used, below which lost time is not judged


def allowed_cores(cgroups: Path | None = None, membership: Path | None = None) -> int:
    """Count the cores that this process may keep busy: the least of affinity and quota, at least 1.

    Args:
        cgroups: Where control groups are mounted; both versions are read.
        membership: File that tells which groups this process is in.
    """
    cores = _affinity()
    for folder in _groups("cpu", cgroups or CGROUPS, membership or MEMBERSHIP):
        quota, period = -1.0, 0.0
        if parts := _words(folder / "cpu.max"):
            quota, period = (-1.0 if parts[0] == "max" else float(parts[0])), float(parts[-1])
        elif parts := _words(folder / "cpu.cfs_quota_us"):
            quota, period = float(parts[0]), float((_words(folder / "cpu.cfs_period_us") or ["0"])[0])
        if quota > 0 and period > 0:
            cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def memory_limit(cgroups: Path | None = None, membership: Path | None = None) -> int | None:
    """Get the bytes of memory that this process may use, by machine and control groups; None if unknown."""
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for folder in _groups("memory", cgroups or CGROUPS, membership or MEMBERSHIP):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (parts := _words(folder / name)) and parts[0].isdecimal():
                limits.append(int(parts[0]))
    return min(limits, default=None)


def others_running(stat: Path = STAT) -> int:
    """Count the threads of other programs that run or wait for a core just now; 0 where the system does not tell."""
    counts = []
    for look in range(LOOKS):
        sleep(PAUSE if look else 0)
        try:
            running = re.search(r"^procs_running (\d+)", stat.read_text(), re.MULTILINE)
        except OSError:
            running = None
        counts.append(int(running[1]) - 1 if running else 0)  # this one runs too
    return max(0, median_low(counts))


def is_busy(stat: Path = STAT) -> bool:
    """Tell whether other programs leave this process fewer cores than it may use, as far as the system tells."""
    return others_running(stat) + allowed_cores() > (os.cpu_count() or 1)


class LostTime:
    """Measure how long the threads of this process waited for a core, as a share of the time they had work.

    Args:
        threads: Folder of the system that has a folder a thread, each with a file schedstat: ns run, ns waited.
    """

    def __init__(self, threads: Path = THREADS) -> None:
        self.threads = threads
        self._before, self._at = self._times(), perf_counter()

    def share(self) -> float:
        """Compute the share since the last look; 0 where the process hardly worked, or the system does not tell."""
        now, at = self._times(), perf_counter()
        pairs = [(now[thread], self._before[thread]) for thread in now.keys() & self._before.keys()]
        ran, waited = (sum(later[place] - earlier[place] for later, earlier in pairs) for place in (0, 1))
        enough = ran + waited >= LEAST * 1e9 * (at - self._at)
        self._before, self._at = now, at
        return waited / (ran + waited) if enough and ran + waited else 0.0

    def _times(self) -> dict[str, tuple[int, int]]:
        found = {}
        for file in self.threads.glob("*/schedstat"):
            try:
                ran, waited = file.read_text().split()[:2]
            except (OSError, ValueError):  # a thread that has just ended
                continue
            found[file.parent.name] = int(ran), int(waited)
        return found


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Give torch's pool no more threads than this process may use cores, before torch is loaded.

    Without a setting it has one for every core of the machine. What the user has set stays.

    Args:
        environment: Variables of this process.
    """
    cores = allowed_cores()
    if "OMP_NUM_THREADS" not in environment and cores < _affinity():
        environment["OMP_NUM_THREADS"] = str(cores)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(controller: str, cgroups: Path, membership: Path) -> list[Path]:
    """Folders of this process' group and of those around it, of version 2 and of version 1."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        lines = []
    folders = [cgroups, cgroups / controller]
    for entry in lines:
        if len(entry) != 3:
            continue
        _, controllers, path = entry
        if controllers == "" or controller in controllers.split(","):
            base = cgroups / controller if controllers else cgroups
            own = base / path.strip("/")
            folders += [own, *(parent for parent in own.parents if base in parent.parents)]
    return list(dict.fromkeys(folders))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
