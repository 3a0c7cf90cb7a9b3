"""The finding of one check of the installation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: Name of the check.
        state: "ok", "warning" (something is slow or missing) or "failed" (training does not work).
        found: What was found.
        remedy: What to do, in one line; empty where nothing is to be done.
    """

    check: str
    state: str
    found: str
    remedy: str = ""


Check = Callable[[Mapping[str, Any]], Iterator[Finding]]  # from the settings of `tasks.base.config.DoctorConfig`


def reason(error: BaseException) -> str:
    """Shorten an error to one line: its type and its first words."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
