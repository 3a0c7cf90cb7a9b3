"""A callback that ends the process behind the first training step, which start_up.py waits for."""

import os

from lightning.pytorch import Callback


class EndBehindFirstStep(Callback):
    """Ends at once, so that nothing that follows the step is timed."""

    def on_train_batch_end(self, *_) -> None:
        os._exit(0)
