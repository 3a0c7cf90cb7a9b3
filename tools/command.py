"""One command for all tools, of an installed package: mobile-dense train task=segmentation backbone=mnv3_large"""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TOOLS = tuple(sorted(path.stem for path in FOLDER.glob("*.py") if "\nif __name__" in path.read_text("utf-8")))


def main() -> None:
    """Run tools/{name}.py with the words behind its name, as `python tools/{name}.py` does."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TOOLS:
        sys.exit(f"usage: mobile-dense <tool> key=value ..., with one of the tools {', '.join(TOOLS)}; each has --help")
    script = str(FOLDER / f"{name}.py")
    sys.argv = [script, *sys.argv[2:]]
    runpy.run_path(script, run_name="__main__")
