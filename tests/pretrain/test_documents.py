"""Text files to documents and sentences."""

import doctest
import gzip
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialbert.errors import FileError, InputError
from minialbert.pretrain import documents
from minialbert.pretrain.documents import bounded, read_documents, sentences_of, split_sentences

TEXT = "One.\nTwo.\n\n\n  \nThree. Four.\r\n\nFive"
DOCUMENTS = [["One.", "Two."], ["Three. Four."], ["Five"]]


def put(tmp_path, data, name="text.txt"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_blank_line_ends_a_document_in_plain_gz_and_xz_files(tmp_path):
    files = [put(tmp_path, "\ufeff" + TEXT), put(tmp_path, gzip.compress(TEXT.encode()), "b.txt.gz")]
    files.append(put(tmp_path, lzma.compress(TEXT.encode()), "c.xz"))
    assert list(read_documents(files)) == DOCUMENTS * 3
    assert list(read_documents(str(files[0]))) == DOCUMENTS, "one path need not be in a list"


def test_paragraphs_are_split_and_sentences_are_not(tmp_path):
    _, second, _ = read_documents([put(tmp_path, TEXT)])
    assert sentences_of(second, "paragraphs") == ["Three.", "Four."]
    assert sentences_of(second, "sentences") == ["Three. Four."]


def test_prose_is_joined_across_lines_and_two_blank_lines_end_a_document(tmp_path):
    path = put(tmp_path, "\n\nA long\nline. And\nmore.\n\nA second\nparagraph.\n\n\n\nAnother\ndocument.\n")
    found = list(read_documents([path], layout="prose"))
    assert found == [["A long line. And more.", "A second paragraph."], ["Another document."]]
    assert sentences_of(found[0], "prose") == ["A long line.", "And more.", "A second paragraph."]


@given(st.lists(st.text(alphabet="ab 。.", max_size=6), max_size=30))
def test_documents_hold_every_line_once_and_no_empty_one(lines):
    whole = [list(document) for document in documents.list_of_lines(line.strip() for line in lines)]
    assert [line for document in whole for line in document] == [line.strip() for line in lines if line.strip()]
    assert all(document and all(document) for document in whole)


def test_a_document_without_end_comes_in_pieces(monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_DOCUMENT", 10)
    assert list(bounded(["abcdef", "ghijkl", "m"])) == [["abcdef", "ghijkl"], ["m"]]
    prose = documents.paragraphs_of_prose(["abcdef"] * 5)
    assert [list(document) for document in prose] == [["abcdef abcdef", "abcdef abcdef", "abcdef"]]


@pytest.mark.parametrize(("text", "count"), [
    ("He came. She went. They stayed.", 3), ("Mr. A. B. Low came, e.g. Dr. Ray. He left.", 2),
    ("It cost 3.50 dollars. Cheap!", 2), ("See fig. 3 for it. Good", 2), ('"Stop!" he cried. "Why?" It was late.', 3),
    ("Wait... what? Yes.", 2), ("It is I. You know.", 2), ("今天很好。明天呢？“好。”他说。", 4), ("no end at all", 1),
    ("(It rained.) Then it stopped.", 2), ("", 0), ("   ", 0), ("He lives in the U.S. and works.", 1),
])  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text, count):
    assert len(split_sentences(text)) == count, split_sentences(text)


def test_the_example_in_the_docstring_is_true():
    assert doctest.testmod(documents).attempted == 1 and not doctest.testmod(documents).failed


@given(st.text(alphabet="aB1 .!?。\"')“”\u3000\n", max_size=60))
def test_splitting_loses_only_white_space(text):
    found = split_sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence.strip() for sentence in found)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"), (b"\xff\xfea\0", "UTF-16"), (b"good\nbad \xe4\n", r"not UTF-8: byte 0xE4 in line 2"),
    (b"a\0b", "NUL byte in line 1"),
])  # fmt: skip
def test_bad_files_are_named_with_the_place(tmp_path, data, message):
    with pytest.raises(FileError, match=rf"text\.txt: .*{message}"):
        list(read_documents([put(tmp_path, data)]))


def test_cut_packed_files_missing_files_and_directories_are_refused(tmp_path):
    packed = gzip.compress(TEXT.encode() * 1000)
    with pytest.raises(FileError, match="cut off after line"):
        list(read_documents([put(tmp_path, packed[: len(packed) // 2], "a.gz")]))
    for path, message in ((tmp_path / "none.txt", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(FileError, match=message):
            read_documents([path])  # at once, not when the first document is asked for
    with pytest.raises(InputError, match="layout='lines' must be"):
        read_documents([tmp_path], layout="lines")
    with pytest.raises(InputError, match="no file"):
        read_documents([])


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_LINE", 10)
    with pytest.raises(FileError, match="line 1 is longer than 10 bytes"):
        list(read_documents([put(tmp_path, "a" * 11)]))
