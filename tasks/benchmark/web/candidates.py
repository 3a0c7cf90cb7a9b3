"""What a browser is to run: artifacts, each in every backend and number of threads, and the outputs to expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.base.build import Config
from tasks.benchmark.exported_cases import phone_artifacts
from tasks.demo.painting import paint_street
from tasks.deploy.backend import load_runtime
from tasks.deploy.manifest import Manifest, read_manifest
from tasks.deploy.web.runtimes import PACKAGES
from tasks.files.pixels import read_pixels
from tasks.transforms.resizing import resize_image
from tasks.values.counted import counted
from tasks.values.pixel_format import pixel_format

BACKENDS = ("wasm", "webgpu")


@dataclass(frozen=True)
class Candidate:
    """An artifact in one runtime of a browser.

    Attributes:
        number: Of the candidate.
        path: As the user named the artifact.
        folder, manifest: Of the artifact.
        images: (N, C, H, W) of the sample, in the input's type.
        expected: What the artifact's own runtime gives for them on this machine.
        device: "wasm" or "webgpu".
        threads: Of wasm.
    """

    number: int
    path: Path
    folder: Path
    manifest: Manifest
    images: Tensor
    expected: Mapping[str, Tensor]
    device: str
    threads: int

    @property
    def name(self) -> str:
        """What runs, in words."""
        return f"{self.manifest.backend} {self.device}"

    @property
    def file(self) -> str:
        """Path of the artifact below the page's address."""
        return f"artifacts/{self.number}/{self.manifest.artifact}"

    def way(self, about: Mapping[str, Any]) -> str:
        """Say what computes on a device that told so much `about` itself: so many threads, or a GPU."""
        return counted(self.threads, "thread") if self.device == "wasm" else f"on {about.get('webgpu') or 'no GPU'}"


def candidates_of(config: Config, folder: Path) -> list[Candidate]:
    """Prepare the artifacts of `config`, each in every backend and number of threads of `config.web`.

    Raises:
        ValueError: No artifact is given, or one that no browser runs; or a setting is out of range.
    """
    settings = config["web"]
    if unknown := {*settings["backends"]} - {*BACKENDS}:
        raise ValueError(f"web.backends={','.join(sorted(unknown))}: expected some of {', '.join(BACKENDS)}")
    if min(settings["threads"], default=0) < 1:
        raise ValueError(f"web.threads={list(settings['threads'])}: expected numbers of at least 1")
    paths = phone_artifacts(config, [name for name in config["runtimes"] if name in PACKAGES], folder / "web")
    if not paths:
        raise ValueError(
            f"target=web times artifacts; give artifact=<folder that tools/export.py wrote>, or runtimes= with some of "
            f"{', '.join(PACKAGES)}"
        )
    found: list[Candidate] = []
    for path in paths:
        place, manifest = read_manifest(path)
        if manifest.backend not in PACKAGES:
            raise ValueError(f"{path} is made for {manifest.backend}; a browser runs {', '.join(PACKAGES)}")
        images = sample_images(manifest, settings["sample"])
        expected = load_runtime(path)(images)
        ways = [("wasm", threads) for threads in settings["threads"]] + [("webgpu", 1)]
        for device, threads in ways:
            if device in settings["backends"]:
                found.append(Candidate(len(found), path, place, manifest, images, expected, device, threads))
    return found


def sample_images(manifest: Manifest, picture: str | None) -> Tensor:
    """Read or draw the picture that outputs are compared on, at the input's size: (1, C, H, W)."""
    height, width = manifest.image_size
    if picture:
        image = read_pixels(Path(picture).expanduser(), pixel_format(manifest.config))
    else:
        image = paint_street(np.random.default_rng(0), (256, 512), {"car": 3, "person": 4}).image
        image = np.resize(image, (*image.shape[:2], manifest.input.shape[1]))
    resized = torch.from_numpy(resize_image(image, (height, width)).reshape(height, width, -1)).permute(2, 0, 1)[None]
    return resized.contiguous().to(getattr(torch, manifest.input.dtype))


def able(candidates: Sequence[Candidate], about: Mapping[str, Any]) -> list[Candidate]:
    """Pick what differs on a device: more threads than its cores are as many as those."""
    fitted = (replace(one, threads=min(one.threads, max(1, int(about.get("cores") or 1)))) for one in candidates)
    return list({(one.path, one.device, one.threads): one for one in fitted}.values())
