import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from pixelgen.encoders.hub import download


def test_of_several_processes_one_downloads(monkeypatch, tmp_path):
    calls = []

    def fetch(url, path):
        calls.append(url)
        time.sleep(0.2)
        with open(path, "wb") as file:
            file.write(b"weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    url = f"https://example.org/net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: download(url, "a network"), range(4)))
    assert calls == [url]
    assert [path.read_bytes() for path in paths] == [b"weights"]
