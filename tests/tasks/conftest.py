"""A small segmentation data set on disk, and a configuration that trains on it in a second."""

import copy
import functools

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import OmegaConf

from tasks.base.schemas import SCHEMAS
from tests.conftest import ROOT
from tools.composition import GROUPS

NAMES = ("background", "disc", "bar")


def write_masks(root, *, train: int = 6, val: int = 3, size=(48, 64)) -> None:
    """Discs and bars on noise: train/images, train/masks, val/images, val/masks."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros(size, np.uint8)
            cv2.circle(mask, [int(rng.integers(10, 54)), int(rng.integers(10, 38))], 9, 1, -1)
            cv2.rectangle(mask, [int(rng.integers(0, 40)), 4], [63, 9], 2, -1)
            colors = np.array([[90, 90, 90], [200, 60, 60], [60, 60, 200]])
            image = np.clip(colors[mask] + rng.integers(-25, 25, (*size, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / split / "images" / f"{index:03}.png"), image[..., ::-1])
            cv2.imwrite(str(root / split / "masks" / f"{index:03}.png"), mask)


@pytest.fixture(scope="session")
def masks_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    write_masks(root)
    return root


def composed(name: str = "train", *overrides: str):
    """What a tool's command line gives.

    Hydra composes what the groups choose once a session; values are set on a copy, as Hydra sets them last."""
    values = [one for one in map(parsed, overrides) if one is not None]
    try:
        config = copy.deepcopy(chosen(name, tuple(word for word in overrides if parsed(word) is None)))
        for one in values:
            OmegaConf.update(config, one.key_or_group, one.value(), merge=True)
    except Exception:  # with Hydra's own words
        return chosen.__wrapped__(name, overrides)
    return config


@functools.lru_cache(maxsize=200)
def chosen(name: str, overrides: tuple[str, ...]):
    for schema, cls in SCHEMAS.items():
        if f"{schema}.yaml" not in ConfigStore.instance().repo:
            ConfigStore.instance().store(schema, cls)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, list(overrides))


@functools.lru_cache(maxsize=1000)
def parsed(word: str):
    """The override, if it sets a value; None of one that chooses in a group, adds or deletes."""
    one = OverridesParser.create().parse_override(word)
    plain = one.type is OverrideType.CHANGE and one.package is None and not one.is_sweep_override()
    return one if plain and one.key_or_group not in GROUPS else None


@pytest.fixture
def small_run(masks_root, tmp_path, monkeypatch):
    """Compose a run on the small data set: small_run("trainer.max_epochs=2", ...)."""
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)

    def config(*overrides: str):
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        return composed(
            "train", "task=segmentation", "backbone=mnv1_025", "data=masks", f"data.root={masks_root}",
            f"data.class_names=[{','.join(NAMES)}]", "data.crop_size=[32,32]", "data.batch_size=2",
            "data.num_workers=0",
            "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "tensorboard=false",
            f"output_dir={tmp_path / 'run'}", *overrides,
        )  # fmt: skip

    return config
