"""The configurations of conf/backbone as a command line composes them."""

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.conftest import ROOT

NAMES = sorted(path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml"))


@cache
def _composed() -> dict[str, dict[str, Any]]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        nodes = {name: compose(overrides=[f"+backbone={name}"]).backbone for name in NAMES}
    return {name: OmegaConf.to_container(node) for name, node in nodes.items()}


def configuration(name: str) -> dict[str, Any]:
    """The node of a backbone, without the rest of a tool's configuration."""
    return dict(_composed()[name])
