"""A small segmentation data set on disk, and a configuration that trains on it in a second."""

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from tasks.base.config import SCHEMAS
from tests.conftest import ROOT

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
    """What a tool's command line gives."""
    for schema, cls in SCHEMAS.items():
        ConfigStore.instance().store(schema, cls)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, list(overrides))


@pytest.fixture
def small_run(masks_root, tmp_path, monkeypatch):
    """Compose a run on the small data set: small_run("trainer.max_epochs=2", ...)."""
    monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)

    def config(*overrides: str):
        monkeypatch.delenv("MOBILE_DENSE_RUN", raising=False)
        return composed(
            "train", "task=segmentation", "backbone=mnv3_small", "data=masks", f"data.root={masks_root}",
            f"data.class_names=[{','.join(NAMES)}]", "data.crop_size=[32,32]", "data.batch_size=2",
            "data.num_workers=0",
            "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "tensorboard=false",
            f"output_dir={tmp_path / 'run'}", *overrides,
        )  # fmt: skip

    return config
