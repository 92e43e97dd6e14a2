"""svdkit.image, photos by address: a real server on this machine, with every answer that a server can give."""

import contextlib
import gzip
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import OpenerDirector

import pytest
from PIL import Image

from svdkit.errors import ImageError
from svdkit.image import fit, read, read_image

REDIRECTS = {
    "/moved": "/photo.png",
    "/to-ftp": "ftp://example.org/photo.png",
    "/to-file": "file:///etc/passwd",
    "/to-data": "data:image/png;base64,AAAA",
    "/loop": "/loop",
}


OTHERS = {
    "/page.jpg": b"<!DOCTYPE html><p>A photo</p>",
    "/json.jpg": b'{"error": "no such photo"}',
    "/gzip.jpg": gzip.compress(b"a photo"),
}
SLOW = {  # what is sent at once, and what then comes again and again
    "/slow-status": (b"", b"H"),
    "/slow-head": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"),
    "/slow-headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: a\r\n"),
    "/slow-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "/slow-redirect": (b"HTTP/1.1 302 Found\r\nLocation: /photo.png\r\n\r\n", b"a"),
    "/slow-error": (b"HTTP/1.1 404 Not Found\r\nX-Long: ", b"a"),
    "/slow-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\x89PNG\r\n", b"0"),
    "/slow-trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\x89PNG\r\n0\r\n", b"X-More: a\r\n"),
}


def photo_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, "PNG")
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Answers each path in its own way."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in REDIRECTS:
            self.answer(302, b"", Location=REDIRECTS[path])
        elif path.strip("/").isdigit():
            self.answer(int(path.strip("/")), b"no")
        elif path in OTHERS:
            self.answer(200, OTHERS[path], **{"Content-Type": "image/jpeg"})
        elif path in SLOW:
            self.slow(*SLOW[path])
        elif path == "/cut-short":
            self.answer(200, photo_bytes(), **{"Content-Length": "5000"})
        elif path == "/endless":
            self.endless(b"\0" * 65536, pause=0.0)
        elif path == "/drip":
            self.endless(b"\0", pause=0.02)
        elif path == "/silent":
            time.sleep(0.6)
        elif path == "/nonsense":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        else:
            self.answer(200, photo_bytes(), **{"Content-Type": "image/png"})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def endless(self, piece: bytes, *, pause: float) -> None:
        """Send no length and no end, until the client hangs up."""
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(2000):
                self.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            pass

    def slow(self, start: bytes, piece: bytes) -> None:
        """Send each piece well before the socket's own timeout, until the client hangs up."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(start)
            for _ in range(500):
                self.wfile.write(piece)
                time.sleep(0.01)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, it is not for 127.0.0.1."""
    monkeypatch.setenv("no_proxy", "*")


def test_a_photo_by_address(server):
    for path in ("/photo.png", "/moved\n"):  # a redirect on the web is followed
        photo = read_image(f"  {server}{path}")
        assert (photo.size, photo.getpixel((0, 0))) == ((60, 40), (255, 0, 0))


def test_odd_characters_in_the_address(server):
    assert read_image(f"{server}/Äpfel und Birnen.png?größe=1").info == {"svdkit_source": "Äpfel und Birnen.png"}
    assert read_image(f"{server}/%C3%84pfel.png").info == {"svdkit_source": "Äpfel.png"}


def test_the_query_is_neither_kept_nor_shown(server):
    """Addresses of cloud storage carry access tokens in the query."""
    assert fit(f"{server}/photo.png?token=secret", height=64, width=64).source == "photo.png"
    with pytest.raises(ImageError) as caught:
        read_image(f"{server}/404?token=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/404", r"/404 cannot be reached \(HTTP Error 404: Not Found\)\. Check the address, .* browser .*Or save"),
        ("/401", "HTTP Error 401: .* is public"),
        ("/429", r"HTTP Error 429: Too Many Requests"),
        ("/503", r"HTTP Error 503: Service Unavailable"),
        ("/to-ftp", "cannot be reached"),
        ("/to-file", "HTTP Error 302"),
        ("/to-data", "HTTP Error 302"),
        ("/loop", "infinite loop"),
        ("/page.jpg", r"/page\.jpg is a web page \(perhaps .* sign in\), not a photo\."),
        ("/json.jpg", r"/json\.jpg is a JSON text, not a photo\."),
        ("/gzip.jpg", r"/gzip\.jpg is a gzip archive, not a photo\."),
        ("/cut-short", r"was cut short, 4,\d+ bytes are missing; try again"),
        ("/nonsense", "cannot be reached"),
    ],
)
def test_every_other_answer_says_what_to_do(server, path, message):
    with pytest.raises(ImageError, match=message):
        read_image(server + path)


def test_an_endless_answer_is_stopped(server, monkeypatch):
    monkeypatch.setattr(read, "MAX_DOWNLOAD_BYTES", 300_000)
    with pytest.raises(ImageError, match=r"too large or too slow: .* bytes came, of at most 300,000"):
        read_image(f"{server}/endless")


@pytest.mark.parametrize("path", ["/drip", *SLOW])
def test_no_part_of_an_answer_may_take_longer(path, server, monkeypatch):
    """Each byte comes in time, the whole never would."""
    monkeypatch.setattr(read, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
    begin = time.monotonic()
    with pytest.raises(ImageError, match=rf"{path} is too large or too slow: \d+ bytes came, .* in 0 s"):
        read_image(server + path)
    assert 0.15 < time.monotonic() - begin < 2
    for thread in threading.enumerate():
        if thread.name == "svdkit-download":
            thread.join(2)
            assert not thread.is_alive(), "it would go on for as long as the server does"


def test_no_answer(server, monkeypatch):
    monkeypatch.setattr(read, "_ANSWER_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(ImageError, match=r"cannot be reached \(.*timed out\)"):
        read_image(f"{server}/silent")


def test_no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ImageError, match=r"cannot be reached \(.*\)\. Check the address, .* and the network"):
        read_image(f"http://127.0.0.1:{port}/photo.png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://", "cannot be reached .*no host given"),
        ("http://[", "cannot be reached .* looks like https://example.org/photo.jpg"),
        ("http://127.0.0.1:port/a.jpg", "cannot be reached"),
        ("http://a b/c.jpg", "cannot be reached"),
        ("https://\ud800/", "cannot be reached"),
        (f"http://{'a' * 300}.org/", "cannot be reached"),
    ],
)
def test_malformed_addresses(url, message):
    with pytest.raises(ImageError, match=message):
        read_image(url)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(ImageError, match="with a user name or password in them are not allowed") as caught:
        read_image("https://me:secret@example.org/a.jpg")
    assert "secret" not in str(caught.value)


def test_a_redirect_to_ftp_is_not_read(monkeypatch):
    """Urllib follows it, with an answer that is none of HTTP's."""
    monkeypatch.setattr(OpenerDirector, "open", lambda *_, **__: io.BytesIO(photo_bytes()))
    with pytest.raises(ImageError, match="leads on to an address that is not http or https"):
        read_image("http://example.org/a.jpg")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@example.org/a.jpg?token=1#x", "https://example.org/a.jpg"),
        ("http://[::1/a.jpg?token=1", "http://[::1/a.jpg"),
        ("http://me:secret@[/a.jpg", "http://[/a.jpg"),
        ("https://example.org/" + "a" * 200, "https://example.org/" + "a" * 99 + "…"),
    ],
)
def test_what_is_shown_of_an_address(url, shown):
    assert read._public_address(url) == shown
