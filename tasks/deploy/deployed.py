"""Put an exported network in the place of a task's own: same data, same predictions, same metrics."""

import logging
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base.build import Config, build_task, data_settings, plain, task_class
from tasks.base.task import VisionTask
from tasks.deploy.manifest import Manifest
from tasks.values.pixel_format import check_same_format

logger = logging.getLogger(__name__)
Run = Callable[[Tensor], Mapping[str, Tensor]]


class DeployedNetwork(nn.Module):
    """Stands in for `Network` and answers with what an artifact, or its model in eager mode, gives.

    Images of another size than the artifact's are resized to it. The task turns what comes out into what its
    network would give.

    Args:
        run: (N, 3, H, W) images in 0..255 -> outputs by name.
        task: The task that the artifact was made from; it tells what the numbers mean.
        output: As in `Manifest`.
        image_size: (H, W) px of the artifact's input.
    """

    def __init__(self, run: Run, task: VisionTask, output: str, image_size: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.head, self.pixels = task.network.backbone, task.network.head, task.network.pixels
        self.from_artifact = task.from_artifact  # bound: the task itself is no part of its network
        self.run, self.output, self.image_size = run, output, tuple(image_size)

    def forward(self, images: Tensor, image_size: tuple[int, int] | None = None) -> Tensor | dict[str, Tensor]:
        """As `Network.forward`; classes come as (N, H, W), detections with "boxes" and "scores" unless they are raw."""
        size = tuple(image_size or images.shape[-2:])
        if tuple(images.shape[-2:]) != self.image_size:
            images = F.interpolate(images.float(), self.image_size, mode="bilinear", antialias=True)
        return self.from_artifact(dict(self.run(images)), self.output, size)


def deployed_task(run: Run, manifest: Manifest, config: Config | None = None) -> VisionTask:
    """Build the task that an artifact was made from, with the artifact as its network.

    Args:
        run: As in `DeployedNetwork`: a `Runtime`, say.
        manifest: The certificate.
        config: To build from; default: the manifest's own.

    Raises:
        ValueError: The configuration asks for test-time augmentation, which an artifact of one size cannot give.
    """
    task = build_task(config or manifest.config, manifest.class_table(), pretrained=False).eval()
    task.check_deployed()
    task.network = DeployedNetwork(run, task, manifest.output, manifest.image_size)
    return task


def fixed_settings(config: Config, manifest: Manifest) -> None:
    """Refuse settings that an artifact has fixed otherwise: its network, its input's size, suppression in its graph.

    Args:
        config: The artifact's own, with what the command line changed.
        manifest: The certificate.

    Raises:
        ValueError: One differs; the line names it, as that of another pixel format.
    """
    given, stored = plain(config), manifest.config
    check_same_format(given, stored, "the artifact's network")
    parts = [(name, given.get(name), stored.get(name)) for name in ("backbone", "head")]
    inside = task_class(stored).fixed_settings(manifest.output)
    parts.append(("task", *({key: (one.get("task") or {}).get(key) for key in inside} for one in (given, stored))))
    for name, asked, made in parts:
        if isinstance(asked, dict) and isinstance(made, dict):
            changed = [key for key in asked if key in made and asked[key] != made[key] and key != "weights"]
            if changed:
                key = changed[0]
                raise ValueError(f"{name}.{key}={asked[key]}: the artifact was made with {made[key]}; leave it out")
    data, own = (data_settings(one, manifest.kind) for one in (given, stored))
    size, asked = tuple(manifest.image_size), data.get("image_size")
    if asked is None or _sizes(asked) == {size}:
        return
    if data.get("_target_") == own.get("_target_") and asked != own.get("image_size"):
        raise ValueError(f"data.image_size={asked}: the artifact sees {size[0]}x{size[1]} px; leave it out")
    logger.info("the artifact sees %dx%d px, whatever data.image_size=%s says", *size, asked)


def _sizes(value: int | Sequence) -> set[tuple]:
    """The (H, W) that a data set's image_size means: a side, an (H, W), or of a classifier some sides."""
    sides = [value] if isinstance(value, int) else list(value)
    return {tuple(sides)} if len(sides) == 2 and sides[0] != sides[1] else {(side, side) for side in sides}
