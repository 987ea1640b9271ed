"""Downloading one file, from a server on this machine that goes wrong in every way there is."""

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from email.message import Message
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minialbert.convert.fetch as fetch_module
import minialbert.convert.web as web_module
from minialbert.convert.fetch import NotThere, fetch
from minialbert.convert.web import _next
from minialbert.errors import FileError, InputError
from tests.convert.web_server import COMMIT, redirect, refuse, web_server

CONTENT = bytes(range(256)) * 2000 + b"the end"  # more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    with web_server(monkeypatch) as server:
        server.files["/model.safetensors"] = CONTENT
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "here" / "model.safetensors"


def get(server, target, **how):
    how.setdefault("progress", False)
    return fetch(f"{server.address}/model.safetensors", target, **how)


def refused(call, *words, kind=FileError):
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


def only(target):
    """Nothing but the file is left, and it is whole."""
    return [path.name for path in target.parent.iterdir()] == [target.name] and target.read_bytes() == CONTENT


def nothing(target):
    return not target.parent.exists() or not list(target.parent.iterdir())


# ---- whole files ----


def test_a_file_comes_whole_and_alone(server, target):
    got = get(server, target)
    assert got == (target, len(CONTENT), "size", "") and only(target)
    asked = server.asked[0][1]
    assert "range" not in asked and "authorization" not in asked and asked["accept-encoding"] == "identity"


def test_a_file_that_is_there_and_equal_is_kept(server, target):
    get(server, target)
    before = target.stat()
    assert get(server, target, sha256=SHA256).checked == "sha256"
    assert target.stat().st_mtime_ns == before.st_mtime_ns and target.stat().st_ino == before.st_ino and only(target)


def test_a_large_file_of_equal_size_is_kept_where_no_digest_is_known(server, target, monkeypatch):
    target.parent.mkdir()
    target.write_bytes(b"x" + CONTENT[1:])
    monkeypatch.setattr(fetch_module, "_LARGE", len(CONTENT))
    get(server, target)
    assert target.read_bytes() == b"x" + CONTENT[1:]
    monkeypatch.setattr(fetch_module, "_LARGE", len(CONTENT) + 1)  # a small one comes again and is compared
    get(server, target)
    assert only(target)


