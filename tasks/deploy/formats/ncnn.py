"""ncnn: Tencent's runtime for phones without vendor libraries; pnnx translates, from a TorchScript trace."""

import importlib.metadata
import subprocess
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import ncnn
import numpy as np
import pnnx
import torch
from torch import Tensor

from tasks.base.network import Deployable
from tasks.deploy.backend import Backend, Exported, ExportOptions, Runtime, Unsupported
from tasks.deploy.formats.program import exported_program
from tasks.deploy.manifest import Manifest

INPUT = "images"
WEIGHTS = "model.ncnn.bin"
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
FP32_NOTE = (
    "ncnn stores and computes in half precision by itself where the processor can; what is certified here is float32, "
    f"with {', '.join(HALF)} set to false"
)
FP16_NOTE = (
    "weights and, where the processor can (ARM with fp16 arithmetic), sums are in half precision; on x86 sums are "
    "float32, and so was what is certified if it was measured there"
)
TRAPS = (
    "one image a call, as float32 pixels in RGB, which ncnn::Mat::from_pixels makes of bytes; the normalisation is "
    "inside: substract_mean_normalize is not called",
    "channels of an ncnn::Mat lie cstep apart, which is more than w * h: read an output by channel(c) or row(y)",
    "a .param file has no place for this manifest: keep it beside",
)
REMEDIES = {  # by what the operator's name holds
    "topk": "export.detections=raw leaves the choice of boxes to the application",
    "gather": "export.detections=raw leaves the choice of boxes to the application",
}


class NcnnBackend(Backend):
    """model.ncnn.param, a text with one layer a line, and its weights beside it.

    Runs one image a call, as float32 pixels; its blobs have the names of the manifest. Classes come out as float32
    whole numbers, which `NcnnRuntime` casts. "fp16" stores weights and, where the processor can, computes in half.
    """

    name, file = "ncnn", "model.ncnn.param"
    precisions, inputs = ("fp32", "fp16"), ("float32",)
    detections = ("raw", "boxes")

    def export(self, model: Deployable, example: Tensor, folder: Path, options: ExportOptions) -> Exported:
        if len(example) != 1:
            raise Unsupported(f"ncnn runs one image a call, not {len(example)}; set export.batch=1")
        if model.output in ("decoded", "nms"):
            raise ValueError(
                f"ncnn cannot hold the output {model.output}, which picks boxes by score; {REMEDIES['topk']}"
            )
        traced = _traced(model, example)
        with TemporaryDirectory() as temporary:
            said = _pnnx(traced, example, Path(temporary), half=options.precision == "fp16")
            layers = _read_param(Path(temporary, "model.ncnn.param"))
            _refuse_unknown(layers)
            names = {"in0": INPUT} | {f"out{index}": name for index, name in enumerate(model.outputs)}
            _write_param(layers, names, folder / self.file)
            (folder / WEIGHTS).write_bytes(Path(temporary, WEIGHTS).read_bytes())
        _open(folder, self.file, half=options.precision == "fp16", threads=1)
        doubts = tuple(f"pnnx: {line}" for line in dict.fromkeys(said.splitlines()) if "not supported" in line)
        notes = ("float32 whole numbers stand for classes",) if model.outputs == ("classes",) else ()
        notes += (FP16_NOTE if options.precision == "fp16" else FP32_NOTE, *TRAPS)
        return Exported(dict(Counter(layer[0] for layer in layers).most_common()), notes=notes + doubts)

    def load(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> "NcnnRuntime":
        return NcnnRuntime(folder, manifest, threads=threads)

    def versions(self) -> dict[str, str]:
        return super().versions() | {name: importlib.metadata.version(name) for name in ("pnnx", "ncnn")}


class NcnnRuntime(Runtime):
    """ncnn on the CPU; "fp32" switches off the half precision that it would take by itself."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int = 1) -> None:
        super().__init__(folder, manifest, threads=threads)
        self.net = _open(folder, manifest.artifact, half=manifest.precision == "fp16", threads=threads)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        pixels = images[0].numpy()  # has to outlive the call: ncnn reads it in place
        outputs = []
        with self.net.create_extractor() as extractor:
            extractor.input(INPUT, ncnn.Mat(pixels))
            for spec in self.manifest.outputs:
                failed, blob = extractor.extract(spec.name)
                if failed:
                    raise RuntimeError(f"ncnn could not compute {spec.name} (code {failed}): is memory exhausted?")
                values = torch.from_numpy(np.array(blob)).reshape(1, *spec.shape[1:])
                outputs.append(values.to(getattr(torch, spec.dtype)))
        return outputs


def _open(folder: Path, file: str, *, half: bool, threads: int) -> ncnn.Net:
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in HALF[:3] if half else HALF:
        setattr(net.opt, option, half)
    for failed in (net.load_param(str(folder / file)), net.load_model(str(folder / WEIGHTS))):
        if failed:
            raise ValueError(f"ncnn cannot read {folder / file} (code {failed}); export again with this ncnn")
    return net


def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The first place of the maximum, as float, in operators that ncnn has: its own argmax looks at a whole blob."""
    if dim is None:
        raise ValueError("ncnn has no argmax over a whole tensor; give it a dim")
    places = torch.arange(x.shape[dim], 0, -1, dtype=torch.float32).reshape(-1, *(1,) * (x.ndim - dim % x.ndim - 1))
    below = (x.amax(dim, keepdim=True) - x).clamp(0, 1).ceil()  # 0 at a maximum, 1 elsewhere
    return x.shape[dim] - ((1 - below) * places).amax(dim, keepdim=keepdim)


# What pnnx leaves untranslated, in operators that it knows. ncnn has one type of number: casts go.
DECOMPOSITIONS = {
    torch.ops.aten._unsafe_view.default: lambda x, size: x.view(size),
    torch.ops.aten.argmax.default: _argmax,
    torch.ops.aten._to_copy.default: lambda x, **_: x.clone(),
    torch.ops.aten._assert_tensor_metadata.default: lambda *_, **__: None,
}


def _traced(model: Deployable, example: Tensor) -> torch.jit.ScriptModule:
    """A TorchScript trace of the exported program, in which all sizes are constants."""
    program = exported_program(model, example).run_decompositions(DECOMPOSITIONS)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.jit.trace(program.module(check_guards=False), example, check_trace=False)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"ncnn cannot hold the network ({reason}); export another output or format") from error


