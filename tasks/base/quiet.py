"""Keep Lightning's and torch's routine remarks off the terminal."""

import logging
import warnings


def quiet() -> None:
    """Silence what Lightning and torch say at every start and nobody can act on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*", ".*Checkpoint directory .* exists and is not empty.*",
        ".*num_workers.*", ".*sync_dist=True.*", ".*GPU available but not used.*", ".*isinstance.treespec, LeafSpec.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*your dataloader is not resumable.*",  # VisionDataModule.go_on is
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message)
