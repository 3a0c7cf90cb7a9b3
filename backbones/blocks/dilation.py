"""Dilation of a network that was built with strides: the same weights, maps of a smaller stride."""

from collections.abc import Callable
from math import log2
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]
KINDS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class EndPaddedConv2d(nn.Conv2d):
    """Convolution whose input is also padded with zeros below and at the right.

    Attributes:
        end_padding: Rows below and columns at the right, px.
    """

    end_padding: Pair = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        below, right = self.end_padding
        return super().forward(F.pad(x, (0, right, 0, below)))


class DilatedPool2d(nn.Module):
    """Pooling of stride 1 over px that lie `dilation` apart; at every `dilation`-th px it is that of dense windows.

    Args:
        pool: Max or average pooling, of any stride.
        dilation: Distance of the px of a window.

    Shape: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d, dilation: int) -> None:
        super().__init__()
        self.undilated, self.dilation = pool, dilation
        self.kernel, self.start = pair(pool.kernel_size), tuple(dilation * p for p in pair(pool.padding))
        self.average = isinstance(pool, nn.AvgPool2d)
        self.with_padding = self.average and pool.count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        (kernel_h, kernel_w), (top, left), d = self.kernel, self.start, self.dilation
        sides = (left, max(d * (kernel_w - 1) - left, 0), top, max(d * (kernel_h - 1) - top, 0))
        if not self.average:
            return F.max_pool2d(F.pad(x, sides, value=-torch.inf), self.kernel, 1, dilation=d)
        if self.with_padding:
            return self._sum(F.pad(x, sides)) / (kernel_h * kernel_w)
        return self._sum(F.pad(x, sides)) / self._sum(F.pad(torch.ones_like(x[:1, :1]), sides))

    def _sum(self, padded: Tensor) -> Tensor:
        channels = padded.shape[1]
        return F.conv2d(padded, padded.new_ones(channels, 1, *self.kernel), None, 1, 0, self.dilation, channels)


def dilate(model: nn.Module, images: Tensor, output_stride: int, run: Callable[[Tensor], object] | None = None) -> None:
    """Dilate in place what a network computes at strides above `output_stride`.

    One forward shows at which stride each convolution and pooling works. One that would exceed `output_stride` gets
    stride 1, and those behind it take px that lie as far apart as before. With convolutions and poolings alone, each
    map at every (natural stride / output_stride)-th px is that of the undilated network. Global operations, such as
    squeeze-and-excite and attention, then see more px. Weights and their names stay. `undilate` takes it back.

    Args:
        model: A network in eval mode.
        images: (N, C, H, W), large enough that strides can be read from the sizes of maps.
        output_stride: px of the images per px of the deepest map.
        run: Runs what of it is used; else the whole network is called.

    Raises:
        ValueError: A convolution is called at several strides, or it pads more than its kernel.

    Source: Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", section 3.1.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 1, 1)).eval()
    >>> strided, images = net(torch.rand(1, 1, 8, 8)), torch.rand(1, 1, 8, 8)
    >>> before = net(images)
    >>> dilate(net, images, 1)
    >>> net(images).shape, bool(torch.allclose(net(images)[..., ::2, ::2], before))
    (torch.Size([1, 1, 8, 8]), True)
    """
    names: dict[nn.Module, str] = {part: name for name, part in model.named_modules() if isinstance(part, KINDS)}
    seen: dict[str, set[int]] = {}
    height = images.shape[-2]

    def note(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(names[part], set()).add(2 ** round(log2(height / inputs[0].shape[-2])))

    hooks = [part.register_forward_pre_hook(note) for part in names]
    try:
        with torch.no_grad():
            (run or model)(images)
    finally:
        for hook in hooks:
            hook.remove()
    for part, name in names.items():
        at, (step, _) = max(seen.get(name, {1})), pair(part.stride)
        if at * step <= output_stride or (step == 1 and set(pair(part.kernel_size)) == {1}):
            continue
        if len(seen[name]) > 1:
            raise ValueError(f"{name} works at several strides: {sorted(seen[name])}")
        stride, factor = max(1, output_stride // at), max(1, at // output_stride)
        if not isinstance(part, nn.MaxPool2d | nn.AvgPool2d):
            _dilate(name, part, stride, factor)
        elif stride > 1:
            raise ValueError(f"{name} is a pooling of stride {step} at stride {at}")
        else:
            model.set_submodule(name, DilatedPool2d(part, factor))


def undilate(model: nn.Module) -> None:
    """Take back in place what `dilate` changed."""
    for name, part in list(model.named_modules()):
        if isinstance(part, DilatedPool2d):
            model.set_submodule(name, part.undilated)
        elif isinstance(part, nn.Conv2d) and hasattr(part, "undilated"):
            for key, value in vars(part).pop("undilated").items():
                setattr(part, key, value)


def _dilate(name: str, conv: Any, stride: int, factor: int) -> None:
    """Give a convolution another stride and px that lie `factor` times as far apart."""
    conv.undilated = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    other = type(conv).forward is not nn.Conv2d.forward
    if not isinstance(conv.padding, str) and not (other and set(conv.padding) == {0}):  # these pad as they run
        missing = tuple(
            factor * ((kernel - 1) * dilation - 2 * padding)
            for kernel, dilation, padding in zip(conv.kernel_size, conv.dilation, conv.padding, strict=True)
        )
        if stride == 1 and (min(missing) < 0 or (other and max(missing) > 0)):
            raise ValueError(f"{name} pads its kernel of {conv.kernel_size} px by {conv.padding}")
        if stride == 1 and max(missing) > 0:
            conv.undilated |= {"__class__": type(conv), "end_padding": (0, 0)}
            conv.__class__, conv.end_padding = EndPaddedConv2d, missing
        conv.padding = tuple(factor * padding for padding in conv.padding)
    conv.stride, conv.dilation = (stride, stride), tuple(factor * dilation for dilation in conv.dilation)


def pair(value: Any) -> Pair:
    """Read a size that torch takes as one number or as two.

    >>> pair(3), pair((3, 5))
    ((3, 3), (3, 5))
    """
    return value if isinstance(value, tuple) else (value, value)
