"""Core ML: Apple's format, an ML program. It is written anywhere, and run on macOS only."""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

logging.getLogger("coremltools").setLevel(logging.ERROR)  # else importing it off macOS warns of what it cannot load

import coremltools as ct  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from coremltools.proto import Model_pb2  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from tasks.base.network import Deployable  # noqa: E402
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime, Unsupported  # noqa: E402
from tasks.deploy.formats.coreml_nms import (  # noqa: E402
    GIVEN,
    NOTE,
    THRESHOLDS,
    PipelineDecoder,
    detections_from_pipeline,
    suppression_after,
)
from tasks.deploy.formats.program import exported_program  # noqa: E402
from tasks.deploy.formats.silence import silenced  # noqa: E402
from tasks.deploy.manifest import Manifest  # noqa: E402
from tasks.deploy.script.runtimes import KEY  # noqa: E402
from tasks.detection.deployable import DetectionDeployable  # noqa: E402
from tasks.files.writing import write_bytes  # noqa: E402
from tasks.values.pixel_format import PixelFormat  # noqa: E402

INPUT = "images"
PACKAGE = "model.mlpackage"
PRECISIONS = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}


class CoreMLBackend(Backend):
    """model.mlpackage.zip: the package is a folder, so that it is zipped to be one certified file.

    With uint8 pixels the input is an RGB image of this size, which takes a camera's pixels as they are; with float32 it
    is an array (N, 3, H, W). Classes come out as int32. With the output "nms" it is a pipeline that ends in
    Core ML's own suppression, as in `tasks.deploy.formats.coreml_nms`; the others are one ML program.

    Attributes:
        target: Oldest system that has to run it, by coremltools' name: "iOS16" is macOS 13 too.
    """

    name, file = "coreml", f"{PACKAGE}.zip"
    precisions = ("fp32", "fp16")
    detections = ("raw", "boxes", "decoded", "nms")
    here = sys.platform == "darwin"
    target = "iOS16"

    def pixel_inputs(self, format: PixelFormat) -> tuple[str, ...]:
        return self.inputs if format.is_rgb else ("float32",)

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        if example.dtype == torch.uint8 and len(example) != 1:
            raise Unsupported(f"an image input of Core ML holds one image, not {len(example)}; set export.batch=1")
        whole, notes = model, (f"unzip {self.file} for Xcode; runs from {self.target} on",)
        suppressing = isinstance(model, DetectionDeployable) and model.suppresses
        if suppressing:
            if len(example) != 1:
                raise Unsupported(
                    f"Core ML suppresses boxes of one image, not of {len(example)}; set export.batch=1, or "
                    "export.detections=decoded"
                )
            model, notes = PipelineDecoder(whole), (*notes, NOTE)
        program = exported_program(model, example.float())
        with TemporaryDirectory() as temporary:
            package = Path(temporary, PACKAGE)
            converted = self._convert(program, model.outputs, example, options.precision)
            if suppressing:
                second = ct.models.MLModel(suppression_after(converted.get_spec(), whole), skip_model_load=True)
                converted = ct.utils.make_pipeline(converted, second)
            converted.save(str(package))
            description, operators = describe_package(package)
            _check(description, program, model.outputs, example, suppressing=suppressing)
            _zip(package, folder / self.file)
        return Exported(operators, notes=notes, tensors=_tensors(description))

    def embed(self, path: Path, text: str) -> None:
        content = BytesIO()
        with ZipFile(path) as old, ZipFile(content, "w", ZIP_DEFLATED) as new:
            for name in old.namelist():
                part = old.read(name)
                if name.endswith(".mlmodel"):
                    model = Model_pb2.Model.FromString(part)
                    model.description.metadata.userDefined[KEY] = text
                    part = model.SerializeToString()
                new.writestr(name, part)
        write_bytes(path, content.getvalue())

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "CoreMLRuntime":
        return CoreMLRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        return super().versions() | {"coremltools": ct.__version__}

    def _convert(
        self, program: torch.export.ExportedProgram, outputs: Sequence[str], example: Tensor, precision: str
    ) -> ct.models.MLModel:
        shape = tuple(example.shape)
        if example.dtype == torch.uint8:
            pixels = ct.ImageType(name=INPUT, shape=shape, color_layout=ct.colorlayout.RGB, scale=1.0)
        else:
            pixels = ct.TensorType(name=INPUT, shape=shape, dtype=np.float32)
        types = [
            ct.TensorType(name=name, dtype=np.float32 if dtype.is_floating_point else np.int32)
            for name, (_, dtype) in zip(outputs, _results(program), strict=True)
        ]
        # the progress bars go to whatever stands for stderr, which a notebook replaces
        failure = "Core ML cannot hold the network; export another output, or to another format"
        with silenced(failure), redirect_stderr(StringIO()):
            return ct.convert(
                program.run_decompositions({}), inputs=[pixels], outputs=types, convert_to="mlprogram",
                compute_precision=PRECISIONS[precision], minimum_deployment_target=ct.target[self.target],
                skip_model_load=True,
            )  # fmt: skip


