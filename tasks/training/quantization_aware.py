"""Quantization-aware training: a trained, fused network learns around the int8 rounding of its forward pass."""

from collections.abc import Sequence
from itertools import islice

import lightning as L
import torch

from backbones.blocks.fusion import fuse_model
from tasks.base.task import VisionTask
from tasks.data.datamodule import VisionDataModule
from tasks.quantization.rounded_layers import rounded_layers, with_rounding


class QuantizationAware(L.Callback):
    """Fine-tunes a checkpoint with int8 rounded as our exporters round it.

    Convolutions and linear layers round weights, symmetric and a scale for each output channel, and inputs, a range for
    the tensor. Each convolution that a BatchNorm was fused into gets a fresh one, which begins with the statistics of
    its outputs and changes nothing; the weight is rounded with the norm folded in. What is stored trains on; all that
    loads it otherwise has the plain fused network, whose int8 export calibrates as ever.

    Args:
        checkpoint: Of a training run of the same backbone, head and classes.
        keep_float: Modules that are not rounded, by their names in `export.keep_float`.
        batches: Training batches that first ranges and statistics are measured on.
        freeze_after: Share of the epochs after which ranges and statistics stay, in (0, 1]; in a run that max_steps
            alone ends they move throughout.

    Raises:
        ValueError: A setting is out of its range.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Inference", section 3; norms
    after the fused convolutions: the advice of RepVGG's authors (Ding et al. 2021).
    """

    def __init__(
        self, checkpoint: str, *, keep_float: Sequence[str] = (), batches: int = 8, freeze_after: float = 0.5
    ) -> None:
        if batches < 1 or not 0 < freeze_after <= 1:
            raise ValueError(
                f"qat.batches={batches} qat.freeze_after={freeze_after}: expected at least 1, and a share in (0, 1]"
            )
        self.checkpoint, self.keep_float = checkpoint, list(keep_float)
        self.batches, self.freeze_after = batches, freeze_after

    def prepare(self, task: VisionTask, source: VisionTask | None) -> None:
        """Give a task the form that is trained.

        Args:
            task: As built.
            source: Trained; none: a checkpoint of this training follows.

        Raises:
            ValueError: The task freezes, or decays blocks as one; the source is another network, or `keep_float` no
                part of it.
        """
        if task.freezing.freezes or task.decayed_blocks:
            raise ValueError("qat trains the fused network; set task.freeze, freeze_norm and equivalent_decay to none")
        if source is not None and source.classes.names != task.classes.names:
            raise ValueError(
                f"qat.checkpoint={self.checkpoint} knows the classes {', '.join(source.classes.names[:4])}..., not "
                f"{', '.join(task.classes.names[:4])}...; give the data that it was trained with"
            )
        trained = None if source is None else fuse_model(source.network.eval())
        try:
            task.network = with_rounding(task.network, self.keep_float, trained)
        except RuntimeError as error:
            raise ValueError(
                f"qat.checkpoint={self.checkpoint} is of another network: {str(error).splitlines()[1].strip()}; give "
                "the backbone, head and data that it was trained with"
            ) from error
        if not rounded_layers(task.network):
            raise ValueError(f"qat.keep_float={self.keep_float} leaves nothing to round; name parts of the network")
        task.apply_norm_momentum()
        if trained is not None:
            task.network.backbone.preprocessing = trained.backbone.preprocessing
        if task.channels_last:
            task.to(memory_format=torch.channels_last)
        task.train()

    def measure(self, task: VisionTask, data: VisionDataModule) -> None:
        """Take ranges and statistics from training batches, as the network is without rounding."""
        task.eval()
        layers = rounded_layers(task.network)
        for layer in layers:
            layer.observed = []
        with torch.no_grad():
            for batch in islice(data.train_dataloader(), self.batches):
                task.network(batch["images"])
        for layer in layers:
            layer.settle()
        task.train()

    def on_train_batch_start(self, trainer: L.Trainer, task: VisionTask, batch: dict, index: int) -> None:
        late = trainer.max_epochs > 0 and trainer.current_epoch >= self.freeze_after * trainer.max_epochs
        layers = rounded_layers(task.network)
        if late and not layers[0].settled:
            for layer in layers:
                layer.settled = True
            task.train()
