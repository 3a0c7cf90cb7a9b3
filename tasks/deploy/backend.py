"""What every export format is: it writes an artifact of a network, and runs that artifact like the network."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.manifest import Manifest, read_manifest
from tasks.values.pixel_format import PixelFormat

# name: module and class; none is imported before it is used, so that each is an optional extra
BACKENDS = {
    "pt2": ("tasks.deploy.formats.pt2", "Pt2Backend"),
    "onnx": ("tasks.deploy.formats.onnx", "OnnxBackend"),
    "executorch": ("tasks.deploy.formats.executorch", "ExecuTorchBackend"),
    "coreml": ("tasks.deploy.formats.coreml", "CoreMLBackend"),
    "litert": ("tasks.deploy.formats.litert", "LiteRTBackend"),
    "ncnn": ("tasks.deploy.formats.ncnn", "NcnnBackend"),
    "openvino": ("tasks.deploy.formats.openvino", "OpenVINOBackend"),
    "qnn": ("tasks.deploy.formats.qnn", "QnnBackend"),
}
OWN_EXTRAS = ("openvino", "qnn")  # formats whose packages are an extra of their name; of the others "export"
QUANTIZED = ("int8", "w8a16")  # precisions whose ranges are calibrated


class Unsupported(ValueError):
    """A format has no such precision, input or batch, whatever the network is; `export=all` passes over the format."""


@dataclass(frozen=True)
class ExportOptions:
    """How an artifact is made.

    Attributes:
        precision: One of the backend's `precisions`.
        dynamic_batch: Let the artifact take any number of images, where the format can.
        calibration: Batches like the example, that int8 ranges are taken from.
        keep_float: Names of the deployable's modules that stay in floating point in int8 ("network.head", say); all
            inside them stays too.
        reduce_range: Give int8 weights 7 bits, where the format's runtime overflows with 8 on some processors; the
            other formats need none and have 8 bits.
    """

    precision: str = "fp32"
    dynamic_batch: bool = False
    calibration: Sequence[Tensor] = ()
    keep_float: tuple[str, ...] = ()
    reduce_range: bool = False


@dataclass(frozen=True)
class Exported:
    """What an exporter tells about its artifact.

    Attributes:
        operators: How often each operator stands in it.
        delegated: Those that a delegate runs; None where the format has no delegates.
        notes: What a reader has to know.
        tensors: As in `Manifest`, what of it is not as in `Manifest.input` and `Manifest.outputs`.
    """

    operators: dict[str, int]
    delegated: dict[str, int] | None = None
    notes: tuple[str, ...] = ()
    tensors: dict[str, Any] = field(default_factory=dict)


class Runtime(ABC):
    """An artifact that is ready to run, like the network that it was made from.

    Args:
        folder: Of the artifact.
        manifest: Its certificate.
        threads: CPU threads of a call.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        self.folder, self.manifest, self.threads = folder, manifest, threads

    @abstractmethod
    def run(self, images: Tensor) -> Sequence[Tensor]:
        """One call: images of the manifest's shape and dtype -> outputs in the manifest's order."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Any number of images as in `Manifest.input`, of any dtype -> outputs by name.

        Raises:
            ValueError: The images are not of the artifact's size.
        """
        spec = self.manifest.input
        if tuple(images.shape[1:]) != tuple(spec.shape[1:]):
            expected, given = ("x".join(map(str, shape)) for shape in (spec.shape[1:], images.shape[1:]))
            raise ValueError(f"the artifact takes images of {expected} (channels, H, W px), not {given}")
        images = images.cpu()
        wanted = getattr(torch, spec.dtype)
        if wanted == torch.uint8 and images.is_floating_point():
            images = images.round().clamp(0, 255)
        parts = images.to(wanted).split(len(images) if self.manifest.batch < 0 else self.manifest.batch)
        if self.manifest.batch > 0 and len(parts[-1]) < self.manifest.batch:
            filled = torch.cat([parts[-1], parts[-1][-1:].expand(self.manifest.batch - len(parts[-1]), -1, -1, -1)])
            parts = (*parts[:-1], filled)
        found = zip(*(self.run(part.contiguous()) for part in parts), strict=True)
        names = [output.name for output in self.manifest.outputs]
        return {name: torch.cat(list(tensors))[: len(images)] for name, tensors in zip(names, found, strict=True)}


