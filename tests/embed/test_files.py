import importlib
import json
import os
import resource
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open

from minialbert.embed import files
from minialbert.embed.files import estimate_bytes, open_writer
from minialbert.embed.texts import read_texts
from minialbert.errors import FileError, InputError

ENDINGS = list(files.WRITERS)
ABOUT = {"model": "ab12", "layer": "mean(-4..-1)", "pooling": "mean", "note": "é \u2028 \\ '"}
TEXTS = ["one", "", 'quo"te \\ é 字 \u2028 \x07', "a\nb"]
VECTORS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
RAGGED = [VECTORS[:2], VECTORS[2:2], VECTORS[2:3], VECTORS[3:]]
ITEMS = [
    [{"piece": "▁on", "start": 0, "end": 2}, {"piece": "e", "start": 2, "end": 3}],
    [],
    [{"piece": "字", "start": 1, "end": 2}],
    [{"piece": "[SEP]"}],
]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- vectors out


def write(path, block=VECTORS, texts=TEXTS, items=None, **options):
    """In two blocks, of three texts and of one."""
    with open_writer(path, ABOUT, block[0].shape[-1], **options) as writer:
        for cut in (slice(0, 3), slice(3, 3), slice(3, None)):
            writer.write(block[cut], texts and texts[cut], items and items[cut])


