"""Networks through ncnn: the numbers of eager PyTorch, and clear words where it cannot give them."""

import subprocess
import sys

import ncnn
import pytest
import torch
from torch.nn import functional as F

from backbones.blocks.fusion import fuse_model
from tasks.base.build import build_whole_network, make
from tasks.base.network import Deployable, build_network
from tasks.deploy.backend import ExportOptions
from tasks.deploy.formats.ncnn import FP16_NOTE, FP32_NOTE, TRAPS, NcnnBackend
from tasks.deploy.manifest import Manifest, TensorSpec
from tests.oracles import randomised, relative_error
from tests.tasks.conftest import composed
from tests.tasks.quantization.small_networks import Shallow

SIZE = 65, 97  # px: no multiple of any stride


class Small(Deployable):
    """A network with few classes and the tail that an output asks for; backbone "shallow" is quickly converted."""

    def __init__(self, backbone: str, head: str, output: str = "logits"):
        super().__init__()
        kind = "detection" if head.startswith(("ssd", "gfl")) else "segmentation"
        torch.manual_seed(0)
        if backbone == "shallow":
            network = build_network(Shallow(), make(composed("train", f"task={kind}", f"head={head}").head), 7)
        else:
            network = build_whole_network(composed("train", f"task={kind}", f"backbone={backbone}", f"head={head}"), 7)
        self.network, self.output = fuse_model(randomised(network)), output
        self.outputs = {"raw": ("box_deltas", "class_logits"), "topk": ("scores",)}.get(output, ("logits",))
        if output.startswith("argmax"):
            self.outputs = ("classes",)
        self.eval()

    def forward(self, images):
        raw = self.network(images.float())
        if self.output == "raw":
            return tuple(raw[name] for name in self.outputs)
        if self.output == "topk":
            return (raw["class_logits"].amax(-1).topk(9).values,)
        if self.output.startswith("argmax"):  # else a class or two would be everywhere
            raw = raw - raw.mean(dim=(2, 3), keepdim=True)
        if self.output == "argmax":
            return (raw.argmax(1).to(torch.uint8),)
        if self.output == "argmax_low":
            classes = F.avg_pool2d(raw, 8).argmax(1, keepdim=True).float()
            return (F.interpolate(classes, size=images.shape[-2:], mode="nearest")[:, 0].to(torch.uint8),)
        return (raw,)


