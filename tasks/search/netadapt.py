"""Narrow a trained network, width by width, until it has a latency (NetAdapt)."""

from tasks.base.plain_config import Config
from tasks.search import Found


def search(config: Config) -> Found:
    """Narrow the network of `config.checkpoint`."""
    raise NotImplementedError
