"""Quantization-aware training: fine-tune a fused network with int8 rounding in its forward pass."""

from collections.abc import Sequence
from itertools import islice

import lightning as L
import torch

from backbones.blocks.fusion import fuse_model
from tasks.base.build import check_same_pixels
from tasks.base.task import VisionTask
from tasks.data.datamodule import VisionDataModule
from tasks.quantization.rounded_layers import rounded_layers, with_rounding


class QuantizationAware(L.Callback):
    """Fine-tune a checkpoint with weights and activations rounded to int8 as the exporters round them.

    Convolutions and linear layers round weights (symmetric, one scale an output channel) and inputs (one range a
    tensor). Each convolution that a BatchNorm was fused into gets a new BatchNorm, which starts with the statistics of
    the convolution's outputs and so changes nothing; weights are rounded with the norm folded in. A resumed training
    loads the rounded network. Evaluation and export load the plain fused network.

    Args:
        checkpoint: Checkpoint of a training of the same backbone, head and classes.
        keep_float: Modules that are not rounded, by their names in `export.keep_float`.
        batches: Number of training batches that the first ranges and statistics are measured on.
        freeze_after: Share of the epochs, in (0, 1], after which ranges and statistics are frozen. In a run that only
            max_steps ends they are never frozen.

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
        """Insert rounded layers into a task's network.

        Args:
            task: The task as built.
            source: Trained task whose weights are taken over; None: a checkpoint of this training is loaded later.

        Raises:
            ValueError: The task freezes parts, or decays learning rates by block; the source is another network, or
                `keep_float` names a module that it lacks.
        """
        if task.freezing.freezes or task.decayed_blocks:
            raise ValueError("qat trains the fused network; set task.freeze, freeze_norm and equivalent_decay to none")
        if source is not None and source.classes.names != task.classes.names:
            raise ValueError(
                f"qat.checkpoint={self.checkpoint} knows the classes {', '.join(source.classes.names[:4])}..., not "
                f"{', '.join(task.classes.names[:4])}...; give the data that it was trained with"
            )
        if source is not None:
            check_same_pixels(task.network, source.network, f"qat.checkpoint={self.checkpoint}")
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
        """Measure ranges and statistics on training batches, without rounding."""
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