def test_another_file_can_be_protected(server, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    refused(lambda: get(server, target, replace=False), "is another file than http", "choose another directory")
    assert target.read_bytes() == b"mine" and len(list(target.parent.iterdir())) == 1
    target.write_bytes(CONTENT)
    get(server, target, replace=False)
    assert only(target)


def test_without_locks_it_works_all_the_same(server, target, monkeypatch):
    monkeypatch.setattr(fetch_module, "fcntl", None)  # as on Windows
    server.answers = [server.but(cut=300_000)]
    get(server, target)
    assert server.asked[1][1]["range"] == "bytes=300000-" and only(target)


def test_a_connection_that_stays_open_is_waited_for_only_without_a_digest(server, target, monkeypatch):
    release = threading.Event()

    def stay(handler):
        server.serve(handler)
        handler.wfile.flush()
        release.wait(30)

    server.answers = [stay, stay]
    get(server, target)  # after TIMEOUT
    monkeypatch.setattr(web_module, "TIMEOUT", 20)
    server.headers["/model.safetensors"] = {"X-Linked-ETag": f'"{SHA256}"'}
    start = time.monotonic()
    get(server, target.with_name("b"))
    assert time.monotonic() - start < 15 and target.with_name("b").read_bytes() == CONTENT
    release.set()


@pytest.mark.parametrize("damage", [CONTENT[:-1], b"x" + CONTENT[1:]])
def test_a_damaged_file_is_replaced(server, target, damage):
    server.headers["/model.safetensors"] = {"X-Linked-ETag": f'"{SHA256}"'}
    target.parent.mkdir()
    target.write_bytes(damage)
    assert get(server, target).checked == "sha256" and only(target)


def test_a_file_without_a_length_comes_in_chunks_or_not_at_all(server, target):
    def chunked(handler, end=b"0\r\n\r\n"):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for i in range(0, len(CONTENT), 100_000):
            piece = CONTENT[i : i + 100_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(end)

    server.answers = [chunked]
    assert get(server, target).checked == "nothing" and only(target)
    target.unlink()
    server.answers = [lambda handler: chunked(handler, b"")]  # the last, empty chunk is missing: try again
    assert get(server, target).checked == "size" and only(target)
    target.unlink()
    server.answers = [server.but(Content_Length=None)]
    refused(lambda: get(server, target), "does not say how long")
    assert nothing(target)
    server.answers = [server.but(Content_Length=None)]
    assert get(server, target, size=len(CONTENT)).checked == "size" and only(target)


def test_an_empty_file_is_a_file(server, target):
    server.files["/model.safetensors"] = b""
    assert get(server, target).size == 0 and target.read_bytes() == b""


def test_progress_goes_to_stderr_of_a_terminal_only(server, target, capsys, monkeypatch):
    get(server, target, progress=True)
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    target.unlink()
    get(server, target, progress=True)
    assert "model.safetensors: 100%" in terminal.getvalue()
    target.unlink()
    terminal.truncate(0)
    get(server, target, progress=False)
    assert terminal.getvalue() == ""


# ---- going on ----


def test_a_broken_connection_is_gone_on_from_where_it_broke(server, target):
    server.answers = [server.but(cut=300_000)]
    assert get(server, target).size == len(CONTENT) and only(target)
    second = server.asked[1][1]
    assert second["range"] == "bytes=300000-" and second["if-range"] == server.etag("/model.safetensors")


def test_a_server_without_ranges_is_asked_for_the_whole_again(server, target):
    server.ranges = False
    server.answers = [server.but(cut=300_000)]
    get(server, target)
    assert "range" in server.asked[1][1] and only(target)


def test_a_server_that_names_no_version_is_asked_for_the_whole_again(server, target):
    server.etags = False
    server.answers = [server.but(cut=300_000), server.but(cut=400_000, ETag='W/"weak"')]
    get(server, target)
    assert all("range" not in headers for _, headers in server.asked) and only(target)


@pytest.mark.parametrize("older", [b"an older one, " + CONTENT, CONTENT[::-1]])
@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_meanwhile_starts_over(server, target, heeds, older):
    server.files["/model.safetensors"] = older
    server.answers = [server.but(cut=300_000), *[refuse(503)] * 4]
    refused(lambda: get(server, target), "300,000 bytes are kept")
    server.files["/model.safetensors"] = CONTENT
    if not heeds:  # a server that does not know If-Range sends the rest of the new file
        server.answers = [lambda handler: (handler.headers.__delitem__("If-Range"), server.serve(handler))]
    get(server, target)
    assert only(target)


def test_another_part_than_was_asked_for_is_not_put_behind_ours(server, target):
    end = f"{len(CONTENT) - 1}/{len(CONTENT)}"
    server.answers = [server.but(cut=300_000), server.but(Content_Range=f"bytes 299999-{end}")]
    get(server, target)
    assert [headers.get("range") for _, headers in server.asked] == [None, "bytes=300000-", None] and only(target)


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, target, monkeypatch):
    monkeypatch.setattr(fetch_module, "_FURTHER", 40_000)
    server.ranges = False
    server.answers = [server.but(cut=cut) for cut in (100_000, 1000) * 10]
    refused(lambda: get(server, target), "ended after 100,000 of", "5 tries")
    assert len(server.asked) == 5


def test_a_later_call_goes_on_and_tells_what_is_there(server, target):
    server.answers = [server.but(cut=200_000), *[refuse(500)] * 4]
    refused(lambda: get(server, target), "answers 500", "200,000 bytes are kept", "run it again")
    assert not target.exists()
    get(server, target)
    assert server.asked[-1][1]["range"] == "bytes=200000-" and only(target)


def test_a_digest_makes_the_etag_of_a_mirror_unimportant(server, target):
    server.headers["/model.safetensors"] = {"X-Linked-ETag": f'"{SHA256}"'}
    server.answers = [server.but(cut=200_000, ETag='"of another mirror"')]
    assert get(server, target).checked == "sha256" and only(target)
    assert server.asked[1][1]["range"] == "bytes=200000-" and "if-range" not in server.asked[1][1]


@pytest.mark.parametrize("spoil", ["note gone", "note cut", "note of another", "part too long", "part gone"])
def test_what_cannot_be_trusted_starts_over(server, target, spoil):
    server.answers = [server.but(cut=200_000), *[refuse(500)] * 4]
    refused(lambda: get(server, target))
    part, note = target.with_name("model.safetensors.part"), target.with_name("model.safetensors.part.json")
    if spoil == "note gone":
        note.unlink()
    elif spoil == "note cut":
        note.write_bytes(note.read_bytes()[:20])
    elif spoil == "note of another":
        note.write_text(json.dumps(json.loads(note.read_text()) | {"address": "http://elsewhere/x"}))
    elif spoil == "part too long":
        part.write_bytes(CONTENT + b"more")
    else:
        part.unlink()
    get(server, target)
    assert "range" not in server.asked[-1][1] and only(target)


def test_stopped_between_the_last_byte_and_the_rename_needs_no_server(server, target, monkeypatch):
    def stop():
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
            refused(lambda: get(server, target), "cannot be written (Read-only file system)")

    stop()
    get(server, target)
    assert len(server.asked) == 1 and only(target)
    target.unlink()
    stop()  # but what is expected by the later call is what counts
    refused(lambda: get(server, target, sha256="0" * 64), "sha256 of what came is")
    stop()
    refused(lambda: get(server, target, size=17), "expected 17")
    get(server, target)
    assert only(target)


def test_a_process_that_was_just_done_with_it_is_not_written_over(server, target, monkeypatch):
    def flock(descriptor, how):  # between our open and our lock the other one gave the file its name
        os.replace(target.with_name("model.safetensors.part"), target)

    monkeypatch.setattr(fetch_module, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=0, LOCK_NB=0))
    refused(lambda: get(server, target), "another process is downloading it")
    assert server.asked == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300).filter(lambda content: not content.lstrip().startswith(b"<")),  # a web page
       cuts=st.lists(st.integers(0, 300), max_size=4), ranges=st.booleans(), etags=st.booleans())  # fmt: skip
