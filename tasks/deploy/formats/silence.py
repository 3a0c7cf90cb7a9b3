"""Converters talk, in Python and below it: they are silenced, and what they said is kept for when they fail."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def silenced(failure: str = "") -> Iterator[None]:
    """Keep whatever writes to stdout, stderr or a log from being seen, C++ libraries included.

    Args:
        failure: What it means if the block raises ("LiteRT cannot hold the network").

    Raises:
        ValueError: The block raised an `Exception`; names its first line and the last one that was said.
        ImportError: As raised by the block.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    level, kept = logging.root.manager.disable, [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile("w+", buffering=1, errors="replace") as said:
        try:
            logging.disable(logging.CRITICAL)
            for descriptor in (1, 2):
                os.dup2(said.fileno(), descriptor)
            with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
                warnings.simplefilter("ignore")
                yield
        except ImportError:
            raise
        except Exception as error:
            said.seek(0)
            spoken = [line for line in said.read().splitlines() if line.strip()]
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            last = f"; the last it said: {spoken[-1].strip()[:200]}" if spoken else ""
            raise ValueError(f"{failure or 'it failed'} ({first.strip()[:300]}{last})") from error
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            logging.disable(level)
