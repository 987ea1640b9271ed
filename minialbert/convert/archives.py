"""Release archives, .tar.gz and .zip: the files of a model unpacked into a directory, and nothing outside it.

sources.py finds the model among them. What no reader here needs (graphs, readable vocabularies) is left out.
"""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from minialbert.convert.sstable import stand_in
from minialbert.errors import CheckpointError, FileError, MiniAlbertError

ENDINGS = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
_NEEDED = (".index", ".json", ".model", ".txt", ".safetensors", ".bin")  # and shards of data
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, ValueError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
Member = tuple[str, int, str, IO[bytes] | None]  # name, bytes, kind ("file", "directory" or another word), content


def is_archive(path: Path) -> bool:
    """By its name; what is in it shows when it is unpacked."""
    return path.name.lower().endswith(ENDINGS)


def unpack(path: Path, directory: Path) -> None:
    """Writes what a model needs into the directory.

    Raises CheckpointError when the archive is damaged, when a member would land outside the directory (by its name or
    as a link), or when two have one name; FileError when there is not room for all, or the disk fails.
    """
    try:
        with open(path, "rb") as file:
            if trouble := stand_in(file.read(64)):
                raise CheckpointError(f"{path}: {trouble}")
        room = shutil.disk_usage(directory).free
        seen: set[str] = set()
        for name, size, kind, content in _members(path):
            target = _inside(path, name)
            if kind == "directory" or not _is_needed(target):
                continue
            if kind != "file" or content is None:
                raise CheckpointError(f"{path}: its member {name!r} is a {kind}, expected plain files; refused")
            if str(target) in seen:
                raise CheckpointError(f"{path}: has two members {name!r}; refused")
            seen.add(str(target))
            room -= size
            if room < 0:
                raise FileError(f"{path}: unpacked, {name!r} has {size:,} bytes and no room in {directory}")
            (directory / target).parent.mkdir(parents=True, exist_ok=True)
            with open(directory / target, "xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            if (directory / target).stat().st_size != size:
                raise CheckpointError(f"{path}: its member {name!r} is cut off; download the archive again")
    except MiniAlbertError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: not a whole archive ({_first_line(error)}); download it again") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be unpacked ({error.strerror or _first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(":")


def _members(path: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                link = (info.external_attr >> 28) == 0o12
                kind = "directory" if info.is_dir() else "link" if link else "file"
                yield info.filename, info.file_size, kind, archive.open(info) if kind == "file" else None
        return
    with tarfile.open(path) as archive:
        for member in archive:
            kind = "directory" if member.isdir() else "file" if member.isfile() else "link"
            if not (member.isdir() or member.isfile() or member.issym() or member.islnk()):
                kind = "device"
            yield member.name, member.size, kind, archive.extractfile(member) if kind == "file" else None
        while archive.fileobj.read(1 << 20):  # to the end, where the checksum is
            pass


def _inside(path: Path, name: str) -> PurePosixPath:
    """The name as a relative path below the directory, or an error."""
    target = PurePosixPath(name.replace("\\", "/"))
    if target.is_absolute() or ".." in target.parts or ":" in target.parts[:1] or "\0" in name or not name.strip():
        raise CheckpointError(f"{path}: its member {name!r} would leave the directory; refused")
    return target


def _is_needed(target: PurePosixPath) -> bool:
    return target.suffix in _NEEDED or ".data-" in target.name
