"""A device without a browser: speaks to the page's server as bench.js does."""

from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np

from tasks.benchmark.web.device import packed, unpacked

ABOUT = {"agent": "Mozilla/5.0 (X11; Linux) Chrome/140.0", "cores": 2, "isolated": True, "webgpu": None}


class FakeDevice:
    """Opens a page, and answers the jobs.

    Args:
        address: Of the page.
        opened: Spec of an artifact and its pixels -> function of pixels that gives the outputs; raises what the browser
            would.
        about: What it tells of itself.
        leaves_at: The job at which it closes the page.
    """

    def __init__(self, address: str, opened, *, about=ABOUT, leaves_at: str = "end") -> None:
        parts = urlsplit(address)
        self.connection = HTTPConnection(parts.hostname, parts.port, timeout=20)
        self.path, self.opened, self.about, self.leaves_at = parts.path, opened, about, leaves_at
        self.models, self.jobs, self.table = {}, [], None

    def post(self, name: str, body: bytes = b"") -> tuple[int, bytes]:
        self.connection.request("POST", self.path + name, body)
        response = self.connection.getresponse()
        return response.status, response.read()

    def run(self) -> "FakeDevice":
        device = unpacked(self.post("hello", packed(self.about))[1])[0]["device"]
        answer = packed({})
        while True:
            job, arrays = unpacked(self.post(f"next?device={device}", answer)[1])
            self.jobs.append(job["do"])
            if job["do"] == self.leaves_at:
                self.table = job.get("table")
                assert self.post(f"closed?device={device}")[0] == 204
                return self
            if job["do"] != "wait":
                answer = self._answer(job, arrays)

    def _answer(self, job, arrays) -> bytes:
        subject = job.get("subject")
        if job["do"] == "open":
            try:
                self.models[subject] = (self.opened(job), job["input"])
            except RuntimeError as error:
                return packed({"answers": True, "error": str(error)})
        if job["do"] == "time":
            return packed({"answers": True, "times": [float(subject + 1)] * job["calls"]})
        if job["do"] == "run":
            run, spec = self.models[subject]
            outputs = run(np.frombuffer(arrays[0], spec["dtype"]).reshape(spec["shape"]))
            told = [{"dtype": str(one.dtype), "shape": one.shape} for one in outputs]
            return packed({"answers": True, "outputs": told}, [one.tobytes() for one in outputs])
        return packed({"answers": True})
