"""The metric of checkpoints through every format and precision that runs here, beside eager mode.

    python tests/benchmarks/format_table.py runs/x/best.ckpt [runs/y/best.ckpt ...] [--formats onnx qnn]
        [--precisions fp32 int8 w8a16] [--images 50] [--words export.image_size=[96,128]]

Each is exported and measured as tools/export.py does, with nothing refused: a loss above the budget, 0.001 in fp32 and
0.01 in int8 and w8a16, is marked with "!". Formats that this environment lacks, and precisions that a format lacks, are
"-". QNN's seconds an image are those of its emulator. Nothing else is timed.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # this folder off the path, the repository first on it

from tasks.deploy.backend import BACKENDS, Backend, backend
from tasks.deploy.export import export
from tasks.deploy.manifest import read_manifest
from tasks.deploy.original import MAX_DROP
from tools.cli import composed
from tools.tables import print_table

PRECISIONS = ("fp32", "int8", "w8a16")


def installed(names: list[str]) -> dict[str, Backend]:
    """{name: format} of those that can be measured here."""
    found = {}
    for name in names:
        try:
            found[name] = backend(name)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return {name: one for name, one in found.items() if one.here}


def measured(checkpoint: Path, formats: dict[str, Backend], precision: str, options: argparse.Namespace) -> list[dict]:
    """A row for each format that has the precision."""
    names, rows = [name for name, one in formats.items() if precision in one.precisions], []
    for name in names:
        with TemporaryDirectory() as scratch:
            words = [
                f"checkpoint={checkpoint}", f"export.formats=[{name}]", f"export.precision={precision}",
                f"export.evaluation_images={options.images}", "export.max_drop=1", "export.detections=decoded",
                f"output_dir={scratch}", *options.words,
            ]  # fmt: skip
            start = process_time()
            _, failures = export(composed("export", words))
            row = {"source": str(checkpoint), "format": name, "precision": precision,
                   "cpu_s": process_time() - start}  # fmt: skip
            if failures:
                rows.append(row | {"failed": failures[0]})
                continue
            (folder,) = Path(scratch).iterdir()
            manifest = read_manifest(folder)[1]
            budget = MAX_DROP.get(precision, 0.001)
            metric = manifest.metric | {"held": manifest.metric["eager"] - manifest.metric["runtime"] <= budget}
            rows.append(row | {"kind": manifest.kind, "output": manifest.output} | metric)
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--formats", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--images", type=int, default=50, help="of the validation set")
    parser.add_argument("--words", nargs="*", default=[], help="more settings of tools/export.py")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    formats, rows = installed(options.formats), []
    for checkpoint in options.checkpoints:
        for precision in options.precisions:
            rows += measured(checkpoint, formats, precision, options)
    cells = []
    for checkpoint in map(str, options.checkpoints):
        for name in formats:
            own = {row["precision"]: row for row in rows if (row["source"], row["format"]) == (checkpoint, name)}
            known = [row for row in own.values() if "failed" not in row]
            eager = f"{known[0]['eager']:.4f}" if known else "-"
            where = f"{known[0]['kind']}, {known[0]['name']}, {known[0]['images']} images" if known else "-"
            cells.append((checkpoint, where, name, eager, *(_cell(own.get(one)) for one in options.precisions)))
    columns = ("checkpoint", "metric", "format", "eager", *options.precisions)
    print_table("the metric through each runtime; ! is a loss above the budget", columns, cells)
    for row in rows:
        if "failed" in row:
            print(f"{row['format']} {row['precision']}: {row['failed']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    return "failed" if "failed" in row else f"{row['runtime']:.4f}" + ("" if row["held"] else " !")


if __name__ == "__main__":
    main()
