"""Headless Chromium, driven through a pipe by its DevTools protocol; and a static host for pages."""

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tasks.deploy.web.runtimes import PACKAGES, missing

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe")
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


def needed() -> str:
    """The browser's program.

    Raises:
        RuntimeError: It is missing, or the packages of the pages are.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    lacks = [lack for lack in map(missing, PACKAGES) if lack]
    if program is None:
        lacks.append(f"there is none of {', '.join(NAMES)}; install Chromium")
    if lacks:
        raise RuntimeError(f"tests in a browser: {'; '.join(lacks)} (packages: python tools/doctor.py fetch=web)")
    return program


class Chromium:
    """A browser with one page after the other.

    Args:
        profile: Empty folder.
        flags: Of the program, besides.
    """

    def __init__(self, profile: Path, *flags: str) -> None:
        (theirs, self.write), (self.read, ours) = os.pipe(), os.pipe()
        command = [needed(), *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        # it reads from 3 and writes to 4
        redirected = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{ours}', "bash", *command]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(redirected, pass_fds=(theirs, ours), **quiet)
        os.close(theirs), os.close(ours)
        self.waiting, self.count, self.session = b"", 0, None

    def open(self, address: str, *, size: tuple[int, int] = (1280, 900)) -> None:
        """Open a page in place of the one before."""
        before = self.target if self.session else None
        options = {"url": address, "width": size[0], "height": size[1], "newWindow": True}
        self.target = self.call("Target.createTarget", options, session=None)["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": self.target, "flatten": True}, session=None)
        self.session = attached["sessionId"]
        if before:
            self.call("Target.closeTarget", {"targetId": before}, session=None)
        self.until(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def close_page(self) -> None:
        """Close the page, as a user does."""
        self.call("Page.close", {})

    def run(self, code: str) -> Any:
        """Run the body of an async function in the page; what it returns, as plain data.

        Raises:
            RuntimeError: It throws.
        """
        options = {"expression": f"(async () => {{ {code} }})()", "awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", options)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", found["exceptionDetails"])["description"])
        return found["result"].get("value")

    def until(self, condition: str, *, seconds: float = 120) -> None:
        """Wait until an expression is true in the page, which may load itself anew meanwhile.

        Raises:
            RuntimeError: It is not, for so long.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(RuntimeError):  # between two pages there is none to ask
                if self.run(f"return Boolean({condition})"):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"not within {seconds:g} s: {condition}")

    def screenshot(self, path: Path) -> None:
        """Write a picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"]))

    def call(self, method: str, options: dict[str, Any], *, session: str | None = "") -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": options}
        if (session := self.session if session == "" else session) is not None:
            message["sessionId"] = session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.waiting:
                if not (part := os.read(self.read, 2**20)):
                    raise RuntimeError("Chromium has ended")
                self.waiting += part
            line, _, self.waiting = self.waiting.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def end(self) -> None:
        """End the program."""
        self.process.terminate()
        self.process.wait(20)
        os.close(self.write), os.close(self.read)


class StaticHost:
    """Serves a folder as any static host does, without special headers; "address" is its root."""

    def __init__(self, folder: Path) -> None:
        handler = partial(_Quiet, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *words: object) -> None:
        pass
