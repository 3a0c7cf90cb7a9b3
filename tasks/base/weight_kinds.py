"""Files of whole networks that others publish: how each is recognised, and what it implies for a network of ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from heads.nanodet_names import split_predictions
from tasks.values.sizes import Size

Labels = tuple[str, ...]
NANODET_BINS = 8  # of each edge
UNUSED = "N/A"  # a label of torchvision's detectors that no category of COCO has


@dataclass(frozen=True)
class Kind:
    """One layout of files.

    Attributes:
        name: Whose network it is.
        mark: End of the name of a tensor that every such file has and no other: the weight of a class layer.
        rows: Outputs of the layer at `mark`, where a network of another width has the same names.
        task: Kind of the task.
        backbone, head: Configurations that build the network; where another variant has the same layout, as mnv3_small,
            it is given.
        labels: Makes the names of the outputs without the background; used where the file does not state them and
            has as many.
        boxes: Boxes a cell of the layer at `mark`.
        background: Where the background stands among the outputs: "first", "last", or None.
        settings: Further settings by their keys.
        norm_eps: Eps of all its norms; None: as in `Backbone.norm_eps`.
        image_size: (H, W) px that its images were resized to; None where their size varied.
        shorter_side: Side in px that images were resized to instead.
        prepared: Function from the file's tensors to those that are loaded, under the file's names or parts of them.
        class_layer: As `mark`, the class layer where `mark` is another one, by the names that `prepared` gives.
        unbiased: Ends of names of layers that have no bias there and have one here, which is then zero.
    """

    name: str
    mark: str
    task: str
    backbone: str
    head: str
    labels: Callable[[], Labels]
    rows: int | None = None
    boxes: int = 1
    background: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    norm_eps: float | None = None
    image_size: Size | None = None
    shorter_side: int | None = None
    unbiased: tuple[str, ...] = ()
    prepared: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    class_layer: str | None = None

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """Count the classes of a file's prepared tensors, without the background."""
        layer = self.class_layer or self.mark
        outputs = next(len(tensor) for key, tensor in tensors.items() if key.endswith(layer))
        return outputs // self.boxes - (self.background is not None)

    def with_biases(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the zero biases of layers that have none in the file."""
        return dict(tensors) | {
            key.removesuffix("weight") + "bias": torch.zeros(len(tensor))
            for key, tensor in tensors.items()
            if key.endswith(tuple(f"{name}.weight" for name in self.unbiased))
        }


def coco_labels() -> Labels:
    """List torchvision's labels of COCO, 1 to 90, by number; `UNUSED` where COCO has no such category."""
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights

    return tuple(Weights.COCO_V1.meta["categories"][1:])


def voc_labels() -> Labels:
    """List VOC's 20 classes behind the background."""
    from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights as Weights

    return ("background", *Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"][1:])


def coco_classes() -> Labels:
    """List COCO's 80 classes."""
    return tuple(label for label in coco_labels() if label != UNUSED)


def cityscapes_labels() -> Labels:
    """List Cityscapes' 19 classes."""
    from tasks.data.cityscapes import EVALUATED

    return tuple(EVALUATED)


def nanodet_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prepare NanoDet's tensors: the average of the weights where there is one, RGB for BGR, and classes by themselves.

    Its normalisation is ImageNet's, in the order of the channels.
    """
    averaged = {key: tensor for key, tensor in tensors.items() if key.startswith("avg_model.")}
    return {
        key: tensor.flip(1) if key.endswith("backbone.conv1.0.weight") else tensor
        for key, tensor in split_predictions(averaged or tensors, 4 * NANODET_BINS).items()
    }


NANODET: dict[str, Any] = {
    "norm_eps": 1e-5, "image_size": (320, 320), "prepared": nanodet_tensors, "class_layer": "gfl_cls.0.classes.weight",
    "settings": {"backbone.activation": "leaky_relu", "task.score_threshold": 0.05, "task.iou_threshold": 0.6,
                 "task.max_detections": 100},
}  # fmt: skip
PLUS, PLUS_MARK = "nanodet_plus", "fpn.reduce_layers.0.conv.weight"
KINDS = (
    Kind(
        "torchvision's SSDLite", "head.classification_head.module_list.0.1.weight", "detection", "mnv3_large",
        "ssdlite_tv", coco_labels, boxes=6, background="first", settings={"backbone.reduced_tail": True},
        image_size=(320, 320),
    ),
    Kind(
        "torchvision's LR-ASPP", "classifier.high_classifier.weight", "segmentation", "mnv3_large", "lraspp_tv",
        voc_labels, settings={"backbone.output_stride": 16}, shorter_side=520,
    ),
    Kind(
        "mmdetection's SSDLite-MobileNetV2", "bbox_head.cls_convs.0.1.weight", "detection", "mnv2", "ssdlite_mmdet",
        coco_classes, boxes=6, background="last", norm_eps=0.001, image_size=(320, 320),
        settings={"task.score_threshold": 0.02, "task.candidates": 1000, "task.iou_threshold": 0.45,
                  "task.max_detections": 200},
    ),
    Kind(
        "mmsegmentation's LR-ASPP", "decode_head.conv_seg.weight", "segmentation", "mnv3_large", "lraspp_mmseg",
        cityscapes_labels, norm_eps=0.001, settings={"backbone.output_stride": 8},
        unbiased=("decode_head.image_pool.1.conv", "decode_head.convs.conv0", "decode_head.convs.conv1"),
    ),
    Kind(
        "NanoDet-Plus-m-1.5x", PLUS_MARK, "detection", "snv2_150", PLUS, coco_classes, rows=128,
        **NANODET | {"settings": {"head.channels": 128, **NANODET["settings"]}},
    ),
    Kind("NanoDet-Plus-m", PLUS_MARK, "detection", "snv2_100", PLUS, coco_classes, **NANODET),
    Kind("NanoDet-m", "fpn.lateral_convs.0.conv.weight", "detection", "snv2_100", "nanodet", coco_classes, **NANODET),
)  # fmt: skip


def find_kind(tensors: Mapping[str, Tensor]) -> Kind | None:
    """Recognise the layout of a state dict; None where it is none of these.

    >>> find_kind({"module.classifier.high_classifier.weight": torch.ones(21, 128, 1, 1)}).head
    'lraspp_tv'
    """
    return next((kind for kind in KINDS if _has(tensors, kind)), None)


def _has(tensors: Mapping[str, Tensor], kind: Kind) -> bool:
    marked = [tensor for key, tensor in tensors.items() if f".{key}".endswith(f".{kind.mark}")]
    return bool(marked) and kind.rows in (None, len(marked[0]))
