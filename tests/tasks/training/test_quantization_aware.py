"""Quantization-aware training: what is inserted changes nothing, what is folded is plain, training wins int8 back."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backbones.blocks.fusion import fuse_model
from tasks.base.build import build_task
from tasks.base.checkpoint import load_task, read_checkpoint, save_fused
from tasks.data.classes import Classes
from tasks.deploy.deployable import make_deployable
from tasks.deploy.formats.onnx import OnnxBackend
from tasks.quantization import rounded_layers as layers_module
from tasks.quantization.rounded_layers import (
    RoundedConv2d,
    RoundedLinear,
    rounded_layers,
    with_rounding,
    without_rounding,
)
from tasks.quantization.rounding import rounded_activations
from tasks.training.fit import fit
from tasks.training.quantization_aware import QuantizationAware
from tests.oracles import randomised
from tests.tasks.conftest import composed
from tests.tasks.quantization.small_networks import exported, signal_to_noise
from tests.tasks.training.test_fit import run_and_stop, same

FAMILIES = (
    "mnv1_025", "mnv2_035", "mnv4_conv_small", "mnasnet_050", "snv2_050", "repvgg_a0", "mobileone_s0", "repvit_m0_6",
    "resnet18",
)  # fmt: skip
HEADS = {"segmentation": "lraspp", "detection": "ssdlite_tv", "classification": "linear"}


def task_of(backbone: str, task: str = "segmentation", *more: str):
    classes = Classes(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 0, 0)))
    config = composed("train", f"task={task}", f"head={HEADS[task]}", f"backbone={backbone}", *more)
    built = build_task(config, classes, pretrained=False)
    randomised(built.network)
    return built.eval()


class Pictures:
    """Stands in for a data module."""

    def __init__(self, count: int = 2, size: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (2, 3, size, size)
        self.batches = [{"images": torch.randint(0, 256, shape, generator=generator).float()} for _ in range(count)]

    def train_dataloader(self):
        return self.batches


def relative(value, wanted) -> float:
    if isinstance(wanted, dict):
        return max(relative(value[key], wanted[key]) for key in wanted)
    return ((value - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.long
@pytest.mark.parametrize(("backbone", "task"), [
    *(pytest.param(name, "segmentation", marks=pytest.mark.slow) for name in FAMILIES),
    ("mobileone_s0", "detection"), ("mnv3_small", "segmentation"), ("snv1_g3_050", "segmentation"),
    ("repvit_m0_6", "classification"), pytest.param("mnv3_small", "detection", marks=pytest.mark.slow),
])  # fmt: skip
def test_inserted_norms_change_nothing_and_fold_away(backbone, task, monkeypatch):
    built = task_of(backbone, task).double()
    fused, pictures = fuse_model(built.network), Pictures(size=96)
    aware = QuantizationAware("unused", batches=2)
    aware.prepare(built, built)
    aware.measure(built, pictures)
    built.eval()
    plain = without_rounding(built.network)
    kinds = {type(module) for module in plain.modules()}
    assert nn.BatchNorm2d not in kinds and not rounded_layers(plain)
    assert plain.state_dict().keys() == fused.state_dict().keys()
    layers = rounded_layers(built.network)
    assert sum(layer.norm is not None for layer in layers) > 10
    assert all(layer.high > layer.low for layer in layers)
    images = pictures.batches[0]["images"].double()
    with torch.no_grad():
        assert relative(plain(images), fused(images)) < 1e-9
        assert relative(built.network(images), fused(images)) > 1e-4, "rounding shows"
        monkeypatch.setattr(layers_module, "rounded_activations", lambda values, low, high: values)
        monkeypatch.setattr(layers_module, "rounded_weight", lambda weight: weight)
        assert relative(built.network(images), fused(images)) < 1e-9


def test_gradients_reach_every_parameter_and_settled_layers_stay():
    built = task_of("mobileone_s0")
    aware = QuantizationAware("unused", batches=1)
    aware.prepare(built, built)
    aware.measure(built, Pictures())
    built.network(Pictures().batches[1]["images"]).square().mean().backward()
    assert all(parameter.grad is not None for parameter in built.network.parameters())
    for layer in rounded_layers(built.network):
        layer.settled = True
    built.train()
    before = {key: value.clone() for key, value in built.network.named_buffers()}
    built.network(Pictures(3).batches[2]["images"])
    assert all(torch.equal(value, before[key]) for key, value in built.network.named_buffers())


def test_inputs_round_to_the_256_levels_of_their_range():
    """From -1 to 1.55 a level is 0.01; what lies outside is cut, and has no gradient."""
    values = torch.tensor([-2.0, -1.0, 0.004, 0.006, 1.554, 1.56, 3.0], requires_grad=True)
    rounded = rounded_activations(values, torch.tensor(-1.0), torch.tensor(1.55))
    assert rounded.tolist() == pytest.approx([-1.0, -1.0, 0.0, 0.01, 1.55, 1.55, 1.55], abs=1e-6)
    rounded.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_a_fresh_norm_begins_with_the_statistics_of_its_convolutions_outputs():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    layer, batches = RoundedConv2d(conv, normed=True), [torch.randn(4, 3, 8, 8) + 1 for _ in range(3)]
    with torch.no_grad():
        bias = conv.bias.clone()
        outputs = torch.cat([nn.functional.conv2d(images, conv.weight) for images in batches]).double()
        layer.observed = []
        for images in batches:
            layer(images)
        layer.settle()
    mean, variance = outputs.mean((0, 2, 3)), outputs.var((0, 2, 3), correction=0)
    torch.testing.assert_close(layer.norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.norm.running_var.double(), variance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.norm.weight.double(), (variance + layer.norm.eps).sqrt(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.norm.bias.double(), bias.double() + mean, rtol=1e-5, atol=1e-6)
    lows, highs = zip(*(images.aminmax() for images in batches), strict=True)
    assert layer.low.item() == pytest.approx(sum(lows).item() / 3) and layer.high.item() == pytest.approx(
        sum(highs).item() / 3
    )


@pytest.mark.parametrize("training", [True, False])
def test_ranges_follow_a_tenth_of_the_way(training):
    layer = RoundedLinear(nn.Linear(2, 1)).train(training)
    layer.low.fill_(-1.0)
    layer.high.fill_(2.0)
    layer(torch.tensor([[-3.0, 12.0]]))
    assert (layer.low.item(), layer.high.item()) == pytest.approx((-1.2, 3.0) if training else (-1.0, 2.0))
    layer(torch.tensor([[4.0, 5.0]]))  # 0 is always in the range
    assert layer.low.item() == pytest.approx(-1.08 if training else -1.0)


@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(0.5, 4, 2), (0.5, 5, 3), (1.0, 3, None), (0.1, 10, 1), (0.5, -1, None)]
)
def test_ranges_settle_with_the_epoch_that_the_share_falls_on(share, epochs, first):
    layer = RoundedLinear(nn.Linear(2, 1))
    task = nn.Module()
    task.network = nn.Sequential(layer)
    aware, settled = QuantizationAware("unused", freeze_after=share), []
    for epoch in range(max(epochs, 3)):
        aware.on_train_batch_start(SimpleNamespace(max_epochs=epochs, current_epoch=epoch), task, {}, 0)
        settled.append(layer.settled)
    assert settled == [first is not None and epoch >= first for epoch in range(max(epochs, 3))]


def test_inserted_norms_have_the_tasks_momentum():
    built = task_of("mnv2_035", "segmentation", "task.norm_momentum=0.25")
    QuantizationAware("unused").prepare(built, built)
    norms = [layer.norm for layer in rounded_layers(built.network) if layer.norm is not None]
    assert len(norms) > 10 and {norm.momentum for norm in norms} == {0.25}


def test_parts_are_kept_in_float():
    twin = with_rounding(task_of("mnv3_small").network, ["network.head"])
    assert rounded_layers(twin.backbone) and not rounded_layers(twin.head)
    with pytest.raises(ValueError, match="nothing to round"):
        QuantizationAware("unused", keep_float=["network"]).prepare(task_of("mnv3_small"), None)
    with pytest.raises(ValueError, match="keep_float=network\\.neck"):
        with_rounding(task_of("mnv3_small").network, ["network.neck"])


@pytest.mark.parametrize(("settings", "said"), [({"batches": 0}, "at least 1"), ({"freeze_after": 0}, "share")])
def test_settings_out_of_range(settings, said):
    with pytest.raises(ValueError, match=said):
        QuantizationAware("x", **settings)


@pytest.fixture
def trained(small_run, tmp_path):
    fit(small_run("trainer.max_epochs=3", f"output_dir={tmp_path / 'float'}"))
    return tmp_path / "float" / "last.ckpt"


@pytest.mark.long
def test_a_run_stops_and_goes_on_as_the_undisturbed_one_and_leaves_a_plain_network(
    small_run, trained, tmp_path, monkeypatch
):
    """Stopped once before, once after its ranges settle."""
    settings = ["qat=int8", f"qat.checkpoint={trained}", "qat.batches=2", "optimizer.lr=0.001", "trainer.max_epochs=4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(small_run(*settings, f"output_dir={whole}"))
    run_and_stop(monkeypatch, small_run(*settings, f"output_dir={broken}"), epochs=1)
    again = [*settings, f"checkpoint={broken / 'last.ckpt'}", "output_dir=null"]
    run_and_stop(monkeypatch, small_run(*again), epochs=3)
    early = read_checkpoint(broken / "last.ckpt")["state_dict"]
    fit(small_run(*again))
    states = [read_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (whole, broken)]
    assert same(*states)
    norm = "network.backbone.layers.0.conv.norm"
    assert torch.equal(early[f"{norm}.running_var"], states[0][f"{norm}.running_var"]), "statistics stay in the end"
    assert not torch.equal(early[f"{norm}.weight"], states[0][f"{norm}.weight"])

    plain = load_task(tmp_path / "whole" / "best.ckpt")
    assert not rounded_layers(plain.network) and plain.kind == "segmentation"
    save_fused(tmp_path / "whole" / "best.ckpt", tmp_path / "fused.ckpt")
    again = load_task(tmp_path / "fused.ckpt")
    images = torch.rand(1, 3, 48, 64) * 255
    with torch.no_grad():
        assert relative(again.network(images), plain.network(images)) < 1e-5  # another memory format


@pytest.mark.long
def test_another_network_and_frozen_parts_are_refused(small_run, trained):
    with pytest.raises(ValueError, match="is of another network"):
        fit(small_run("qat=int8", f"qat.checkpoint={trained}", "backbone=mnv2_035", "overwrite=true"))
    os.environ.pop("MOBILE_DENSE_RUN", None)
    with pytest.raises(ValueError, match="freeze"):
        fit(small_run("qat=int8", f"qat.checkpoint={trained}", "task.freeze=c3", "overwrite=true"))


def test_classes_in_another_order_are_refused():
    built, source = (task_of("mnv2_035") for _ in range(2))
    source.classes = Classes(("a", "c", "b"), source.classes.palette)
    with pytest.raises(ValueError, match=r"qat\.checkpoint=x\.ckpt knows the classes a, c, b\.\.\., not a, b, c"):
        QuantizationAware("x.ckpt").prepare(built, source)


@pytest.mark.long
def test_what_is_rounded_in_training_is_what_the_export_rounds(tmp_path):
    torch.manual_seed(2)
    built, pictures = task_of("mnv1_025", "classification"), Pictures(4, 96)
    aware = QuantizationAware("unused", batches=4)
    aware.prepare(built, built)
    aware.measure(built, pictures)
    images = torch.cat([batch["images"] for batch in Pictures(24, 96).batches[4:]])
    with torch.no_grad():
        rounded = built.eval().network(images)
    built.network = without_rounding(built.network)
    model = make_deployable(built)
    calibration = [image for batch in pictures.batches for image in batch["images"].split(1)]
    _, manifest = exported(OnnxBackend(), model, images[:1], tmp_path, precision="int8", calibration=calibration)
    found = OnnxBackend().load(tmp_path, manifest)(images)["logits"]
    with torch.no_grad():
        assert signal_to_noise(found, rounded) > signal_to_noise(found, model(images)[0]) + 10


@pytest.mark.long
def test_training_wins_back_what_rounding_lost():
    """One channel much larger than the others takes all levels of a range, as in re-parameterised kernels."""
    torch.manual_seed(0)
    built, pictures = task_of("mobileone_s0", "classification"), Pictures(2)
    aware = QuantizationAware("unused", batches=2)
    aware.prepare(built, built)
    aware.measure(built, pictures)
    depthwise, pointwise = rounded_layers(built.network)[3:5]
    assert depthwise.groups > 1 and pointwise.in_channels == depthwise.out_channels
    with torch.no_grad():
        wanted = [without_rounding(built.network.eval())(batch["images"]) for batch in pictures.batches]
        for value in (depthwise.norm.weight, depthwise.norm.bias):
            value[0] *= 100
        pointwise.weight[:, 0] /= 100
        pointwise.high *= 100
        kept = [without_rounding(built.network.eval())(batch["images"]) for batch in pictures.batches]
    assert max(map(relative, kept, wanted)) < 1e-4, "in floating point nothing has changed"

    def loss() -> torch.Tensor:
        pairs = zip(pictures.batches, wanted, strict=True)
        return sum(((built.network(batch["images"]) - t) / t.std()).square().mean() for batch, t in pairs)

    built.train()
    for layer in rounded_layers(built.network):
        layer.settled = True
    built.train()
    first, optimizer = loss().item(), torch.optim.Adam(built.network.parameters(), 1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        (value := loss()).backward()
        optimizer.step()
    assert value.item() < 0.4 * first
