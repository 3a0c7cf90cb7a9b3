"""Distillation of maps: class logits of the pixels, or a backbone's features, by CWD or MGD."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Tap
from tasks.base.network import Network
from tasks.training.distillation import FrozenTeacher, check_numbers

METHODS = ("cwd", "mgd")
MAPS = ("logits", "features")


class MapDistillation(FrozenTeacher):
    """Pull maps of a network towards a teacher's, beside the task's own loss.

    Features are those maps that the heads of both read, in pairs of equal stride. Where channels differ, a 1x1
    convolution brings the student's to the teacher's number, and MGD generates the teacher's map by two convolutions
    more. These adapters are trained with the network, stored in its checkpoints, and part of nothing that is exported.

    Args:
        teacher: Trained network of the task, fused.
        method: "cwd": divergence of each channel's softmax over the px; "mgd": features are generated from masked ones.
        maps: "logits" of the pixels' classes, for "cwd"; "features".
        weight: Weight of the teacher's loss beside the task's own.
        temperature: Divides the maps of both in "cwd".
        masked: Share of the px that "mgd" masks.

    Raises:
        ValueError: A setting is out of its range; in `attach` also maps without a counterpart.

    Source: Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", arXiv:2011.13256, eq. 4 to 6;
    Yang et al. 2022, "Masked Generative Distillation", arXiv:2205.01529, section 3.
    """

    def __init__(
        self, teacher: nn.Module, *, method: str = "cwd", maps: str = "logits", weight: float = 3.0,
        temperature: float = 4.0, masked: float = 0.65,
    ) -> None:  # fmt: skip
        check_map_settings(method, maps, weight, temperature, masked)
        super().__init__(teacher)
        self.method, self.maps, self.weight = method, maps, weight
        self.temperature, self.masked = temperature, masked
        self.reads_features = maps == "features"
        self.pairs: tuple[tuple[Tap, Tap], ...] = ()
        self.adapters: nn.ModuleList | None = None

    def attach(self, network: Network) -> nn.Module | None:
        """Pair the maps of a network with the teacher's.

        Returns:
            What is to be trained with the network; None for nothing.

        Raises:
            ValueError: No map of the network has the stride of one of the teacher's.
        """
        if not self.reads_features:
            return None
        own, theirs = (_deepest_by_stride(one.backbone.taps) for one in (network, cast(Network, self.teacher)))
        self.pairs = tuple((own[stride], theirs[stride]) for stride in sorted(own.keys() & theirs.keys()))
        if not self.pairs:
            raise ValueError(
                f"distillation.maps=features: the head reads strides {sorted(own)}, the teacher's {sorted(theirs)}, "
                "and none is the same; set backbone.output_stride, or choose another teacher"
            )
        adapt = generator if self.method == "mgd" else aligner
        self.adapters = nn.ModuleList(adapt(student.channels, taught.channels) for student, taught in self.pairs)
        return self.adapters if any(True for _ in self.adapters.parameters()) else None

    def blend(
        self, losses: dict[str, Tensor], raw: Tensor | dict[str, Tensor], images: Tensor,
        features: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Add the teacher's loss, as "distillation", to the summands of the task's own.

        Args:
            losses: They stay as they are.
            raw: Class logits (N, K, H, W), or a dict with them as "logits".
            images: (N, 3, H, W) from which they were predicted.
            features: {tap.name: (N, tap.channels, h, w)} behind them, where `reads_features`.
        """
        if not self.reads_features:
            logits = raw["logits"] if isinstance(raw, dict) else raw
            taught = self.predicted(images)
            return losses | {"distillation": self.weight * channel_divergence(logits, taught, self.temperature)}
        wanted = self.features(images)
        parts = []
        for adapter, (student, teacher) in zip(self.adapters or (), self.pairs, strict=True):
            x, goal = (features or {})[student.name], wanted[teacher.name]
            if self.method == "mgd":
                shown = torch.rand(len(x), 1, *x.shape[-2:], device=x.device) <= 1 - self.masked
                parts.append(generation_loss(adapter[1](adapter[0](x) * shown), goal))
            else:
                parts.append(channel_divergence(adapter(x), goal, self.temperature))
        return losses | {"distillation": self.weight * torch.stack(parts).sum()}


def channel_divergence(maps: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Compute the divergence of each channel's softmax over the px from a teacher's, the mean over images and channels.

    Args:
        maps, wanted: (N, C, H, W).
        temperature: Divides both; the result is multiplied by its square.

    >>> maps = torch.tensor([[[[0.0, 0.0]]]])
    >>> wanted = torch.tensor([[[[0.75, 0.25]]]]).log()
    >>> round(channel_divergence(maps, wanted, 1.0).item(), 4)  # 0.75 log(0.75 / 0.5) + 0.25 log(0.25 / 0.5)
    0.1308
    """
    own, theirs = ((one.float() / temperature).flatten(2).log_softmax(2) for one in (maps, wanted))
    return F.kl_div(own, theirs, reduction="none", log_target=True).sum(2).mean() * temperature**2


def generation_loss(generated: Tensor, wanted: Tensor) -> Tensor:
    """Sum squared differences of maps (N, C, H, W) over channels and px, the mean over images."""
    return (generated.float() - wanted.float()).square().sum((1, 2, 3)).mean()


def aligner(in_channels: int, out_channels: int) -> nn.Module:
    """Build a 1x1 convolution to another number of channels; the identity to the same."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)


def generator(in_channels: int, out_channels: int) -> nn.Module:
    """Build MGD's parts: an `aligner`, and two 3x3 convolutions that generate what a mask hides."""
    around = (nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(
        aligner(in_channels, out_channels), nn.Sequential(next(around), nn.ReLU(inplace=True), next(around))
    )


def check_map_settings(method: str, maps: str, weight: float, temperature: float, masked: float) -> None:
    """Check the settings of `MapDistillation` before a teacher is loaded; raises its `ValueError`."""
    for name, value, choices in (("method", method, METHODS), ("maps", maps, MAPS)):
        if value not in choices:
            raise ValueError(f"distillation.{name}={value}: expected one of {', '.join(choices)}")
    if method == "mgd" and maps != "features":
        raise ValueError(f"distillation.maps={maps}: method=mgd generates features; set distillation.maps=features")
    check_numbers(weight=weight, temperature=temperature)
    if not 0 <= masked < 1:
        raise ValueError(f"distillation.masked={masked}: expected the share of px that is masked, from 0 to below 1")


def _deepest_by_stride(taps: tuple[Tap, ...]) -> dict[int, Tap]:
    return {tap.stride: tap for tap in taps}
