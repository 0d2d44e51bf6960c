"""A web server that sends more than it was asked for, packs what it sends, or is not there."""

import gzip
import http.server
import socket
import threading
import tracemalloc
from contextlib import contextmanager, suppress

import pytest
import torch
from safetensors.torch import save

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.storage import remote
from fromage_cli.errors import InputError, ResourceError

CONTENT = save({"w": torch.ones(2, 2)})
pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def server(answer):
    """A server whose every GET is answered by `answer(handler)`; the address of a file on it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            refused = self.path.split("/")[1]
            length = [("Content-Length", str(len(CONTENT)))] if self.path.endswith("safetensors") else []
            self.begin(int(refused) if refused.isdecimal() else 200, *length)

        def do_GET(self):
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(self)

        def begin(self, status, *headers):
            self.send_response(status)
            for header in headers:
                self.send_header(*header)
            self.end_headers()

        def endless(self):
            while True:
                self.wfile.write(bytes(1 << 16))

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/x.safetensors"
        finally:
            running.shutdown()


def opened(url):
    """Open it, and return the most memory that took, in bytes."""
    tracemalloc.start()
    try:
        open_checkpoint(url).tensor("w")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50_000_000


def test_a_part_without_end():
    def answer(handler):
        handler.begin(206, ("Content-Range", f"bytes 0-511/{len(CONTENT)}"))
        handler.endless()

    with server(answer) as url, pytest.raises(InputError, match="cannot be read: ConnectionError: more than 1 bytes"):
        opened(url)


def test_a_file_without_end(monkeypatch):
    def answer(handler):
        handler.begin(200)
        handler.endless()

    monkeypatch.setattr(remote, "LARGEST_UNDECLARED", 3_000_000)
    with server(answer) as url, pytest.raises((InputError, ResourceError), match=r"more than \d+ bytes|not a valid"):
        opened(url)


def test_a_listing_without_end(monkeypatch):
    index = b'{"weight_map": {"w": "x-00001-of-00001.safetensors"}}'

    def answer(handler):
        if handler.path.endswith("json"):
            handler.begin(200, ("Content-Length", str(len(index))))
            handler.wfile.write(index)
        else:
            handler.begin(200, ("Content-Type", "text/html"))
            handler.endless()

    with server(answer) as url, pytest.raises(InputError, match="more than 16000000 bytes came"):
        opened(url.replace("x.safetensors", "model.safetensors.index.json"))


def test_what_is_packed_stays_packed():
    packed = gzip.compress(bytes(300_000_000), 1, mtime=0)

    def answer(handler):
        handler.begin(200, ("Content-Encoding", "gzip"), ("Content-Length", str(len(packed))))
        handler.wfile.write(packed)

    with server(answer) as url, pytest.raises((InputError, ResourceError), match=r"gzip|bytes"):
        opened(url)


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match="cannot be read: ClientConnectorError") as caught:
        open_checkpoint(f"http://127.0.0.1:{port}/x.safetensors")
    assert "connection" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "words"), [(404, "does not exist"), (403, "cannot be read: ClientResponseError: 403")]
)
def test_a_server_that_refuses(status, words):
    with server(lambda handler: handler.begin(status)) as url, pytest.raises(InputError, match=words):
        open_checkpoint(url.replace("x.safetensors", f"{status}/x.safetensors"))
