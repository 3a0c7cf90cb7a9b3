"""Freed memory stays in the process, unless the user or another malloc decides."""

import platform
import subprocess
import sys

import pytest

from tasks.base.kept_memory import VARIABLES, keep_freed_memory
from tests.conftest import ROOT

# Page faults of filling 64 MiB that were filled and freed before, with both ways.
FAULTS = """
import os, resource, sys
sys.path[0] = sys.argv[1]
from tasks.base.kept_memory import keep_freed_memory

def faults():
    b"1" * (64 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"1" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), int(keep_freed_memory({})), faults())
"""


def test_a_step_finds_the_pages_of_the_one_before():
    done = subprocess.run([sys.executable, "-S", "-c", FAULTS, str(ROOT)], env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given_back, could, kept = map(int, done.stdout.split())
    assert could == (platform.libc_ver()[0] == "glibc")
    assert not could or kept < 100 < 10_000 < given_back


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_chosen_stays(name):
    assert not keep_freed_memory({name: "1"})