def test_wherever_connections_break_the_file_is_the_same(server, tmp_path, content, cuts, ranges, etags):
    target = tmp_path / "x.bin"
    target.unlink(missing_ok=True)
    server.files["/x.bin"], server.ranges, server.etags = content, ranges, etags
    server.answers = [server.but(cut=cut) for cut in cuts]
    fetch(f"{server.address}/x.bin", target, progress=False)
    server.answers = []
    assert target.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(server, target):
    def half_then_wait(handler):
        server.serve(handler, cut=400_000)
        handler.wfile.flush()
        time.sleep(30)

    server.answers = [half_then_wait]
    code = f"from minialbert.convert.fetch import fetch; fetch('{server.address}/model.safetensors', {str(target)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    part = target.with_name("model.safetensors.part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 400_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    refused(lambda: get(server, target), "another process is downloading it")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    get(server, target)
    assert server.asked[-1][1]["range"] == "bytes=400000-" and only(target)


# ---- what is refused ----


def test_a_body_shorter_than_announced_is_never_kept_as_whole(server, target):
    server.ranges = False
    server.answers = [server.but(length=len(CONTENT) + 100) for _ in range(9)]
    refused(lambda: get(server, target), f"ended after {len(CONTENT):,} of {len(CONTENT) + 100:,} bytes", "tries")
    assert not target.exists()


def test_a_body_longer_than_announced_is_refused(server, target):
    server.answers = [server.but(length=300_000)]
    refused(lambda: get(server, target), "more came than the 300,000 bytes")
    assert nothing(target)


def test_a_size_other_than_expected_is_refused_before_the_first_byte(server, target):
    refused(lambda: get(server, target, size=17), f"has {len(CONTENT):,} bytes, expected 17")
    server.headers["/model.safetensors"] = {"X-Linked-Size": "18"}
    refused(lambda: get(server, target), "of a file that has 18")
    assert nothing(target)


def test_a_wrong_checksum_is_refused_and_not_kept(server, target):
    wrong = hashlib.sha256(b"other").hexdigest()
    refused(lambda: get(server, target, sha256=wrong), f"sha256 of what came is {SHA256}", wrong, "not kept")
    server.headers["/model.safetensors"] = {"X-Linked-ETag": f'"{wrong}"'}
    refused(lambda: get(server, target), f"sha256 of what came is {SHA256}", wrong)
    refused(lambda: get(server, target, sha256=SHA256), f"has sha256 {wrong}, expected {SHA256}")
    assert nothing(target)


