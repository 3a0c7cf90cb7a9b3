"""torchvision's SSDLite with random weights that tell anchors apart, and its postprocessing alone."""

from types import SimpleNamespace

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from tests.oracles import randomised

SETTINGS = {"score_threshold": 0.001, "candidates": 300, "iou_threshold": 0.55, "max_detections": 300}  # torchvision's


def torchvision_detector(num_classes: int = 90) -> SSD:
    """`ssdlite320_mobilenet_v3_large` in eval mode.

    Its norms have the statistics of coarse noise, or features would fade and all anchors have one score; its class
    logits are spread, or all scores would be near the inverse number of classes.
    """
    torch.manual_seed(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes + 1
    )
    randomised(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    with torch.no_grad():
        features = model.backbone.train()(2 * coarse_noise(4, (320, 320)) - 1)
        model.head.train()(list(features.values()))
        for layer in model.head.classification_head.module_list:
            layer[1].weight *= 4
    for norm in norms:
        norm.momentum = 0.03
    return model.eval()


def coarse_noise(images: int, image_size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) in [0, 1] with structures of all sizes."""
    layers = [torch.rand(images, 3, cells, cells) for cells in (2, 5, 20, 80)]
    return sum(F.interpolate(layer, image_size, mode="bilinear") for layer in layers) / len(layers)


def postprocess(raw: dict[str, Tensor], anchors: Tensor, image_size: tuple[int, int], settings: dict) -> list[dict]:
    """torchvision's loop over images and classes.

    Args:
        raw: "box_deltas" and "class_logits", as our heads give them.
        anchors: (A, 4).
        image_size: (H, W) px.
        settings: As `select_detections` takes them.
    """
    ssd = SimpleNamespace(
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), score_thresh=settings["score_threshold"],
        topk_candidates=settings["candidates"], nms_thresh=settings["iou_threshold"],
        detections_per_img=settings["max_detections"],
    )  # fmt: skip
    outputs, images = {"bbox_regression": raw["box_deltas"], "cls_logits": raw["class_logits"]}, len(raw["box_deltas"])
    return SSD.postprocess_detections(ssd, outputs, [anchors] * images, [image_size] * images)
