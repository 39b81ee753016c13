"""The floor of a cold start from S3: download and import OpenVINO at once, compile, infer once, print.

Run as ``python benchmarks/bare_s3.py XML_URL XML_SIZE BIN_URL BIN_SIZE INPUT.npy``. The URLs are signed beforehand and
the sizes known, so nothing is listed and nothing signed. Weights are read into memory and used there: no disk.
"""

from __future__ import annotations

import http.client
import json
import mmap
import sys
import threading
from urllib.parse import urlsplit

CONNECTIONS = 8
SMALLEST_PART = 1 << 20


class Download:
    """An object on its way into memory, in parts of equal size, each by a thread with a connection of its own."""

    def __init__(self, url: str, size: int) -> None:
        self._url = urlsplit(url)
        # Pages that nobody has touched are not even zeroed yet, other than a bytearray's.
        self._bytes = memoryview(mmap.mmap(-1, size))
        part = max(-(-size // CONNECTIONS), SMALLEST_PART)
        self._threads = [
            threading.Thread(target=self._read, args=(start, min(start + part, size)), daemon=True)
            for start in range(0, size, part)
        ]
        for thread in self._threads:
            thread.start()

    def result(self) -> memoryview:
        for thread in self._threads:
            thread.join()
        return self._bytes

    def _read(self, start: int, stop: int) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=60)
        target = f"{self._url.path}?{self._url.query}"
        connection.request("GET", target, headers={"Range": f"bytes={start}-{stop - 1}"})
        response = connection.getresponse()
        while start < stop and (count := response.readinto(self._bytes[start:stop])):
            start += count
        connection.close()


def main() -> None:
    xml_url, xml_size, bin_url, bin_size, image = sys.argv[1:]
    downloads = [Download(bin_url, int(bin_size)), Download(xml_url, int(xml_size))]

    sys.modules["openvino.tools"] = None  # type: ignore[assignment]
    import numpy as np
    import openvino as ov

    core = ov.Core()
    weights, xml = (download.result() for download in downloads)
    model = core.read_model(bytes(xml), ov.Tensor(np.frombuffer(weights, np.uint8)))
    results = core.compile_model(model, "CPU")(np.load(image))
    print(json.dumps({output.any_name: array.tolist() for output, array in results.items()}))


if __name__ == "__main__":
    main()
