"""What a generated run.py makes of an artifact's outputs, batches of one, for a picture of (h, w) px."""

import numpy as np


def neighbours(old, new):
    """Two lines of `old` for each of `new`, and the share of the second."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    low = np.floor(places).astype(int)
    return low.clip(0, old - 1), (low + 1).clip(0, old - 1), (places - low).astype(np.float32)


def suppressed(boxes, scores, nms):
    """Boxes, scores and labels that non-maximum suppression of each class keeps, the best first."""
    found, areas = [], (boxes[:, 2:] - boxes[:, :2]).prod(1)
    most = nms["iou_threshold"] if nms["iou_threshold"] < 1 else np.inf  # of 1 none is suppressed, however it rounds
    for label in range(scores.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")[: nms["candidates"]]
        order = order[scores[order, label] > nms["score_threshold"]]
        while len(order):
            best, order = order[0], order[1:]
            found.append((scores[best, label], best, label))
            low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
            shared = (high - low).clip(0).prod(1)
            order = order[shared / np.maximum(areas[best] + areas[order] - shared, 1e-9) <= most]
    found = sorted(found, key=lambda one: -one[0])[: nms["max_detections"]]
    kept, labels = (np.array([one[place] for one in found], int) for place in (1, 2))
    return boxes[kept], scores[kept, labels], labels


def found_scores(outputs, manifest, size):
    """Probabilities of the classes, (K,)."""
    values = outputs[0][0].astype(np.float64)
    if manifest["decoding"]["scores"]["activation"] == "softmax":
        values = np.exp(values - values.max())
    return values / values.sum()


def found_classes(outputs, manifest, size):
    """Class of every pixel, (h, w) uint8; by the nearest."""
    classes = outputs[0][0].astype(np.uint8)
    for axis, (old, new) in enumerate(zip(classes.shape, size, strict=True)):
        places = (np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))).astype(int)
        classes = classes.take(places.clip(max=old - 1), axis)
    return classes


def found_logits(outputs, manifest, size):
    """Class of every pixel, (h, w) uint8: the largest logit, after they are resized bilinearly."""
    logits = outputs[0][0].astype(np.float32)
    if logits.shape[1:] != tuple(size):
        top, bottom, below = neighbours(logits.shape[1], size[0])
        left, right, after = neighbours(logits.shape[2], size[1])
        rows = logits[:, top] * (1 - below)[:, None] + logits[:, bottom] * below[:, None]
        logits = rows[..., left] * (1 - after) + rows[..., right] * after
    return logits.argmax(0).astype(np.uint8)


def to_picture(boxes, manifest, size):
    """Boxes in px of the picture, of those in px of the input."""
    (height, width), (high, wide) = size, manifest["input"]["shape"][2:]
    return boxes * np.array([width / wide, height / high] * 2, np.float32)


def found_detections(outputs, manifest, size):
    """Boxes (n, 4) xyxy px of the picture, scores (n,), labels (n,), the best first; the artifact suppressed."""
    boxes, scores, labels = (values[0] for values in outputs)
    there = labels >= 0  # what pads them is -1
    return to_picture(boxes[there], manifest, size), scores[there], labels[there].astype(int)


def found_boxes(outputs, manifest, size):
    """Boxes (n, 4) xyxy px of the picture, scores (n,), labels (n,), the best first; suppressed here."""
    boxes, scores = (values[0].astype(np.float32) for values in outputs)
    boxes, scores, labels = suppressed(boxes, scores, manifest["decoding"]["nms"])
    return to_picture(boxes, manifest, size), scores, labels


def found_raw(outputs, manifest, size):
    """Boxes (n, 4) xyxy px of the picture, scores (n,), labels (n,), the best first; decoded and suppressed here."""
    named = {
        one["name"]: values[0].astype(np.float32) for one, values in zip(manifest["outputs"], outputs, strict=True)
    }
    known = {key: np.array(value) for key, value in manifest["decoding"]["raw"].items() if key != "formula"}
    boxes, scores = decoded(**named, **known, anchors=np.array(manifest["anchors"]["boxes"], np.float32))
    high, wide = manifest["input"]["shape"][2:]
    boxes = boxes.clip(0, [wide, high] * 2).astype(np.float32)
    return found_boxes([boxes[None], scores[None]], manifest, size)


def found_pipeline(outputs, manifest, size):
    """Boxes (n, 4) xyxy px of the picture, scores (n,), labels (n,), the best first; Core ML suppressed."""
    scores, places = (values.reshape(-1, values.shape[-1]) for values in outputs)
    labels = scores.argmax(1) if len(scores) else np.zeros(0, int)
    best = scores[np.arange(len(scores)), labels]
    nms = manifest["decoding"]["nms"]
    order = np.argsort(-best, kind="stable")
    order = order[best[order] > nms["score_threshold"]][: nms["max_detections"]]
    centres, sizes = places[order, :2], places[order, 2:]
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1) * np.array([*size[::-1]] * 2)
    return boxes, best[order], labels[order]


def decoded(**raw):
    """A generated run.py has the head's own formula here."""
    raise NotImplementedError
