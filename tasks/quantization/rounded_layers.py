"""Convolutions and linear layers for quantization-aware training: weights and inputs are rounded to int8."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.blocks.fusion import fold_bn_into_conv, fuse_model
from tasks.quantization.rounding import layer_output, rounded_activations, rounded_weight
from tasks.quantization.scope import check_names, is_quantizable, modules_around

MOMENTUM = 0.1  # of a batch in the ranges of activations


class _Rounded:
    """Base of rounded layers: the range of the input, and its measurement."""

    def _begin(self, layer: nn.Conv2d | nn.Linear, channels: int, normed: bool) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        self.had_bias = layer.bias is not None
        self.norm = nn.BatchNorm2d(channels).to(layer.weight) if normed else None
        if normed:
            self.bias = None
            if self.had_bias:
                self.norm.bias = layer.bias
        for name in ("low", "high"):
            self.register_buffer(name, layer.weight.new_zeros(()))
        self.settled = False
        self.observed: list[tuple[Tensor, ...]] | None = None
        nn.Module.train(self, layer.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.norm is not None and self.settled:
            self.norm.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        if self.observed is not None:
            return self._observe(inputs)
        if self.training and not self.settled:
            low, high = inputs.detach().aminmax()
            self.low.lerp_(low.clamp(max=0).to(self.low), MOMENTUM)
            self.high.lerp_(high.clamp(min=0).to(self.high), MOMENTUM)
        inputs = rounded_activations(inputs, self.low, self.high)
        if self.norm is None:
            return layer_output(self, inputs, rounded_weight(self.weight), self.bias)
        scale = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        folded = rounded_weight(self.weight * scale[:, None, None, None])
        return self.norm(layer_output(self, inputs, folded, None) / scale[:, None, None])

    def _observe(self, inputs: Tensor) -> Tensor:
        low, high = inputs.aminmax()
        seen = (low.clamp(max=0), high.clamp(min=0))
        if self.norm is None:
            self.observed.append(seen)
            return layer_output(self, inputs, self.weight, self.bias)
        outputs = layer_output(self, inputs, self.weight, None)
        self.observed.append((*seen, outputs.mean((0, 2, 3)), outputs.square().mean((0, 2, 3))))
        return outputs + self.norm.bias[:, None, None]

    def settle(self) -> None:
        """Set range and norm from the observed batches; a layer that was not called stays unchanged."""
        observed, self.observed = self.observed, None
        if not observed:
            return
        low, high, *moments = (torch.stack(values).mean(0) for values in zip(*observed, strict=True))
        self.low.copy_(low)
        self.high.copy_(high)
        if self.norm is not None:
            mean, square = moments
            variance = (square - mean.square()).clamp(min=0)
            with torch.no_grad():
                self.norm.running_mean.copy_(mean)
                self.norm.running_var.copy_(variance)
                self.norm.weight.copy_(torch.sqrt(variance + self.norm.eps))
                self.norm.bias += mean


class RoundedConv2d(_Rounded, nn.Conv2d):
    """A convolution with rounded weight and input, and a norm where a norm was fused into it."""

    def __init__(self, conv: nn.Conv2d, *, normed: bool) -> None:
        nn.Conv2d.__init__(
            self,
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        self._begin(conv, conv.out_channels, normed)

    @torch.no_grad()
    def plain(self) -> nn.Conv2d:
        """Return the plain convolution, norm folded in, without rounding."""
        twin = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias=self.had_bias or self.norm is not None,
            padding_mode=self.padding_mode,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        weight, bias = (
            (self.weight, self.bias) if self.norm is None else fold_bn_into_conv(self.weight, None, self.norm)
        )
        twin.weight.copy_(weight)
        if bias is not None:
            twin.bias.copy_(bias)
        return twin.train(self.training)


class RoundedLinear(_Rounded, nn.Linear):
    """A linear layer with rounded weight and input."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Linear.__init__(self, linear.in_features, linear.out_features, bias=False, device="meta")
        self._begin(linear, linear.out_features, normed=False)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """Return the plain linear layer, without rounding."""
        twin = nn.Linear(self.in_features, self.out_features, self.had_bias, self.weight.device, self.weight.dtype)
        twin.weight.copy_(self.weight)
        if self.had_bias:
            twin.bias.copy_(self.bias)
        return twin.train(self.training)


def rounded_layers(network: nn.Module) -> list[RoundedConv2d | RoundedLinear]:
    """List the rounded layers, in the order of the network."""
    return [module for module in network.modules() if isinstance(module, _Rounded)]


def with_rounding(network: nn.Module, keep_float: Sequence[str] = (), trained: nn.Module | None = None) -> nn.Module:
    """Fuse a copy of a network and replace the layers that int8 exports round by rounded ones.

    Args:
        network: Network before fusion; a convolution followed by a norm there gets a new norm.
        keep_float: Modules that are not rounded, as in `QuantizationAware`.
        trained: Fused network whose weights are taken over; None: the network's own weights.

    Raises:
        RuntimeError: `trained` is of another network.
        ValueError: A name in `keep_float` is not a module of the network.
    """
    normed = normed_convolutions(network)
    twin = fuse_model(network.eval())
    if trained is not None:
        twin.load_state_dict(trained.state_dict())
    holder = nn.ModuleDict({"network": twin})
    check_names(holder, keep_float)
    for name, layer in list(holder.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear) or not is_quantizable([name]):
            continue
        if set(modules_around(name)) & set(keep_float):
            continue
        parent, _, own = name.rpartition(".")
        inner = name.removeprefix("network.")
        rounded = RoundedLinear(layer) if isinstance(layer, nn.Linear) else RoundedConv2d(layer, normed=inner in normed)
        setattr(holder.get_submodule(parent), own, rounded)
    return twin


def without_rounding(network: nn.Module) -> nn.Module:
    """Copy a network of `with_rounding` as a plain fused network with the trained weights."""
    return _replaced(copy.deepcopy(network))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, _Rounded):
        return module.plain()
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    return module


def normed_convolutions(network: nn.Module) -> set[str]:
    """Find the names, in the fused network, of convolutions that a norm was fused into."""
    modules = dict(network.named_modules())
    names = set()
    for name, layer in fuse_model(network.eval()).named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        before = modules.get(name)
        beside = () if type(before) is not nn.Conv2d else modules[name.rpartition(".")[0]].children()
        inside = before.modules() if before is not None and type(before) is not nn.Conv2d else ()
        if before is None or any(isinstance(module, _BatchNorm) for module in (*beside, *inside)):
            names.add(name)
    return names
