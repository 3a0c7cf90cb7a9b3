"""A segmenter as it is exported: pixels in, logits or classes of the pixels out."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.base.network import Deployable, Network
from tasks.segmentation.present_classes import upsampled_classes


class SegmentationDeployable(Deployable):
    """Class scores or classes of the pixels.

    "logits" are (N, K, H, W) float32. The others give "classes", as bytes: "argmax" (N, H, W) of those logits, as
    `SegmentationTask.predict` does; "present" the same, of which only the maps of classes that can win are upsampled;
    "argmax_low" (N, H, W), decided at the head's own resolution and then repeated, which spares the upsampling of K
    maps; "low" (N, h, w) at that resolution, for the caller to enlarge.

    Bytes are the smallest that ONNX Runtime, ExecuTorch and LiteRT give out. Core ML knows int32 instead, and ncnn
    float32: their backends turn them so.
    """

    def __init__(self, network: Network, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output
        self.outputs = ("logits",) if output == "logits" else ("classes",)
        self.varying = output == "present"
        self.stride = min(tap.stride for tap in network.head.taps)  # of the map that a decoder ends at

    def forward(self, images: Tensor) -> tuple[Tensor]:
        images, size = images.float(), tuple(images.shape[-2:])
        if self.output == "logits":
            return (self.network(images),)
        if self.output == "argmax":
            return (self.network(images).argmax(1).to(torch.uint8),)
        # for predictions of the size that the head has anyway it does not resample
        logits = self.network(images, tuple(-(-side // self.stride) for side in size))
        if self.output == "present":
            return (upsampled_classes(logits, size),)
        classes = logits.argmax(1)
        if self.output == "argmax_low":
            classes = F.interpolate(classes[:, None].float(), size, mode="nearest")[:, 0]
        return (classes.to(torch.uint8),)
