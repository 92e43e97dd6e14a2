"""The address of a photo on the web → its bytes, with limits on size, time and where it may lead."""

from __future__ import annotations

import time
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import IO, TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from svdkit.errors import ImageError

if TYPE_CHECKING:
    from http.client import HTTPMessage

# A 100-megapixel photo is 20 to 60 MB as a JPEG; more than this is not a photo that a clip needs.
MAX_DOWNLOAD_BYTES = 128 * 2**20
ANSWER_TIMEOUT_SECONDS = 20.0
# A server that sends a byte now and then never runs into the timeout above, so the whole is limited too.
DOWNLOAD_TIMEOUT_SECONDS = 120.0

_HEADERS = {"User-Agent": "Mozilla/5.0 (svdkit)"}  # urllib's own name is refused by many sites
_CHUNK_BYTES = 1 << 16
_INSTEAD = "Or save the picture on this machine and give the path of the file."

_ADVICE = {
    401: "The server asks for a login.",
    403: "The server refuses programs, or asks for a login.",
    404: "Nothing is there: check the address for typing errors.",
    410: "The picture was taken away.",
    429: "The server is busy with too many requests: wait a minute and try again.",
}


class _WebOnly(HTTPRedirectHandler):
    """Follows redirects to http and https only: a web page must not make us open a file or an FTP server."""

    def redirect_request(  # noqa: PLR0917 - urllib's own signature
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Refuse a redirect to any other scheme; urllib itself would follow ftp."""
        if urlsplit(newurl).scheme.lower() not in {"http", "https"}:
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Build an opener that knows http and https and nothing else (urllib's default also opens ftp, file and data)."""
    opener = OpenerDirector()
    web = (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor, _WebOnly)
    for handler in (*web, UnknownHandler):
        opener.add_handler(handler())
    return opener


def public_address(url: str) -> str:
    """Shorten an address to what may be shown and kept: no user, password, query or fragment.

    Args:
        url: Any text that begins like an address.

    Returns:
        Scheme, host and path, at most 120 characters; queries often hold access tokens.

    Example:
        >>> public_address("https://me:secret@example.org/a.jpg?token=1")
        'https://example.org/a.jpg'
    """
    try:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:  # urlsplit refuses unbalanced brackets in the host
        shown = url.partition("?")[0].rpartition("@")[2]
    return printable(shown)


def printable(text: str) -> str:
    r"""Make any text safe to show in a message.

    Args:
        text: A name or address, of any length and characters.

    Returns:
        The text with control characters and lone surrogates escaped, cut to 120 characters.

    Example:
        >>> printable("a\nb.jpg")
        'a\\nb.jpg'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:121])
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def fetch(url: str) -> tuple[bytes, str]:
    """Download a photo.

    Args:
        url: An address that begins with ``http://`` or ``https://``. Proxies are taken from the environment
            (``http_proxy``, ``https_proxy``, ``no_proxy``), as usual.

    Returns:
        The bytes (at most ``MAX_DOWNLOAD_BYTES``) and the content type that the server gave, such as
        ``"image/jpeg"``; empty when it gave none.

    Raises:
        ImageError: The address is malformed, cannot be reached, answers with an error, leads on to something
            that is not http or https, or sends too much, too slowly or too little.

    Example:
        >>> data, content_type = fetch("https://example.org/photo.jpg")  # doctest: +SKIP
    """
    shown = public_address(url)
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ImageError(f"{shown}: addresses with a user name or password in them are not allowed. {_INSTEAD}")
    try:
        address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        request = Request(address, headers=_HEADERS)  # noqa: S310 - the opener knows http and https only
        with _opener().open(request, timeout=ANSWER_TIMEOUT_SECONDS) as response:
            return _receive(response, shown), response.headers.get_content_type()
    except HTTPError as error:
        error.close()
        raise ImageError(_refusal(error, shown)) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a malformed host, port or name
        raise ImageError(_unreachable(error, shown)) from error


def _receive(response: HTTPResponse, shown: str) -> bytes:
    """Read the body in pieces, and stop as soon as it is too long or takes too long."""
    declared = -1 if response.length is None else response.length
    received = bytearray()
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS
    while chunk := b"" if declared > MAX_DOWNLOAD_BYTES else response.read1(_CHUNK_BYTES):
        received += chunk
        if len(received) > MAX_DOWNLOAD_BYTES:
            break
        if time.monotonic() > deadline:
            raise ImageError(
                f"{shown} is too slow: {len(received):,} bytes came in {DOWNLOAD_TIMEOUT_SECONDS:.0f} s. Try again "
                f"later. {_INSTEAD}"
            )
    if max(declared, len(received)) > MAX_DOWNLOAD_BYTES:
        raise ImageError(
            f"{shown} is too large to download: more than the {MAX_DOWNLOAD_BYTES:,} bytes allowed. Give the address "
            f"of a smaller picture. {_INSTEAD}"
        )
    if len(received) < declared:
        raise ImageError(
            f"the download of {shown} was cut short: {len(received):,} of {declared:,} bytes came. Try again. "
            f"{_INSTEAD}"
        )
    return bytes(received)


def _refusal(error: HTTPError, shown: str) -> str:
    """Say what an HTTP status means for somebody who wants a photo."""
    if 300 <= error.code < 400:
        return (
            f"{shown} leads on to another address that svdkit does not follow: only http and https are allowed, and "
            f"at most 10 steps. Open it in a browser and copy the picture's own address. {_INSTEAD}"
        )
    advice = _ADVICE.get(error.code, "The server is in trouble: try again later." if error.code >= 500 else "")
    return f"{shown} answered with HTTP error {error.code}, not with a picture. {advice} {_INSTEAD}".replace("  ", " ")


def _unreachable(error: Exception, shown: str) -> str:
    """Say why no answer came."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return f"{shown} did not answer within {ANSWER_TIMEOUT_SECONDS:.0f} s. Try again later. {_INSTEAD}"
    if isinstance(error, ValueError | InvalidURL):
        return (
            f"{shown} is not a well-formed address ({reason}). An address looks like "
            f"https://example.org/photo.jpg. Copy it from the browser's address bar. {_INSTEAD}"
        )
    return (
        f"{shown} cannot be reached ({reason or type(reason).__name__}). Check the address and the network. {_INSTEAD}"
    )
