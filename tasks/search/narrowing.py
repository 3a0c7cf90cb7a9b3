"""Train and score the networks that a search tries, each narrower than a trained one."""

import copy
import logging
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch

from backbones.base import Backbone
from backbones.widths import CRITERIA, narrowable, shrink
from tasks.base.build import Config, build_backbone, build_data, build_task, connect, make, plain
from tasks.base.checkpoint import classes_of, load_task, read_checkpoint
from tasks.base.checkpoint_files import write_checkpoint
from tasks.base.config import TrainConfig
from tasks.base.network import HeadFactory, Network, build_network
from tasks.base.task import VisionTask
from tasks.data.datamodule import VisionDataModule
from tasks.training.trainer_settings import evaluation_settings
from tasks.values.pixel_format import pixel_format

Widths = Mapping[str, int]
TRAINING = TrainConfig.__dataclass_fields__  # what a checkpoint holds, without the settings of the search
GRADIENT_BATCHES = 8  # of the training set, for criterion=taylor
logger = logging.getLogger(__name__)


class Narrowing:
    """The task of a checkpoint, with networks of other widths.

    Args:
        config: Of the checkpoint, with what the command line changed; with `checkpoint`, `images` and `netadapt`.
        device: Number of the GPU that this process trains on, where there are any.

    Raises:
        FileNotFoundError, ValueError: There is no such checkpoint, it is fused or of a quantization-aware training, the
            data has other classes, or the criterion is unknown.
    """

    def __init__(self, config: Config, device: int = 0) -> None:
        self.config = plain(config)
        self.criterion = self.config["netadapt"]["criterion"]
        if self.criterion not in CRITERIA:
            raise ValueError(f"netadapt.criterion={self.criterion}: expected one of {', '.join(CRITERIA)}")
        content = read_checkpoint(self.config["checkpoint"])
        if content["fused"] or content["config"].get("qat"):
            raise ValueError(
                f"{self.config['checkpoint']} is fused or of a quantization-aware training, and cannot be narrowed; "
                "give the checkpoint of a plain training"
            )
        self.classes, self.device = classes_of(content), device
        if (names := build_data(self.config).classes.names) != self.classes.names:
            raise ValueError(
                f"the data's classes are {', '.join(names)}, the checkpoint's {', '.join(self.classes.names)}"
            )

    @cached_property
    def start(self) -> dict[str, int]:
        """Widths of the checkpoint's network, without those behind the last layer that the head reads."""
        return dict(self.build({}).backbone.widths)

    def settings(self, widths: Widths) -> dict[str, Any]:
        """Copy the configuration of a training, for a network of some widths."""
        config = copy.deepcopy({key: value for key, value in self.config.items() if key in TRAINING})
        config |= {"checkpoint": None, "output_dir": None}
        if overrides := self.overrides(widths):
            config["backbone"]["widths"] = overrides
        return config

    def overrides(self, widths: Widths) -> dict[str, int]:
        """List the fewest overrides that give these widths: a squeeze-and-excite follows its expansion by itself."""
        own = self.config["backbone"].get("widths") or {}
        if not widths:
            return dict(own)
        found = {**own, **{name: channels for name, channels in widths.items() if self.start[name] != channels}}
        built = self.build(found).backbone.widths
        return {**found, **{name: channels for name, channels in widths.items() if built[name] != channels}}

    def build(self, widths: Widths) -> Network:
        """Make a network with random weights."""
        widths = {**(self.config["backbone"].get("widths") or {}), **widths}
        backbone = self._make_backbone(widths=widths) if widths else self._make_backbone()
        return build_network(backbone, self._make_head, len(self.classes), pixel_format(self.config))

    @cached_property
    def _make_backbone(self) -> Callable[..., Backbone]:
        """A search builds hundreds, which takes Hydra longer than the factory itself."""
        node = {key: value for key, value in self.config["backbone"].items() if key != "widths"}
        return build_backbone(self.config | {"backbone": {**node, "_partial_": True}})

    @cached_property
    def _make_head(self) -> HeadFactory:
        return make({key: value for key, value in self.config["head"].items() if key != "weights"})

    @cached_property
    def touched(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Widths that can be narrowed one by one, and the tensors that each reaches, as in `backbones.widths`."""
        found, refused = narrowable(self.build, self.start)
        for name, error in refused.items():
            logger.info("%s stays as it is: %s", name, error)
        return found

    def load(self, path: str | Path, widths: Widths) -> VisionTask:
        """Rebuild a task of some widths with the weights of a checkpoint, in eval mode."""
        return load_task(path, self.settings(widths))

    def narrow(self, network: Network, widths: Widths) -> Network:
        """Carry weights into a narrower network."""
        return shrink(self.build, network, widths, criterion=self.criterion)

    def score(self, path: str | Path, widths: Widths) -> float:
        """Compute the task's metric of a checkpoint."""
        task = self.load(path, widths)
        return self._validate(task, self._data(task, self.config["seed"]))

    def train(self, source: str | Path, before: Widths, widths: Widths, steps: int, seed: int, target: Path) -> float:
        """Narrow the network of a checkpoint, train it for some steps, and write its checkpoint.

        Args:
            source: The checkpoint.
            before: Its widths.
            widths: Those of the new network.
            steps: Training steps.
            seed: Of order and augmentation.
            target: File to write.

        Returns:
            The task's metric; NaN where the training failed on numbers that were not finite.
        """
        L.seed_everything(seed, workers=True, verbose=False)
        wide = self.load(source, before)
        data = self._data(wide, seed)
        data.setup("fit")
        if self.criterion == "taylor" and widths != before:
            _accumulate_gradients(wide, data)
        config = self.settings(widths)
        task = build_task(config, self.classes, pretrained=False, teacher=bool(config.get("distillation")))
        narrow = self.narrow(wide.network, widths)
        kept = {key: value for key, value in wide.state_dict().items() if not key.startswith("network.")}
        task.load_state_dict({**kept, **{f"network.{key}": value for key, value in narrow.state_dict().items()}})
        task.network.backbone.preprocessing = wide.network.backbone.preprocessing
        connect(task, data)
        if steps:
            try:
                self._trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0).fit(task, datamodule=data)
            except FloatingPointError as error:
                logger.warning("%s: %s", target, error)
                return math.nan
        metric = self._validate(task, data)
        content: dict[str, Any] = {"state_dict": task.cpu().state_dict(), "epoch": 0, "global_step": steps}
        task.on_save_checkpoint(content)
        write_checkpoint(target, content)
        return metric

    def _data(self, task: VisionTask, seed: int) -> VisionDataModule:
        data = build_data(self.config | {"seed": seed})
        connect(task, data)
        return data

    def _validate(self, task: VisionTask, data: VisionDataModule) -> float:
        images = self.config["images"]
        limit = None if images is None else max(1, images // data.val_batch_size)
        trainer = self._trainer(limit_val_batches=limit)
        trainer.validate(task, datamodule=data, verbose=False)
        return float(trainer.callback_metrics.get(task.monitor, math.nan))

    def _trainer(self, **settings: Any) -> L.Trainer:
        gpus = torch.cuda.device_count() if self.config["trainer"].get("accelerator") != "cpu" else 0
        own = {"devices": [self.device % gpus] if gpus else 1, "strategy": "auto", "num_nodes": 1}
        return make(
            {**evaluation_settings(self.config["trainer"]), **own, **settings},
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )


def _accumulate_gradients(task: VisionTask, data: VisionDataModule) -> None:
    """Sum the gradients of some training batches, with the statistics of norms as they are deployed."""
    with torch.enable_grad():
        for batch in islice(data.train_dataloader(), GRADIENT_BATCHES):
            batch = task.augment_batch(batch)
            losses = task.loss(task(batch["images"]), batch)
            torch.stack(list(losses.values())).sum().backward()
