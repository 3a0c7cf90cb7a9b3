"""Serve one page on the local network, to devices that know its token."""

import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.benchmark.web.device import Device, packed, unpacked

KINDS = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
         ".wasm": "application/wasm"}  # fmt: skip
HEADERS = {
    # threads of WebAssembly need an isolated page
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # the browser then fetches from nowhere else
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LARGEST = 2**28  # bytes of a message from a device
PATIENCE = 20.0  # s that a device's question stays open before it is told to ask again


class Site:
    """A page at an address with a token that is made anew for each site: whoever has the address may open it.

    Nothing is served but a table of files: a request names an entry of it or gets 404, and without the token 403.

    Args:
        files: {path in the address: file, or its content}; "" is the page.
        measure: Called in a thread of its own with each device that opens the page; returns whether it was measured to
            the end.
        host: Address to listen at.
        port: Port; 0 chooses a free one.
        timeout_s: Seconds without any message from a device after which `wait` gives up.
    """

    def __init__(
        self, files: Mapping[str, Path | bytes], measure: Callable[[Device], bool], *, host: str = "0.0.0.0",
        port: int = 0, timeout_s: float = 600.0,
    ) -> None:  # fmt: skip
        self.files, self.measure, self.timeout_s = dict(files), measure, timeout_s
        self.token = secrets.token_urlsafe(16)
        self.devices: dict[str, Device] = {}
        self.finished = self.at_work = 0
        self.failure: BaseException | None = None
        self.heard = time.monotonic()
        self.changed = threading.Condition()
        try:
            self.server = _Server((host, port), type("Handler", (_Handler,), {"site": self}))
        except OSError as error:
            raise ValueError(f"web.host={host} web.port={port}: cannot listen there ({error.strerror})") from error
        self.host = own_address() if host == "0.0.0.0" else host

    @property
    def address(self) -> str:
        """What a device opens."""
        return f"http://{self.host}:{self.server.server_address[1]}/{self.token}/"

    def wait(self, devices: int, *, ready: Callable[[], object] = lambda: None) -> None:
        """Serve until so many devices were measured and none is being measured, or nothing was heard for too long.

        Args:
            devices: How many.
            ready: Called once it serves.

        Raises:
            Exception: As `measure` raises.
        """
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            ready()
            with self.changed:
                while self.at_work or (self.finished < devices and self._may_go_on()):
                    self.changed.wait(min(1.0, self.timeout_s / 10))
        finally:
            self.server.shutdown()
            self.server.server_close()
        if self.failure:
            raise self.failure

    def _may_go_on(self) -> bool:
        return not self.failure and time.monotonic() - self.heard < self.timeout_s

    def greet(self, about: Mapping[str, Any]) -> str:
        """Take in a device, and begin to measure it; returns its name."""
        device = Device(about, self.timeout_s)
        with self.changed:
            name = str(len(self.devices))
            self.devices[name] = device
            self.at_work += 1
        threading.Thread(target=self._measured, args=(device,), daemon=True).start()
        return name

    def _measured(self, device: Device) -> None:
        complete, failure = False, None
        try:
            complete = self.measure(device)
        except Exception as error:  # of ours: it ends the whole
            failure = error
        with self.changed:
            self.at_work -= 1
            self.finished += complete
            self.failure = self.failure or failure
            self.changed.notify_all()

    def entry(self, path: str) -> tuple[int, Path | bytes | None, str]:
        """Look a path up: HTTP status, what it names, and its name below the token."""
        token, slash, name = path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.token.encode()):
            return 403, None, ""
        return (200 if name in self.files else 404), self.files.get(name), name


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that end early."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, found, name = self.site.entry(urlsplit(self.path).path)
        if found is None:
            text = "the address has another token" if status == 403 else "there is no such file"
            self._answer(status, text.encode(), "text/plain")
            return
        content = found.read_bytes() if isinstance(found, Path) else found
        self._answer(200, content, KINDS.get(Path(name or "x.html").suffix, "application/octet-stream"))

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        status, _, name = self.site.entry(parts.path)
        size = int(self.headers.get("Content-Length") or 0)
        if status == 403 or name not in ("hello", "next", "closed") or not 0 <= size <= LARGEST:
            self.close_connection = True  # what it sends is not read
            self._answer(403 if status == 403 else 404, b"nothing takes that", "text/plain")
            return
        body = self.rfile.read(size)
        self.site.heard = time.monotonic()
        try:
            self._take(name, parse_qs(parts.query), body)
        except (ValueError, KeyError) as error:
            self._answer(400, f"{type(error).__name__}: {error}".encode()[:500], "text/plain")

    def _take(self, name: str, query: Mapping[str, Sequence[str]], body: bytes) -> None:
        if name == "hello":
            self._answer(200, packed({"device": self.site.greet(unpacked(body)[0])}), "application/octet-stream")
            return
        device = self.site.devices[query["device"][0]]
        if name == "closed":
            device.answers.put(None)
            self._answer(204, b"", "text/plain")
            return
        answer = unpacked(body)
        if answer[0].get("answers"):
            device.answers.put(answer)
        try:
            job = device.jobs.get(timeout=min(PATIENCE, self.site.timeout_s))
        except queue.Empty:
            job = packed({"do": "wait"})
        self.site.heard = time.monotonic()
        try:
            self._answer(200, job, "application/octet-stream")
        except OSError:  # nobody waits for it any more
            device.answers.put(None)

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for key, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        """Print nothing of single requests."""


def own_address() -> str:
    """Find the address of this machine on its network; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the block for documentation
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def show_address(address: str) -> None:
    """Print the address, and as a QR code where that can be made."""
    print(f"open this on the devices to measure, in the same network:\n\n    {address}\n")
    try:
        import segno  # an optional extra
    except ImportError:
        print("(the extra web shows it as a QR code)")
    else:
        segno.make(address, error="l").terminal(compact=True)
    print("threads and WebGPU need https or localhost; Chrome takes the address for such if you enter it at\n"
          "chrome://flags/#unsafely-treat-insecure-origin-as-secure", flush=True)  # fmt: skip
