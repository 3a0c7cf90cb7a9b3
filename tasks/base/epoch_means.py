"""Means over an epoch that a run which goes on in the middle of it ends with."""

import torch
from torch import Tensor


class EpochMeans:
    """Means of what training steps state, weighted by their numbers of images; float64, kept where the values are.

    Lightning's own means begin anew when a run goes on within an epoch; these are stored in each checkpoint.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.latest: dict[str, Tensor] = {}
        self.images = 0

    def add(self, values: dict[str, Tensor], images: int) -> None:
        """Take in a step's scalars."""
        self.latest = {name: value.detach() for name, value in values.items()}
        for name, value in self.latest.items():
            value = value.to(torch.float32 if value.device.type == "mps" else torch.float64) * images
            self.sums[name] = value if name not in self.sums else self.sums[name].to(value.device) + value
        self.images += images

    def take(self) -> dict[str, Tensor]:
        """The means, float32; from then on a new epoch's are collected."""
        means = {name: (total / self.images).float() for name, total in self.sums.items()} if self.images else {}
        self.sums, self.images = {}, 0
        return means

    def state_dict(self) -> dict:
        """Plain data."""
        return {"sums": {name: value.cpu().clone() for name, value in self.sums.items()}, "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        """Go on from there; from nothing, if there is nothing."""
        self.sums, self.images = {**state.get("sums", {})}, state.get("images", 0)
        self.sums = {name: torch.as_tensor(value) for name, value in self.sums.items()}
