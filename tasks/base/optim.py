"""Parameter groups, learning-rate schedules in optimizer steps, and adaptive gradient clipping."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from backbones.timm_library import import_timm

FUSED = (SGD, Adam, AdamW)  # optimisers that can be fused
NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # _NormBase: BatchNorm, SyncBatchNorm, InstanceNorm


def parameter_groups(
    *modules: nn.Module, weight_decay: float | None = None, spared: Iterable[Tensor] = ()
) -> list[dict]:  # fmt: skip
    """Split the trainable parameters into two groups, with and without weight decay.

    Biases (by name), parameters of norm layers and everything with at most one dimension are not decayed. Each
    parameter appears once, in the order of `modules()`; one that layers share is decayed only if none of them exempts
    it. Both groups are always there, though one may be empty, so an optimizer's state keeps its layout.

    Args:
        modules: whatever is to be trained together.
        weight_decay: of the first group; None leaves it to the optimizer, as in `optimizer(parameter_groups(model))`.
        spared: parameters that are not decayed either.

    Raises:
        ValueError: if nothing is trainable.

    Source: Goyal et al., arXiv:1706.02677, sec. 5.1 (no decay on BatchNorm); He et al., arXiv:1812.01187, sec. 3.1
    (weights alone).
    """
    exempt: dict[nn.Parameter, bool] = {}
    spared = set(spared)
    for root in modules:
        for module in root.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    free = isinstance(module, NORM_LAYERS) or parameter.ndim <= 1 or name.endswith("bias")
                    free = free or parameter in spared
                    exempt[parameter] = exempt.get(parameter, False) or free
    if not exempt:
        raise ValueError("nothing to train: no parameter requires a gradient")
    decayed: dict[str, Any] = {"params": [parameter for parameter, free in exempt.items() if not free]}
    if weight_decay is not None:
        decayed["weight_decay"] = weight_decay
    return [decayed, {"params": [parameter for parameter, free in exempt.items() if free], "weight_decay": 0.0}]


def fused(make: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Let torch's optimiser change all parameters in one kernel, where it can and nothing else is chosen.

    A gradient scaler divides the gradients before it steps, as it does for others: they are looked at and clipped then.

    >>> fused(partial(AdamW, lr=0.1))([nn.Parameter(Tensor(1))]).defaults["fused"]
    True
    """
    chosen = getattr(make, "keywords", {})
    if getattr(make, "func", make) not in FUSED or {"fused", "foreach", "differentiable"} & chosen.keys():
        return make

    def made(groups: Iterable[Any]) -> Optimizer:
        optimizer = make(groups, fused=True)
        # else torch's scaler leaves the division to the kernel, and Lightning refuses to clip
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    return made


