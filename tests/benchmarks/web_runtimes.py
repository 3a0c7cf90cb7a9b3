"""ONNX Runtime Web and LiteRT.js in headless Chromium beside ONNX Runtime and LiteRT on the same machine.

    python tests/benchmarks/web_runtimes.py [--runs 10] [--rounds 5] [--threads 2] [--cases detection] [--formats onnx]

MobileNetV3-Large at 224 px, SSDLite320 up to its raw maps, and LR-ASPP at 512x1024 px, all with random weights. Each
runs in WebAssembly with one thread and with several, and natively with as many; all sides of a case take turns in every
round, so that what else the machine does hits all alike. Trimmed means in ms, and the ratio browser / native.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tasks.benchmark.latency import Latency, Protocol, Timed, measure_elsewhere
from tasks.benchmark.web.candidates import Candidate, able, candidates_of
from tasks.benchmark.web.device import Device
from tasks.benchmark.web.server import Site
from tasks.benchmark.web.target import opened, row_of
from tasks.deploy.backend import load_runtime
from tasks.deploy.web.page import page_files
from tests.benchmarks.alternating import load
from tests.browser import Chromium
from tools.cli import composed

CASES = {
    "classification": ["image_size=224"],
    "detection": ["image_size=320"],
    "segmentation": ["image_size=[512,1024]", "output=argmax"],
}


def native(one: Candidate) -> Timed:
    """The candidate's artifact in its own runtime here, with as many threads; times itself, ms."""
    runtime = load_runtime(one.folder, threads=one.threads)

    def timed(calls: int) -> list[float]:
        times = []
        for _ in range(calls):
            start = perf_counter()
            runtime.run(one.images)
            times.append(1e3 * (perf_counter() - start))
        return times

    return timed


def in_turn(candidates: list[Candidate], protocol: Protocol, folder: Path) -> dict[str, Latency | str]:
    """Open the page in Chromium, and time all candidates there and here."""
    found: dict[str, Latency | str] = {}

    def measure(device: Device) -> bool:
        sides: dict[str, Timed] = {}
        for one in able(candidates, device.about):
            row = row_of(one, device.about, protocol, {"request": []})
            name = f"{one.manifest.backend} {one.threads}"
            sides[f"browser {name}"], sides[f"native {name}"] = opened(device, one, row).timed, native(one)
            print(f"{row['network']}, {name}: {row['notes'][1]}", flush=True)
        found.update(measure_elsewhere(sides, protocol))
        return True

    files: dict = page_files("bench", {one.manifest.backend for one in candidates})
    site = Site(files | {one.file: one.folder / one.manifest.artifact for one in candidates}, measure, host="127.0.0.1")
    browser = Chromium(folder / "profile")
    try:
        site.wait(1, ready=lambda: browser.open(site.address))
    finally:
        browser.end()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--formats", nargs="+", default=["onnx"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    protocol = Protocol(warmup=3, rounds=options.rounds, runs=options.runs)
    results: dict[str, dict[str, float]] = {}
    for case in options.cases:
        with TemporaryDirectory() as folder:
            words = [f"task={case}", "backbone=mnv3_large", *CASES[case], f"runtimes=[{','.join(options.formats)}]"]
            config = composed("benchmark", [*words, "web.backends=[wasm]", f"web.threads=[1,{options.threads}]"])
            found = in_turn(candidates_of(config, Path(folder)), protocol, Path(folder))
        print(f"{case}, trimmed mean of {options.rounds * options.runs} calls, {load()}")
        for name, latency in found.items():
            if isinstance(latency, str):
                print(f"{name:26} {latency}")
                continue
            results.setdefault(case, {})[name] = latency.trimmed
            beside = found.get(name.replace("browser", "native"))
            ratio = f"   ratio {latency.trimmed / beside.trimmed:.2f}" if beside is not latency else ""
            print(f"{name:26} {latency.trimmed:8.1f} ms, p90 {latency.p90:8.1f}{ratio}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