def _pnnx(traced: torch.jit.ScriptModule, example: Tensor, folder: Path, *, half: bool) -> str:
    """Let pnnx write its many files into a folder; return what it said.

    It is a program of its own, so a crash is told apart from a refusal by nothing but its exit code.
    """
    traced.save(str(folder / "model.pt"))
    shape = ",".join(map(str, example.shape))
    command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]f32", f"fp16={int(half)}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    if done.returncode or not all((folder / name).is_file() for name in ("model.ncnn.param", WEIGHTS)):
        last = " / ".join(said.strip().splitlines()[-3:])
        raise ValueError(
            f"pnnx gave up (exit code {done.returncode}; {last or 'it said nothing'}); export another output, or to "
            "another format"
        )
    return said


def _read_param(path: Path) -> list[list[str]]:
    """The layers of a .param file: type, name, number of inputs, number of outputs, their blobs, settings."""
    return [line.split() for line in path.read_text().splitlines()[2:] if line.strip()]


def _write_param(layers: list[list[str]], names: dict[str, str], path: Path) -> None:
    """Write a .param file whose blobs are renamed; the header is a magic number, then layers and blobs counted."""
    blobs, lines = set(), []
    for kind, name, inputs, outputs, *rest in layers:
        count = int(inputs) + int(outputs)
        used = [names.get(blob, blob) for blob in rest[:count]]
        blobs.update(used)
        lines.append(" ".join([f"{kind:24} {name:24}", inputs, outputs, *used, *rest[count:]]))
    path.write_text("\n".join(["7767517", f"{len(layers)} {len(blobs)}", *lines, ""]))


def _refuse_unknown(layers: list[list[str]]) -> None:
    """Raise for what pnnx left as it was: ncnn would not load it, and crash when run nevertheless."""
    unknown = Counter(layer[0] for layer in layers if ncnn.layer_to_index(layer[0]) < 0)
    if unknown:
        advice = next((text for part, text in REMEDIES.items() if any(part in name for name in unknown)), None)
        raise ValueError(
            f"ncnn has no {', '.join(f'{name} ({count}x)' for name, count in unknown.items())}; "
            f"{advice or 'export another output, or to another format'}"
        )
