"""How every task is trained: steps, optimiser, frozen parts, checks, and what a checkpoint says of it."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from backbones.blocks.branched_conv import BranchedConv
from tasks.base.epoch_means import EpochMeans
from tasks.base.finite_check import FiniteCheck
from tasks.base.freezing import Freezing
from tasks.base.network import Network
from tasks.base.optim import adaptive_clipping, fused, parameter_groups, place_steps
from tasks.base.processes import share_buffers
from tasks.data.classes import Classes
from tasks.values.lightning_twin import LightningTwin

Raw = Tensor | dict[str, Tensor]  # what a head gives
ADAPTERS = "adapters."  # begins the names of what only a distillation needs
logger = logging.getLogger(__name__)


if TYPE_CHECKING:  # what a task is wherever it is trained
    from lightning import LightningModule as _Module
else:
    _Module = nn.Module


class Teacher(Protocol):
    """What a task follows in training beside its labels, such as `tasks.training.distillation.Distillation`.

    It may have two things more. `attach(network)` checks the task's network and returns a module to train with it, or
    None. With `reads_features = True` `blend` also gets `features`, the maps that the head has read, by tap.
    """

    def blend(self, losses: dict[str, Tensor], raw: Raw, images: Tensor) -> dict[str, Tensor]:
        """Summands of the whole loss, from those of the task's own, its raw predictions, and the images behind them."""


