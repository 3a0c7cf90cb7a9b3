"""An exported network in the place of a task's own: same data, same predictions, same metrics."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base import VisionTask
from tasks.build import Config, build_task
from tasks.deploy.manifest import Manifest
from tasks.network import Network

Run = Callable[[Tensor], Mapping[str, Tensor]]


class DeployedNetwork(nn.Module):
    """Stands in for `Network` and answers with what an artifact, or its model in eager mode, gives.

    Images of another size than the artifact's are resized to it. What it gives for every pixel is brought to the size
    asked for: logits bilinearly, classes by the nearest.

    Args:
        run: (N, 3, H, W) images in 0..255 -> outputs by name.
        network: The network that the artifact was made from; its head tells what the numbers mean.
        form: As in `Manifest`.
        image_size: (H, W) px of the artifact's input.
    """

    def __init__(self, run: Run, network: Network, form: str, image_size: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.run, self.form, self.image_size = run, form, tuple(image_size)

    def forward(self, images: Tensor, image_size: tuple[int, int] | None = None) -> Tensor | dict[str, Tensor]:
        """As `Network.forward`; classes come as (N, H, W), detections with "boxes" and "scores" unless they are raw."""
        size = tuple(image_size or images.shape[-2:])
        if tuple(images.shape[-2:]) != self.image_size:
            images = F.interpolate(images.float(), self.image_size, mode="bilinear", antialias=True)
        outputs = dict(self.run(images))
        if self.head.kind == "detection":
            return outputs
        (values,) = outputs.values()
        if self.form == "probabilities":
            return values.clamp_min(torch.finfo(values.dtype).tiny).log()
        if self.head.kind == "classification" or tuple(values.shape[-2:]) == size:
            return values
        if values.is_floating_point():
            return F.interpolate(values, size, mode="bilinear", align_corners=False)
        return F.interpolate(values[:, None].to(torch.uint8), size, mode="nearest")[:, 0]


def deployed_task(run: Run, manifest: Manifest, config: Config | None = None) -> VisionTask:
    """The task that an artifact was made from, with the artifact as its network.

    Args:
        run: As in `DeployedNetwork`: a `Runtime`, say.
        manifest: The certificate.
        config: To build from; default: the manifest's own.

    Raises:
        ValueError: The configuration asks for test-time augmentation, which an artifact of one size cannot give.
    """
    task = build_task(config or manifest.config, manifest.class_table(), pretrained=False).eval()
    if getattr(task, "tta_scales", (1.0,)) != (1.0,) and manifest.kind == "segmentation":
        raise ValueError("an artifact has one input size; set task.tta_scales=[1.0]")
    task.network = DeployedNetwork(run, task.network, manifest.form, manifest.image_size)
    return task
