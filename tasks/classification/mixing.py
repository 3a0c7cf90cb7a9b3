"""MixUp and CutMix of a batch, on its device."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Mixing:
    """Mix each image of a batch with its neighbour: the whole image (MixUp), or a box of it (CutMix).

    Where both are on, each batch draws one of them with equal probability. Random numbers come from torch's global CPU
    generator on every device.

    Args:
        num_classes: Number of classes, K.
        mixup, cutmix: alpha of the Beta distribution of the images' shares; 0: off.
        probability: Share of the batches that are mixed.

    Raises:
        ValueError: A setting is out of its range.

    Source: Zhang et al. 2018, "mixup", arXiv:1710.09412; Yun et al. 2019, "CutMix", arXiv:1905.04899; as in
    torchvision.transforms.v2.
    """

    def __init__(self, num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0, probability: float = 1.0) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < float("inf"):
                raise ValueError(f"{name}={alpha}: expected the alpha of a Beta distribution, such as 0.8; 0 for none")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability={probability}: expected the share of the batches to mix, 0 to 1")
        from torchvision.transforms import v2  # takes seconds

        self.num_classes, self.probability = num_classes, probability
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.kinds = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: (N, 3, H, W), any dtype.
            labels: (N,) int64.

        Returns:
            Images (N, 3, H, W) float32 in their old range, and targets (N, K) float32 whose rows sum to 1.
        """
        images = images.float()
        if not self.kinds or torch.rand(()) >= self.probability:
            return images, F.one_hot(labels, self.num_classes).float()
        return self.kinds[int(torch.randint(len(self.kinds), ()))](images, labels)
