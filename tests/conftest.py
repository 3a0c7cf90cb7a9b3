"""Shared fixtures: one thread, no network, the folder of real images."""

import os
import socket
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DENSE_TEST_DATA", ROOT.parent / "shared" / "data"))

# Two torch threads on two busy cores can be many times slower than one.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Leave out, visibly, what this machine has nothing to run on: tests of real images, tests of a GPU."""
    missing = [name for name, there in (("data", DATA.is_dir()), ("gpu", torch.cuda.is_available())) if not there]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails at once, on every machine alike."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
            return connect(self, address)
        raise OSError(f"tests may not reach the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def real_data() -> Path:
    return DATA
