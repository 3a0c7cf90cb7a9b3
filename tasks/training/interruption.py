"""Stop a run on SIGTERM or Ctrl-C: all its processes agree, and stop after a checkpoint."""

import signal
import sys
from types import FrameType

import lightning as L

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interruption:
    """Catch SIGTERM, which schedulers send before they take a machine away, and Ctrl-C.

    The training asks for it at the end of each step; a second Ctrl-C stops at once.

    Attributes:
        received: The signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        """Install the handlers, in place of Lightning's own."""
        try:
            for number in NAMES:
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._notice)
        except ValueError:  # not in the main thread, which alone has signals
            self._before = {}

    def ignore(self) -> None:
        """Restore the handlers that were there before `listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def agreed(self, trainer: L.Trainer) -> bool:
        """Tell whether any process of the run was told to stop; every process has to call this."""
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
    """Raised where a run stops on a signal, after its checkpoint was written."""
