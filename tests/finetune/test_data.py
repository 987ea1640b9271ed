"""Labelled files: what was written comes back in every format, and what is wrong is told with its line and column."""

import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.errors import FileError, InputError, MiniAlbertError
from minialbert.finetune.data import PAIRS, Example, Like, conflicts, held_out, leakage, read_data, read_labels, split


def data_of(directory, text, name="a.tsv", **how):
    """What is read from a file that says `text`."""
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_data(path, **how)


def brief(data):
    return [(e.text, e.label) if e.pair is None else (e.text, e.pair, e.label) for e in data.examples]


# ---- what was written comes back ----

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)
NAMES = CELLS.map(str.strip).filter(bool)


@given(st.lists(st.tuples(CELLS, CELLS, NAMES), min_size=1, max_size=6), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_pairs_come_back_from_csv_and_json_lines(tmp_path_factory, rows, windows, mark):
    directory = tmp_path_factory.mktemp("in")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\r\n" if windows else "\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("premise", "hypothesis", "label"), *rows])
    lines = "\n".join(json.dumps(dict(zip(("premise", "hypothesis", "label"), row, strict=True))) for row in rows)
    for name, text in (("a.csv", table.getvalue()), ("a.jsonl", lines)):
        data = data_of(directory, b"\xef\xbb\xbf" * mark + text.encode(), name, task="classification")
        assert brief(data) == rows and data.labels == tuple(sorted(data.labels, key=data.labels.index))
        assert set(data.labels) == {row[2] for row in rows} and len(set(data.labels)) == len(data.labels)


PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\t"), max_size=12)


