"""What of a network is not trained: a part of the backbone, for good or for some epochs, and its norms."""

from collections.abc import Callable, Sequence

from torch import nn

from backbones.base import Backbone


class Freezing:
    """Keeps modules untrained, and in eval mode, as the number of the epoch alone decides: a resumed run does the same.

    Args:
        backbone: Holds the part.
        until: Part, as in `Backbone.modules_until`; none: no part.
        epochs: Epochs after which the part is trained; none: it never is.
        norms: Gives the modules that never are, as the network has them at that moment: their conversion to
            SyncBatchNorm, which Lightning does when a distributed run starts, puts others in their place.

    Raises:
        ValueError: The backbone has no such part; `epochs` without a part, or below 1.
    """

    def __init__(
        self, backbone: Backbone, until: str | None, epochs: int | None, norms: Callable[[], Sequence[nn.Module]]
    ) -> None:
        if epochs is not None and (until is None or epochs < 1):
            raise ValueError(
                f"task.freeze_epochs={epochs}: expected a number of epochs, at least 1, for which the part that "
                "task.freeze names is not trained; give both"
            )
        self.backbone, self.until, self.epochs, self.norms = backbone, until, epochs, norms
        self.part()  # raises where there is none

    @property
    def freezes(self) -> bool:
        """Whether anything is ever frozen."""
        return bool(self.part() or self.norms())

    def part(self) -> list[nn.Module]:
        """The part of the backbone that is not trained at first, as it is now."""
        return self.backbone.modules_until(self.until) if self.until else []

    def modules(self, epoch: int | None) -> list[nn.Module]:
        """What is frozen in an epoch, counted from 0; none: in all of them."""
        thawed = self.epochs is not None and (epoch is None or epoch >= self.epochs)
        return [*(() if thawed else self.part()), *self.norms()]

    def apply(self, epoch: int | None) -> None:
        """Let parameters require gradients, or not, as in an epoch; with none, wherever some epoch trains them."""
        for module in self.part():
            module.requires_grad_(True)
        for module in self.modules(epoch):
            module.requires_grad_(False)

    def check_processes(self, count: int) -> None:
        """Refuse to train a part later in several processes, which agree on the gradients to share at the start.

        Raises:
            ValueError: They are several.
        """
        if self.epochs is not None and count > 1:
            raise ValueError(
                f"task.freeze_epochs={self.epochs} works in one process, not in {count}: set trainer.devices=1, or "
                "train twice, the second time with backbone.weights=<best.ckpt of the first run>"
            )
