"""Check the installation and say what to do: python tools/doctor.py [output_dir= output_json=] [formats=false]"""

import importlib
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from tasks.doctor.doctor import examine, plain_settings, table, to_json

try:
    from tools.cli import main
    from tools.starting import loading
except Exception as error:  # whatever a broken installation raises; the doctor then reads its settings itself
    main, broken = None, error
else:
    broken = None


def training_error() -> Exception | None:
    """Import what a training needs, which the command line itself does without."""
    try:
        with loading("torch", "lightning"):
            importlib.import_module("tasks.training.fit")
    except Exception as error:
        return error


def report(config) -> None:
    findings = examine(config, broken or training_error())
    print(table(findings))
    if config["output_json"]:
        file = Path(config["output_json"]).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(to_json(findings), indent=2) + "\n")
    if not to_json(findings)["healthy"]:
        sys.exit(1)


if __name__ == "__main__":
    if main is not None:
        main("doctor", report)
    elif {"--help", "-h"} & {*sys.argv[1:]}:
        print(__doc__)
    else:
        try:
            settings = plain_settings(sys.argv[1:])
        except ValueError as error:
            sys.exit(f"error: {error}")
        report(vars(settings))