@given(st.lists(st.tuples(PLAIN, PLAIN.map(str.strip).filter(bool)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_tsv_has_no_quoting(tmp_path_factory, rows, windows):
    end = "\r\n" if windows else "\n"
    text = "".join(f"{text}\t{label}{end}" for text, label in [("text", "label"), *rows])
    data = data_of(tmp_path_factory.mktemp("in"), text, task="classification")
    assert brief(data) == rows and [e.line for e in data.examples] == list(range(2, len(rows) + 2))


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_files_may_be_packed(tmp_path, ending, pack):
    data = data_of(tmp_path, pack(b"label\ttext\nb\tx\na\t\n"), f"a.TSV{ending}")
    assert brief(data) == [("x", "b"), ("", "a")] and data.labels == ("a", "b")
    assert data.describe() == f"{tmp_path}/a.TSV{ending}: 2 texts, classification, 2 labels, 1 empty"
    assert data.targets == [1, 0] and data.inputs == ["x", ""] and not data.paired and len(data) == 2


@pytest.mark.parametrize("first, second", PAIRS)
def test_pairs_are_known_by_many_names(tmp_path, first, second):
    data = data_of(tmp_path, f"index\t{second.upper()}\tScore\t{first}\n1\tb\t2.5\ta\n")
    assert data.paired and data.inputs == [("a", "b")] and data.targets == [2.5] and data.labels == ()


def test_a_cell_in_quotes_may_hold_commas_tabs_quotes_and_line_ends(tmp_path):
    data = data_of(tmp_path, 'text,label\r\n"a, ""b""\r\n\tc",x\r\n\r\nd,y\r\n', "a.csv")
    assert data.examples == (Example('a, "b"\r\n\tc', None, "x", 2), Example("d", None, "y", 5))


@pytest.mark.parametrize(
    ("text", "name", "how", "task", "labels"),
    [
        ("label\ttext\n1\ta\n10\tb\n2\tc\n", "a.tsv", {}, "classification", ("1", "2", "10")),
        ("label\ttext\n1\ta\n", "a.tsv", {"task": "regression"}, "regression", ()),
        ("label\ttext\n1.5\ta\n2\tb\n", "a.tsv", {}, "regression", ()),
        ("label\ttext\n1.0\ta\n2.0\tb\n", "a.tsv", {}, "classification", ("1.0", "2.0")),
        ("label\ttext\n1.5\ta\nx\tb\n", "a.tsv", {}, "classification", ("1.5", "x")),
        ("score\ttext\n1\ta\n2\tb\n", "a.tsv", {}, "regression", ()),
        ("labels\ttext\nx,y\ta\n\tb\n", "a.tsv", {}, "multilabel", ("x", "y")),
        ("label\ttext\nx|y, z\ta\n", "a.tsv", {"separator": "|"}, "multilabel", ("x", "y, z")),
        ('{"label": ["b", "a"], "text": ""}\n{"label": [], "text": ""}', "a.jsonl", {}, "multilabel", ("a", "b")),
        ('{"label": 1, "text": ""}\n{"label": 0, "text": ""}', "a.jsonl", {}, "classification", ("0", "1")),
        ('{"label": true, "text": ""}', "a.jsonl", {}, "classification", ("true",)),
        ('{"label": 1.0, "text": ""}\n{"label": 2, "text": ""}', "a.jsonl", {}, "regression", ()),
        ("label\ttext\nb\ta\n", "a.tsv", {"labels": ["c", "b"]}, "classification", ("c", "b")),
    ],
)
def test_the_kind_of_label_is_found_or_asked_for(tmp_path, text, name, how, task, labels):
    data = data_of(tmp_path, text, name, **how)
    assert (data.task, data.labels) == (task, labels)


def test_several_labels_are_rows_of_0_and_1(tmp_path):
    data = data_of(tmp_path, "labels\ttext\nb, a\tx\n\ty\nb\tz\n")
    assert [e.label for e in data.examples] == [("b", "a"), (), ("b",)] and data.targets == [[1, 1], [0, 0], [0, 1]]


def test_columns_are_named_or_numbered(tmp_path):
    table = "stars\treview\n5\tgood\n"
    assert brief(data_of(tmp_path, table, columns="text=review,label=stars")) == [("good", "5")]
    assert brief(data_of(tmp_path, "5\tgood\n1\tbad\n", columns={"text": 2, "label": 1})) == [
        ("good", "5"),
        ("bad", "1"),
    ]
    assert brief(data_of(tmp_path, "a,b,0.5\n", "a.csv", columns="text=1, pair=2, label=3")) == [("a", "b", 0.5)]
    line = '{"stars": 5, "review": "good"}\n'
    assert brief(data_of(tmp_path, line, "a.jsonl", columns="text=review,label=stars")) == [("good", "5")]


def test_texts_to_be_predicted_need_no_labels(tmp_path):
    data = data_of(tmp_path, "text\na\n", labelled=False)
    assert brief(data) == [("a", None)] and data.labels == ()
    train = data_of(tmp_path, "text\tlabel\na\tx\n", "train.tsv")
    assert data_of(tmp_path, "text\nb\n", like=train, labelled=False).labels == ("x",)
    for table in ("text\tlabel\na\t\n", "text\tlabel\na\tnew\n", "text\tlabel\tscore\na\tx\ty\n"):
        assert brief(data_of(tmp_path, table, like=train, labelled=False)) == [("a", None)], "labels are not looked at"
        assert brief(data_of(tmp_path, table, columns="text=text,label=label", labelled=False)) == [("a", None)]


def test_what_comes_after_the_training_data_has_its_task_and_its_labels(tmp_path):
    train = data_of(tmp_path, "label\ttext\nb\tx\na\ty\n", "train.tsv")
    assert data_of(tmp_path, "label\ttext\nb\tz\n", like=train).targets == [1]
    scored = data_of(tmp_path, "label\ttext\n1.5\tx\n", "train.tsv")
    assert data_of(tmp_path, "label\ttext\n1\tz\n", like=scored).targets == [1.0]


def test_a_file_fits_what_a_model_was_tuned_on(tmp_path):
    like = Like("run", "classification", ("a", "b"), False)
    assert data_of(tmp_path, "label\ttext\nb\tx\n", like=like).targets == [1]
    pairs = "label\tsentence1\tsentence2\nb\tx\ty\n"
    told = r"a\.tsv: has pairs, but run was tuned on single texts; --columns text=NAME alone says which"
    with pytest.raises(FileError, match=told):
        data_of(tmp_path, pairs, like=like)
    with pytest.raises(FileError, match="single texts, but run was tuned on pairs; --columns text=NAME,pair=NAME"):
        data_of(tmp_path, "text\nx\n", like=like._replace(paired=True), labelled=False)
    assert data_of(tmp_path, pairs, like=like._replace(paired=None)).paired
    with pytest.raises(FileError, match=r'a\.tsv: line 2, column "label": "c" is not among the 2 labels of run'):
        data_of(tmp_path, "label\ttext\nc\tx\n", like=like)


def test_labels_are_read_in_their_order(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfb\r\na\r\n\r\n")
    assert read_labels(path) == ["b", "a"]
    for text, message in ((b"a\nb\na\n", '"a" is there twice'), (b"\n", "is empty, expected a label a line")):
        path.write_bytes(text)
        with pytest.raises(FileError, match=message):
            read_labels(path)


# ---- what is wrong is told ----

UNKNOWN = (
    "say which column is what: --columns text=NAME,label=NAME, or by number (text=1,label=2) if there is no header"
)
TRAIN = "label\ttext\ncard_arrival\ta\npin_blocked\tb\n"
BROKEN = [
    ("a.tsv", "", ": no example in it, expected a line for each"),
    ("a.tsv", "text\tlabel\n", ": no example in it, expected a line for each"),
    ("a.jsonl", "\n \n", ": no example in it, expected an object for each"),
    ("a.tsv", "text\tlabel\na\tx\nb\n", ": line 3: 1 column, expected 2 (text, label)"),
    ("a.tsv", "text\tlabel\na\tb\tx\nb\ty\n", ": line 2: 3 columns, expected 2 (text, label)"),
    ("a.csv", 'text,label\na, b,x\n"c\nd",y,z\n',
     ": line 2: 3 columns, expected 2 (text, label) (and 1 more problem, next in line 3)"),
    ("a.tsv", "text\tlabel\na\t\n\t\nb\t  \n",
     ': line 2, column "label": is empty, expected a label (and 2 more problems, next in line 3)'),
    ("a.tsv", "text\tscore\na\t\n", ': line 2, column "score": is empty, expected a number'),
    ("a.tsv", "text\tscore\na\t3,5\n", ': line 2, column "score": "3,5" is not a number'),
    ("a.tsv", "text\tscore\na\t1\nb\tnan\n", ': line 3, column "score": "nan" is not a number'),
    ("a.tsv", "text\tscore\na\t1e999\n", ': line 2, column "score": "1e999" is not a number'),
    ("a.tsv", "text\tlabels\na\tx,,y\n", ': line 2, column "labels": is empty, expected a label'),
    ("a.tsv", "text\tlabels\na\tx,x\n", ': line 2, column "labels": "x" is there twice, expected each label once'),
    ("a.tsv", b"text\tlabel\nok\tx\ncaf\xe9\tx\n",
     ": line 3: not UTF-8 (byte 0xE9); repair that line, or convert the file (iconv -f windows-1252 -t utf-8)"),
    ("a.tsv", b"\xef\xbb\xbftext\tlabel\n\xff\tx\n",
     ": line 2: not UTF-8 (byte 0xFF); repair that line, or convert the file (iconv -f windows-1252 -t utf-8)"),
    ("a.csv", "text,label\n".encode("utf-16"), ": is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8"),
    ("a.tsv", b"text\tlabel\nPK\0\tx\n", ": line 2: a NUL byte: this is a binary file, expected text"),
    ("a.csv", 'text,label\na,x\n"b,y\nc,z\n', ': line 3: a quotation mark (") opens a cell and none closes it'),
    ("a.csv", 'text,label\n"a"b,x\n',
     ": line 2: not CSV (',' expected after '\"'); a quotation mark inside a quoted cell is written twice"),
    ("a.tsv", "text\tlabel\ttext\na\tx\tb\n", ': line 1: the column "text" is there twice; rename one'),
    ("a.tsv", "good film\tpos\nbad\tneg\n",
     f': line 1: "good film", "pos" name no column that is known here; {UNKNOWN}'),
    ("a.tsv", "text\tstars\na\t5\n", f": no column label, labels or score; its columns: text, stars; {UNKNOWN}"),
    ("a.tsv", "review\tlabel\na\t5\n",
     f": no column text, sentence, or sentence1 and sentence2; its columns: review, label; {UNKNOWN}"),
    ("a.tsv", "sentence1\tlabel\na\t5\n",
     f": expected both sentence1 and sentence2; its columns: sentence1, label; {UNKNOWN}"),
    ("a.tsv", "text\tsentence\tlabel\na\tb\t5\n",
     f": several columns could be the text; its columns: text, sentence, label; {UNKNOWN}"),
    ("a.csv", '"te\nxt",label\na,b\n',
     f": no column text, sentence, or sentence1 and sentence2; its columns: te xt, label; {UNKNOWN}"),
    ("a.tsv", "text\tlabel\tscore\na\tb\t5\n",
     f": both label and score could be the label; its columns: text, label, score; {UNKNOWN}"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', ': line 2: no "label"; its fields: text'),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{}\n', ': line 2: no "text"; its fields: none'),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "x"\n',
     ": line 2: not JSON (Expecting ',' delimiter, column 27)"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n["a", "x"]\n',
     ': line 2: not an object such as {"text": "...", "label": "..."}'),
    ("a.jsonl", "[" * 100_000, ": line 1: not JSON (nested too deep)"),
    ("a.jsonl", '{"score": ' + "1" * 5000 + "}", ": line 1: not JSON (a number of too many digits)"),
    ("a.jsonl", '{"text": 3, "label": "x"}\n', ': line 1, column "text": 3 is no string, expected a text'),
    ("a.jsonl", '{"text": "\\ud83d", "label": "x"}\n',
     ': line 1, column "text": half a surrogate pair (\\ud800 to \\udfff) in it'),
    ("a.jsonl", '{"text": "a", "label": "\\ud83d"}\n',
     ': line 1, column "label": half a surrogate pair (\\ud800 to \\udfff) in it'),
    ("a.jsonl", '{"text": "a", "label": null}\n', ': line 1, column "label": is empty, expected a label'),
    ("a.jsonl", '{"text": "a", "score": NaN}\n', ': line 1, column "score": NaN is not a number'),
    ("a.jsonl", '{"text": "a", "score": true}\n', ': line 1, column "score": true is not a number'),
    ("a.jsonl", '{"text": "a", "labels": 3}\n', ': line 1, column "labels": 3 is not a list of labels'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), BROKEN)
def test_what_is_wrong_is_told_in_one_line(tmp_path, name, text, message):
    with pytest.raises(FileError) as caught:
        data_of(tmp_path, text, name)
    assert str(caught.value) == f"{tmp_path / name}{message}"


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        ("label\ttext\ncard_arival\tx\n", {},
         ': line 2, column "label": "card_arival" is not among the 2 labels of TRAIN. Nearest: card_arrival'),
        ("label\ttext\nq\tx\npin_blocked\ty\nr\tz\n", {},
         ': line 2, column "label": "q" is not among the 2 labels of TRAIN (and 1 more problem, next in line 4)'),
        ("label\tsentence1\tsentence2\ncard_arrival\tx\ty\n", {},
         ": has pairs, but TRAIN has single texts; both must be alike"),
        ("label\ttext\nx\ty\n", {"like": None, "labels": ["a", "b"]},
         ': line 2, column "label": "x" is not among the 2 labels of those given'),
        ("a\tb\nx\ty\n", {"columns": "text=c,label=b"}, ': no column "c"; its columns: a, b'),
        ("x\ty\n", {"columns": "text=1,label=3"}, ': no column "3"; its columns: 1, 2'),
        ("x\ty\nz\n", {"columns": "text=1,label=2", "like": None},
         ": line 2: 1 column, expected 2, as in the first line"),
        ('{"label": ["a"], "text": "b"}', {"task": "classification", "name": "a.jsonl", "like": None},
         ': line 1, column "label": ["a"] is not one label (task "multilabel" takes lists)'),
    ],
)  # fmt: skip
def test_what_does_not_fit_what_was_asked_is_told_in_one_line(tmp_path, text, how, message):
    train = data_of(tmp_path, TRAIN, "train.tsv")
    how = {"like": train, "name": "a.tsv"} | how
    with pytest.raises(FileError) as caught:
        data_of(tmp_path, text, **how)
    assert str(caught.value) == f"{tmp_path / how['name']}{message}".replace("TRAIN", train.path)


def test_what_cannot_be_asked_is_refused_before_the_file_is_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(TRAIN)
    for how, message in [
        ({"task": "guess"}, "task='guess' must be one of classification, multilabel, regression"),
        ({"columns": "label=label"}, "columns label=label: expected text=NAME"),
        ({"columns": "text=text,lable=label"}, "expected text=NAME, pair=NAME and label=NAME"),
        ({"columns": "text"}, "columns text=: expected"),
        ({"columns": {"text": "text"}}, "nothing says which column has the labels"),
    ]:
        with pytest.raises(InputError, match=message):
            read_data(path, **how)
    for name, message in [("b.tsv", "no such file"), ("", "expected .tsv"), ("a.txt", "expected .tsv, .csv, .jsonl")]:
        with pytest.raises((FileError, InputError), match=message):
            read_data(tmp_path / name)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(FileError, match=r"is a directory; give a \.csv file"):
        read_data(tmp_path / "d.csv")
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(TRAIN.encode())[:-9])
    with pytest.raises(FileError, match="unreadable or cut off"):
        read_data(tmp_path / "c.tsv.gz")


