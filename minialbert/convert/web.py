"""One question to a web server and its answer: redirects, what the headers tell about a file, the body as it comes.

fetch.py makes a whole file of it. Redirects are followed here and not by urllib, because the hub tells size and
SHA-256 of a large file on the answer that redirects. Source: RFC 9110 (sections 8, 13 to 15).
"""

import base64
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from minialbert.errors import FileError

TIMEOUT = 20.0  # seconds without a byte
REDIRECTS = 10
_CHUNK = 1 << 18


class Broken(Exception):
    """What another try may mend."""

    def __init__(self, why: str, wait: float = 0.0, reached: bool = True):
        super().__init__(why)
        self.wait, self.reached = wait, reached


@dataclass
class Facts:
    """What a server says about a file."""

    address: str
    size: int | None = None
    validator: str = ""  # by which the server knows this very content again: a strong ETag, or the date
    digests: dict[str, str] = field(default_factory=dict)  # "sha256" or "md5": in hexadecimal digits
    revision: str = ""


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def ask(address: str, headers: dict[str, str], token: str | None) -> tuple[HTTPResponse, dict[str, str]]:
    """The answer at the end of all redirects, and what was told on the way: the headers X-Linked-* and X-Repo-Commit.

    The token goes to the host of the address and to no other. Raises Broken, FileError.
    """
    opener = build_opener(_NoRedirects)  # proxies from the environment, certificates from the system
    here, linked = address, dict[str, str]()
    for _ in range(REDIRECTS + 1):
        ours = urlsplit(here)[:2] == urlsplit(address)[:2]
        request = Request(here, headers=headers | ({"Authorization": f"Bearer {token}"} if token and ours else {}))
        response = _open(opener, request, without_secrets(address))
        for name in ("X-Linked-ETag", "X-Linked-Size", "X-Repo-Commit"):
            if response.headers.get(name):
                linked.setdefault(name, response.headers[name])
        if response.status not in (301, 302, 303, 307, 308):
            return response, linked
        response.close()
        here = _next(here, response.headers)
    raise FileError(f"{without_secrets(address)}: more than {REDIRECTS} redirects, one after the other; wrong address?")


def _open(opener: Any, request: Request, said: str) -> Any:
    try:
        return opener.open(request, timeout=TIMEOUT)
    except HTTPError as error:  # an answer too
        return error
    except (InvalidURL, UnicodeError) as error:
        raise FileError(f"{said}: not an address that can be asked for ({error})") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FileError(
                f"{said}: the certificate of {request.host} is not trusted ({reason.verify_message}); behind a proxy, "
                "name its certificates in SSL_CERT_FILE"
            ) from None
        raise Broken(_in_words(reason), reached=not isinstance(error, URLError)) from None


def _next(here: str, headers: Message) -> str:
    """Where a redirect leads: http or https, and never from the second to the first."""
    place = quote(headers.get("Location", ""), encoding="iso-8859-1", safe="%/:=&?~#+!$,;'@()*")
    there = urljoin(here, place) if place else ""
    if not is_web(there) or urlsplit(there).scheme not in ("https", urlsplit(here).scheme):
        raise FileError(f"{without_secrets(here)}: redirects to {without_secrets(place)!r}, which is not followed")
    return there


def is_web(address: str) -> bool:
    """Whether this is an http or https address of some host, without a name and password in it."""
    try:
        parts = urlsplit(address)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:  # brackets that do not close, a port that is none
        return False


def chunks(response: HTTPResponse, left: int | None) -> Iterator[bytes]:
    """The body as it comes, and what comes behind it: http.client would cut at Content-Length and not tell."""
    if not response.chunked:
        response.length = None
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, HTTPException) as error:
            if left == 0:  # everything is here; the end of the connection was not a clean one
                return
            raise Broken(_in_words(error)) from None
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk


def read_facts(address: str, response: HTTPResponse, linked: dict[str, str]) -> Facts:
    """Size, identity and digests out of the headers."""
    headers = response.headers
    size, total = _number(headers.get("Content-Length")), _number(linked.get("X-Linked-Size"))
    if response.status == 206:
        size = _number(headers.get("Content-Range", "").rpartition("/")[2])
    if None not in (size, total) and size != total:
        raise FileError(
            f"{without_secrets(address)}: sends {size:,} bytes of a file that has {total:,}; try again later"
        )
    etag = headers.get("ETag", "").strip()
    facts = Facts(address, total if size is None else size, revision=linked.get("X-Repo-Commit", ""))
    facts.validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # W/"..." names no bytes
    for tag in (linked.get("X-Linked-ETag", ""), etag):
        found = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', tag.strip())
        if found:
            facts.digests = {"sha256": found[1]}
            return facts
    md5 = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("X-Goog-Hash", [])))  # Google's storage
    if md5 and headers.get("X-Goog-Stored-Content-Encoding", "identity") == "identity":
        facts.digests = {"md5": base64.b64decode(md5[1]).hex()}
    return facts


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


def without_secrets(address: str) -> str:
    """An address for a message: no name and password, no signature behind a question mark."""
    return re.sub(r"//[^/?#]*@", "//", address).partition("?")[0]


def _in_words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
