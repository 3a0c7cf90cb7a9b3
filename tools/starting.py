"""Say on a terminal, before anything heavy is imported, that a tool is starting: the imports take seconds."""

import os
import sys

_TEXT = "starting: loading torch and lightning ..."
_shown = sys.stderr.isatty() and os.environ.get("LOCAL_RANK", "0") == "0"
if _shown:
    print(_TEXT, end="", file=sys.stderr, flush=True)


def done_starting() -> None:
    """Wipe the line away."""
    global _shown
    if _shown:
        print(f"\r{' ' * len(_TEXT)}\r", end="", file=sys.stderr, flush=True)
    _shown = False
