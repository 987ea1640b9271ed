"""Files and directories are whole or not there, whatever goes wrong in between."""

import os
import subprocess
import sys

import pytest

from minialbert.errors import FileError, InputError
from minialbert.whole import check_free, whole_directory, whole_file


def test_a_file_has_its_name_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.name.startswith(".")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [InputError("of the source"), ValueError("a mistake"), KeyboardInterrupt()])
def test_what_goes_wrong_in_between_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, whole_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error and path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_what_the_disk_refuses_is_one_line(tmp_path):
    full = pytest.raises(FileError, match=r"file: cannot be written \(No space left on device\)")
    with full, whole_file(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    (tmp_path / "plain").touch()
    with pytest.raises(FileError, match="cannot be written"), whole_file(tmp_path / "plain" / "below") as temporary:
        temporary.write_text("x")
    with pytest.raises(FileError, match="cannot be made"), whole_directory(tmp_path / "plain" / "below"):
        pass


def test_a_directory_is_whole_or_not_there(tmp_path):
    with pytest.raises(InputError), whole_directory(tmp_path / "a" / "made") as folder:
        (folder / "file").touch()
        raise InputError("no")
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "a" / "made").mkdir()  # an empty one may be there
    with whole_directory(tmp_path / "a" / "made") as folder:
        (folder / "file").touch()
    assert os.listdir(tmp_path / "a") == ["made"] and os.listdir(tmp_path / "a" / "made") == ["file"]
    assert (tmp_path / "a" / "made").stat().st_mode & 0o777 == 0o755


def test_a_kill_leaves_no_name_that_looks_whole(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from minialbert.whole import whole_directory, whole_file
with whole_directory(Path({str(tmp_path)!r}) / "d") as folder, whole_file(Path({str(tmp_path)!r}) / "f") as file:
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert all(name.startswith(".") for name in os.listdir(tmp_path))


def test_a_place_is_free_or_the_reason_is_told_before_the_work(tmp_path):
    check_free(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    reasons = {"full": "is there and not empty", "full/file": "is a file", "full/file/x": "cannot be made"}
    for path, why in reasons.items():
        with pytest.raises(FileError, match=why):
            check_free(tmp_path / path)
