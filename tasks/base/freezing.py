"""Freeze a part of the backbone, for good or for some epochs, and its norms."""

from collections.abc import Callable, Sequence

from torch import nn

from backbones.base import Backbone


class Freezing:
    """Keep modules frozen and in eval mode. Only the epoch's number decides, so a resumed run does the same.

    Args:
        backbone: Holds the part.
        until: Part, as in `Backbone.modules_until`; None: no part.
        epochs: Epochs after which the part is trained; None: it never is.
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
        """Tell whether anything is ever frozen."""
        return bool(self.part() or self.norms())

    def part(self) -> list[nn.Module]:
        """Get the modules of the backbone that are frozen at first, as the network has them now."""
        return self.backbone.modules_until(self.until) if self.until else []

    def modules(self, epoch: int | None) -> list[nn.Module]:
        """Get the modules that are frozen in an epoch, counted from 0; None: those frozen in every epoch."""
        thawed = self.epochs is not None and (epoch is None or epoch >= self.epochs)
        return [*(() if thawed else self.part()), *self.norms()]

    def apply(self, epoch: int | None) -> None:
        """Let parameters require gradients, or not, as in an epoch; with None, wherever some epoch trains them."""
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