def read(path):
    """Vectors, other arrays, provenance: by other people's readers."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r"), {}, json.loads(path.with_name(path.name + ".json").read_text())
    if path.suffix == ".npz":
        with np.load(path) as file:
            found = dict(file)
        return found.pop("vectors"), found, json.loads(found.pop("provenance").item())
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return found.pop("vectors"), found, json.loads(file.metadata()["provenance"])
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
        about = json.loads(path.with_name(path.name + ".json").read_text())
    else:
        parquet = importlib.import_module("pyarrow.parquet")
        table = parquet.read_table(path)
        records, about = table.to_pylist(), json.loads(table.schema.metadata[b"provenance"])
    return [record.pop("vector", None) for record in records], records, about


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_come_back_bit_for_bit(tmp_path, ending, dtype):
    path = tmp_path / f"out{ending}"
    write(path, dtype=dtype)
    vectors, rest, about = read(path)
    assert about == ABOUT
    assert np.asarray(vectors, dtype).tobytes() == VECTORS.astype(dtype).tobytes()
    if ending in (".jsonl", ".parquet"):
        assert [record["text"] for record in rest] == TEXTS
    else:
        assert vectors.dtype == dtype and vectors.shape == (4, 6) and not rest
    sidecar = {f"out{ending}.json"} if ending in (".npy", ".jsonl") else set()
    assert set(os.listdir(tmp_path)) == {path.name} | sidecar


@pytest.mark.parametrize("ending", ENDINGS)
def test_all_layers_make_a_third_axis(tmp_path, ending):
    path, block = tmp_path / f"out{ending}", np.random.default_rng(1).normal(size=(4, 3, 6)).astype(np.float32)
    write(path, block)
    assert np.asarray(read(path)[0], np.float32).tobytes() == block.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_texts_give_a_whole_file_of_none(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    with open_writer(path, ABOUT, 6):
        pass
    vectors, _, about = read(path)
    assert len(vectors) == 0 and about == ABOUT
    if ending in (".npy", ".npz", ".safetensors"):
        assert vectors.shape == (0, 6)


@pytest.mark.parametrize("ending", ENDINGS[1:])
@pytest.mark.parametrize("items", [ITEMS, None])
def test_several_vectors_a_text_come_back_with_their_labels(tmp_path, ending, items):
    path = tmp_path / f"out{ending}"
    write(path, RAGGED, TEXTS, items, ragged=True)
    vectors, rest, about = read(path)
    assert about == ABOUT
    if ending in (".npz", ".safetensors"):
        splits = rest["splits"]
        assert (
            vectors.tobytes() == VECTORS.tobytes() and splits.tolist() == [0, 2, 2, 3, 4] and splits.dtype == np.int64
        )
        assert rest["offsets"].tolist() == ([[0, 2], [2, 3], [1, 2], [-1, -1]] if items else [[-1, -1]] * 4)
        return
    assert [record["text"] for record in rest] == TEXTS
    for i, record in enumerate(rest):
        found = [token.pop("vector") for token in record["tokens"]]
        assert np.array(found, np.float32).reshape(-1, 6).tobytes() == RAGGED[i].tobytes()
        labels = [{k: v for k, v in token.items() if v is not None} for token in record["tokens"]]
        assert labels == (ITEMS[i] if items else [{}] * len(RAGGED[i]))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_vectors_of_words_are_called_words(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write(path, [VECTORS[:1]], ["Hi"], [[{"word": "Hi", "start": 0, "end": 2}]], ragged="words")
    assert read(path)[1][0]["words"][0]["word"] == "Hi"


@pytest.mark.parametrize("ending", ENDINGS[1:])
def test_texts_without_any_token_can_be_all_there_is(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    write(path, [VECTORS[:0]] * 2, ["", ""], [[], []], ragged=True)
    vectors, rest, _ = read(path)
    assert len(vectors) == (2 if ending in (".jsonl", ".parquet") else 0)
    assert ending in (".jsonl", ".parquet") or rest["splits"].tolist() == [0, 0, 0]


@given(arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
@settings(max_examples=100, deadline=None)
def test_json_numbers_give_the_same_float_back(tmp_path_factory, block):
    path = tmp_path_factory.mktemp("out") / "a.jsonl"
    write(path, block, None)
    assert np.array(read(path)[0], np.float32).tobytes() == block.tobytes()
    assert b'"text"' not in path.read_bytes()


def test_safetensors_arrays_lie_at_multiples_of_their_size(tmp_path):
    write(tmp_path / "a.safetensors", [VECTORS[:1]], ["a"], ragged=True, dtype="float16")  # 12 bytes of vectors
    data = (tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert [(8 + size + header[name]["data_offsets"][0]) % 8 for name in ("splits", "offsets", "vectors")] == [0, 0, 0]


def test_json_numbers_are_the_shortest(tmp_path):
    write(tmp_path / "a.jsonl", np.array([[0.1, 1e-8, 3.0]], np.float32), ["é"])
    assert (tmp_path / "a.jsonl").read_text("utf-8") == '{"text": "é", "vector": [0.1, 1e-08, 3.0]}\n'


def test_a_text_that_utf8_cannot_hold_is_escaped_in_json_and_refused_in_parquet(tmp_path):
    write(tmp_path / "a.jsonl", VECTORS[:1], ["é\ud83d"])
    assert read(tmp_path / "a.jsonl")[1] == [{"text": "é\ud83d"}]
    with pytest.raises(InputError, match="half a surrogate pair"):
        write(tmp_path / "a.parquet", VECTORS[:1], ["é\ud83d"])


def test_without_a_path_json_lines_go_to_standard_output(capsysbinary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None, VECTORS[:, :2])
    records = [json.loads(line) for line in capsysbinary.readouterr().out.decode().split("\n")[:-1]]
    assert [record["text"] for record in records] == TEXTS and not os.listdir()
    assert np.array([record["vector"] for record in records], np.float32).tobytes() == VECTORS[:, :2].tobytes()


@pytest.mark.parametrize("ending", [".npy", ".npz", ".jsonl"])
def test_the_same_vectors_give_the_same_bytes(tmp_path, ending):
    for name in "ab":
        write(tmp_path / f"{name}{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_a_parquet_file_has_few_row_groups_however_small_the_blocks(tmp_path, monkeypatch):
    parquet = importlib.import_module("pyarrow.parquet")
    monkeypatch.setattr(files, "GROUP", 10_000)
    with open_writer(tmp_path / "a.parquet", ABOUT, 6) as writer:
        for _ in range(500):
            writer.write(VECTORS, TEXTS)
    about = parquet.ParquetFile(tmp_path / "a.parquet").metadata
    assert about.num_rows == 2000 and 4 < about.num_row_groups < 20


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'pip install "minialbert\[parquet\]"'):
        open_writer(tmp_path / "a.parquet", ABOUT, 6)
    assert not os.listdir(tmp_path)


# ---- nothing half-written


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_and_an_older_file_as_it_was(tmp_path, ending, older, error):
    path = tmp_path / f"out{ending}"
    if older:
        write(path)
    before = contents(tmp_path)
    with pytest.raises(error), open_writer(path, {}, 6) as writer:
        writer.write(VECTORS, TEXTS)
        assert len(contents(tmp_path)) > len(before)
        raise error
    assert contents(tmp_path) == before
    writer.close()
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match="this writer is discarded"):
        writer.write(VECTORS, TEXTS)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("ragged", [True, False])
def test_a_full_disk_leaves_nothing_and_an_older_file_as_it_was(tmp_path, ending, ragged):
    if ragged and ending == ".npy":
        return
    path, block = tmp_path / f"out{ending}", np.ones((100, 300), np.float32)
    write(path)
    before, old = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))  # a write past this fails as on a full disk
    try:
        with pytest.raises(FileError, match="could not be written"), open_writer(path, {}, 300, ragged) as writer:
            for i in range(60):
                block[:] = np.random.default_rng(i).normal(size=block.shape)
                writer.write([block] if ragged else block)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failed_renaming_leaves_the_older_vectors(tmp_path, ending, monkeypatch):
    path = tmp_path / f"out{ending}"
    write(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileError, match="Input/output error"):
        write(path, VECTORS + 1)
    assert contents(tmp_path) == {path.name: before}  # no provenance, rather than one of other vectors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.write(VECTORS[:, :5]), r"a block is \[4, 5\], expected \[any number, 6\]"),
        (lambda w: w.write(VECTORS[0]), r"a block is \[6\]"),
        (lambda w: (w.write(VECTORS), w.write(VECTORS[:, None])), r"\[4, 1, 6\], expected \[any number, 6\]"),
        (lambda w: w.write(VECTORS, TEXTS[:3]), "3 texts were given with vectors of 4"),
        (lambda w: w.write(VECTORS, TEXTS, [[{}, {}]] * 4), "a label for each vector"),
        (lambda w: w.write(VECTORS.astype(np.float64) * 1e300), "too large for float32"),
        (lambda w: w.write(VECTORS * np.float32(np.nan)), "NaN or infinity, which JSON"),
        (lambda w: (w.close(), w.write(VECTORS)), "this writer is closed"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(tmp_path, call, message):
    with pytest.raises(InputError, match=message), open_writer(tmp_path / "a.jsonl", ABOUT, 6) as writer:
        call(writer)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path):
    for path, options, kind, message in [
        ("a.csv", {}, InputError, r"unknown ending.*\.npy, \.npz, \.safetensors, \.jsonl, \.parquet"),
        ("a", {}, InputError, "unknown ending"),
        ("a.npy", {"ragged": True}, InputError, r"several go to \.npz, \.safetensors, \.jsonl, \.parquet"),
        ("a.npz", {"dtype": "float64"}, InputError, "float32 or float16"),
        ("a.npz", {"ragged": "sentences"}, InputError, "tokens or words"),
        ("missing/a.npy", {}, FileError, "there is no directory"),
    ]:
        with pytest.raises(kind, match=message):
            open_writer(tmp_path / path, ABOUT, 6, **options)
    (tmp_path / "a.npy").mkdir()
    with pytest.raises(FileError, match="is a directory"):
        open_writer(tmp_path / "a.npy", ABOUT, 6)
    with pytest.raises(InputError, match="plain JSON"):
        open_writer(tmp_path / "b.npy", {"a": {1}}, 6)
    with pytest.raises(InputError, match="too large for float16"):
        write(tmp_path / "b.npy", VECTORS + 1e6, dtype="float16")
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_corpus_is_never_whole_in_memory(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(files, "GROUP", 1 << 20)
    count, width = (500, 256) if ending == ".jsonl" else (20_000, 256)  # 20 MB of vectors
    with open(tmp_path / "in.txt", "w") as file:
        file.writelines(f"text {i} {'x' * 300}\n" for i in range(count))
    open_writer(tmp_path / f"warm{ending}", ABOUT, width).close()  # imports what it needs
    block, texts = np.ones((100, width), np.float32), []
    tracemalloc.start()
    with open_writer(tmp_path / f"out{ending}", ABOUT, width) as writer:
        for text in read_texts(tmp_path / "in.txt"):
            texts.append(text)
            if len(texts) == 100:
                writer.write(block, texts)
                texts = []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert writer.count == count and peak < 5e6


def test_the_estimate_is_what_the_file_takes(tmp_path):
    write(tmp_path / "a.npy", np.ones((50, 13, 8), np.float32), None, dtype="float16")
    assert (tmp_path / "a.npy").stat().st_size == estimate_bytes(50, 8, "float16", layers=13) + 128
    assert estimate_bytes(1_000_000, 768) == 3_072_000_000
