"""Artifacts on processors that this machine is not, by QEMU's user-mode emulation; tests/arm64.sh prepares ARM's.

    tests/arm64.sh --checkpoint runs/x/best.ckpt [--cpus cortex-a53 cortex-a76 max] [--images 8] <artifact> ...

Each artifact's own run.py runs in the emulator, with NumPy and the runtime's wheel for that processor. Its outputs are
compared with eager mode on the images that the export compared, and the task's metric is measured through it: NEON
alone (cortex-a53), dot products and half precision (cortex-a76), int8 matrix products too (max); "Haswell" is x86 with
AVX2 and without VNNI, on this environment's packages. Emulation says nothing of speed, so nothing is timed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

import numpy as np
import torch
from torch import Tensor

from tasks.deploy.backend import Runtime
from tasks.deploy.manifest import Manifest, read_manifest
from tasks.deploy.original import Original
from tasks.deploy.parity import compare, worst
from tools.cli import composed
from tools.tables import print_table

# /proc/cpuinfo of the emulated processors, which runtimes read: number of the part, features beyond those of all
CPUS = {
    "cortex-a53": ("0xd03", ""),
    "cortex-a76": ("0xd0b", "asimdhp asimddp"),
    "max": ("0xd0b", "asimdhp asimddp i8mm"),
}
X86 = ("Haswell",)
CPUINFO = """processor\t: {}
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics cpuid {}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {}
CPU revision\t: 1

"""
WORKER = """
import runpy, sys
import numpy as np
space = runpy.run_path(sys.argv[1])
manifest = space["read_manifest"]()
(run,) = (value for name, value in space.items() if name.startswith("run_"))
for line in sys.stdin:
    np.savez(line.strip() + ".npz", *run(space["ARTIFACT"], manifest, np.load(line.strip())))
    print("done", flush=True)
"""


class Emulated(Runtime):
    """An artifact in an emulated process, one call after another.

    Args:
        folder, manifest: Of the artifact, which has a run.py.
        command: What starts Python in the emulator.
        environment: Of the process.
        scratch: Folder through which arrays go.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, command: Sequence[str], environment: dict[str, str], scratch: Path
    ) -> None:
        super().__init__(folder, manifest)
        self.file, self.said = scratch / "images.npy", scratch / "stderr.txt"
        self.process = subprocess.Popen(
            [*command, "-c", WORKER, str(folder / "run.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.said.open("w"), text=True, env=environment,
        )  # fmt: skip

    def run(self, images: Tensor) -> list[Tensor]:
        np.save(self.file, images.numpy())
        try:
            self.process.stdin.write(f"{self.file}\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer != "done\n":
            lines = [line for line in self.said.read_text().splitlines() if line.strip()]
            raise RuntimeError(f"{self.folder.name} ended in the emulator: {lines[-1] if lines else 'no word'}")
        with np.load(f"{self.file}.npz") as found:
            pairs = zip(found.values(), self.manifest.outputs, strict=True)
            return [torch.from_numpy(values).to(getattr(torch, spec.dtype)) for values, spec in pairs]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def emulator(cpu: str, root: Path | None, site: Path | None) -> tuple[list[str], dict[str, str]]:
    """Command that starts Python on a processor, and its environment."""
    alone = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    if cpu in X86:
        return ["qemu-x86_64-static", "-cpu", cpu, sys.executable], alone
    part, features = CPUS[cpu]
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text("".join(CPUINFO.format(n, features, part) for n in range(2)))
    python = root / "usr" / "bin" / "python3.11"
    return ["qemu-aarch64-static", "-L", str(root), "-cpu", cpu, str(python)], alone | {"PYTHONPATH": str(site)}


def judged(original: Original, folder: Path, manifest: Manifest, cpu: str, root: Path, site: Path) -> dict:
    """One artifact on one processor."""
    row = {"artifact": folder.name, "cpu": cpu, "format": manifest.backend, "precision": manifest.precision}
    with TemporaryDirectory() as scratch:
        runtime = Emulated(folder, manifest, *emulator(cpu, root, site), Path(scratch))
        try:
            found = runtime(original.examples)
            differences = compare(manifest.output, original.reference(manifest.output), found)
            score = original.measure(runtime, manifest)[original.task.monitor]
        except RuntimeError as error:
            return row | {"failed": str(error)}
        finally:
            runtime.close()
    eager = original.metric(manifest.output)[original.task.monitor]
    return row | {"difference": worst(differences), "eager": eager, "emulated": score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--cpus", nargs="+", default=list(CPUS), choices=[*CPUS, *X86])
    parser.add_argument("--images", type=int, default=8, help="of the validation set, for the metric")
    parser.add_argument("--root", type=Path, help="Debian's arm64 root")
    parser.add_argument("--site", type=Path, help="folder of aarch64 wheels")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for folder, manifest in map(read_manifest, options.artifacts):
        size = ",".join(map(str, manifest.image_size))
        words = [f"checkpoint={options.checkpoint}", f"export.image_size=[{size}]",
                 f"export.evaluation_images={options.images}"]  # fmt: skip
        original = Original(composed("export", words))
        for cpu in options.cpus:
            print(f"{folder.name} on {cpu}", file=sys.stderr, flush=True)
            rows.append(judged(original, folder, manifest, cpu, options.root, options.site))
    cells = [
        (row["artifact"], row["cpu"], *(row["failed"], "-", "-")) if "failed" in row
        else (row["artifact"], row["cpu"], f"{row['difference']:.1e}", f"{row['eager']:.4f}", f"{row['emulated']:.4f}")
        for row in rows
    ]  # fmt: skip
    columns = ("artifact", "processor", "difference from eager", "metric in eager", "metric emulated")
    print_table(f"emulated processors, {options.images} images; nothing is timed", columns, cells)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    sys.exit(any("failed" in row for row in rows))


if __name__ == "__main__":
    main()