def test_the_md5_of_googles_storage_is_checked(server, target):
    def header(content):
        return {"X-Goog-Hash": f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"}

    server.headers["/model.safetensors"] = header(CONTENT)
    assert get(server, target).checked == "md5"
    target.unlink()
    server.headers["/model.safetensors"] = header(b"other")
    refused(lambda: get(server, target), "md5 of what came is")
    assert nothing(target)


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_has_its_own_error(server, target, status):
    server.answers = [refuse(status)]
    refused(lambda: get(server, target), "/model.safetensors: not found there", str(status), kind=NotThere)
    assert len(server.asked) == 1 and not target.parent.exists()


@pytest.mark.parametrize("status", [401, 403])
def test_what_needs_a_token_says_so(server, target, status):
    server.answers = [refuse(status)] * 2
    refused(lambda: get(server, target), f"refused ({status})", "set HF_TOKEN")
    refused(lambda: get(server, target, token="hf_x"), f"refused ({status}), the token in HF_TOKEN does not open it")
    assert server.asked[1][1]["authorization"] == "Bearer hf_x" and nothing(target)


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(server, target):
    server.answers = [refuse(500), refuse(503), refuse(429, Retry_After="0")]
    get(server, target)
    assert only(target) and len(server.asked) == 4
    server.asked.clear()
    server.answers = [refuse(502)] * 9
    refused(lambda: get(server, target.with_name("b")), "answers 502, 5 tries; try again later")
    assert len(server.asked) == 5
    server.answers = [refuse(418)]
    refused(lambda: get(server, target.with_name("b")), "answers 418, expected 200")


def test_a_server_says_how_long_to_wait(server, target, monkeypatch):
    waits = []
    monkeypatch.setattr(fetch_module.time, "sleep", waits.append)
    monkeypatch.setattr(fetch_module, "PAUSE", 1.0)
    server.answers = [refuse(503, Retry_After="7"), refuse(503, Retry_After="99999"), refuse(503), refuse(503)]
    get(server, target)
    assert waits == [7, 30, 4, 8]


def test_a_server_that_falls_silent_is_asked_again(server, target, monkeypatch):
    monkeypatch.setattr(web_module, "TIMEOUT", 0.1)
    release = threading.Event()

    def silent(handler):
        server.serve(handler, cut=100_000)
        handler.wfile.flush()
        release.wait(5)

    server.answers = [silent, lambda handler: release.wait(5)]
    get(server, target)
    release.set()
    assert server.asked[1][1]["range"] == server.asked[2][1]["range"] == "bytes=100000-" and only(target)


def test_a_long_file_over_a_bad_line_gets_here(server, target, monkeypatch):
    monkeypatch.setattr(fetch_module, "_FURTHER", 40_000)
    server.answers = [server.but(cut=cut) for cut in range(40_000, len(CONTENT), 40_000)]
    get(server, target)
    assert len(server.asked) == 13 and only(target)  # far more than the tries that bring nothing


def test_no_network_is_one_line_and_soon(server, tmp_path):
    start = time.monotonic()
    refused(lambda: fetch("http://nowhere.invalid/x.bin", tmp_path / "x.bin"), "http://nowhere.invalid/x.bin",
            "Name or service not known", "is there a network?")  # fmt: skip
    server.http.server_close()
    refused(lambda: fetch(f"{server.address}/x.bin", tmp_path / "x.bin"), "refused", "is there a network?")
    assert time.monotonic() - start < 5 and not list(tmp_path.iterdir())


def test_a_web_page_is_not_taken_for_a_file(server, target):
    server.answers = [server.but(Content_Type="text/html; charset=utf-8")]
    refused(lambda: get(server, target), "a web page came instead of the file")
    server.files["/model.safetensors"] = b"\n<!DOCTYPE html><html>Please log in"
    refused(lambda: get(server, target), "a web page came instead of the file")
    assert nothing(target)


def test_a_packed_answer_is_refused_unless_the_file_is_packed_itself(server, target):
    server.answers = [server.but(Content_Encoding="gzip")] * 2
    refused(lambda: get(server, target), "comes packed as 'gzip'")
    assert get(server, target.with_name("x.tar.gz")).size == len(CONTENT)  # what some servers say of every .gz


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://host/x", "albert-base-v2", "http://", "http://[x/y", "http://h:99999/x", ""],
)
def test_only_the_web_is_asked(address, tmp_path):
    refused(lambda: fetch(address, tmp_path / "x"), "is not an address to download from", kind=InputError)
    assert not list(tmp_path.iterdir())


