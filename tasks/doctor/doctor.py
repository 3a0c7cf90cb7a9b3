"""Check whether this machine can train, export and measure; each check says what it found and what to do."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tasks.base.config import DoctorConfig
from tasks.doctor.finding import FAILED, OK, WARNING, Finding, reason
from tasks.doctor.hardware import CHECKS as HARDWARE
from tasks.doctor.software import CHECKS as SOFTWARE
from tasks.doctor.software import install_command
from tasks.values.counted import counted


def examine(settings: DoctorConfig | Mapping[str, Any], command_line: Exception | None = None) -> list[Finding]:
    """Run all checks.

    Args:
        settings: Settings as in `tasks.base.config.DoctorConfig`.
        command_line: Error of importing the command line; None where it loads.

    Returns:
        Findings in the order of the checks. A check that raises is reported as failed, and the others still run.
    """
    values = dict(settings) if isinstance(settings, Mapping) else vars(settings)
    findings: list[Finding] = []
    for name, job in (SOFTWARE | HARDWARE).items():
        try:
            findings += job(values)
        except Exception as error:  # whatever a broken package raises
            findings.append(Finding(name, FAILED, reason(error), "mend what this names, then run the doctor again"))
    if command_line is None:
        return [*findings, Finding("command line", OK, "Hydra and Lightning load")]
    remedy = f"{install_command()} (and see the lines above)"
    return [*findings, Finding("command line", FAILED, reason(command_line), remedy)]


def table(findings: list[Finding]) -> str:
    """Format findings as aligned text: state, check, finding, and the remedy below it."""
    wide = max((len(one.check) for one in findings), default=0)
    lines = []
    for one in findings:
        lines.append(f"{one.state:<8} {one.check:<{wide}}  {one.found}")
        if one.remedy:
            lines.append(f"{'':<8} {'':<{wide}}  -> {one.remedy}")
    count = {state: sum(one.state == state for one in findings) for state in (OK, WARNING, FAILED)}
    return "\n".join([*lines, "", f"{count[OK]} ok, {counted(count[WARNING], 'warning')}, {count[FAILED]} failed"])


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """Convert findings for a JSON file: {"healthy": no check failed, "checks": [findings]}."""
    return {"healthy": all(one.state != FAILED for one in findings), "checks": [asdict(one) for one in findings]}


def plain_settings(arguments: list[str]) -> DoctorConfig:
    """Read key=value arguments without Hydra, for when that cannot be imported.

    Raises:
        ValueError: An argument is not key=value, or its key is unknown.
    """
    settings = DoctorConfig()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in vars(settings):
            raise ValueError(f"{argument}: expected key=value with one of {', '.join(vars(settings))}")
        value: Any = None if text in ("null", "") else text
        kind = type(getattr(settings, key))
        if kind is bool:
            value = text.lower() in ("true", "1", "yes", "on")
        elif kind in (int, float):
            value = kind(text)
        setattr(settings, key, value)
    return settings