class CoreMLRuntime(Runtime):
    """Core ML on the CPU of a Mac. The system chooses the number of threads.

    Raises:
        ValueError: This is no Mac.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        if sys.platform != "darwin":
            raise ValueError(f"{folder / manifest.artifact}: Core ML runs on macOS only; take another format here")
        self.unpacked = TemporaryDirectory()
        with ZipFile(folder / manifest.artifact) as archive:
            archive.extractall(self.unpacked.name)
        package = str(Path(self.unpacked.name, PACKAGE))
        self.model = ct.models.MLModel(package, compute_units=ct.ComputeUnit.CPU_ONLY)
        self.score_threshold = None  # of suppression in a pipeline
        if manifest.output == "nms" and (models := ct.utils.load_spec(package).pipeline.models):
            self.score_threshold = models[-1].nonMaximumSuppression.confidenceThreshold

    def run(self, images: Tensor) -> Sequence[Tensor]:
        uint8 = images.dtype == torch.uint8
        pixels = Image.fromarray(images[0].permute(1, 2, 0).numpy()) if uint8 else images.numpy()
        found = self.model.predict({INPUT: pixels})
        if self.score_threshold is not None:
            return detections_from_pipeline(
                *(found[name] for name in GIVEN), image_size=self.manifest.image_size,
                score_threshold=self.score_threshold, max_detections=self.manifest.outputs[1].shape[1],
            )  # fmt: skip
        return [
            torch.from_numpy(np.asarray(found[spec.name])).to(getattr(torch, spec.dtype))
            for spec in self.manifest.outputs
        ]


def describe_package(package: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, int]]:
    """Read a package back, as far as that goes off macOS.

    Args:
        package: The .mlpackage folder.

    Returns:
        {input or output: (type, shape)}, the type being "image", "float32", "int32" or, of a number, "double", and -1
        standing for any size; and how often each operator stands in the program, or the programs of a pipeline,
        constants left out, the most frequent first.
    """
    spec = ct.utils.load_spec(str(package))
    features = {}
    for feature in [*spec.description.input, *spec.description.output]:
        if feature.type.WhichOneof("Type") == "imageType":
            size = feature.type.imageType
            features[feature.name] = ("image", (1, 3, size.height, size.width))
        elif feature.type.WhichOneof("Type") == "doubleType":
            features[feature.name] = ("double", ())
        else:
            array = feature.type.multiArrayType
            shape = array.shape or [size.upperBound for size in array.shapeRange.sizeRanges]
            features[feature.name] = (array.ArrayDataType.Name(array.dataType).lower(), tuple(shape))
    operators = Counter()
    for part in spec.pipeline.models if spec.WhichOneof("Type") == "pipeline" else [spec]:
        if part.WhichOneof("Type") == "mlProgram":
            blocks = part.mlProgram.functions["main"].block_specializations.values()
            operators.update(operation.type for block in blocks for operation in block.operations)
        else:
            operators[part.WhichOneof("Type")] += 1
    return features, {name: count for name, count in operators.most_common() if name != "const"}


def _results(program: torch.export.ExportedProgram) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """(shape, dtype) of each output."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    return [(tuple(node.meta["val"].shape), node.meta["val"].dtype) for node in output.args[0]]


def _check(
    features: dict, program: torch.export.ExportedProgram, names: Sequence[str], example: Tensor, *, suppressing: bool
) -> None:
    """Raise if the package takes or gives something else than the network, or than suppression after it."""
    expected = {INPUT: ("image" if example.dtype == torch.uint8 else "float32", tuple(example.shape))}
    if suppressing:
        names = GIVEN
        expected |= dict.fromkeys(THRESHOLDS, ("double", ()))
    for name, (shape, dtype) in zip(names, _results(program), strict=True):
        shape = (-1, *shape[1:]) if suppressing else shape
        expected[name] = ("float32" if dtype.is_floating_point else "int32", shape)
    if features != expected:
        raise ValueError(f"coremltools wrote {features}, expected {expected}; export another output")


def _tensors(features: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """As in `Manifest.tensors`; optional inputs are left out."""
    tensors = {name: {"name": name, "dtype": kind, "shape": list(shape)} for name, (kind, shape) in features.items()}
    images = tensors.pop(INPUT)
    if images["dtype"] == "image":
        images |= {"layout": "an RGB image of this size", "dtype": "uint8"}
    return {"input": images, "outputs": [tensor for name, tensor in tensors.items() if name not in THRESHOLDS]}


def _zip(package: Path, path: Path) -> None:
    """One file of the package's folder, with its name inside."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for file in sorted(package.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(package.parent))
