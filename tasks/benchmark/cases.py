"""Build what is timed: a network and its images, and the network as PyTorch runs it."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.blocks.fusion import fuse_model
from tasks.base.build import build_backbone, build_task, task_class
from tasks.base.checkpoint import load_task
from tasks.base.network import Deployable
from tasks.base.plain_config import Config, label, plain
from tasks.base.renamed_targets import first_named
from tasks.base.task import VisionTask
from tasks.benchmark.costs import profile
from tasks.benchmark.store import Row
from tasks.data.classes import Classes
from tasks.deploy.backend import BACKENDS, Runtime
from tasks.deploy.deployable import make_deployable
from tasks.values.pixel_format import pixel_format
from tasks.values.sizes import parse_size

TORCH_RUNTIMES = ("eager", "fused", "channels_last", "compile")
COSTS = ("parameters", "macs", "activations", "memory_access_bytes", "depth")


@dataclass
class Case:
    """A network and the images that it is timed on.

    Attributes:
        network: Its name, such as "mnv3_large + lraspp".
        source: The checkpoint, or "random weights".
        config: Hash of the settings of backbone, head and task.
        task: The built task; None for a backbone alone.
        model: Not fused, in eval mode, in contiguous (NCHW) memory.
        images: (N, 3, H, W) uint8 or float32.
        output: Kind of output, as in `Manifest`.
        end_to_end: Time from pixels to final predictions.
    """

    network: str
    source: str
    config: str
    choices: dict[str, str]
    task: VisionTask | None
    model: nn.Module
    images: Tensor
    output: str
    end_to_end: bool

    @property
    def kind(self) -> str:
        return self.task.kind if self.task else "backbone"


@dataclass
class Subject:
    """A network in one runtime, ready to be timed, or the reason why it cannot be.

    Attributes:
        runtime: "eager", "onnx", ...
        precision: "fp32", "int8", ...
        output: Kind of output.
        call: Runs it once; None where `error` says why not.
        size: bytes, of the artifact, or of the weights in PyTorch.
        costs: Counts of `costs_of`.
        module: The PyTorch module that runs, for the times of its layers.
        runtime_object: The loaded artifact.
        folder: The artifact's folder.
        notes: Remarks for the report.
    """

    runtime: str
    precision: str
    output: str
    call: Callable[[], object] | None = None
    error: str = ""
    size: int = 0
    costs: dict[str, int] = field(default_factory=dict)
    module: nn.Module | None = None
    runtime_object: Runtime | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"


class BackboneDeployable(Deployable):
    """A backbone without head, normalisation inside, that returns the maps of its taps."""

    output = "features"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.network, self.outputs = backbone, tuple(tap.name for tap in backbone.taps)
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(getattr(backbone, name)).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network((images - self.mean) / self.std).values())


def make_case(config: Config) -> Case:
    """Build what `config` names: a checkpoint's task, a task with random weights, or a backbone alone.

    Random weights get BatchNorm statistics of random pixels. Without them activations shrink to denormal numbers:
    those are slow on CPUs and have no int8 range.

    Raises:
        ValueError, FileNotFoundError: As raised by what is built; the task has no such output.
    """
    choices = {key: str(value) for key, value in dict(config["choices"]).items() if key in ("backbone", "task", "head")}
    torch.manual_seed(config["seed"])
    task = _task(config)
    kind = task.kind if task else "backbone"
    size, network_output, whole_output = (224, 224), BackboneDeployable.output, BackboneDeployable.output
    if task:
        size, network_output, whole_output = task.usual_size, task.outputs[0], task.whole_output
    height, width = _image_size(config, size)
    generator = torch.Generator().manual_seed(config["seed"])
    shape = (config["batch"], pixel_format(config).channels, height, width)
    if config["batch"] < 1:
        raise ValueError(f"batch={config['batch']}: expected at least 1 image")
    if config["dtype"] not in ("uint8", "float32"):
        raise ValueError(f"dtype={config['dtype']}: expected uint8 or float32")
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(getattr(torch, config["dtype"]))
    model = task.network if task else build_backbone(config)
    model = copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)
    if not config["checkpoint"]:
        _settle(model if task else BackboneDeployable(model), tuple(images.shape[1:]), generator)
        if task:
            task.network.load_state_dict(model.state_dict())
    nodes = {key: plain(config)[key] for key in ("backbone", "head", "task") if config.get(key)}
    described = {key: first_named(node) for key, node in nodes.items()}  # rows of earlier versions stay those of them
    return Case(
        network=" + ".join(label(config, key) for key in ("backbone", "head") if choices.get(key)) or kind,
        source=str(config["checkpoint"] or "random weights"),
        config=hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:12],
        choices=choices,
        task=task,
        model=model,
        images=images,
        output=config["output"] or (whole_output if config["end_to_end"] else network_output),
        end_to_end=config["end_to_end"],
    )


def torch_subject(case: Case, runtime: str) -> Subject:
    """Prepare the network for one of `TORCH_RUNTIMES`: eager (not fused), fused, channels_last, compiled."""
    model = case.model if runtime == "eager" else fuse_model(case.model)
    images = case.images
    costs = costs_of(model, case)
    if runtime == "channels_last":
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    size = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    subject = Subject(runtime, "fp32", case.output, size=size, costs=costs, module=_with_pixels(case, model))
    run = torch.compile(subject.module) if runtime == "compile" else subject.module
    if case.end_to_end and case.task:
        sizes, input_size = [tuple(images.shape[-2:])] * len(images), tuple(images.shape[-2:])
        subject.call, subject.output = lambda: case.task.predict(run(images), sizes, input_size), "predictions"
    else:
        subject.call = lambda: run(images)
    return subject


def case_deployable(case: Case, output: str) -> Deployable:
    """Make the module that is exported, with outputs of kind `output`."""
    if case.task is None:
        return BackboneDeployable(fuse_model(case.model)).eval()
    model = make_deployable(case.task, output=output, image_size=tuple(case.images.shape[-2:]))
    return model.to(memory_format=torch.contiguous_format)  # ExecuTorch's XNNPACK refuses channels_last weights


def costs_of(model: nn.Module, case: Case) -> dict[str, int]:
    """Count parameters, multiply-adds and memory of one image, by the names in `COSTS`."""
    channels = case.task.network.pixels.channels if case.task else model.in_channels
    found = profile(model, tuple(case.images.shape[-2:]), in_channels=channels)
    return {key: getattr(found, key) for key in COSTS}


def checked_names(runtimes: Iterable[str]) -> list[str]:
    """Drop repeated runtimes.

    Raises:
        ValueError: A runtime is unknown.
    """
    known = (*TORCH_RUNTIMES, *BACKENDS)
    unknown = [name for name in runtimes if name not in known]
    if unknown:
        raise ValueError(f"runtimes={','.join(unknown)}: expected some of {', '.join(known)}")
    return list(dict.fromkeys(runtimes))


def _task(config: Config) -> VisionTask | None:
    if config["checkpoint"]:
        return load_task(config["checkpoint"], config)
    if not config.get("task"):
        return None
    count = config["num_classes"] or task_class(config).usual_classes
    classes = Classes(tuple(f"class {index}" for index in range(count)), ((128, 128, 128),) * count)
    return build_task(config, classes, pretrained=False).eval()


def _image_size(config: Config, default: tuple[int, int]) -> tuple[int, int]:
    return default if config["image_size"] is None else parse_size(config["image_size"], "image_size")


@torch.no_grad()
def _settle(model: nn.Module, size: tuple[int, ...], generator: torch.Generator) -> None:
    """Set BatchNorm statistics from 2 to 16 random images of (C, H, W), more for small ones."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    count = min(max(2**18 // (size[1] * size[2]), 2), 16)
    model.train()(torch.randint(0, 256, (count, *size), generator=generator).float())
    model.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _with_pixels(case: Case, model: nn.Module) -> nn.Module:
    if case.task is None:
        return BackboneDeployable(model).eval()
    if case.end_to_end or case.output == case.task.outputs[0]:
        return model.eval()
    deployable = case_deployable(case, case.output)  # what has a tail has it in PyTorch too
    deployable.network = model
    return deployable.eval()


@dataclass
class Entry:
    """A subject, the images that it is timed on, and the row that its times go into."""

    subject: Subject
    images: Tensor
    row: Row
