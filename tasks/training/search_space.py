"""What a search for hyperparameters chooses from."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

KINDS = ("log", "int", "float")
OWN = ("search", "trials", "output_dir")  # settings of a search, which no trial gets


class Trial(Protocol):
    """Suggests values, as Optuna's trials do."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included; `log`: as many in 0.01..0.1 as in 0.1..1."""

    low: float
    high: float
    whole: bool
    log: bool


def parse_space(search: Any) -> dict[str, Range | list[Any]]:
    """Read a search space: by override, a range or a list of choices.

    Args:
        search: Mapping such as {"optimizer.lr": [1e-4, 1e-1, "log"]}. A list that ends with "log", "int" or "float", or
            "int" and "log", is a range; any other is one of choices.

    Raises:
        ValueError: There is nothing to search, or an entry is neither a range nor a list of at least two choices.

    >>> parse_space({"optimizer.lr": [1e-4, 0.1, "log"], "optimizer": ["sgd", "adamw"]})
    {'optimizer.lr': Range(low=0.0001, high=0.1, whole=False, log=True), 'optimizer': ['sgd', 'adamw']}
    """
    if not isinstance(search, Mapping) or not search:
        raise ValueError(
            'search= says what to search: search="{optimizer.lr: [1e-4, 1e-1, log], data.batch_size: [8, 16]}"'
        )
    return {str(key): _parsed(str(key), value) for key, value in search.items()}


def suggest(trial: Trial, space: Mapping[str, Range | list[Any]], write: Callable[[str, Any], str]) -> list[str]:
    """Choose a value for each entry of a space; returns them as overrides.

    Args:
        trial: Suggests values.
        space: As from `parse_space`.
        write: Writes key and value as an override; choices go by that text.
    """
    words = []
    for key, entry in space.items():
        if isinstance(entry, list):
            words.append(trial.suggest_categorical(key, [write(key, value) for value in entry]))
        elif entry.whole:
            words.append(write(key, trial.suggest_int(key, int(entry.low), int(entry.high), log=entry.log)))
        else:
            words.append(write(key, trial.suggest_float(key, entry.low, entry.high, log=entry.log)))
    return words


def _parsed(key: str, value: Any) -> Range | list[Any]:
    entries = list(value) if isinstance(value, list | tuple) else []
    kinds = set()
    while entries and entries[-1] in KINDS:
        kinds.add(entries.pop())
    if not kinds:
        misspelt = len(entries) == 3 and [isinstance(one, str) for one in entries] == [False, False, True]
        if len(entries) < 2 or misspelt:
            raise ValueError(
                f"search: {key}={value}: expected [low, high, log], [low, high, int], [low, high, float], or a list of "
                "at least two choices"
            )
        return entries
    numbers = [one for one in entries if isinstance(one, int | float) and not isinstance(one, bool)]
    low, high = numbers if len(numbers) == len(entries) == 2 else (math.nan, math.nan)
    whole, log = "int" in kinds, "log" in kinds
    if not low < high or (log and low <= 0) or (whole and (low % 1 or high % 1)):
        raise ValueError(
            f"search: {key}={value}: expected two numbers, the lower first{', above 0' * log}{', whole ones' * whole}"
        )
    return Range(low, high, whole, log)
