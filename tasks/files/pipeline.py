"""Read files ahead of a loop and write results behind it, in threads, in order, and with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
LIMIT = 4  # results that wait; a picture of 12 Mpx has 36 MB


def read_ahead(read: Callable[[Item], Any], items: Iterable[Item], *, limit: int = LIMIT) -> Iterator[tuple[Item, Any]]:
    """Call a function on items in threads, at most `limit` of them ahead of the caller.

    Yields:
        Item, and a function that gives its result or raises what the call raised; in the order of the items.

    >>> [result() for _, result in read_ahead(len, ["a", "bc"])]
    [1, 2]
    """
    waiting: deque[tuple[Item, Future]] = deque()
    with ThreadPoolExecutor(limit, "read_ahead") as threads:
        try:
            for item in items:
                waiting.append((item, threads.submit(read, item)))
                if len(waiting) > limit:
                    first, future = waiting.popleft()
                    yield first, future.result
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result
        finally:
            threads.shutdown(cancel_futures=True)


class WriteBehind:
    """Run calls in threads, at most `limit` of them behind the caller.

    What a call raises is raised by a later `submit`, or at the end of the with block.

    Args:
        threads: With one of them the calls run one after the other, in order.
        limit: Calls that wait or run.

    >>> with WriteBehind() as behind:
    ...     behind.submit(print, "written")
    written
    """

    def __init__(self, *, threads: int = 1, limit: int = LIMIT) -> None:
        self.limit, self._threads = limit, ThreadPoolExecutor(threads, "write_behind")
        self._waiting: deque[Future] = deque()

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._settle(self.limit - 1)
        self._waiting.append(self._threads.submit(call, *arguments))

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._settle(0)
        finally:
            self._threads.shutdown(cancel_futures=True)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
