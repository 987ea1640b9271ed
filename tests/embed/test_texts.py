"""Texts in: any lines come back as they were, and what is broken is named by its line."""

import gzip
import io
import lzma
import os
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.embed.texts import read_texts
from minialbert.errors import FileError, InputError


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]))), st.booleans(), st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_any_lines_come_back_as_they_were(tmp_path_factory, texts, windows, mark):
    path = tmp_path_factory.mktemp("in") / "a.txt"
    texts = [text.rstrip("\r") for text in texts]
    lines = "".join(text + ("\r\n" if windows else "\n") for text in texts)
    mark = mark or (texts[:1] and texts[0].startswith("\ufeff"))  # then the first sign would be read as a mark
    path.write_bytes(b"\xef\xbb\xbf" * bool(mark) + lines.encode())
    assert list(read_texts(path)) == texts


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
        (b"\xef\xbb\xbf\n", [""]),
        (b"a", ["a"]),
        (b"a\n\r\n b \t\nc", ["a", "", " b \t", "c"]),
        (b"a\rb\r\n\r", ["a\rb", "\r"]),
        ("x\x0b\x0c\x1c\x85\u2028y\n".encode(), ["x\x0b\x0c\x1c\x85\u2028y"]),
    ],
)
def test_only_line_ends_end_a_text(tmp_path, data, texts):
    (tmp_path / "a.txt").write_bytes(data)
    assert list(read_texts(tmp_path / "a.txt")) == texts
    (tmp_path / "a").write_bytes(data)
    assert list(read_texts(str(tmp_path / "a"))) == texts


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_are_read(tmp_path, ending, pack):
    (tmp_path / f"a.TXT{ending}").write_bytes(pack("é\nb".encode()))
    (tmp_path / f"a.jsonl{ending}").write_bytes(pack(b'{"text": "c"}\n'))
    assert list(read_texts(tmp_path / f"a.TXT{ending}")) == ["é", "b"]
    assert list(read_texts(tmp_path / f"a.jsonl{ending}")) == ["c"]
    for broken in (pack(os.urandom(5000).hex().encode())[:-20], b"plain text\n", pack(b"a\n") + b"\1\2"):
        (tmp_path / f"a.txt{ending}").write_bytes(broken)
        with pytest.raises(FileError, match="unreadable or cut off after line"):
            list(read_texts(tmp_path / f"a.txt{ending}"))


def test_standard_input_is_lines_or_with_a_field_jsonl(monkeypatch):
    for data, field, texts in ((b'a\n{"b": "c"}\r\n', None, ["a", '{"b": "c"}']), (b'{"b": "c"}\n', "b", ["c"])):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
        assert list(read_texts("-", field)) == texts


@pytest.mark.parametrize(
    ("data", "field", "texts"),
    [
        ('{"text": "a", "title": "b"}\n\n{"text": "é\\n\\u0000", "n": 1}\n', None, ["a", "é\n\0"]),
        ('{"id": 1, "body": "a"}\n{"id": 2, "body": "", "more": "x"}\n', None, ["a", ""]),
        ('{"text": "a", "title": "b"}', "title", ["b"]),
        ('{"text": "\\ud83d\\ude00"}', None, ["😀"]),
        ("", None, []),
    ],
)
def test_the_field_of_jsonl_is_found(tmp_path, data, field, texts):
    (tmp_path / "a.jsonl").write_text(data, encoding="utf-8")
    assert list(read_texts(tmp_path / "a.jsonl", field)) == texts


@pytest.mark.parametrize(
    ("name", "data", "field", "message"),
    [
        ("a.txt", b"ok\ncaf\xe9\n", None, "byte 0xE9 in line 2, byte offset 6; .*iconv"),
        ("a.txt", b"\xef\xbb\xbfok\ncaf\xe9\n", None, "line 2, byte offset 9"),
        ("a.txt", b"\xef\xbb\xbfcaf\xe9\n", None, "line 1, byte offset 6"),
        ("a.txt", b"\xed\xa0\x80\n", None, "byte 0xED in line 1, byte offset 0"),
        ("a.txt", b"ok\nPK\0\1", None, "NUL byte in line 2, byte offset 5: this is a binary file"),
        ("a.txt", "é\n".encode("utf-16"), None, "UTF-16"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', None, "line 2 is not JSON .*column 1"),
        ("a.jsonl", b"[" * 100_000, None, "line 1 is not JSON"),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", None, "line 1 is not JSON"),
        ("a.jsonl", b'["a"]\n', None, "line 1 is not an object"),
        ("a.jsonl", b'{"a": "x", "b": "y", "n": 3}\n', None, "no field was named; its strings: a, b"),
        ("a.jsonl", b'{"n": 3}\n', None, "its strings: none"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3, "b": "y"}\n', None, 'line 2: no string "text"; its strings: b'),
        ("a.jsonl", b'{"text": "x"}\n', "body", 'no string "body"; its strings: text'),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', None, "half a surrogate pair"),
    ],
)
def test_what_is_wrong_inside_is_told_with_its_place(tmp_path, name, data, field, message):
    (tmp_path / name).write_bytes(data)
    texts = read_texts(tmp_path / name, field)  # nothing is wrong yet
    with pytest.raises(FileError, match=message) as caught:
        list(texts)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_what_cannot_be_read_is_refused_at_once(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_texts(tmp_path / "a.txt")
    with pytest.raises(FileError, match="is a directory"):
        read_texts(tmp_path)
    with pytest.raises(InputError, match=r"\.txt and \.jsonl"):
        read_texts(tmp_path / "a.csv")
    with pytest.raises(InputError, match="field"):
        read_texts(tmp_path / "a.txt", "text")


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("minialbert.embed.texts.LONGEST", 1000)
    (tmp_path / "a.txt").write_bytes(b"a" * 999 + b"\n" + b"b" * 10_000)
    texts = read_texts(tmp_path / "a.txt")
    assert len(next(texts)) == 999
    with pytest.raises(FileError, match="line 2 is longer than 1000 bytes"):
        next(texts)
