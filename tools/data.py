"""Check, measure or show a data set, write it as shards, cut crops: python tools/data.py action=check data=coco"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # foreign packages called tasks or tools exist

from omegaconf import DictConfig

from tasks.values.counted import counted
from tools.cli import main
from tools.starting import loading
from tools.tables import print_table

SHOWN = 10  # problems and warnings on the terminal; all are in the JSON


def report(config: DictConfig) -> int:
    with loading("torch"):
        from tasks.files.writing import write_json
        from tasks.inspection.actions import run_action
    outcome = run_action(config)
    for title, columns, rows in outcome.tables:
        print_table(title, columns, rows)
    for kind, texts in (("problem", outcome.problems), ("warning", outcome.warnings)):
        for text in texts[:SHOWN]:
            print(f"{kind}: {text}")
        if len(texts) > SHOWN:
            print(f"... and {counted(len(texts) - SHOWN, f'more {kind}')}")
    for text in outcome.hints:
        print(f"try: {text}")
    if config.output_json:
        write_json(Path(config.output_json).expanduser(), outcome.content)
    if outcome.folder:
        print(f"written to {outcome.folder}: {', '.join(sorted(path.name for path in outcome.folder.iterdir()))}")
    if outcome.problems:
        raise ValueError(
            f"{counted(len(outcome.problems), 'problem')}; {outcome.folder / 'report.json'} has all of them"
        )
    return len(outcome.warnings)


if __name__ == "__main__":
    main("data", report)
