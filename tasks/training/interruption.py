"""Being told to stop: a run's processes agree on it, and stop where nothing is lost."""

import signal
import sys
from types import FrameType

import lightning as L

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interruption:
    """Notices SIGTERM, as schedulers send it before they take a machine away, and Ctrl-C.

    The first one is remembered until the training asks, at the end of a step; a second Ctrl-C stops at once.

    Attributes:
        received: The signal; none yet.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        """From now on, in place of Lightning's handlers, which stop behind the checkpoint that a step has left."""
        try:
            for number in NAMES:
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._notice)
        except ValueError:  # not in the main thread, which alone has signals
            self._before = {}

    def ignore(self) -> None:
        """Give back what was there before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def agreed(self, trainer: L.Trainer) -> bool:
        """Whether any process of the run was told to stop; all have to ask."""
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and self.received is None:
            self.received = signal.SIGTERM
        return stop

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt("interrupted twice, without a checkpoint of this moment")
        self.received = number
        print(f"{NAMES[number]}: stopping after this step, with a checkpoint", file=sys.stderr, flush=True)


class Stopped(BaseException):
    """Raised where a run stops because it was told to; its checkpoint is written."""