WHOLE = {
    ".tsv": b"label\ttext\nx\ta b\ny\tc\n",
    ".csv": b'text,labels\n"a, ""q""","x,y"\nb,\n',
    ".jsonl": b'{"text": "a", "label": "x"}\n{"text": "b\\u1234", "score": 3}\n',
}


DAMAGE = st.tuples(st.integers(0, 70), st.sampled_from(b'\t\n\r",{}[]:\\u0\xff a1-'))


@given(st.sampled_from(sorted(WHOLE)), st.lists(DAMAGE, max_size=4), st.sampled_from([None, "text=1,label=2"]))
@settings(max_examples=100, deadline=None)
def test_whatever_was_damaged_is_read_or_told_in_one_line(tmp_path_factory, ending, damage, columns):
    data = bytearray(WHOLE[ending])
    for place, byte in damage:
        data[place % len(data)] = byte
    try:
        found = data_of(tmp_path_factory.mktemp("in"), bytes(data), "a" + ending, columns=columns)
        assert len(found.inputs) == len(found.targets) == len(found) > 0
    except MiniAlbertError as error:
        assert str(error).isprintable()


# ---- parting and leaking ----


def test_what_leaks_from_training_is_counted_with_other_labels(tmp_path):
    train = data_of(tmp_path, "label\ttext\nx\tOne  text\ny\ttwo\nx\ttwo\n", "train.tsv")
    dev = data_of(tmp_path, "label\ttext\nx\tone text\ny\tTWO\ny\tone text\nx\tthree\n", like=train)
    assert leakage(train, dev) == (3, 1)
    pairs = data_of(tmp_path, "label\tsentence1\tsentence2\nx\ta\tb\n", "train.tsv")
    other = data_of(tmp_path, "label\tsentence1\tsentence2\nx\ta\tb\nx\tb\ta\nx\tab\t\n", like=pairs)
    assert leakage(pairs, other) == (1, 0)


