"""Schema of the settings of an export."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ExportSettings:
    """How artifacts are made.

    Attributes:
        chosen: {format: true}, from the files of the group: a mapping, so that export=[onnx,litert] chooses both.
        formats: Names of the formats, in place of export=, or "all".
        precision: "fp32", "fp16", "int8" or "w8a16" (int8 weights, 16 bits between layers), where a format has it.
        detections: What a detector gives: "raw" maps, "boxes" and scores of every anchor, "decoded": the best of them,
            or "nms": final detections. A head without suppression gives these in every format but ncnn, which has
            "boxes".
        tail: What a segmenter gives: "logits", "argmax" of the upsampled logits, "present": the same, of the classes
            alone that can win in the image (ONNX and pt2), "argmax_low": the argmax upsampled, or "low": the argmax at
            the head's resolution.
        limit: Of a detector, the best anchors that are decoded, or the best (box, class) pairs that "nms" looks at:
            fewer are faster (1,200 pairs cost ExecuTorch more than the network) and may find fewer boxes. Else four
            times task.max_detections.
        probabilities: Let a classifier give probabilities instead of logits.
        input: Type of the pixels, "uint8" or "float32"; else the format's default.
        image_size: (H, W) px of the input, or the side of a square; else what the task was trained or validated at.
        batch: Images a call.
        dynamic_batch: Take any number of images, where the format can.
        calibration_images: Training images that int8 ranges are taken from.
        calibration_source: Folder of images that they are taken from instead, and that formats are compared on where
            there is no data; resized to the input.
        keep_float: Modules that int8 leaves in floating point, such as "network.head".
        reduce_range: int8 weights of 7 bits for ONNX: exact on x86 processors without VNNI, whatever the session's
            settings, at some cost in accuracy. The other formats are exact everywhere with 8.
        doctor: Export nothing, but find what int8 hurts and which `keep_float` keeps the metric.
        evaluate: Measure the task's metric of the checkpoint, in eager and through the artifact. Without it fp32 and
            fp16 are certified by their outputs alone, and int8 by nothing.
        evaluation_images: Number of validation images to measure on; else all.
        max_drop: Largest loss of the metric that the checkpoint's own evaluation gives, what `tail`, `limit` and
            `image_size` cost included, in its own unit (0.01: a point). Else 0.001 in fp32 and fp16, 0.01 in int8 and
            w8a16.
        threads: CPU threads of the runtime while it is checked.
        demo: "web" for a page beside each ONNX or LiteRT artifact, in a folder of its name with -web: pictures, videos
            and the camera through the artifact, in any browser, from any static host, without a network.
    """

    chosen: dict[str, bool] = field(default_factory=dict)
    formats: list[str] = field(default_factory=list)
    precision: str = "fp32"
    detections: str = "nms"
    tail: str = "argmax"
    limit: int | None = None
    probabilities: bool = False
    input: str | None = None
    image_size: Any = None
    batch: int = 1
    dynamic_batch: bool = False
    calibration_images: int = 128
    calibration_source: str | None = None
    keep_float: list[str] = field(default_factory=list)
    reduce_range: bool = False
    doctor: bool = False
    evaluate: bool = True
    evaluation_images: int | None = None
    max_drop: float | None = None
    threads: int = 1
    demo: str | None = None
