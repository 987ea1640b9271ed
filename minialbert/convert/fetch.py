"""Gets one file from an http(s) address to a path: whole and checked, or not at all.

While it grows it is NAME.part, with what the server said about it in NAME.part.json, and a later call goes on from
there, even after a kill. web.py asks the server; which files make a model, and where they are, is in hub.py.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from minialbert.convert.web import Broken, Facts, ask, chunks, is_web, read_facts, without_secrets
from minialbert.errors import FileError, InputError
from minialbert.version import VERSION

try:
    import fcntl
except ImportError:  # Windows: two downloads of one file at a time are not told apart there
    fcntl = None  # type: ignore[assignment]

TRIES = 5  # in a row without getting any further
TRIES_UNREACHED = 2  # the same, when no server answers at all: without a network the error should come soon
PAUSE = 1.0  # seconds before the second try, twice as many before each further one
_FURTHER = 1 << 20  # bytes that count as getting further
_LARGE = 1 << 20  # bytes from which an equal size is enough where no digest is known


class NotThere(FileError):
    """The server says that it has no such file."""


class Fetched(NamedTuple):
    """What came. checked: the strongest thing that it was compared with, "sha256", "md5", "size" or "nothing"."""

    path: Path
    size: int
    checked: str
    revision: str  # of the repository, where the server tells it (the hub does), else ""


def fetch(
    address: str, target: str | Path, *, size: int | None = None, sha256: str | None = None, token: str | None = None,
    progress: bool = True, replace: bool = True,
) -> Fetched:  # fmt: skip
    """Download address to target. A target that already is what the server has is kept as it is.

    size and sha256 are what is expected, besides what the server says; token is sent to the first host only; with
    replace=False a target that is another file is refused, not replaced.
    Raises NotThere for 404, FileError for everything else between there and here, InputError for an address that is
    not http or https.
    """
    if not is_web(address):
        said = without_secrets(address)
        raise InputError(f"{said!r} is not an address to download from; expected https://HOST/PATH, without a password")
    if os.path.isdir(target):
        raise FileError(f"{target}: is a directory, expected the name of a file; move it away")
    work = _Download(address, Path(target), size, sha256, token, progress, replace)
    try:
        with _alone(work.part):
            return work.run()
    except FileError:
        raise
    except OSError as error:  # of the disk: those of the network are turned into Broken where they come up
        raise FileError(f"{target}: cannot be written ({error.strerror or error}); what came is kept") from error


# ---- one file ----


@dataclass
class _Download:
    address: str
    target: Path
    size: int | None
    sha256: str | None
    token: str | None
    progress: bool
    replace: bool

    def __post_init__(self) -> None:
        self.part = self.target.with_name(self.target.name + ".part")
        self.note = self.target.with_name(self.target.name + ".part.json")
        self.said = without_secrets(self.address)

    def run(self) -> Fetched:
        """Try until the file is whole, or until several tries in a row have brought nothing."""
        failures, most = 0, 0
        while True:
            try:
                return self.attempt()
            except Broken as error:
                have = self.part.stat().st_size
                failures = 1 if have >= most + _FURTHER else failures + 1
                most = max(most, have)
                if failures >= (TRIES if error.reached or most else TRIES_UNREACHED):
                    hint = "try again later" if error.reached else "is there a network?"
                    hint = f"{have:,} bytes are kept: run it again to go on" if have else hint
                    raise FileError(f"{self.said}: {error}, {failures} tries; {hint}") from None
                time.sleep(error.wait or PAUSE * 2 ** (failures - 1))

    def attempt(self) -> Fetched:
        """One request: for the whole, or for what the .part still lacks."""
        known, start = self.known(), self.part.stat().st_size
        if known and start == known.size:  # stopped between the last byte and the rename
            return self.finish(known)
        headers = {"User-Agent": f"minialbert/{VERSION}", "Accept-Encoding": "identity"}
        if known:
            headers["Range"] = f"bytes={start}-"
            if "sha256" not in known.digests:  # with a digest the end is checked, and two mirrors may differ in ETag
                headers["If-Range"] = known.validator
        response, linked = ask(self.address, headers, self.token)
        with response:
            self.refuse_status(response)
            facts = read_facts(self.address, response, linked)
            self.refuse_facts(response, facts)
            if response.status == 206:
                self.refuse_range(response, facts, known, start)
            elif self.is_here(facts):
                self.drop()
                return Fetched(self.target, facts.size or 0, _strongest(facts), facts.revision)
            else:
                start = 0
                os.truncate(self.part, 0)  # first this, then the note: a kill between them leaves nothing to go on from
                self.note.write_text(json.dumps(asdict(facts)), encoding="utf-8")
            self.copy(response, facts, start)
        return self.finish(facts)

    def known(self) -> Facts | None:
        """What is known about the .part, when it can be gone on from."""
        try:
            facts = Facts(**json.loads(self.note.read_bytes()))
            usable = facts.address == self.address and bool(facts.validator or facts.digests["sha256"])
            meant = self.size in (None, facts.size) and self.sha256 in (None, facts.digests.get("sha256"))
            return facts if usable and meant and self.part.stat().st_size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def refuse_status(self, response: HTTPResponse) -> None:
        status = response.status
        if status in (200, 206):
            return
        if status in (404, 410):
            raise NotThere(f"{self.said}: not found there ({status}); check the name and the address")
        if status in (401, 403):
            if self.token:
                raise FileError(
                    f"{self.said}: refused ({status}), the token in HF_TOKEN does not open it; is it valid?"
                )
            raise FileError(
                f"{self.said}: refused ({status}): not there, or only with a token; check the name, set HF_TOKEN"
            )
        if status == 416:  # the .part is longer than the file now is
            self.drop()
            raise Broken("what was here does not fit the file there")
        if status in (408, 425, 429) or status >= 500:
            wait = response.headers.get("Retry-After", "")
            raise Broken(f"the server answers {status}", min(float(wait), 30.0) if wait.isdecimal() else 0.0)
        raise FileError(f"{self.said}: the server answers {status}, expected 200; try again later")

    def refuse_facts(self, response: HTTPResponse, facts: Facts) -> None:
        """What can be told before the first byte."""
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise self.web_page()
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity" and not self.target.name.endswith(("gz", "zip")):
            raise FileError(f"{self.said}: comes packed as {encoding!r}, which was not asked for; use another mirror")
        if self.size is not None and facts.size not in (None, self.size):
            raise FileError(
                f"{self.said}: has {facts.size:,} bytes, expected {self.size:,}; not the file that is meant"
            )
        if self.sha256:
            if facts.digests.get("sha256", self.sha256) != self.sha256:
                found = facts.digests["sha256"]
                raise FileError(f"{self.said}: has sha256 {found}, expected {self.sha256}; not the file that is meant")
            facts.digests = {"sha256": self.sha256}
        facts.size = self.size if facts.size is None else facts.size
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()  # these have an end of their own
        if facts.size is None and not facts.digests and not chunked:
            raise FileError(
                f"{self.said}: the server does not say how long the file is, so half of it could pass for all"
            )

    def refuse_range(self, response: HTTPResponse, facts: Facts, known: Facts | None, start: int) -> None:
        """A part may be put behind ours only when it is the right part of the same content."""
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if known is None or not found or int(found[1]) != start:
            self.drop()
            raise Broken("the server sent another part of the file than was asked for")
        same = facts.digests == known.digests if "sha256" in known.digests else facts.validator == known.validator
        if not same or facts.size != (known.size or facts.size):
            self.drop()
            raise Broken("the file there changed meanwhile")

    def is_here(self, facts: Facts) -> bool:
        """Whether the target already is this file, as far as the server tells; small ones are better compared."""
        if not self.target.is_file() or facts.size != self.target.stat().st_size:
            return False
        if not facts.digests:
            return self.target.stat().st_size >= _LARGE
        return all(_digest(self.target, kind) == value for kind, value in facts.digests.items())

    def copy(self, response: HTTPResponse, facts: Facts, have: int) -> None:
        """The body, to the end of the .part. Raises Broken when the connection ends too soon."""
        total = facts.size
        need, free = (total or 0) - have, shutil.disk_usage(self.part.parent).free
        if need > free:
            raise FileError(f"{self.target}: needs {need:,} bytes more, the disk has {free:,}; make room")
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=self.target.name, file=sys.stderr,
                   disable=None if self.progress else True)  # fmt: skip
        with bar, open(self.part, "ab") as file:
            for chunk in chunks(response, None if total is None else total - have):
                have += len(chunk)
                if total is not None and have > total:
                    file.truncate(0)
                    raise FileError(f"{self.said}: more came than the {total:,} bytes that were announced; not kept")
                file.write(chunk)
                bar.update(len(chunk))
                if have == total and facts.digests:  # they will tell; no need to wait for the end of the connection
                    break
            file.flush()
            os.fsync(file.fileno())
        if have < (total or 0):
            raise Broken(f"the connection ended after {have:,} of {total:,} bytes")

    def finish(self, facts: Facts) -> Fetched:
        """Check what came against what was said of it, and give it its name."""
        for kind, expected in facts.digests.items():
            found = _digest(self.part, kind)
            if found != expected:
                self.drop()
                raise FileError(
                    f"{self.target}: {kind} of what came is {found}, expected {expected}; not kept, download it again"
                )
        with open(self.part, "rb") as file:
            first = file.read(512).lstrip().lower()
        if first.startswith((b"<!doctype html", b"<html")):  # no file of a model begins so
            self.drop()
            raise self.web_page()
        got = Fetched(self.target, self.part.stat().st_size, _strongest(facts), facts.revision)
        if self.target.exists() and _digest(self.target, "sha256") == _digest(self.part, "sha256"):
            self.drop()
            return got
        if self.target.exists() and not self.replace:
            self.drop()
            raise FileError(f"{self.target}: is there and is another file than {self.said}; choose another directory")
        os.replace(self.part, self.target)
        self.note.unlink(missing_ok=True)
        return got

    def web_page(self) -> FileError:
        return FileError(f"{self.said}: a web page came instead of the file; does this network ask for a login?")

    def drop(self) -> None:
        """Nothing to go on from any more; the empty .part is removed with the lock."""
        os.truncate(self.part, 0)
        self.note.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """One process at a time for one .part; what is left empty at the end is removed."""
    new = not part.parent.exists()
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:
        if fcntl is None:
            file.close()  # what is open cannot be renamed there
        elif not _locked(file.fileno(), part):
            raise FileError(f"{part}: another process is downloading it; wait for it, or end it")
        try:
            yield
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()
                part.with_name(part.name + ".json").unlink(missing_ok=True)
            if new:
                with contextlib.suppress(OSError):  # not empty: the usual case
                    part.parent.rmdir()


def _locked(descriptor: int, part: Path) -> bool:
    """Whether the open file is ours alone, and still has its name (another process may just have been done with it)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), part.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # a file system without locks
        return True


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _strongest(facts: Facts) -> str:
    return next(iter(facts.digests), "nothing" if facts.size is None else "size")
