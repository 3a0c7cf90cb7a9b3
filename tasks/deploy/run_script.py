"""The run.py beside an artifact: NumPy, Pillow and the runtime, without this toolkit, put together from `script/`."""

import inspect
from collections.abc import Callable
from pathlib import Path

from tasks.deploy.manifest import FILE, Manifest
from tasks.deploy.script import finding, resizing, runtimes, showing
from tasks.values.pixel_format import RGB

SCRIPT = "run.py"
HEAD = '''"""Run {artifact} on a picture: python run.py photo.jpg [out.png]

It needs {packages}, and {file} beside it{inside}. From Python:
`from run import predict`, which takes an RGB array and returns {gives}.
"""

{imports}

HERE = Path(__file__).resolve().parent
ARTIFACT = str(HERE / "{artifact}")
'''
MAIN = '''
def read_manifest():
    """What the artifact takes and gives."""
    beside = HERE / "{file}"
    return json.loads({read})


def predict(image, manifest=None):
    """What is in an RGB picture (h, w, 3) uint8."""
    manifest = manifest or read_manifest()
    count, _, *size = manifest["input"]["shape"]
    pixels = {resized}(image, size, manifest["preprocessing"]["resizing"])
    if manifest["input"]["dtype"] == "uint8":
        pixels = np.rint(pixels).clip(0, 255)
    images = np.repeat(pixels.transpose(2, 0, 1)[None], max(count, 1), 0).astype(manifest["input"]["dtype"])
    return {found}({run}(ARTIFACT, manifest, images), manifest, image.shape[:2])


def main(photo, drawn=None):
    """Tell what is in a photo, and draw it into a file."""
    picture, manifest = ImageOps.exif_transpose(Image.open(photo)).convert("RGB"), read_manifest()
    picture = {show}(picture, predict(np.array(picture), manifest), manifest["classes"])
    if drawn:
        picture.save(drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
'''
BESIDE = 'beside.read_text(encoding="utf-8")'
PACKAGES = {"onnx": "onnxruntime", "litert": "ai-edge-litert", "executorch": "torch, executorch", "pt2": "torch",
            "ncnn": "ncnn", "openvino": "openvino",
            "qnn": "onnxruntime, onnxruntime-qnn", "coreml": "coremltools"}  # fmt: skip
RESIZING = {("centre", True): resizing.resized_centre, ("stretch", True): resizing.resized_averaged,
            ("stretch", False): resizing.resized_sampled}  # fmt: skip
CALLED = {  # what a function of finding or of runtimes calls besides
    finding.found_logits: [finding.neighbours],
    finding.found_detections: [finding.to_picture],
    finding.found_boxes: [finding.suppressed, finding.to_picture],
    finding.found_raw: [finding.suppressed, finding.to_picture, finding.found_boxes],
    runtimes.run_qnn: [runtimes.qnn_device, runtimes.qnn_chip, runtimes.qnn_session],
}
GIVES = {
    showing.show_scores: "probabilities (K,)", showing.show_mask: "class ids (h, w)",
    showing.show_boxes: "boxes (n, 4) xyxy px, scores (n,) and labels (n,)",
}  # fmt: skip


def write_run_script(folder: Path, manifest: Manifest) -> bool:
    """Write run.py beside an artifact.

    Returns:
        Whether there is one: not of pixels other than RGB, and not of outputs whose meaning the manifest does not tell.
    """
    text = run_script(manifest)
    if text:
        (folder / SCRIPT).write_text(text, encoding="utf-8")
    return text is not None


def run_script(manifest: Manifest) -> str | None:
    """Put run.py together, as `write_run_script` writes it; None where there is none."""
    how = manifest.preprocessing.get("resizing", {})
    resized = RESIZING.get((how.get("geometry"), how.get("antialias")))
    run = getattr(runtimes, f"run_{manifest.backend}", None)
    chosen = _finder(manifest)
    if not (resized and run and chosen and manifest.preprocessing["pixels"] == RGB.described):
        return None
    found, show = chosen
    inside = getattr(runtimes, f"inside_{manifest.backend}", None)
    own = [_formula(manifest)] if found is finding.found_raw else []
    called = [*CALLED.get(run, []), run, *([inside] if inside else []), *CALLED.get(found, []), found]
    parts = [resized, *called, show]
    texts = [*(inspect.getsource(part) for part in parts), *own]
    body = MAIN.format(
        file=FILE, resized=resized.__name__, found=found.__name__, run=run.__name__, show=show.__name__,
        read=BESIDE + (f" if beside.is_file() else {inside.__name__}(ARTIFACT)" if inside else ""),
    )  # fmt: skip
    imports = ["import json", "import sys", "from pathlib import Path"]
    imports += ["import zipfile"] if any("zipfile." in text for text in texts) else []
    drawing = ["ImageDraw"] if any("ImageDraw." in text for text in texts) else []
    imports += ["", "import numpy as np", f"from PIL import {', '.join(['Image', *drawing, 'ImageOps'])}"]
    head = HEAD.format(
        artifact=manifest.artifact, packages=f"numpy, pillow and {PACKAGES[manifest.backend]}", file=FILE,
        inside=", or reads the copy inside the file" if inside else "", gives=GIVES[show], imports="\n".join(imports),
    )  # fmt: skip
    return "\n\n".join([head, *(text.strip() + "\n" for text in texts), body.lstrip()])


def _finder(manifest: Manifest) -> tuple[Callable, Callable] | None:
    """What makes predictions of the outputs, and what shows them; None where the manifest does not tell."""
    decoding = manifest.decoding
    if "nms" in decoding:
        if decoding["nms"]["inside"]:
            pipeline = len(manifest.tensors.get("outputs", ())) == 2  # Core ML suppresses itself
            return (finding.found_pipeline if pipeline else finding.found_detections), showing.show_boxes
        if "raw" in decoding:
            return (finding.found_raw, showing.show_boxes) if "formula" in decoding["raw"] else None
        return finding.found_boxes, showing.show_boxes
    if "classes" in decoding:
        logits = manifest.output == "logits"
        return (finding.found_logits if logits else finding.found_classes), showing.show_mask
    return (finding.found_scores, showing.show_scores) if "activation" in decoding.get("scores", {}) else None


def _formula(manifest: Manifest) -> str:
    """The head's own decoding as a function of the raw outputs and what the manifest knows."""
    known = [key for key in manifest.decoding["raw"] if key != "formula"]
    names = ", ".join(["anchors", *(output.name for output in manifest.outputs), *known])
    lines = [f"def decoded({names}):", '    """Boxes (A, 4) xyxy px of the input, and scores (A, K)."""']
    return "\n".join(
        [*lines, *(f"    {line}" for line in manifest.decoding["raw"]["formula"]), "    return boxes, scores"]
    )
