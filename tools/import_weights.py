"""Convert foreign weights: python tools/import_weights.py backbone=mnv2 source=mobilenet_v2.pth output=mnv2.pth"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tools.cli import main
from tools.starting import loading
from tools.tables import print_table


def report(config: DictConfig) -> float | None:
    with loading("torch"):
        from tasks.files.writing import write_json
        from tasks.import_weights import import_weights
    result = import_weights(config)
    error, compared = result["relative_error"], result["compared"]
    parity = "no network at hand" if error is None else f"{error:.1e} over {compared} convolutions"
    rows = [
        ("naming", result["naming"]),
        ("tensors", str(result["tensors"])),
        ("left aside", str(len(result["unused"]))),
        ("input channels adapted", ", ".join(result["adapted"]) or "no"),
        ("mean, std", f"{result['mean']}, {result['std']}"),
        (f"relative error to {result['reference'] or 'its origin'}", parity),
        ("relative error fused, float64", f"{result['fused_error']:.1e}"),
    ]
    print_table(f"{result['source']} -> {config.output}", ("", "value"), rows)
    if config.output_json:
        write_json(Path(config.output_json).expanduser(), result)
    return error


if __name__ == "__main__":
    main("import_weights", report)