def exported(format, model, folder, *, dtype=torch.float32, precision="fp32", count=2):
    """Write the artifact; (its manifest, images, what eager gives, what export told)."""
    images = torch.randint(0, 256, (count, 3, *SIZE), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = dict(zip(model.outputs, model(images), strict=True))
    told = format.export(model, images[:1].to(dtype), folder, ExportOptions(precision))
    specs = [TensorSpec(n, (1, *t.shape[1:]), str(t.dtype).removeprefix("torch.")) for n, t in expected.items()]
    manifest = Manifest(
        format.name, format.file, "any", model.output, precision,
        TensorSpec("images", (1, 3, *SIZE), str(dtype).removeprefix("torch.")), tuple(specs), {}, {},
    )  # fmt: skip
    return manifest, images, expected, told


@pytest.mark.long
@pytest.mark.parametrize(
    ("backbone", "head", "output"),
    [
        pytest.param(  # squeeze-and-excite, h-swish, global pooling
            "mnv3_small", "mnv3_small_classifier", "logits", marks=pytest.mark.slow
        ),
        ("mnv3_small", "lraspp", "logits"),  # windows of pooling, bilinear resizing
        pytest.param("mnv3_small", "lite_fpn", "logits", marks=pytest.mark.slow),
        pytest.param(
            "mnv2_035", "raspp", "logits", marks=pytest.mark.slow
        ),  # one pooled value spread over the features
        ("mnv3_small", "ssdlite_tv", "raw"),
        ("snv2_050", "linear", "logits"),  # channels shuffled
        pytest.param("snv1_g8_025", "linear", "logits", marks=pytest.mark.slow),
        pytest.param("repvit_m0_6", "repvit_classifier", "logits", marks=pytest.mark.slow),  # GELU
    ],
)
def test_outputs_are_eagers(backbone, head, output, tmp_path, capfd):
    format = NcnnBackend()
    model = Small(backbone, head, output)
    manifest, images, expected, told = exported(format, model, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert {file.name for file in tmp_path.iterdir()} == {"model.ncnn.param", "model.ncnn.bin"}
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    told_of = {name: told.operators.get(name, 0) for name in ("Convolution", "ConvolutionDepthWise", "InnerProduct")}
    assert sum(told_of.values()) >= convolutions and told.delegated is None
    assert told.notes == (FP32_NOTE, *TRAPS)
    found = format.load(tmp_path, manifest)(images.to(torch.uint8))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert relative_error(found[name], tensor) < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("output", ["argmax", pytest.param("argmax_low", marks=pytest.mark.slow)])
def test_classes_come_from_operators_that_ncnn_has(output, tmp_path):
    format = NcnnBackend()
    manifest, images, expected, _ = exported(format, Small("mnv3_small", "lraspp", output), tmp_path)
    assert expected["classes"].unique().numel() > 3
    found = format.load(tmp_path, manifest)(images)["classes"]
    assert found.dtype == torch.uint8
    assert (found != expected["classes"]).float().mean() < 1e-4


@pytest.mark.long
def test_half_precision_is_smaller_and_nearly_the_same(tmp_path):
    format, model = NcnnBackend(), Small("shallow", "linear")
    sizes, found = {}, {}
    for precision in format.precisions:
        folder = tmp_path / precision
        folder.mkdir()
        manifest, images, expected, told = exported(format, model, folder, precision=precision)
        assert told.notes[0] == {"fp32": FP32_NOTE, "fp16": FP16_NOTE}[precision]
        sizes[precision] = (folder / "model.ncnn.bin").stat().st_size
        found[precision] = relative_error(format.load(folder, manifest)(images)["logits"], expected["logits"])
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert found["fp32"] < 1e-5 < found["fp16"] < 2e-2


@pytest.mark.long
def test_threads_are_those_asked_for(tmp_path):
    format = NcnnBackend()
    manifest, *_ = exported(format, Small("shallow", "linear"), tmp_path)
    assert [format.load(tmp_path, manifest, threads=count).net.opt.num_threads for count in (1, 2)] == [1, 2]


@pytest.mark.long
def test_what_pnnx_leaves_untranslated_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"ncnn has no torch\.topk \(1x\); export\.detections=raw"):
        exported(NcnnBackend(), Small("shallow", "ssdlite_tv", "topk"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one image a call, not 2; set export\.batch=1"):
        NcnnBackend().export(Small("shallow", "linear"), torch.zeros(2, 3, *SIZE), tmp_path, ExportOptions())


@pytest.mark.long
@pytest.mark.parametrize("program", ["import os; print('torn', flush=True); os.abort()", "print('fine')"])
def test_a_converter_that_dies_or_writes_nothing_is_an_error(program, tmp_path, monkeypatch):
    run = subprocess.run
    monkeypatch.setattr(
        "tasks.deploy.formats.ncnn.subprocess.run",
        lambda command, **options: run([sys.executable, "-c", program], **options),
    )
    with pytest.raises(ValueError, match=r"pnnx gave up \(exit code (-6; torn|0; fine)\); export another output"):
        exported(NcnnBackend(), Small("shallow", "linear"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_damaged_file_is_refused(tmp_path):
    format = NcnnBackend()
    manifest, *_ = exported(format, Small("shallow", "linear"), tmp_path)
    (tmp_path / manifest.artifact).write_text("7767517\n1 1\nNothing nothing 0 1 images\n")
    with pytest.raises(ValueError, match=r"ncnn cannot read .*model\.ncnn\.param"):
        format.load(tmp_path, manifest)


def test_only_layers_that_this_ncnn_runs_count_as_known():
    assert ncnn.layer_to_index("Convolution") >= 0
    assert [ncnn.layer_to_index(name) for name in ("pnnx.Expression", "torch.topk", "F.pad")] == [-1] * 3


@pytest.mark.parametrize("output", ["decoded", "nms"])
def test_outputs_that_pick_boxes_are_refused_before_anything_is_traced(output, tmp_path):
    model = Small("shallow", "ssdlite_tv", "raw")
    model.output = output
    with pytest.raises(ValueError, match=rf"ncnn cannot hold the output {output}.*export\.detections=raw"):
        NcnnBackend().export(model, torch.zeros(1, 3, *SIZE), tmp_path, ExportOptions())


@pytest.mark.long
def test_what_cannot_be_traced_is_one_line(tmp_path, monkeypatch):
    def trace(*arguments, **options):
        raise RuntimeError("Tracer cannot infer type of 3\n:Only tensors go")

    monkeypatch.setattr(torch.jit, "trace", trace)
    with pytest.raises(
        ValueError, match=r"^ncnn cannot hold the network \(:Only tensors go\); export another output"
    ) as e:
        NcnnBackend().export(Small("shallow", "linear"), torch.zeros(1, 3, *SIZE), tmp_path, ExportOptions())
    assert "\n" not in str(e.value)