@given(st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=2), st.randoms())
@settings(max_examples=40, deadline=None)
def test_a_share_is_held_out_in_any_order_and_copies_stay_together(tmp_path_factory, texts, random):
    if len(set(texts)) == 1:
        texts.append("z")
    directory = tmp_path_factory.mktemp("in")
    data = data_of(directory, "label\ttext\n" + "".join(f"x\t{text}\n" for text in texts))
    train, dev = split(data, 0.3)
    assert len(train) + len(dev) == len(data) and len(train) and len(dev) and leakage(train, dev).shared == 0
    assert sum(held_out(data, 0.3)) == len(dev) and len(dev) < 0.3 * len(data) + max(map(texts.count, texts))
    random.shuffle(texts)
    again = split(data_of(directory, "label\ttext\n" + "".join(f"x\t{text}\n" for text in texts)), 0.3)[1]
    assert sorted(again.inputs) == sorted(dev.inputs) and again.labels == data.labels


@given(
    st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.sampled_from("xxxxyyz"), min_size=2), st.randoms()
)
@settings(max_examples=40, deadline=None)
def test_of_each_label_a_share_is_held_out(tmp_path_factory, texts, random):
    def parted(rows):
        lines = "".join(f"{label}\t{text}\n" for text, label in rows)
        return split(data_of(tmp_path_factory.mktemp("in"), "label\ttext\n" + lines, task="classification"))[1]

    rows = list(texts.items())
    held, counts = parted(rows), Counter(texts.values())
    found = Counter(example.label for example in held.examples)
    if max(counts.values()) > 1:
        assert all(found[x] == (max(1, round(0.2 * n)) if n > 1 else 0) for x, n in counts.items())
    else:
        assert len(held) == 1, "no label has two: any text"
    random.shuffle(rows)
    assert sorted(parted(rows).inputs) == sorted(held.inputs)


def test_a_text_with_several_labels_is_found_with_its_lines(tmp_path):
    data = data_of(tmp_path, "label\ttext\nx\ta\nx\tA\ny\tb\ny\ta \nz\ta\nx\tB\n")
    assert [(a.line, b.line) for a, b in conflicts(data)] == [(2, 5), (4, 7)]
    assert not conflicts(data_of(tmp_path, "label\ttext\nx\ta\nx\tA\n"))


def test_texts_that_are_all_the_same_cannot_be_parted(tmp_path):
    with pytest.raises(InputError, match="all its texts are the same, so none can be held out"):
        split(data_of(tmp_path, "label\ttext\nx\ta\ny\tA\n"))


def test_reading_labelled_files_needs_no_torch():
    code = (
        "import sys, types, pathlib; package = types.ModuleType('minialbert');"
        "package.__path__ = [str(pathlib.Path(sys.argv[1]).parent)]; sys.modules['minialbert'] = package;"
        "import minialbert.finetune.data, minialbert.finetune.metrics; print('torch' in sys.modules)"
    )
    import minialbert

    ran = subprocess.run([sys.executable, "-c", code, minialbert.__file__], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr
