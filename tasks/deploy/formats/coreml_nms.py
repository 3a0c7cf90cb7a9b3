"""Core ML's own suppression: a pipeline of the network that decodes and a NonMaximumSuppression model after it.

It is what Xcode's preview and the Vision framework know as an object detector. It differs from `heads.static_nms`: a
box has one class, its best; the confidence threshold is held against the sum over a box's classes; and as many boxes
come out as are left, which `detections_from_pipeline` makes the padded detections of every other artifact.

Source: Core ML model specification, NonMaximumSuppression.proto.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heads.static_nms import best_anchors
from tasks.base.network import Deployable
from tasks.detection.deployable import DetectionDeployable

RAW = ("raw_confidence", "raw_coordinates")  # between the two models
GIVEN = ("confidence", "coordinates")  # by the pipeline, in the spelling that Vision looks for
THRESHOLDS = ("iouThreshold", "confidenceThreshold")  # optional inputs, by which an application overrides
ABOUT = {
    "iouThreshold": "Boxes of one class that overlap more are suppressed; optional.",
    "confidenceThreshold": "Boxes of less confidence are left out; optional.",
    "confidence": "Boxes x classes: the scores of each box.",
    "coordinates": "Boxes x (x, y of the centre, width, height), in parts of the image's sides.",
}
NOTE = (
    "Core ML suppresses: the package gives {} (boxes, classes) and {} (boxes, 4: centre x, y, width, height in parts "
    "of the image), of any number of boxes, for max_detections is no setting of it, and each box in its best class "
    "alone; the outputs listed here are what this toolkit's runtime makes of them"
).format(*GIVEN)


class PipelineDecoder(Deployable):
    """The first model: confidences (k, K) and coordinates (k, 4) of the best anchors of one image.

    Args:
        model: With the output "nms", whose `limit` anchors are decoded.
    """

    output, outputs = "decoded", RAW
    scale: Tensor

    def __init__(self, model: DetectionDeployable) -> None:
        super().__init__()
        self.network, self.decoder, self.limit = model.network, model.decoder, model.limit
        height, width = model.image_size
        self.register_buffer("scale", torch.tensor([width, height]).float(), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = best_anchors(*self.decoder(self.network(images.float())), self.limit)
        low, high = boxes[0, :, :2] / self.scale, boxes[0, :, 2:] / self.scale
        return scores[0], torch.cat([(low + high) / 2, high - low], dim=-1)


def suppression_after(first: Any, model: DetectionDeployable) -> Any:
    """The second model's specification.

    Args:
        first: Specification of the converted `PipelineDecoder`, whose version and types it takes.
        model: With the output "nms", for its classes and thresholds.
    """
    spec = type(first)()
    spec.specificationVersion = first.specificationVersion
    described = {feature.name: feature for feature in first.description.output}
    for raw, given in zip(RAW, GIVEN, strict=True):
        spec.description.input.add().CopyFrom(described[raw])
        feature = spec.description.output.add()
        feature.CopyFrom(described[raw])
        feature.name, feature.shortDescription = given, ABOUT[given]
        array, columns = feature.type.multiArrayType, described[raw].type.multiArrayType.shape[-1]
        array.ClearField("shape")
        for fewest, most in ((0, -1), (columns, columns)):  # any number of boxes
            array.shapeRange.sizeRanges.add(lowerBound=fewest, upperBound=most)
    for name in THRESHOLDS:
        feature = spec.description.input.add(name=name, shortDescription=ABOUT[name])
        feature.type.doubleType.SetInParent()
        feature.type.isOptional = True
    suppression = spec.nonMaximumSuppression
    suppression.confidenceInputFeatureName, suppression.coordinatesInputFeatureName = RAW
    suppression.confidenceOutputFeatureName, suppression.coordinatesOutputFeatureName = GIVEN
    suppression.iouThresholdInputFeatureName, suppression.confidenceThresholdInputFeatureName = THRESHOLDS
    suppression.iouThreshold, suppression.confidenceThreshold = model.nms.bound, model.nms.score_threshold
    suppression.pickTop.perClass = True
    suppression.stringClassLabels.vector.extend(model.classes)
    return spec


def detections_from_pipeline(
    confidence: np.ndarray, coordinates: np.ndarray, *, image_size: Sequence[int], score_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `StaticNMS` would give of one image, from what the pipeline gave.

    Args:
        confidence: (n, K), in any order of boxes.
        coordinates: (n, 4) x, y of the centre, width, height, in parts of the image's sides.
        image_size: (H, W) px.
        score_threshold: What a box's best class has to exceed.
        max_detections: D, boxes that are given.

    Returns:
        Boxes (1, D, 4) float32 xyxy, px, scores (1, D) float32 in descending order, labels (1, D) int64; where fewer
        were found, 0, 0 and -1.
    """
    confidence, coordinates = (torch.from_numpy(np.array(values, np.float32)) for values in (confidence, coordinates))
    boxes, scores = torch.zeros(1, max_detections, 4), torch.zeros(1, max_detections)
    labels = torch.full((1, max_detections), -1)
    if confidence.numel():  # Core ML gives an array of no elements, of whatever rank, where nothing was found
        best, classes = confidence.max(dim=1)
        order = best.argsort(descending=True, stable=True)
        order = order[best[order] > score_threshold][:max_detections]
        centres, sizes = coordinates[order].split(2, dim=1)
        corners, sides = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1), torch.tensor(image_size[::-1])
        count = len(order)
        boxes[0, :count] = corners * sides.repeat(2)
        scores[0, :count], labels[0, :count] = best[order], classes[order]
    return boxes, scores, labels
