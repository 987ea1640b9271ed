"""Files and directories that are whole or not there: made beside the target under a temporary name, then renamed.

Whoever is killed in between leaves at most a file or directory whose name begins with a dot.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minialbert.errors import FileError, MiniAlbertError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to, renamed at the end. Raises FileError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except MiniAlbertError:  # of the source that is being read for this
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):  # where the directory itself is not one
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary directory to write into, renamed at the end; an empty target is replaced. Raises FileError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise FileError(f"{path}: cannot be made ({error.strerror or error})") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's is for its owner alone
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise FileError(f"{path}: cannot be made ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(path: Path) -> None:
    """Can this directory be made? Asked before work that may take an hour. Raises FileError."""
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        what = "is there and not empty" if os.path.isdir(path) else "is a file"
        raise FileError(f"{path}: {what}; give the name of a directory that is to be made")
    there = next(above for above in path.absolute().parents if os.path.lexists(above))
    if not os.path.isdir(there) or not os.access(there, os.W_OK):
        raise FileError(f"{path}: cannot be made ({there} is {'read-only' if os.path.isdir(there) else 'a file'})")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses within it becomes a FileError that names the path."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror or error})") from None
