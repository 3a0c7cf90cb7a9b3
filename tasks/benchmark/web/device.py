"""A page that is open in a browser somewhere: it is given jobs, one after the other, and answers them."""

import json
import queue
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.values.counted import counted

Arrays = Sequence[bytes]


class DeviceLost(ConnectionError):
    """A device's page was closed, or it has been silent for too long."""


def packed(header: Mapping[str, Any], arrays: Arrays = ()) -> bytes:
    """Join a header and raw arrays into a message: a line of JSON that states their sizes, and their bytes.

    >>> packed({"do": "run"}, [b"ab", b"c"])
    b'{"do": "run", "sizes": [2, 1]}\\nabc'
    """
    return b"".join([json.dumps({**header, "sizes": [len(one) for one in arrays]}).encode(), b"\n", *arrays])


def unpacked(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Split what `packed` joined.

    >>> unpacked(b'{"do": "run", "sizes": [2, 1]}\\nabc')
    ({'do': 'run'}, [b'ab', b'c'])

    Raises:
        ValueError: It is no such message.
    """
    line, _, rest = message.partition(b"\n")
    header = json.loads(line)
    if not isinstance(header, dict) or not isinstance(sizes := header.pop("sizes", None), list):
        raise ValueError("no message of this page")
    if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) != len(rest):
        raise ValueError(f"the arrays have {len(rest)} bytes, stated are {sizes}")
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return header, [rest[end - size : end] for end, size in zip(ends, sizes, strict=True)]


class Device:
    """A page that is open somewhere.

    Args:
        about: What it told of itself.
        timeout_s: Seconds without an answer after which it counts as lost.
    """

    def __init__(self, about: Mapping[str, Any], timeout_s: float) -> None:
        self.about, self.timeout_s = dict(about), timeout_s
        self.jobs: queue.Queue[bytes] = queue.Queue()
        self.answers: queue.Queue[tuple[dict[str, Any], list[bytes]] | None] = queue.Queue()

    def ask(self, job: Mapping[str, Any], arrays: Arrays = ()) -> tuple[dict[str, Any], list[bytes]]:
        """Give it a job, and wait for the answer.

        Raises:
            DeviceLost: It is gone.
            ValueError: The job failed there; the message is the browser's.
        """
        self.jobs.put(packed(job, arrays))
        try:
            answer = self.answers.get(timeout=self.timeout_s)
        except queue.Empty:
            raise DeviceLost(f"nothing came from the page for {self.timeout_s:g} s") from None
        if answer is None:
            raise DeviceLost("the page was closed")
        if "error" in answer[0]:
            raise ValueError(str(answer[0]["error"])[:1000])
        return answer


def device_name(about: Mapping[str, Any]) -> str:
    """Name a device by what its browser tells.

    >>> device_name({"agent": "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
    ...     "Chrome/140.0.0.0 Mobile Safari/537.36", "model": "Pixel 8", "cores": 9})
    'Chrome 140, Android, Pixel 8, 9 cores'
    """
    agent = str(about.get("agent", ""))
    browsers = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("FxiOS", "Firefox"), ("CriOS", "Chrome"),
                ("SamsungBrowser", "Samsung Internet"), ("Chrome", "Chrome"), ("Version", "Safari"))  # fmt: skip
    numbers = {key: match[1] for key, _ in browsers if (match := re.search(rf"{key}\w*/(\d+)", agent))}
    browser = next((f"{name} {numbers[key]}" for key, name in browsers if key in numbers), "a browser")
    systems = ("Android", "iPhone", "iPad", "Windows", "Mac OS", "CrOS", "Linux")
    system = next((name for name in systems if name in agent), "")
    cores = counted(int(about.get("cores") or 1), "core")
    return ", ".join(part for part in (browser, system, str(about.get("model") or ""), cores) if part)
