"""int8 where it is known to hurt: h-swish with squeeze-and-excite, and re-parameterised kernels, on the demo data.

    python tests/benchmarks/int8_hard_cases.py [--cases mnv3_large-segmentation ...] [--formats onnx ...]

Each network is trained on the demo data, then measured by its task's metric: in floating point; in int8 calibrated
alone, through each runtime; with what the doctor keeps in floating point for the budget to hold in all of them; and
fine-tuned with int8 in the forward pass, calibrated again. Everything goes through the tools, as a user would. Nothing
is timed. What is done already in --output is not done again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tools.tables import print_table

LONGER = "trainer.max_epochs=15 ema_decay=0.98"
CASES = {  # name: what is trained, and what of it is hard
    "mnv3_large-segmentation": ("task=segmentation backbone=mnv3_large", "h-swish, squeeze-and-excite"),
    "mnv3_large-detection": ("task=detection backbone=mnv3_large", "h-swish, squeeze-and-excite"),
    "mobileone_s0-classification": (f"task=classification backbone=mobileone_s0 {LONGER}", "re-parameterised kernels"),
    "repvgg_a0-classification": (f"task=classification backbone=repvgg_a0 {LONGER}", "re-parameterised kernels"),
}
FORMATS = ("onnx", "executorch", "litert")


def tool(name: str, *words: str) -> None:
    """Run one of the tools.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    print(f"  {name} {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(ROOT / "tools" / f"{name}.py"), *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} {' '.join(words)}: {(done.stderr or done.stdout).strip()[-2000:]}")


def trained(place: Path, words: list[str]) -> Path:
    """A checkpoint of a training run, made where it is not there."""
    if not (place / "metrics.json").is_file():
        tool("train", *words, f"output_dir={place}", "overwrite=true")
    return place / "best.ckpt"


def measured(checkpoint: Path, place: Path, formats: list[str], keep_float: list[str]) -> dict[str, float]:
    """The metric of int8 artifacts, and of the network in floating point as "eager"."""
    missing = [name for name in formats if not list(place.glob(f"{name}-*/manifest.json"))]
    if missing:
        tool(
            "export", f"checkpoint={checkpoint}", f"export.formats=[{','.join(missing)}]", "export.precision=int8",
            "export.detections=decoded", f"export.keep_float=[{','.join(keep_float)}]", "export.max_drop=1",
            f"output_dir={place}",
        )  # fmt: skip
    found = {}
    for name in formats:
        (file,) = place.glob(f"{name}-*/manifest.json")
        metric = json.loads(file.read_text())["metric"]
        found |= {name: metric["runtime"], "eager": metric["eager"]}
    return found


def prescribed(checkpoint: Path, place: Path, formats: list[str], max_drop: float) -> list[str]:
    """What the doctor keeps in floating point."""
    if not (place / "quantization.json").is_file():
        tool(
            "export", f"checkpoint={checkpoint}", f"export.formats=[{','.join(formats)}]", "export.doctor=true",
            "export.detections=decoded", f"export.max_drop={max_drop}", f"output_dir={place}",
        )  # fmt: skip
    return json.loads((place / "quantization.json").read_text())["keep_float"]


def studied(name: str, place: Path, formats: list[str], max_drop: float, more: list[str]) -> dict:
    """One case, all its ways."""
    words = [*CASES[name][0].split(), *more]
    checkpoint = trained(place / "float", words)
    alone = measured(checkpoint, place / "alone", formats, [])
    kept = prescribed(checkpoint, place / "doctor", formats, max_drop)
    mixed = measured(checkpoint, place / "mixed", formats, kept) if kept else alone
    tuning = [f"qat.checkpoint={checkpoint}", "qat=int8", "optimizer.lr=0.0001", "trainer.max_epochs=4"]
    aware = measured(trained(place / "aware", [*words, *tuning]), place / "aware" / "int8", formats, [])
    return {"case": name, "alone": alone, "keep_float": kept, "mixed": mixed, "aware": aware}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--max-drop", type=float, default=0.01, help="of the metric, for the doctor")
    parser.add_argument("--output", type=Path, help="folder that keeps everything; default: none is kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--train", nargs="*", default=[], help="settings of the trainings, for a short run")
    options = parser.parse_args()
    found = []
    with TemporaryDirectory() as scratch:
        place = (options.output or Path(scratch)).resolve()
        for name in options.cases:
            print(name, file=sys.stderr, flush=True)
            found.append(studied(name, place / name, options.formats, options.max_drop, options.train))
    rows = []
    for one in found:
        for way in ("alone", "mixed", "aware"):
            kept = f"{len(one['keep_float'])} modules in float" if way == "mixed" else ""
            worst = min(one[way][name] for name in options.formats) - one["alone"]["eager"]
            scores = [f"{one[way][name]:.4f}" for name in ("eager", *options.formats)]
            rows.append((one["case"], way, kept, *scores, f"{worst:+.4f}"))
    print_table(
        "the metric in int8: calibrated alone, mixed as the doctor says, quantization-aware",
        ("case", "int8", "kept", "float", *options.formats, "worst against float"), rows,
    )  # fmt: skip
    for one in found:
        print(f"{one['case']} ({CASES[one['case']][1]}): export.keep_float=[{','.join(one['keep_float'])}]")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
