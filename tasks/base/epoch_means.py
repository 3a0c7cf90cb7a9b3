"""Means over an epoch, such as the training loss, that survive a stop in the middle of it."""

import torch
from torch import Tensor


class EpochMeans:
    """Average what training steps report, weighted by images, in float64 on the values' device.

    Lightning's own means begin anew when a run goes on within an epoch; these are stored in each checkpoint.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.latest: dict[str, Tensor] = {}
        self.images = 0

    def add(self, values: dict[str, Tensor], images: int) -> None:
        """Add a step's scalars, and the number of images behind them."""
        self.latest = {name: value.detach() for name, value in values.items()}
        for name, value in self.latest.items():
            value = value.to(torch.float32 if value.device.type == "mps" else torch.float64) * images
            self.sums[name] = value if name not in self.sums else self.sums[name].to(value.device) + value
        self.images += images

    def take(self) -> dict[str, Tensor]:
        """Return the means, float32, and start a new epoch."""
        means = {name: (total / self.images).float() for name, total in self.sums.items()} if self.images else {}
        self.sums, self.images = {}, 0
        return means

    def state_dict(self) -> dict:
        """Return the sums as plain data, for a checkpoint."""
        return {"sums": {name: value.cpu().clone() for name, value in self.sums.items()}, "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        """Restore the sums of `state_dict`; an empty one starts anew."""
        self.sums, self.images = {**state.get("sums", {})}, state.get("images", 0)
        self.sums = {name: torch.as_tensor(value) for name, value in self.sums.items()}
