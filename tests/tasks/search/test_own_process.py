"""A process that dies or raises is told from one that ends."""

import os

import pytest

from tasks.search.own_process import in_own_process


def end(how: str) -> None:
    print("before the end", flush=True)
    if how == "dies":
        os._exit(9)
    if how == "raises":
        raise RuntimeError("out of\nmemory")


@pytest.mark.long
def test_what_a_process_has_said_is_its_error(tmp_path):
    log = tmp_path / "trial-000.log"
    assert in_own_process(log, end, "ends") == ""
    assert in_own_process(log, end, "raises") == "out of memory"
    assert in_own_process(log, end, "dies") == f"it ended with status 9; see {log}"
    assert log.read_text().count("before the end") == 3
