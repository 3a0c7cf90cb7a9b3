"""Pool the boxes of several views of an image, for test-time augmentation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.base import DetectionHead
from heads.static_nms import unpadded
from tasks.values.sizes import Size

Decoded = tuple[Tensor, Tensor]  # boxes (N, A, 4) xyxy px, scores (N, A, K)


def decoded(raw: Mapping[str, Tensor], head: DetectionHead, size: Size, num_classes: int) -> Decoded:
    """Decode what a head gave, or an artifact: raw maps, decoded boxes, or final detections.

    A final detection has its score for its class and 0 for the others, which is below every threshold.

    Args:
        raw: As in `DetectionTask.predict`.
        head: Of the network.
        size: (H, W) px of the images.
        num_classes: K.
    """
    if "boxes" not in raw:
        return head.decode(raw, size)
    if "labels" not in raw:
        return raw["boxes"].float(), raw["scores"].float()
    found = unpadded(raw["boxes"], raw["scores"], raw["labels"])
    scores = [F.one_hot(one.labels, num_classes) * one.scores[:, None] for one in found]
    most = max(len(one) for one in found)
    padded = zip((one.boxes for one in found), scores, strict=True)
    rows = [[F.pad(part, (0, 0, 0, most - len(part))) for part in pair] for pair in padded]
    boxes, all_scores = (torch.stack(part) for part in zip(*rows, strict=True))
    return boxes, all_scores


def pooled(views: Sequence[tuple[Decoded, Size, bool]], size: Size) -> dict[str, Tensor]:
    """Bring the boxes of several views of the same images together, as if one network had given all of them.

    What is left is non-maximum suppression, as for any decoded boxes: class by class, with its limits on candidates and
    detections over all views together.

    Args:
        views: Boxes and scores of each view, its (H, W) px, and whether it is mirrored.
        size: (H, W) px that the boxes are brought to.

    Returns:
        {"boxes": (N, A, 4) xyxy px, "scores": (N, A, K)}, A over all views.

    >>> box, score = torch.tensor([[[80.0, 10.0, 90.0, 20.0]]]), torch.tensor([[[0.9]]])
    >>> pooled([((box, score), (100, 100), True), ((2 * box, score), (200, 200), False)], (100, 100))["boxes"]
    tensor([[[10., 10., 20., 20.],
             [80., 10., 90., 20.]]])

    Source: as detectron2's GeneralizedRCNNWithTTA merges the boxes of its views.
    """
    boxes = []
    for (found, _), (height, width), mirrored in views:
        if mirrored:
            found = torch.stack([width - found[..., 2], found[..., 1], width - found[..., 0], found[..., 3]], dim=-1)
        boxes.append(found * found.new_tensor([size[1] / width, size[0] / height] * 2))
    return {"boxes": torch.cat(boxes, 1), "scores": torch.cat([scores for (_, scores), _, _ in views], 1)}
