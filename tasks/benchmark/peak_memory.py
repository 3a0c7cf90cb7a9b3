"""Measure the peak memory of a network in a process of its own."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.benchmark.latency import torch_threads

ROOT = Path(__file__).resolve().parents[2]
RUNS = 3
SECONDS = 300  # after which a process is given up


def peak_memory(what: nn.Module | Path, images: Tensor, *, threads: int = 1) -> int:
    """Measure by how many bytes a fresh process grows at most while it loads and runs a network, packages aside.

    Args:
        what: A module, or the folder of an artifact.
        images: Its input.
        threads: CPU threads of a call.

    Raises:
        ValueError: The process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "run.pt"
        torch.save({"what": what if isinstance(what, nn.Module) else str(what), "images": images}, saved)
        command = [sys.executable, "-m", "tasks.benchmark.peak_memory", str(saved), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"its memory was not measured within {SECONDS} s") from error
    if done.returncode:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise ValueError(f"its memory was not measured ({last})")
    return json.loads(done.stdout.splitlines()[-1])


def _grow(saved: Path, threads: int) -> int:
    content = torch.load(saved, weights_only=False)  # a file of the parent's own
    what, images = content["what"], content["images"]

    def load() -> Callable[[Tensor], object]:
        if isinstance(what, nn.Module):
            return torch.load(saved, weights_only=False)["what"]  # once more, so that its weights count
        from tasks.deploy.backend import load_runtime  # takes seconds, and a module does without it

        return load_runtime(what, threads=threads).run

    with torch_threads(threads), torch.inference_mode():
        if not isinstance(what, nn.Module):
            load()(images)  # its packages are loaded now
        before = _restart_peak()
        run = load()
        for _ in range(RUNS):
            run(images)
    return max(_peak() - before, 0)


def _restart_peak() -> int:
    """Reset the peak that Linux keeps of this process; returns the bytes it holds now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _peak()
    return _peak()


def _peak() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(_grow(Path(sys.argv[1]), int(sys.argv[2]))))
