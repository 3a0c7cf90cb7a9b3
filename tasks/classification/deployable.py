"""A classifier as it is exported: pixels in, logits or probabilities out."""

from torch import Tensor

from tasks.base.network import Deployable, Network


class ClassificationDeployable(Deployable):
    """Class scores of the image, (N, K) float32: "logits", or their softmax as "probabilities"."""

    def __init__(self, network: Network, output: str) -> None:
        super().__init__()
        self.network, self.output, self.outputs = network, output, (output,)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        logits = self.network(images.float())
        return (logits if self.output == "logits" else logits.softmax(-1),)