def test_an_address_with_a_space_is_one_line(server, tmp_path):
    refused(lambda: fetch(f"{server.address}/a b", tmp_path / "x"), "not an address that can be asked for")


# ---- redirects ----


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_whole_or_relative(server, target, status):
    server.files["/a/there.bin"] = CONTENT
    server.answers = [
        redirect("a/here", status),
        redirect(f"{server.address}/a/there?x=1", status),
        redirect("there.bin"),
    ]
    get(server, target)
    paths = [path for path, _ in server.asked]
    assert paths == ["/model.safetensors", "/a/here", "/a/there?x=1", "/a/there.bin"] and only(target)


def test_a_circle_of_redirects_ends(server, target):
    server.answers = [redirect("/model.safetensors")] * 20
    refused(lambda: get(server, target), "more than 10 redirects")
    assert len(server.asked) == 11 and nothing(target)


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://host/x", "http://me@host/x", "javascript:x", ""])
def test_redirects_lead_to_the_web_only(server, target, place):
    server.answers = [redirect(place)]
    refused(lambda: get(server, target), "redirects to", "not followed")
    assert nothing(target)


def test_a_redirect_never_leaves_https():
    def headers(place):
        message = Message()
        message["Location"] = place
        return message

    assert _next("https://a/b", headers("//c/d")) == "https://c/d"
    assert _next("http://a/b", headers("https://c/d e")) == "https://c/d%20e"
    refused(lambda: _next("https://a/b", headers("http://c/d?signature=x")), "'http://c/d', which is not followed")
    refused(lambda: _next("https://a/b", headers("http://[c/d")), "which is not followed")


def test_the_token_is_not_carried_to_another_host(server, target, monkeypatch):
    other = server.address.replace("127.0.0.1", "localhost")
    server.answers = [redirect("/model.safetensors"), redirect(f"{other}/model.safetensors")]
    get(server, target, token="hf_x")
    assert [headers.get("authorization") for _, headers in server.asked] == ["Bearer hf_x", "Bearer hf_x", None]


def test_what_the_hub_says_where_it_redirects_is_kept(server, target):
    server.files["/store"] = CONTENT
    facts = {"X_Linked_ETag": f'"{SHA256}"', "X_Linked_Size": str(len(CONTENT)), "X_Repo_Commit": COMMIT}
    server.answers = [redirect("/store", **facts)]
    assert get(server, target) == (target, len(CONTENT), "sha256", COMMIT)


def test_messages_hold_no_password_and_no_signature(server, target):
    addresses = [f"{server.address}/other?signature=secret", "http://me:secret@127.0.0.1/model.safetensors"]
    server.answers = [None, redirect("http://me:secret@127.0.0.1/x?secret")]
    for address in (*addresses, f"{server.address}/model.safetensors"):
        with pytest.raises((FileError, InputError)) as caught:
            fetch(address, target)
        assert "secret" not in str(caught.value)


# ---- the disk ----


def test_too_little_room_is_told_before_the_first_byte(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused(lambda: get(server, target), f"needs {len(CONTENT):,} bytes more, the disk has 1,000; make room")
    assert nothing(target)


def test_a_disk_that_fills_up_is_one_line_and_what_came_is_gone_on_from(server, target, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        refused(lambda: get(server, target), str(target), "cannot be written (No space left on device)")
    assert not target.exists()
    get(server, target)
    assert only(target)


def test_a_place_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(lambda: get(server, tmp_path / "file" / "model.safetensors"), "cannot be written (")
    (tmp_path / "model.safetensors").mkdir()
    refused(lambda: get(server, tmp_path / "model.safetensors"), "is a directory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model.safetensors"]