def place_steps(optimizer: Optimizer) -> None:
    """Take the counts of steps to where the optimiser wants them: a fused one beside its parameters."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                beside = group.get("fused") or group.get("capturable")
                state["step"] = state["step"].to(parameter.device if beside else "cpu")


@dataclass
class _Schedule:
    """Map an optimizer step, counted from 0, to a factor of the base rate."""

    total_steps: int
    warmup_steps: int
    warmup_factor: float
    minimum: float

    def decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""
        raise NotImplementedError

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.minimum + (1 - self.minimum) * self.decay(progress)


@dataclass
class _Poly(_Schedule):
    power: float

    def decay(self, progress: float) -> float:
        return (1 - progress) ** self.power


class _Cosine(_Schedule):
    def decay(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@dataclass
class _Staircase(_Schedule):
    periods: int
    gamma: float

    def decay(self, progress: float) -> float:
        return self.gamma ** math.floor(progress * self.periods + 1e-9)  # a step on a border is past it, rounded or not


def poly(
    optimizer: Optimizer,
    total_steps: int,
    *,
    power: float = 0.9,
    warmup: float | int = 0.0,
    warmup_factor: float = 0.1,
    minimum: float = 0.0,
) -> LRScheduler:
    """Rate (1 - t) ** power, t running from 0 to 1 between the end of the warm-up and the end of the run.

    Every group's own base rate is scaled. The rate is set once per optimizer step: the first step trains at
    `warmup_factor` (at 1 without warm-up), step `warmup` at 1, the last at t just below 1, and `minimum` holds from
    `total_steps` on. A resumed run follows the settings that it is given, so it can be made longer.

    Args:
        optimizer: whose groups hold the base rates.
        total_steps: optimizer steps of the whole run, warm-up included.
        power: exponent, above 0.
        warmup: length of the linear warm-up: below 1 a share of the run, otherwise a whole number of steps.
        warmup_factor: share of the base rate at the first step of a warm-up, in [0, 1].
        minimum: share of the base rate that is left in the end, in [0, 1].

    Raises:
        ValueError: for a setting out of its range, a run without end, or a warm-up that leaves it no step.

    Source: Chen et al., "DeepLab", arXiv:1606.00915, sec. 4.1.2; warm-up: Goyal et al., arXiv:1706.02677, sec. 2.2.
    """
    if not 0 < power < math.inf:
        raise ValueError(f"power must be above 0, not {power}")
    return _stepwise(optimizer, _Poly(*_checked(total_steps, warmup, warmup_factor, minimum), power))


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup: float | int = 0.0,
    warmup_factor: float = 0.1,
    minimum: float = 0.0,
) -> LRScheduler:
    """Rate (1 + cos(pi t)) / 2: half a period, no restart. Arguments, steps and errors as in `poly`.

    Source: Loshchilov & Hutter, "SGDR", arXiv:1608.03983, eq. 5; warm-up: Goyal et al., arXiv:1706.02677, sec. 2.2.
    """
    return _stepwise(optimizer, _Cosine(*_checked(total_steps, warmup, warmup_factor, minimum)))


def staircase(
    optimizer: Optimizer,
    total_steps: int,
    *,
    periods: int,
    gamma: float,
    warmup: float | int = 0.0,
    warmup_factor: float = 0.1,
) -> LRScheduler:
    """Rate times gamma at the end of each of `periods` equal parts of what follows the warm-up.

    A rate of 0.973 times every 2 of 600 epochs is periods=300, gamma=0.973. Other arguments, steps and errors as in
    `poly`.

    Args:
        periods: number of parts, at least 1; where they do not divide the steps, some are a step longer.
        gamma: factor, above 0 and at most 1.

    Source: the recipes of MobileNetV2 (tensorflow/models, slim: 0.98 every 2.5 epochs) and MobileNetV3 (torchvision's
    references).
    """
    if not 1 <= periods < math.inf or periods != int(periods):
        raise ValueError(f"periods must be a whole number of at least 1, not {periods}")
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is a factor above 0 and at most 1, not {gamma}")
    fields = _checked(total_steps, warmup, warmup_factor, 0.0)
    return _stepwise(optimizer, _Staircase(*fields, int(periods), float(gamma)))


def _stepwise(optimizer: Optimizer, schedule: _Schedule) -> LRScheduler:
    # LambdaLR stores and restores the fields of a callable object, not of a partial: settings come from the config.
    return LambdaLR(optimizer, partial(schedule))


def _checked(total_steps: float, warmup: float, warmup_factor: float, minimum: float) -> tuple[int, int, float, float]:
    """The fields of a schedule: the warm-up in steps, everything in range."""
    if total_steps in (-1, math.inf):
        raise ValueError("the schedule needs the run's length: set trainer.max_epochs or trainer.max_steps")
    if not total_steps >= 1 or total_steps != int(total_steps):
        raise ValueError(f"total_steps must be a whole number of at least 1, not {total_steps}")
    if not 0 <= warmup < math.inf or (warmup >= 1 and warmup != int(warmup)):
        raise ValueError(f"warmup is a share of the run below 1 or a whole number of steps, not {warmup}")
    warmup_steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if warmup_steps >= total_steps:
        raise ValueError(
            f"a warm-up of {warmup_steps} steps does not fit into a run of {total_steps}: "
            "shorten warmup or raise trainer.max_epochs or trainer.max_steps"
        )
    for name, value in (("warmup_factor", warmup_factor), ("minimum", minimum)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a share of the base rate in [0, 1], not {value}")
    return int(total_steps), warmup_steps, float(warmup_factor), float(minimum)


def adaptive_clipping(factor: float) -> Callable[[Iterable[nn.Parameter]], None]:
    """Clip each unit's gradient to a share of the norm of its weights, by timm's implementation.

    Args:
        factor: the share, such as 0.02.

    Returns:
        What changes the gradients of parameters in place.

    Raises:
        ValueError: `factor` is not above 0.
        ImportError: timm is not installed.

    Source: Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization", sec. 4.1.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"task.adaptive_clip={factor}: expected a number above 0, such as 0.02; null for none")
    timm = import_timm("task.adaptive_clip")
    return partial(timm.utils.agc.adaptive_clip_grad, clip_factor=factor)
