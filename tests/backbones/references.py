"""Comparing a backbone with a reference network, tap by tap, weights carried over by file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from tasks.benchmark.costs import profile
from tests.oracles import relative_error

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def dilated(model: nn.Module, output_stride: int) -> nn.Module:
    """Turn, in place, strides beyond `output_stride` into dilation, for a network without branches.

    The convolution that loses its stride is dilated already, as in torchvision's MobileNetV3 (timm's `output_stride`
    dilates from the next one on, so that its first dilated block differs; TensorFlow's slim likewise). Attention goes
    on taking keys and values from the px that it takes them from undilated.
    """
    stride = dilation = 1
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        if ".attn." in name:
            if name.endswith("down_conv"):
                conv.stride, conv.dilation, conv.padding = ((k * dilation,) * 2 for k in (2, 1, 1))
            elif name.endswith(("key.proj", "value.proj")) and len(model.get_submodule(name.rpartition(".")[0])) == 1:
                conv.stride = (dilation, dilation)
            continue
        if stride * conv.stride[0] > output_stride:
            dilation, conv.stride = dilation * conv.stride[0], (1, 1)
        stride *= conv.stride[0]
        if max(conv.kernel_size) > 1:
            conv.dilation = (dilation, dilation)
            conv.padding = tuple((size - 1) // 2 * dilation for size in conv.kernel_size)
    return model


def outputs(model: nn.Module, images: Tensor, places: Mapping[str, str]) -> dict[str, Tensor]:
    """What the modules at `places` ({tap: module name}) give while the model runs."""
    found, handles = {}, []
    for tap, place in places.items():
        keep = lambda module, args, output, tap=tap: found.update({tap: output.clone()})  # noqa: E731
        handles.append(model.get_submodule(place).register_forward_hook(keep))
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def worst_error(
    factory: Callable[..., Backbone], reference: nn.Module, places: Mapping[str, str], folder: Path,
    dtype: torch.dtype = torch.float64, size: tuple[int, int] = (97, 65), output_stride: int = 32, **options,
) -> float:  # fmt: skip
    """Carry the reference's weights over through a file and compare every tap; the reference becomes dilated."""
    torch.save(reference.state_dict(), folder / "weights.pth")
    backbone = factory(weights=str(folder / "weights.pth"), output_stride=output_stride, **options).to(dtype).eval()
    if output_stride < 32:
        dilated(reference, output_stride)
    generator = torch.Generator().manual_seed(2)
    images = 4 * torch.randn(2, 3, *size, dtype=dtype, generator=generator)  # large enough for ReLU6 to cut
    expected = outputs(reference.to(dtype).eval(), images, places)
    with torch.inference_mode():
        actual = backbone(images)
    assert set(actual) == set(expected)
    return max(relative_error(actual[tap], expected[tap]) for tap in expected)


def parameters(*modules: nn.Module) -> int:
    """Number of parameters of all modules together."""
    return sum(p.numel() for module in modules for p in module.parameters())


def costs_with_classifier(backbone: Backbone, reference: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters and multiply-adds of timm's network, equal to those of ours with its classifier."""
    classifier = reference.get_classifier()
    assert parameters(backbone, classifier) == parameters(reference)
    macs = profile(backbone, size).macs + classifier.weight.numel()
    assert macs == profile(reference, size).macs
    return parameters(reference), macs
