"""Oracles: torchvision's published counts, PyTorch's own allocator, sums done by hand."""

from collections import Counter
from itertools import accumulate

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tasks.benchmark.costs import Layer, layer_table, profile


def separable(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    depthwise = nn.Conv2d(in_channels, in_channels, kernel, padding="same", groups=in_channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=False))


class Residual(nn.Module):
    """48 elements on 4x4 pixels, 128 inside."""

    def __init__(self, skip: bool = True):
        super().__init__()
        self.expand, self.project, self.skip = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1), skip

    def forward(self, x):
        y = self.project(self.expand(x))
        return x + y if self.skip else y


class Calls(nn.Module):
    """Any function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# --- counts of papers and packages

PUBLISHED = {
    "mobilenet_v2": (224, 224),
    "mobilenet_v3_large": (224, 224),
    "mobilenet_v3_small": (224, 224),
    "mnasnet1_0": (224, 224),
    "shufflenet_v2_x1_0": (224, 224),
    "resnet18": (224, 224),
    "vit_b_16": (224, 224),  # attention: nn.MultiheadAttention has a fast path in one operator
    "swin_t": (224, 224),  # attention by matrix products
    "lraspp_mobilenet_v3_large": (520, 520),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_those_torchvision_publishes(name):
    meta = next(iter(tv.get_model_weights(name))).meta
    backbone = {"weights_backbone": None} if name.startswith("lraspp") else {}
    with torch.device("meta"):
        model = tv.get_model(name, weights=None, **backbone)
    found = profile(model, PUBLISHED[name])
    assert found.parameters == meta["num_params"]
    assert round(found.macs / 1e9, 3) == meta["_ops"]
    assert found.flops == 2 * found.macs


@pytest.mark.parametrize(
    "name, millions",  # of the authors of RegNet: facebookresearch/pycls, MODEL_ZOO.md, column "acts"
    [("resnet50", 11.1), ("resnext50_32x4d", 14.4), ("efficientnet_b0", 6.7)],
)
def test_activations_are_those_regnet_publishes(name, millions):
    with torch.device("meta"):
        model = tv.get_model(name, weights=None)
    assert round(profile(model, (224, 224)).activations / 1e6, 1) == millions


# --- multiply-adds by hand


def test_a_separable_convolution_costs_one_over_n_plus_one_over_k_squared():
    standard = profile(nn.Conv2d(8, 16, 3, padding=1, bias=False), (14, 10), in_channels=8)
    cheap = profile(separable(8, 16, 3), (14, 10), in_channels=8)
    assert standard.macs == 3 * 3 * 8 * 16 * 14 * 10
    assert cheap.macs == (3 * 3 * 8 + 8 * 16) * 14 * 10
    assert cheap.macs / standard.macs == pytest.approx(1 / 16 + 1 / 9)
    assert cheap.parameters / standard.parameters == pytest.approx(1 / 16 + 1 / 9)


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_divide_the_cost(groups):
    dense = profile(nn.Conv2d(8, 16, 3), (9, 9), in_channels=8)
    assert profile(nn.Conv2d(8, 16, 3, groups=groups), (9, 9), in_channels=8).macs == dense.macs / groups


@pytest.mark.parametrize(
    "model, macs, activations, depth",
    [
        (nn.Conv2d(3, 5, 3, dilation=2, padding=2), 8 * 6 * 5 * 27, 8 * 6 * 5, 1),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), 4 * 3 * 5 * 27, 4 * 3 * 5, 1),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 8 * 6 * 3 * 5 * 4, 16 * 12 * 5, 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(144, 10)), 1440, 10, 1),
        (nn.Linear(6, 10), 8 * 3 * 6 * 10, 8 * 3 * 10, 1),  # on (1, 3, 8, 6)
        (nn.Linear(6, 10, bias=False), 8 * 3 * 6 * 10, 8 * 3 * 10, 1),
        (Calls(lambda x: x @ x.transpose(2, 3)), 3 * 8 * 8 * 6, 0, 0),
        (Calls(lambda x: F.scaled_dot_product_attention(x, x, x)), 2 * 3 * 8 * 8 * 6, 0, 0),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Hardswish(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), 0, 0, 0),
        (Calls(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), 0, 0, 0),
    ],
)
def test_macs_activations_and_depth_by_hand(model, macs, activations, depth):
    found = profile(model, (8, 6))
    assert (found.macs, found.activations, found.depth) == (macs, activations, depth)
    two = profile(model, (8, 6), batch_size=2)
    assert (two.macs, two.activations, two.depth) == (2 * macs, 2 * activations, depth)


# --- memory by hand, in elements of 4 bytes


@pytest.mark.parametrize(
    "model, elements, operators",
    [
        (nn.Conv2d(3, 8, 1, bias=False), 48 + 24 + 128, ["convolution"]),
        (nn.Conv2d(3, 8, 1), 48 + 24 + 8 + 128, ["convolution"]),
        (nn.BatchNorm2d(3), 48 + 4 * 3 + 48, ["native_batch_norm"]),
        (nn.BatchNorm2d(3, track_running_stats=False), 48 + 2 * 3 + 48 + 2 * 3, ["native_batch_norm"]),  # of the batch
        (nn.ReLU(), 48 + 48, ["relu"]),
        (nn.ReLU(inplace=True), 48 + 48, ["relu_"]),
        (nn.Flatten(), 0, []),
        (nn.Sequential(nn.Identity(), nn.Dropout()), 0, []),
        (Calls(lambda x: x + x), 3 * 48, ["add"]),
        (Calls(lambda x: x[:, :1] + 1), 2 * 16, ["add"]),  # a part is read in part
        (Calls(lambda x: x.mean((2, 3))), 48 + 3, ["mean"]),
        (Calls(lambda x: x[:, :, :1, :1].expand(-1, -1, 4, 4).exp()), 48 + 48, ["exp"]),
        (Calls(lambda x: x.mean((2, 3), keepdim=True).expand_as(x).exp()), 48 + 3 + 3 + 48, ["mean", "exp"]),
        (Calls(lambda x: torch.cat([t * 2 for t in x.chunk(3, 1)], 1)), 3 * 32 + 96, ["mul", "mul", "mul", "cat"]),
        (Calls(lambda x: x.transpose(1, 2).reshape(1, -1)), 96, ["clone"]),  # a copy, then a view of it
    ],
)
def test_memory_access_by_hand(model, elements, operators):
    found = profile(model, (4, 4))
    assert found.memory_access_bytes == 4 * elements
    assert found.operators == Counter(f"aten.{name}" for name in operators)


@pytest.mark.parametrize(
    "model, peak, planned",
    [
        # While the second layer runs, the caller still holds the image; a plan would have dropped it.
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)), 48 + 128 + 64, 128 + 64),
        # The inner block's input lives as long as the block's call; three layers make it visible.
        (nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(3)]), 3 * 48, 2 * 48),
        (nn.Sequential(nn.ReLU(), nn.Sequential(*[nn.ReLU() for _ in range(3)])), 4 * 48, 2 * 48),
        (Residual(skip=True), 48 + 128 + 48, 48 + 128 + 48),
        (Residual(skip=False), 48 + 128 + 48, 48 + 128),
        (nn.ReLU(), 96, 96),
        (nn.ReLU(inplace=True), 48, 48),
        (nn.Flatten(), 48, 48),
        (Calls(lambda x: torch.cat([x, x.flatten(1).exp().view_as(x)], 1)), 4 * 48, 4 * 48),
        # All results live to the end, even those made early.
        (Calls(lambda x: {"a": x.exp(), "b": [x.sin(), x.mean((2, 3))]}), 3 * 48 + 3, 3 * 48 + 3),
    ],
)
def test_peak_memory_by_hand(model, peak, planned):
    found = profile(model, (4, 4))
    assert (found.activation_bytes_peak, found.activation_bytes_planned) == (4 * peak, 4 * planned)


class NoScratch(nn.Module):
    """Nested blocks, views, branches, in-place: operators that allocate their results and nothing else."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Hardswish(inplace=True), nn.Sequential(nn.ReLU(), nn.ELU())
        )

    def forward(self, x):
        y = self.block(torch.cat([x, x.sigmoid()], 1))
        a, b = y.chunk(2, 1)
        z = torch.stack([a, b], 2).flatten(1, 2)  # ShuffleNet's shuffle
        del a, b
        return [z.add_(y), F.avg_pool2d(self.block(y), 2)]