class Backend(ABC):
    """A format.

    Attributes:
        name: As in `BACKENDS`.
        file: Name of the artifact's main file.
        precisions: What it can be exported in, the default first.
        inputs: Types of pixels that it takes, the default first; of 16 bits it takes float32.
        detections: Forms of detection that it holds well; "nms" where it is not among them only with `export.limit`.
        dynamic: Whether it can take any number of images.
        varying: Whether sizes within may depend on what the images hold, as in `Deployable.varying`.
        here: Whether this machine can run the artifact; else it is checked by its structure alone.
        named: Whether the runtime knows tensors by name, not by place alone.
        narrows: Whether int8 weights of 7 bits are told apart: its runtime overflows with 8 on some processors.
        tolerance: Largest relative difference from eager in fp32.
    """

    name: str
    file: str
    precisions: tuple[str, ...] = ("fp32",)
    inputs: tuple[str, ...] = ("uint8", "float32")
    detections: tuple[str, ...] = ("raw", "boxes", "decoded", "nms")
    dynamic: bool = False
    varying: bool = False
    here: bool = True
    named: bool = True
    narrows: bool = False
    tolerance: float = 1e-3

    @abstractmethod
    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        """Write the artifact, named `file`, and whatever belongs to it, into a folder that is there and empty.

        Args:
            model: In eval mode.
            example: Images of the shape and type that the artifact takes.
            folder: Where to.
            options: How.

        Raises:
            ValueError: The format cannot hold the network; names operator and remedy.
        """

    def check(self, model: Deployable) -> None:
        """Refuse a network whose sizes depend on what the images hold, where the format has none of that.

        Raises:
            Unsupported: It is so.
        """
        if model.varying and not self.varying:
            raise Unsupported(
                f"output={model.output} has sizes that depend on the image, which {self.name} does not hold; set "
                "export.tail=argmax for the same classes, or export=onnx"
            )

    @abstractmethod
    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> Runtime:
        """Make an artifact ready to run."""

    def embed(self, path: Path, text: str) -> None:
        """Write a manifest's text into an artifact's file, where `tasks.deploy.inside` finds it; it computes as before.

        The file is replaced, not changed in place: a runtime may have it mapped. A format without a place for it keeps
        its file as it is.
        """
        return

    def pixel_inputs(self, format: PixelFormat) -> tuple[str, ...]:
        """Which of `inputs` it takes of a pixel format."""
        return tuple(kind for kind in self.inputs if kind != "uint8" or format.bits == 8)

    def versions(self) -> dict[str, str]:
        """Of the packages that made the artifact."""
        return {"torch": torch.__version__}

    def session(self, precision: str) -> dict[str, str]:
        """Settings of the runtime, beyond its own defaults, that `load` uses on this machine in this precision."""
        return {}


def extra_of(name: str) -> str:
    """Tell which extra has a format's packages."""
    return name if name in OWN_EXTRAS else "export"


def backend(name: str) -> Backend:
    """Make a format's backend.

    Raises:
        ValueError: There is no such format.
        ImportError: Its packages are not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"export={name}: expected one of {', '.join(BACKENDS)}, all")
    module, cls = BACKENDS[name]
    try:
        return getattr(importlib.import_module(module), cls)()
    except ImportError as error:
        if (error.name or "").startswith("tasks."):
            raise
        raise ImportError(
            f"{name} needs {error.name or error}, which is not installed; install the formats: "
            f"uv pip install -e '.[{extra_of(name)}]'"
        ) from error


def load_runtime(path: str | Path, *, threads: int = 1) -> Runtime:
    """Make an artifact ready to run.

    Args:
        path: Its folder, file or manifest.
        threads: CPU threads of a call.

    Raises:
        FileNotFoundError, ValueError, ImportError: As `read_manifest` and `backend`.
    """
    folder, manifest = read_manifest(path)
    return backend(manifest.backend).load(folder, manifest, threads=threads)
