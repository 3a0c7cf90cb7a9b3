"""What a check of the installation found, and what to do about it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at.
        state: "ok", "warning" (something will be slow or is missing) or "failed" (training does not work).
        found: What is there.
        remedy: What to do, in a line; empty if nothing.
    """

    check: str
    state: str
    found: str
    remedy: str = ""


Check = Callable[[Mapping[str, Any]], Iterator[Finding]]  # from the settings of `tasks.base.config.DoctorConfig`


def reason(error: BaseException) -> str:
    """An error in a line: its kind and its first words."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