def test_peak_memory_is_what_the_allocator_saw():
    model, images = NoScratch().eval(), torch.rand(1, 3, 32, 32)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.no_grad(), torch.profiler.profile(activities=activities, profile_memory=True) as recorded:
        model(images)
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert images.nbytes + max(accumulate(changes)) == profile(model, (32, 32)).activation_bytes_peak


def test_fusing_a_batch_norm_saves_its_reads_and_writes():
    conv, norm = nn.Conv2d(3, 8, 3, padding=1, bias=False).eval(), nn.BatchNorm2d(8).eval()
    apart, fused = (profile(m, (16, 16)) for m in (nn.Sequential(conv, norm), fuse_conv_bn_eval(conv, norm)))
    saved = 2 * 8 * 16 * 16 + 4 * 8 - 8  # its map in and out and its four vectors, less the new bias
    assert apart.memory_access_bytes - fused.memory_access_bytes == 4 * saved
    assert (apart.macs, apart.activations, apart.depth) == (fused.macs, fused.activations, fused.depth)
    assert fused.activation_bytes_peak < apart.activation_bytes_peak


# --- behaviour


def test_the_model_stays_as_it_was():
    model = tv.mobilenet_v3_small(weights=None).train()
    model.features[3].eval()
    model.features[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    seen = []
    model.features.register_forward_hook(lambda module, args, output: seen.append(module.training))
    profile(model, (64, 64))
    layer_table(model, (64, 64))
    assert seen == [False, False]
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_settings_of_torch_come_back_after_an_error():
    with pytest.raises(RuntimeError, match="channel"):
        profile(nn.Conv2d(4, 8, 3), (8, 8))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert type(torch.ones(1)) is torch.Tensor


@pytest.mark.parametrize(
    "function", [lambda x: x[x > 0], lambda x: x + x.max().item(), lambda x: x.exp() if x.sum() > 0 else x]
)
def test_shapes_that_depend_on_pixels_are_refused(function):
    with pytest.raises(RuntimeError):
        profile(Calls(function), (8, 8))


def test_nothing_is_computed_or_allocated():
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
    found = profile(model, (100_000, 100_000), batch_size=1000)  # 3e16 bytes
    assert found.activation_bytes_peak == 4 * (3 + 2 * 64) * 100_000**2 * 1000


def test_the_answer_does_not_depend_on_the_callers_mode_or_the_models_state():
    model = tv.shufflenet_v2_x0_5(weights=None)
    expected = profile(model, (64, 96))
    assert profile(model.eval(), (64, 96)) == expected
    with torch.inference_mode():
        assert profile(model, (64, 96)) == expected
    assert profile(model.half(), (64, 96)) == expected
    assert profile(model.to("meta"), (64, 96)) == expected


def test_half_precision_halves_the_bytes_and_nothing_else():
    model = Residual()
    single, half = profile(model, (32, 32)), profile(model, (32, 32), dtype=torch.float16)
    for name in ("activation_bytes_peak", "activation_bytes_planned", "memory_access_bytes"):
        assert getattr(half, name) == getattr(single, name) / 2, name
    assert (half.macs, half.parameters, half.operators) == (single.macs, single.parameters, single.operators)
    assert model.expand.weight.dtype == torch.float32


def test_shared_parameters_count_once_and_buffers_never():
    layer = nn.Linear(8, 8)
    found = profile(nn.Sequential(layer, nn.BatchNorm2d(3), layer), (8, 8))
    assert found.parameters == (64 + 8) + 6
    assert found.depth == 2


def test_tensors_that_are_neither_parameters_nor_buffers_may_be_used():
    scale = torch.ones(3, 1, 1, requires_grad=True)
    found = profile(Calls(lambda x: (x * scale).exp().sin() + torch.zeros(3, 1, 1)), (4, 4))
    assert found.memory_access_bytes == 4 * ((48 + 3 + 48) + 2 * 96 + 3 + (48 + 3 + 48))
    assert found.activation_bytes_peak == 4 * (3 * 48 + 3)  # no graph for a gradient holds the products


def test_layer_table_rows_by_hand():
    model = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(48, 5, bias=False))
    assert layer_table(model, (4, 4)) == (
        Layer("0.expand", "Conv2d", (1, 8, 4, 4), 32, 384, 4 * (48 + 32 + 128)),
        Layer("0.project", "Conv2d", (1, 3, 4, 4), 27, 384, 4 * (128 + 27 + 48)),
        Layer("0", "Residual", (1, 3, 4, 4), 0, 0, 4 * 3 * 48),
        Layer("2", "Linear", (1, 5), 240, 240, 4 * (48 + 240 + 5)),
    )


def test_layer_table_adds_up():
    model = tv.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
    whole, rows = profile(model, (64, 64), batch_size=2), layer_table(model, (64, 64), batch_size=2)
    assert sum(row.macs for row in rows) == whole.macs
    assert sum(row.memory_access_bytes for row in rows) == whole.memory_access_bytes
    assert sum(row.parameters for row in rows) == whole.parameters
    assert [row.kind for row in rows if row.name == ""] == ["LRASPP"]  # the last interpolation
