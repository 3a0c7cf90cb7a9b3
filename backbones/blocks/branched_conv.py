"""The block of RepVGG and MobileOne: parallel convolutions in training, one convolution for inference."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Norm
from backbones.blocks.batch_folding import can_fold, fold_batch, is_watched
from backbones.blocks.batch_moments import PixelLinear, moments
from backbones.blocks.fusion import fold_branches, identity_kernel, single_conv
from backbones.blocks.layers import ConvNormAct, SqueezeExcite, make_activation

Branches = list[tuple[Tensor, nn.BatchNorm2d]]  # kernels (C_out, C_in / groups, k, k), each with its norm
Fold = Callable[[Branches], tuple[Tensor, Tensor]]  # to one kernel and its bias (C_out,)


class BranchedConv(nn.Module):
    """Parallel branches, added: k convolutions, a small convolution and the input, each with a norm.

    The sum then passes squeeze-and-excite, where there is one, and the activation.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups: As in `nn.Conv2d`; padding follows from them.
        branches: Number of full convolutions.
        small: Kernel size of the small convolution, which is there where `kernel_size` is larger.
        skip: Add the normed input; published networks have it where stride (undilated) is 1 and widths are equal.
        squeezed: Inner width of squeeze-and-excite; 0 leaves it out.
        norm, activation: As in `ConvNormAct`.

    Source: Ding et al. 2021, "RepVGG", section 3 (one convolution); Vasu et al. 2022, "MobileOne", section 3.2 (k of
    them); Ding et al. 2022, "Scaling Up Your Kernels to 31x31", section 3 (small kernels of more than 1x1).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1,
        groups: int = 1, *, branches: int = 1, small: int = 1, skip: bool = False, squeezed: int = 0,
        norm: Norm = nn.BatchNorm2d, activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:  # fmt: skip
        super().__init__()
        common: dict[str, Any] = {"groups": groups, "norm": norm, "activation": None}
        convs = [ConvNormAct(in_channels, out_channels, kernel_size, stride, dilation, **common)
                 for _ in range(branches)]  # fmt: skip
        self.convs = cast(Sequence[ConvNormAct], nn.ModuleList(convs))
        # A 1x1 branch strides by slicing: torch's CPU backward of a strided 1x1 convolution of few channels corrupts
        # the heap under channels_last (seen in 2.14.1 and 2.15.0).
        steps = (stride, dilation) if small > 1 else (1, 1)
        self.scale = ConvNormAct(in_channels, out_channels, small, *steps, **common) if kernel_size > small else None
        self.skip: nn.Module | None = norm(out_channels) if skip else None
        self.squeeze = SqueezeExcite(out_channels, squeezed, nn.Sigmoid) if squeezed else nn.Identity()
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.squeeze(self.mix(x)))

    def mix(self, x: Tensor) -> Tensor:
        """Compute the sum of the branches, as one convolution where that is cheaper."""
        return self._fold_batch(x) if self.training and self._has_cheap_moments(x) else self._add(x)

    def _add(self, x: Tensor) -> Tensor:
        out = sum(conv(x) for conv in self.convs)
        if self.scale is not None and self.scale.conv.kernel_size != (1, 1):
            out = out + self.scale(x)
        elif self.scale is not None:
            conv, stride = self.scale.conv, self.convs[0].conv.stride[0]
            sliced = x[:, :, ::stride, ::stride]
            # torch computes a depthwise 1x1 convolution channel after channel
            depthwise = conv.groups == conv.in_channels == conv.out_channels
            scaled = sliced * conv.weight.flatten()[:, None, None] if depthwise else conv(sliced)
            out = out + self.scale.norm(scaled)
        return out if self.skip is None else out + self.skip(x)

    def _has_cheap_moments(self, x: Tensor) -> bool:
        """Tell whether the moments of `x` give the batch statistics of all branches exactly and faster."""
        conv = self.convs[0].conv
        if conv.groups == 1:
            cheap = conv.kernel_size == (1, 1) or conv.weight[0].numel() <= 64
        else:
            depthwise = conv.groups == conv.in_channels == conv.out_channels
            several = len(self._norms()) > 2  # two cost less than the moments of 3x3 patches
            cheap = depthwise and several and conv.kernel_size == (3, 3) and conv.stride == (1, 1)
        return (
            cheap and self._positions(x) > 1 and not any(map(is_watched, self._convs()))
            and can_fold(x, [branch.conv for branch in self._convs()], self._norms())
        )  # fmt: skip

    def _convs(self) -> list[ConvNormAct]:
        return [*self.convs, *([] if self.scale is None else [self.scale])]

    def _norms(self) -> list[nn.Module]:
        return [*(branch.norm for branch in self._convs()), *([] if self.skip is None else [self.skip])]

    def _positions(self, x: Tensor) -> int:
        """Number of px of all outputs together."""
        stride = self.convs[0].conv.stride[0]
        return x.shape[0] * -(-x.shape[2] // stride) * -(-x.shape[3] // stride)

    def _fold_batch(self, x: Tensor) -> Tensor:
        """Normalise every kernel by the statistics that its outputs would have, add the kernels, convolve once."""
        conv = self.convs[0].conv
        count = self._positions(x)
        if conv.kernel_size == (1, 1):
            x = x[:, :, :: conv.stride[0], :: conv.stride[1]]
        x, mean, covariance = moments(x.contiguous(memory_format=torch.channels_last), conv)

        def fold(branches: Branches) -> tuple[Tensor, Tensor]:
            weights, norms = zip(*branches, strict=True)
            return fold_batch(torch.stack(weights), norms, mean, covariance, count)

        weight, bias = self.merge(fold)
        if conv.kernel_size == (1, 1):
            return PixelLinear.apply(x, weight.flatten(1), bias)
        return nn.functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    def merge(self, fold: Fold) -> tuple[Tensor, Tensor]:
        """Compute kernel and bias of the one convolution that equals `mix`, by a `fold` that adds branches."""
        return fold(self.branches())

    def branches(self) -> Branches:
        """List the branches, each as a kernel (C_out, C_in / groups, k, k) with its norm."""
        conv = self.convs[0].conv
        branches: list[tuple[Tensor, Any]] = [(branch.conv.weight, branch.norm) for branch in self.convs]
        if self.scale is not None:
            margin = (conv.kernel_size[0] - self.scale.conv.kernel_size[0]) // 2
            branches.append((nn.functional.pad(self.scale.conv.weight, 4 * [margin]), self.scale.norm))
        if self.skip is not None:
            branches.append((identity_kernel(conv), self.skip))
        return branches

    def decayed_as_one(self) -> tuple[Tensor, ...]:
        """List the kernels in `equivalent_l2`: those of RepVGG's block, one convolution and its 1x1 branch."""
        if len(self.convs) > 1 or self.scale is None or self.scale.conv.kernel_size != (1, 1):
            return ()
        pair = (self.convs[0], self.scale)
        known = all(isinstance(part.norm, _BatchNorm) and part.norm.track_running_stats for part in pair)
        return tuple(part.conv.weight for part in pair) if known else ()

    def equivalent_l2(self) -> Tensor:
        """Compute the squared L2 norm of the one kernel to which the kernels of `decayed_as_one` add up.

        Only the centre of the large kernel meets the 1x1 kernel: K t + k s, where t and s are what the norms multiply
        their channels by, taken as constants. Its square is divided by t^2 + s^2, which keeps it comparable with a
        plain L2; the ring around the centre has its plain one. The identity branch takes no part.

        Source: DingXiaoH/RepVGG repvgg.py, the "custom L2" of its blocks.
        """
        large, point = self.decayed_as_one()
        norms = (cast(nn.BatchNorm2d, part.norm) for part in (self.convs[0], cast(ConvNormAct, self.scale)))
        t, s = (
            (norm.weight / torch.sqrt(cast(Tensor, norm.running_var) + norm.eps)).detach()[:, None, None, None]
            for norm in norms
        )
        middle = large.shape[-1] // 2
        centre = large[:, :, middle : middle + 1, middle : middle + 1]
        ring = large.square().sum() - centre.square().sum()
        return ring + ((centre * t + point * s).square() / (t.square() + s.square())).sum()

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        if not all(isinstance(norm, nn.BatchNorm2d) for norm in self._norms()):
            return self
        conv = single_conv(self.convs[0].conv, *self.merge(fold_branches))
        parts = OrderedDict(conv=conv, squeeze=self.squeeze, activation=self.activation)
        return nn.Sequential(parts).train(self.training)

    def names(self, ours: str, theirs: str, *, conv: str, scale: str, skip: str, fc: tuple = ()) -> dict:
        """Map the names of the parts to those in a source.

        Args:
            ours, theirs: Name of the block here and in the source.
            conv, scale, skip: The source's names of the branches; "{}" stands for the number of a convolution.
            fc: Its names of the two layers of squeeze-and-excite.
        """
        places = {f"convs.{index}": conv.format(index) for index in range(len(self.convs))} | {"scale": scale}
        names = {f"{ours}.{mine}.conv": f"{theirs}.{place}.conv" for mine, place in places.items()}
        names |= {f"{ours}.{mine}.norm": f"{theirs}.{place}.bn" for mine, place in places.items()}
        names |= {f"{ours}.squeeze.fc{at}": f"{theirs}.{place}" for at, place in enumerate(fc, start=1)}
        return names | {f"{ours}.skip": f"{theirs}.{skip}"}