class TrainingSteps(LightningTwin, _Module, ABC):
    """The part of a task that is the same in all of them.

    Attributes:
        config: Plain data that `tasks.base.build` rebuilds the task from; stored in every checkpoint. Empty of a task
            that was built without a configuration, whose checkpoints `load_task` cannot rebuild.

    Args:
        network: Backbone and head.
        classes: Names and colours.
        optimizer: Makes the optimiser from parameter groups; None for a task that is not trained.
        scheduler: Makes the schedule, a step at a time, from (optimizer, total_steps).
        channels_last: Keep tensors in channels_last memory, which trains 1.3 to 1.5 times faster on CPUs.
        norm_momentum: Share of each batch in BatchNorm's running statistics; None: the architecture's own (0.01 in
            MobileNetV3: too slow for runs of a few hundred steps, whose evaluation then lags far behind).
        freeze: Part of the backbone that is not trained, from the images on: up to the end of "c1".."c5" or "final", or
            "all"; its norms keep their statistics.
        freeze_norm: Keep BatchNorm's running statistics and affine parameters as they are, everywhere.
        freeze_epochs: Train what `freeze` names after so many epochs; None: never. One process only.
        adaptive_clip: Clip gradients as `adaptive_clipping` does with this factor; None: not so.
        equivalent_decay: Decay the kernels of RepVGG's blocks by `BranchedConv.equivalent_l2`, a summand of the loss
            with the optimiser's weight decay, in place of their own.
        distillation: A teacher to follow in training.

    Raises:
        ValueError: The head is for another task; the backbone has no such part to freeze or no block of RepVGG's; a
            setting is out of its range.
    """

    lightning_base = "LightningModule"
    kind: str
    monitor: str
    batch_keys: tuple[str, ...] = ("images",)
    validation_keys: tuple[str, ...] = ()
    trainer: Any  # Lightning types neither its datamodule nor its settings

    def __init__(
        self, network: Network, classes: Classes, *, optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None, channels_last: bool = True,
        norm_momentum: float | None = None, freeze: str | None = None, freeze_norm: bool = False,
        freeze_epochs: int | None = None, adaptive_clip: float | None = None, equivalent_decay: bool = False,
        distillation: Teacher | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if network.head.kind != self.kind:
            raise ValueError(
                f"task={self.kind} cannot take {type(network.head).__name__}, a head for {network.head.kind}; choose "
                f"another head=, or task={network.head.kind}"
            )
        self.network, self.classes = network, classes
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.channels_last = channels_last
        self.config: dict[str, Any] = {}
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.norm_momentum = norm_momentum
        self.apply_norm_momentum()
        self.freezing = Freezing(network.backbone, freeze, freeze_epochs, self.norms if freeze_norm else list)
        self.freezing.apply(epoch=0)
        self.adaptive_clip = adaptive_clip
        blocks = [module for module in network.modules() if isinstance(module, BranchedConv)]
        self.decayed_blocks = [block for block in blocks if equivalent_decay and block.decayed_as_one()]
        if equivalent_decay and not self.decayed_blocks:
            raise ValueError("task.equivalent_decay=true is for RepVGG's blocks, and this backbone has none")
        self.distillation = distillation
        attach = getattr(distillation, "attach", None)
        # trained with the network, and no part of it
        self.adapters: nn.Module | None = attach(network) if attach else None
        self.means = EpochMeans()

    def forward(self, images: Tensor) -> Raw:
        """(N, 3, H, W) RGB in 0..255 -> raw predictions; exactly what is exported."""
        return self.network(images)

    def augment_batch(self, batch: dict) -> dict:
        """Change a training batch at random, on its device; draw from torch's global CPU generator."""
        return batch

    @abstractmethod
    def loss(self, raw: Raw, batch: dict) -> dict[str, Tensor]:
        """Compute the summands of the training loss."""

    def apply_norm_momentum(self) -> None:
        """Set it in all norms that the network has now."""
        for module in self.norms():
            if self.norm_momentum is not None:
                module.momentum = self.norm_momentum

    def norms(self) -> list[_BatchNorm]:
        """List the BatchNorm layers that the network has now."""
        return [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> "TrainingSteps":
        super().train(mode)
        for module in self.freezing.modules(getattr(self, "current_epoch", 0)):  # Lightning's, where it is loaded
            module.eval()
        return self

    def training_step(self, batch: dict, index: int) -> Tensor:
        batch = self.augment_batch(batch)
        seen: dict[str, Any] = {}  # beside the raw predictions
        try:
            if getattr(self.distillation, "reads_features", False):
                seen["features"] = self.network.features(batch["images"])
                raw = self.network.head(seen["features"], tuple(batch["images"].shape[-2:]))
            else:
                raw = self(batch["images"])
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"a batch of {len(batch['images'])} leaves BatchNorm one value a channel, where the network pools to "
                "1x1; set data.batch_size to at least 2, or task.freeze_norm=true"
            ) from error
        losses = self.loss(raw, batch)
        if self.distillation is not None:
            losses = self.distillation.blend(losses, raw, batch["images"], **seen)
        if self.decayed_blocks:
            losses = losses | {"equivalent_decay": self._equivalent_decay()}
        total = torch.stack(list(losses.values())).sum()
        self.finite.losses_of(batch, losses, total)
        parts = {f"train/{name}": value for name, value in losses.items()} if len(losses) > 1 else {}
        self.means.add({"train/loss_epoch": total, **parts}, len(batch["images"]))
        self.log("train/loss", total, prog_bar=True, logger=False)
        return total

    def _equivalent_decay(self) -> Tensor:
        """Half the weight decay of the moment times the squared norms, as a plain decay follows from its loss."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        decay = optimizer.param_groups[0].get("weight_decay", 0.0)
        return decay / 2 * torch.stack([block.equivalent_l2() for block in self.decayed_blocks]).sum()

    def on_fit_start(self) -> None:
        self.freezing.check_processes(self.trainer.world_size)
        self.clip = None if self.adaptive_clip is None else adaptive_clipping(self.adaptive_clip)
        self.finite = FiniteCheck(self)

    def on_train_start(self) -> None:
        """A resumed run follows its configuration: the optimiser's restored state brings its old settings back."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        scheduler = self.lr_schedulers()
        for group, wanted in zip(optimizer.param_groups, self._optimizer().param_groups, strict=True):
            group |= {key: value for key, value in wanted.items() if key not in ("params", "lr")}
            group["initial_lr"] = wanted["lr"]
        place_steps(optimizer)
        if isinstance(scheduler, LambdaLR):
            scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
            for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)
        self.on_train_epoch_start()  # not called of an epoch that goes on

    def on_train_epoch_start(self) -> None:
        self.freezing.apply(self.current_epoch)
        self.train()  # the modes of what is frozen

    def on_train_batch_start(self, batch: dict, index: int) -> None:
        self._check_batch(batch, index, self.batch_keys)
        if not hasattr(self.trainer.datamodule, "seed"):
            return  # a trainer and loaders of the user's own, who seeds them
        # What a step draws (dropout, mixing) depends on these numbers alone, so a resumed run draws the same. A seed
        # for each epoch would not do: loaders draw from the generator too, more or less often after a restart.
        numbers = (self.trainer.datamodule.seed, self.current_epoch, index, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.finite.gradients()

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self.make_scheduler(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        if self.clip is not None:
            self.clip(self.network.parameters())

    def on_validation_epoch_start(self) -> None:
        share_buffers(self.network)
        self.validation_loss = torch.zeros(2, device=self.device)  # sum over images, number of images

    def add_validation_loss(self, loss: Tensor | float, images: int) -> None:
        """Count a batch of the validation, without waiting for the device.

        Args:
            loss: Mean over its images; NaN where there is none.
            images: Their number.
        """
        self.validation_loss[0] += loss * images
        self.validation_loss[1] += images

    def on_validation_batch_start(self, batch: dict, index: int, dataloader_index: int = 0) -> None:
        self._check_batch(batch, index, (*self.batch_keys, *self.validation_keys))

    def _check_batch(self, batch: Any, index: int, keys: Sequence[str]) -> None:
        """Refuse a batch, of loaders that are not ours, without what the task reads."""
        missing = [key for key in keys if not isinstance(batch, dict) or key not in batch]
        if missing:
            given = ", ".join(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
            raise ValueError(
                f"a batch for task={self.kind} is a dict of {', '.join(keys)}; this one is of {given}, without "
                f"{', '.join(missing)}; see collate of the data modules in tasks.data"
            )
        batch.setdefault("names", [f"batch {index}, image {place}" for place in range(len(batch["images"]))])
        if not index and batch["images"].is_floating_point() and batch["images"].max() <= 1:
            logger.warning("the images lie within 0..1; the network expects RGB values in 0..255")

    def _summed(self, values: Tensor) -> Tensor:
        """Sum over all processes; a group of GPUs sums what is on GPUs."""
        return self.trainer.strategy.reduce(values.to(self.device), reduce_op="sum").cpu()

    @staticmethod
    def _merged(results: Any) -> Any:
        """Results of all processes together, from those of each; `merge` takes another's in."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return results
        parts: list = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, results)
        for part in parts[1:]:
            parts[0].merge(part)
        return parts[0]

    def _optimizer(self) -> Optimizer:
        if self.make_optimizer is None:
            raise ValueError("this task was built without an optimizer")
        self.freezing.apply(None)  # the optimiser holds what trains later from the start
        spared = [kernel for block in self.decayed_blocks for kernel in block.decayed_as_one()]
        trained = [self.network, *([] if self.adapters is None else [self.adapters])]
        groups = parameter_groups(*trained, spared=spared)
        self.freezing.apply(self.current_epoch)
        make = fused(self.make_optimizer) if self.device.type == "cuda" else self.make_optimizer
        try:
            return make(groups)
        except TypeError as error:
            raise ValueError(f"the optimizer does not take its settings: {error}") from error

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        stored, own = (
            {key: value.shape for key, value in state.items() if key.startswith(ADAPTERS)}
            for state in (checkpoint.get("state_dict", {}), self.state_dict())
        )
        if stored != own:
            raise ValueError(
                "the checkpoint has other adapters of a distillation than this run: a run that is resumed keeps its "
                "distillation= and its teacher"
            )
        self.means.load_state_dict(checkpoint.get("epoch_means", {}))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["config"], checkpoint["fused"] = self.config, False
        checkpoint["epoch_means"] = self.means.state_dict()
        names, palette, ids = self.classes.names, self.classes.palette, self.classes.ids
        checkpoint["classes"] = {"names": list(names), "palette": [list(color) for color in palette]}
        if ids:
            checkpoint["classes"]["ids"] = list(ids)
