"""A fourth task as somebody outside writes it: one number an image, here how bright it is."""

import cv2
import numpy as np
import torch
from torch import nn

from heads.base import Head
from tasks.base.network import Deployable
from tasks.base.predictor import Predictor
from tasks.base.task import VisionTask
from tasks.data.classes import Classes
from tasks.data.datamodule import VisionDataModule
from tasks.data.dataset import VisionDataset

SIDE = 32  # px


class MeanHead(Head):
    """One number for each of the classes, from the mean of the deepest map."""

    kind = "regression"

    def __init__(self, taps, num_classes: int) -> None:
        super().__init__(taps[-1:], num_classes)
        self.linear = nn.Linear(self.taps[0].channels, num_classes)

    def forward(self, features, image_size):
        return self.linear(features[self.taps[0].name].mean((2, 3)))


class Shades(VisionDataset):
    """Images of noise, each with its brightness in 0..1."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key) -> dict:
        image, value = self.read(key[1])
        return {"image": torch.from_numpy(image), "value": value, "name": self.file(key[1])}

    def read(self, index: int):
        random = np.random.default_rng((self.seed, index))
        value = random.random()
        return (random.random((SIDE, SIDE, 3)) * 510 * value).clip(0, 255).astype(np.uint8), np.float32(value)

    def encoded(self, index: int) -> bytes:
        return cv2.imencode(".png", self.read(index)[0])[1].tobytes()

    def file(self, index: int) -> str:
        return f"{self.seed}/{index}.png"


class ShadeData(VisionDataModule):
    """The shades, made as they are read."""

    kind, content = "regression", "images with a number each"
    task = "tests.tasks.fourth.regression.RegressionTask"

    def __init__(self, *, num_train: int, **options) -> None:
        super().__init__(Classes(("brightness",), ((200, 200, 0),)), SIDE, **options)
        self.num_train = num_train

    def make_dataset(self, split: str) -> Shades:
        return Shades(self.num_train, 0) if split == "train" else Shades(4, 1)

    def collate(self, samples: list[dict]) -> dict:
        return {
            "images": torch.stack([sample["image"] for sample in samples]).permute(0, 3, 1, 2),
            "values": torch.tensor([[sample["value"]] for sample in samples]),
            "names": [sample["name"] for sample in samples],
        }


class Exported(Deployable):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.output, self.outputs = network, "values", ("values",)

    def forward(self, images):
        return (self.network(images.float()),)


class RegressionTask(VisionTask):
    """Numbers, by the squared error."""

    kind, monitor, needs = "regression", "val/accuracy", "images with a number each: data=shades"
    batch_keys, outputs, whole_output = ("images", "values"), ("values",), "values"

    def loss(self, raw, batch):
        return {"squared_error": (raw - batch["values"]).square().mean()}

    def predict(self, raw, image_sizes, input_size):
        return list(raw.float())

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.errors = torch.zeros(2)  # sum, number

    def validation_step(self, batch, index):
        off = (self(batch["images"]) - batch["values"]).abs()
        self.errors += torch.tensor([off.sum().item(), len(off)])
        return {}

    def on_validation_epoch_end(self) -> None:
        total, count = self._summed(self.errors)
        self.validated_images = int(count)
        self.log("val/accuracy", 1 - total / count)

    def picture_samples(self, batch, outputs, places):
        return [batch["images"][place].permute(1, 2, 0).cpu().numpy() for place in places]

    def draw_sheet(self, samples):
        return np.hstack(samples)

    def predictor(self, config):
        return RegressionPredictor(self, SIDE)

    def exported(self, network, output, image_size):
        return Exported(network)


class RegressionPredictor(Predictor):
    heading = "brightness"

    def __init__(self, task, image_size) -> None:
        super().__init__(task, image_size)
        self.found: dict[str, float] = {}

    @torch.inference_mode()
    def find(self, image):
        return self.task(self.images(cv2.resize(image, self.image_size)))[0]

    def draw(self, image, found, *, whole_legend=False):
        return image

    def add(self, found, source, frame=None) -> None:
        self.found[source] = found.item()

    def summary(self):
        return self.found

    def rows(self):
        return [(source, f"{value:.2f}") for source, value in self.found.items()]
