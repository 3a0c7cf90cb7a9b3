"""Count what a model costs: parameters, multiply-adds, activations, memory, operators.

The forward runs on the meta device, whose tensors have shape and dtype but no data, so it takes no time at any image
size.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from backbones.blocks.module_copy import copy_module
from tasks.benchmark.shapes import outputs_of, tensors_of

aten = torch.ops.aten
LAYERS = {aten.convolution, aten.addmm, aten.mm}  # all that eager convolution and linear layers come down to
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}  # no work


def _convolution_macs(images: Tensor, weight: Tensor, bias, stride, padding, dilation, transposed, *_, out) -> int:
    return (images if transposed else out).numel() * weight[0].numel()  # what one element of it takes part in


def _product_macs(left: Tensor, right: Tensor, *_, out) -> int:
    return left.numel() * right.shape[-1]


def _sum_and_product_macs(bias: Tensor, left: Tensor, right: Tensor, **options) -> int:
    return _product_macs(left, right, **options)


def _attention_macs(query: Tensor, key: Tensor, value: Tensor, *_, out, **__) -> int:
    return query.numel() * key.shape[-2] + query[..., 0].numel() * value[0, 0].numel()  # (N, heads, tokens, channels)


MACS = {
    aten.convolution: _convolution_macs,
    aten.mm: _product_macs,
    aten.bmm: _product_macs,
    aten.addmm: _sum_and_product_macs,
    aten.baddbmm: _sum_and_product_macs,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_macs,
}


@dataclass(frozen=True)
class Profile:
    """Cost of one eval-mode forward of a whole batch.

    Attributes:
        parameters: Elements of all parameters, shared ones once. Buffers (BatchNorm statistics) are left out.
        macs: Multiply-adds of convolutions (grouped, dilated, transposed), linear layers and matrix products,
            attention included. Bias, norm, activation, pooling, interpolation and element-wise products count 0.
        activations: Output elements of all convolution and linear layers.
        activation_bytes_peak: bytes, peak of live activations in eager PyTorch. The image is included; weights and
            scratch memory of operators are not. A block's input stays alive during the call of the block.
        activation_bytes_planned: bytes, the same peak if each tensor were freed after its last use: the lower bound of
            any runtime's memory plan for these operators in this order.
        memory_access_bytes: bytes read and written: inputs, weights and outputs of every operator, as if there were
            no cache. An in-place operator reads and writes, a view is free.
        depth: Convolution and linear operators that ran, on all branches together.
        operators: How often each operator ran (`"aten.convolution"`), without views and bare allocations.

    Source: macs, parameters: torchvision's `weights.meta` (`_ops` in G, `num_params`); activations: RegNet sec. 3.2;
    planned memory: MobileNetV2 sec. 5.1; memory access: ShuffleNetV2 guideline G1, taken to every operator.
    """

    parameters: int
    macs: int
    activations: int
    activation_bytes_peak: int
    activation_bytes_planned: int
    memory_access_bytes: int
    depth: int
    operators: Counter[str]

    @property
    def flops(self) -> int:
        """Count floating point operations: two for each multiply-add."""
        return 2 * self.macs


@dataclass(frozen=True)
class Layer:
    """Costs of one module without its submodules, summed over its calls; the shape is that of the last output."""

    name: str
    kind: str
    output_shape: tuple[int, ...] | None  # None where the output is not one tensor
    parameters: int
    macs: int
    memory_access_bytes: int


def profile(
    model: nn.Module,
    image_size: tuple[int, int],
    *,
    batch_size: int = 1,
    in_channels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> Profile:
    """Count the cost of `model(images)` for images (batch_size, in_channels, H, W), eager, in eval mode, on a CPU.

    >>> found = profile(nn.Conv2d(3, 8, 3, stride=2, padding=1), (224, 224))
    >>> found.parameters, found.macs  # 3 * 3 * 3 * 8 weights and 8 biases; 112 * 112 positions
    (224, 2709504)

    Args:
        model: Any module from one image tensor to a tensor, dict or sequence, on any device; it stays unchanged.
        image_size: (H, W), px.
        dtype: Type that images and weights are cast to; `torch.float16` halves the bytes.

    Raises:
        RuntimeError: The model refuses the size or the channels, or its shapes depend on pixel values (after NMS).
    """
    trace = _run(model, image_size, batch_size, in_channels, dtype)
    return Profile(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=sum(trace.macs.values()),
        activations=trace.activations,
        activation_bytes_peak=trace.peak,
        activation_bytes_planned=trace.planned(),
        memory_access_bytes=sum(trace.access.values()),
        depth=sum(trace.operators[str(op)] for op in LAYERS),
        operators=trace.operators,
    )


def layer_table(model: nn.Module, image_size: tuple[int, int], **options) -> tuple[Layer, ...]:
    """Count the cost of each module that runs an operator itself, in order of first use.

    Options and errors are those of `profile`. Macs and memory access add up to the profile's: the addition of a
    residual block is in the block's row, an operator of the model's own forward in the row named `""`.
    """
    trace = _run(model, image_size, **options)
    rows = []
    for name, access in trace.access.items():
        module = model.get_submodule(name)
        own = sum(p.numel() for p in module.parameters(recurse=False))
        rows.append(Layer(name, type(module).__name__, trace.shapes[name], own, trace.macs[name], access))
    return tuple(rows)


def _run(model: nn.Module, image_size, batch_size=1, in_channels=3, dtype=torch.float32) -> "_Trace":
    """Trace an eval-mode copy of the model on the meta device; hooks on the copy tell which module is running."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would hide nn.MultiheadAttention in one operator
    try:
        with torch.inference_mode(False), torch.no_grad():  # else operators are undivided, graphs hold tensors
            images = torch.empty(batch_size, in_channels, *image_size, dtype=dtype, device="meta")
            shapes = _without_data(model, dtype)
            trace, hooks = _Trace(images), []
            for name, module in shapes.named_modules():
                hooks.append(module.register_forward_pre_hook(partial(trace.enter, name), prepend=True))
                hooks.append(module.register_forward_hook(trace.leave))
            try:
                with trace:
                    trace.use(tensors_of(shapes(images)))  # results last to the end
            finally:
                for hook in hooks:
                    hook.remove()
            return trace
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _without_data(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy the model to the meta device in eval mode; one that is so already is taken as it is."""
    tensors = [*model.parameters(), *model.buffers()]
    wanted = {id(t): dtype if t.is_floating_point() else t.dtype for t in tensors}
    if not any(module.training for module in model.modules()) and all(
        t.is_meta and t.dtype == wanted[id(t)] for t in tensors
    ):
        return model
    memo: dict[int, Any] = {id(t): torch.empty_like(t, dtype=wanted[id(t)], device="meta") for t in tensors}
    return copy_module(model, memo).eval()


class _Trace(TorchDispatchMode):
    """Record each operator that runs, and the lifetime of each storage that it makes."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.modules: list[str] = []  # those being called, innermost last
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.macs, self.access, self.operators = defaultdict(int), defaultdict(int), Counter()
        self.activations = self.peak = self.step = 0
        self.spans: list[list[int]] = []  # of each storage: step of birth, step of last use, bytes
        self.alive = WeakIdKeyDictionary()  # storage -> its span
        self.hold([images.untyped_storage()])

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, 4 s of CPU, to keep it out of this class

    def enter(self, name: str, *_) -> None:
        self.modules.append(name)

    def leave(self, module: nn.Module, args: tuple, output: object) -> None:
        self.shapes[self.modules.pop()] = tuple(output.shape) if isinstance(output, Tensor) else None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        op, kwargs = func.overloadpacket, dict(kwargs or {})
        if not all(t.is_meta for t in tensors_of((args, kwargs))):  # some that no module owns
            args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        if "device" in kwargs:  # a tensor made by the model, or moved
            kwargs["device"] = torch.device("meta")
        outputs = outputs_of(func, args, kwargs)
        read, written = tensors_of((args, kwargs)), tensors_of(outputs)
        old = {t.untyped_storage()._cdata for t in read}
        new = {s._cdata: s for s in (t.untyped_storage() for t in written) if s._cdata not in old}
        if (new or func._schema.is_mutable) and op not in ALLOCATIONS:  # else a view, or no tensor at all
            self.step += 1
            self.use(read)
            self.operators[str(op)] += 1
            self.access[self.modules[-1]] += sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in read + written)
            if op in MACS:
                self.macs[self.modules[-1]] += MACS[op](*args, **kwargs, out=outputs)
            if op in LAYERS:
                self.activations += outputs.numel()
        self.hold(new.values())
        return outputs

    def hold(self, storages: Iterable[torch.UntypedStorage]) -> None:
        for storage in storages:
            self.alive[storage] = [self.step, self.step, storage.nbytes()]
            self.spans.append(self.alive[storage])
        self.peak = max(self.peak, sum(size for _, _, size in self.alive.values()))

    def use(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if span := self.alive.get(tensor.untyped_storage()):  # weights have none
                span[1] = self.step

    def planned(self) -> int:
        changes = [0] * (self.step + 2)
        for birth, last, size in self.spans:
            changes[birth] += size
            changes[last + 1] -= size
        return max(accumulate(changes))
