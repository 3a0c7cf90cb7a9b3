"""Put an exported network in the place of a task's own: same data, same predictions, same metrics."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base.build import build_task
from tasks.base.plain_config import Config
from tasks.base.task import VisionTask
from tasks.deploy.manifest import Manifest

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
