"""The address of a photo on the web → its bytes, with limits on size, time and where it may lead."""

from __future__ import annotations

import re
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from svdkit.errors import ImageError

# A 100-megapixel photo is 20 to 60 MB as a JPEG; more than this is not a photo that a clip needs.
MAX_DOWNLOAD_BYTES = 128 * 2**20
ANSWER_TIMEOUT_SECONDS = 20.0
# A server that sends a byte now and then never runs into the timeout above, so the whole is limited too.
DOWNLOAD_TIMEOUT_SECONDS = 120.0
_INSTEAD = "Or save the picture on this machine and give the path of the file."


def fetch(url: str) -> bytes:
    """Download a photo from an http or https address; proxies are taken from the environment, as usual."""
    shown = public_address(url)
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ImageError(f"{shown}: addresses with a user name or password in them are not allowed. {_INSTEAD}")
    try:
        address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        headers = {"User-Agent": "Mozilla/5.0 (svdkit)"}  # urllib's own name is refused by many sites
        request = Request(address, headers=headers)  # noqa: S310 - read_image lets only http and https through
        with urlopen(request, timeout=ANSWER_TIMEOUT_SECONDS) as response:  # noqa: S310 - the same
            return _receive(response, shown)
    except HTTPError as error:
        error.close()
        raise ImageError(
            f"{shown} answered with HTTP error {error.code} ({error.reason}), not with a picture. Open the address in "
            f"a browser to see whether it exists and is public. {_INSTEAD}"
        ) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a malformed host, port or name
        reason = error.reason if isinstance(error, URLError) else error
        raise ImageError(
            f"{shown} cannot be reached ({reason or type(reason).__name__}). Check the address, which looks like "
            f"https://example.org/photo.jpg, and the network. {_INSTEAD}"
        ) from error


def public_address(url: str) -> str:
    """Shorten an address to what may be shown and kept: no user, password, query (often a token) or fragment."""
    return printable(re.sub(r"(?s)^([^:]*://)([^/]*@)?([^?#]*).*$", r"\1\3", url))


def printable(text: str) -> str:
    """Escape control characters and lone surrogates, and cut to 120 characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:121])
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _receive(response: Any, shown: str) -> bytes:
    """Read the body in pieces, and stop as soon as it is too long or takes too long."""
    if not isinstance(response, HTTPResponse):  # urllib follows redirects to ftp, but not to file
        raise ImageError(f"{shown} leads on to an address that is not http or https. {_INSTEAD}")
    declared, received = response.length or 0, bytearray()
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS
    while chunk := response.read1(1 << 16):
        received += chunk
        if len(received) > MAX_DOWNLOAD_BYTES or time.monotonic() > deadline:
            raise ImageError(
                f"{shown} is too large or too slow: {len(received):,} bytes came, of at most {MAX_DOWNLOAD_BYTES:,} in "
                f"{DOWNLOAD_TIMEOUT_SECONDS:.0f} s. Give the address of a smaller picture. {_INSTEAD}"
            )
    if len(received) < declared:
        raise ImageError(f"{shown} was cut short: {len(received):,} of {declared:,} bytes came. Try again. {_INSTEAD}")
    return bytes(received)
