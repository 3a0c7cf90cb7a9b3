"""The server of the page: what it gives out, to whom, and when it ends."""

import threading
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tasks.benchmark.web.device import DeviceLost, packed, unpacked
from tasks.benchmark.web.server import Site, show_address
from tests.tasks.benchmark.web.fake_device import ABOUT, FakeDevice


@pytest.fixture
def serve(tmp_path):
    """Serve a page with a function that measures: (site, thread that waits for a device)."""
    (tmp_path / "page.html").write_text("page")
    (tmp_path / "secret").write_text("secret")
    sites = []

    def start(measure=lambda device: True, *, devices: int = 1, timeout_s: float = 5.0):
        files = {"": tmp_path / "page.html", "model.wasm": b"bytes"}
        site = Site(files, measure, host="127.0.0.1", timeout_s=timeout_s)
        thread = threading.Thread(target=site.wait, args=(devices,), daemon=True)
        thread.start()
        sites.append(site)
        return site, thread

    yield start
    for site in sites:
        site.server.shutdown()


def get(site, path: str):
    parts = urlsplit(site.address)
    connection = HTTPConnection(parts.hostname, parts.port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_it_serves_the_table_and_nothing_else(serve, tmp_path):
    site, _ = serve()
    base = f"/{site.token}/"
    status, body, headers = get(site, base)
    assert (status, body, headers["Content-Type"]) == (200, b"page", "text/html")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin", "or there are no threads"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    status, body, headers = get(site, base + "model.wasm?threads=2")
    assert (status, body, headers["Content-Type"]) == (200, b"bytes", "application/wasm")
    for path in ("secret", "../secret", "%2e%2e/secret", "./page.html", str(tmp_path / "secret"), "/etc/passwd"):
        assert get(site, base + path)[0] == 404, path


def test_without_the_token_it_gives_nothing(serve):
    site, _ = serve()
    for path in ("/", "/model.wasm", f"/{site.token}", f"/{site.token[:-1]}x/", "/%C3%A9/"):
        status, body, _ = get(site, path)
        assert status == 403 and b"page" not in body, path
    stranger = FakeDevice(site.address.replace(site.token, "x" * len(site.token)), None)
    assert stranger.post("hello", packed(ABOUT))[0] == 403 and not site.devices
    assert Site({}, lambda device: True, host="127.0.0.1").token != site.token, "a token is of one run"


def test_messages_that_are_none_are_refused(serve):
    site, _ = serve()
    device = FakeDevice(site.address, None)
    assert device.post("hello", b"nonsense")[0] == 400
    assert device.post("hello", b'{"sizes": [3]}\nab')[0] == 400
    assert device.post("next?device=7", packed({}))[0] == 400, "nobody has that number"
    assert device.post("else", packed({}))[0] == 404
    for message in (b"[]\n", b'{"sizes": [-1, 1]}\n', b'{"sizes": "2"}\nab'):
        with pytest.raises(ValueError):
            unpacked(message)


def test_it_ends_with_the_last_device(serve):
    asked = []

    def measure(device):
        asked.append(device.ask({"do": "tell"}))
        with pytest.raises(DeviceLost, match="closed"):
            device.ask({"do": "end", "table": []})
        return True

    site, thread = serve(measure, devices=2)
    FakeDevice(site.address, None).run()
    assert thread.is_alive(), "a second one is to come"
    FakeDevice(site.address, None).run()
    thread.join(5)
    assert not thread.is_alive() and len(asked) == 2


def test_a_page_that_is_closed_does_not_count_and_silence_ends_it(serve):
    def measure(device):
        with pytest.raises(DeviceLost, match="the page was closed"):
            device.ask({"do": "tell"})
        return False

    site, thread = serve(measure, timeout_s=0.5)
    FakeDevice(site.address, None, leaves_at="tell").run()
    thread.join(0.2)
    assert thread.is_alive(), "another device may come"
    start = time.monotonic()
    thread.join(5)
    assert not thread.is_alive() and time.monotonic() - start < 3


def test_a_silent_device_is_lost(serve):
    said = []

    def measure(device):
        with pytest.raises(DeviceLost, match=r"for 0\.3 s") as lost:
            device.ask({"do": "tell"})
        said.append(lost.value)
        return False

    site, thread = serve(measure, timeout_s=0.3)
    assert FakeDevice(site.address, None).post("hello", packed(ABOUT))[0] == 200
    thread.join(5)
    assert said and not thread.is_alive()


def test_an_error_of_ours_ends_it_too():
    def measure(device):
        raise RuntimeError("a mistake")

    site = Site({}, measure, host="127.0.0.1", timeout_s=5)
    device = FakeDevice(site.address, None)
    threading.Timer(0.2, lambda: device.post("hello", packed(ABOUT))).start()
    with pytest.raises(RuntimeError, match="a mistake"):
        site.wait(1)


def test_an_address_that_is_taken(serve):
    site, _ = serve()
    port = urlsplit(site.address).port
    with pytest.raises(ValueError, match=rf"web.host=127.0.0.1 web.port={port}: cannot listen there"):
        Site({}, lambda device: True, host="127.0.0.1", port=port)


def test_the_address_is_printed_as_a_code_too(capsys):
    show_address("http://192.168.1.20:8000/token/")
    out = capsys.readouterr().out
    assert "    http://192.168.1.20:8000/token/\n" in out and "▀" in out and "localhost" in out
