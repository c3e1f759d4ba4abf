"""The notice of a spot machine, from a server that answers as AWS does."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zero1toa.distributed.notice import read_notice, watch


@pytest.fixture
def metadata():
    """Address of the server, and what it has to say about the machine's end."""
    said: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(200 if self.path == "/latest/api/token" else 404, "secret")

        def do_GET(self):
            if self.headers["X-aws-ec2-metadata-token"] != "secret":
                self.answer(401, "")
            elif self.path == "/latest/meta-data/spot/instance-action" and said:
                self.answer(200, json.dumps(said))
            else:
                self.answer(404, "not found")

        def answer(self, code, text):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/latest", said
    server.shutdown()
    server.server_close()


def test_the_notice_is_announced_when_it_comes(metadata):
    address, said = metadata
    looks, announced = [], []

    def pause(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            end = datetime.now(UTC) + timedelta(seconds=120)
            said.update(action="terminate", time=end.strftime("%Y-%m-%dT%H:%M:%SZ"))

    watch(announced.append, address, pause)
    assert len(looks) == 3
    (seconds,) = announced
    assert 90 < seconds <= 110  # two minutes less the margin


def test_no_notice_and_nobody_there(metadata):
    address, said = metadata
    assert read_notice(address) is None
    said.update(action="terminate", time="not a time")
    assert read_notice(address) is None
    said.update(time="2026-09-18T08:22:00Z")
    assert read_notice(address) == datetime(2026, 9, 18, 8, 22, tzinfo=UTC)
    assert read_notice("http://127.0.0.1:9/latest") is None
