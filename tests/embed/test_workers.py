"""EmbedTexts: the vectors of Embedder, from actors of a real Ray, and from pandas as Spark has it; and growth.py."""

import json
import logging
import pickle
import secrets
import tempfile
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert.cli import main
from minialbert.embed import Embedder, workers
from minialbert.embed.workers import EmbedTexts
from minialbert.errors import CheckpointError, FileError, InputError, NameUnknown
from tests.embed import growth
from tests.pretrain.memory import Taken

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's, of its own settings

TEXTS = [f"{('The king', 'A small file', 'Nobody')[n % 3]} saw {'another ' * (n % 7)}castle {n}." for n in range(200)]


@pytest.fixture(scope="module")
def embed():
    return Embedder(*minialbert.load())


def batch_of(texts, **columns):
    return {"id": np.arange(len(texts)), "text": np.array(texts, dtype=object), **columns}


# ---- a batch ----


@pytest.mark.parametrize(
    "options", [{}, {"layer": 4, "pooling": "cls", "normalize": True}, {"layer": "cat(1,-1)"}, {"exact": True}]
)
def test_the_vectors_are_those_of_embedder_beside_the_other_columns(options, embed):
    batch = batch_of(TEXTS[:40])
    found = EmbedTexts(**options)(batch)
    assert list(found) == ["id", "text", "vector"] and list(batch) == ["id", "text"]
    assert found["vector"].dtype == np.float32 and np.array_equal(found["vector"], embed(TEXTS[:40], **options))
    assert found["id"] is batch["id"]


@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(0, 12), max_size=4), exact=st.booleans())
def test_it_does_not_matter_how_a_corpus_is_cut_into_batches(cuts, exact, embed):
    worker = EmbedTexts(layer=-1, exact=exact, threads=torch.get_num_threads())
    parts = np.split(np.array(TEXTS[:12], dtype=object), sorted(cuts))
    found = np.concatenate([worker({"text": part})["vector"] for part in parts])
    want = embed(TEXTS[:12], layer=-1, exact=exact)
    assert np.array_equal(found, want) if exact else np.abs(found - want).max() < 1e-5
    assert found.shape == want.shape


def test_columns_have_the_names_that_were_given():
    found = EmbedTexts(column="body", output="v")({"body": np.array(["One.", "Two."])})
    assert list(found) == ["body", "v"] and found["v"].shape == (2, 256)


def test_precision_is_that_of_the_model():
    coarse, fine = (EmbedTexts(layer=-1, dtype=dtype)(batch_of(TEXTS[:4])) for dtype in ("bfloat16", "float32"))
    assert coarse["vector"].dtype == np.float32
    assert 1e-4 < np.abs(coarse["vector"] - fine["vector"]).max() < 0.2
    assert EmbedTexts(dtype="bfloat16").provenance()["dtype"] == "bfloat16"


@pytest.mark.parametrize("threads, inside", [(1, 1), (3, 3), (None, 2)])
def test_torch_has_its_threads_during_a_call_and_those_of_before_after_it(threads, inside, embed, monkeypatch):
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr(workers, "embedder_of", lambda *given: seen.append(torch.get_num_threads()) or embed)
    torch.set_num_threads(2)
    try:
        EmbedTexts(threads=threads)(batch_of(["One text."]))
        assert seen == [inside] and torch.get_num_threads() == 2
        with pytest.raises(InputError):
            EmbedTexts(threads=threads, layer="all")(batch_of(["One text."]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ---- a process ----


def test_nothing_is_loaded_before_the_first_batch_and_then_once_for_all(monkeypatch):
    loaded = []
    monkeypatch.setattr(workers, "load", lambda ref: loaded.append(ref) or minialbert.load(ref))
    workers.embedder_of.cache_clear()
    first, second = EmbedTexts(normalize=True), EmbedTexts(layer=3)
    assert loaded == []
    for worker in (first, second, pickle.loads(pickle.dumps(first))):
        worker(batch_of(TEXTS[:2]))
        worker(batch_of(TEXTS[2:4]))
    assert loaded == [None]


def test_a_pickle_is_the_settings():
    worker = EmbedTexts(layer="mean(-2..-1)", exact=True)
    before = pickle.dumps(worker)
    want = worker(batch_of(TEXTS[:3]))["vector"]
    assert len(pickle.dumps(worker)) == len(before) < 1000
    assert np.array_equal(pickle.loads(pickle.dumps(worker))(batch_of(TEXTS[:3]))["vector"], want)


def test_provenance_is_what_the_command_writes(tmp_path):
    given = ["embed", "One text.", "--layer", "mean(-2..-1)", "--normalize", "--output", str(tmp_path / "v.npy")]
    assert main(given) == 0
    written = json.loads((tmp_path / "v.npy.json").read_text())
    found = EmbedTexts(layer="mean(-2..-1)", normalize=True).provenance()
    assert found == {name: written[name] for name in found} and {"model", "tokenizer", "layer"} <= set(found)


def test_another_model_under_the_name_is_refused(minilm):
    expect = EmbedTexts(layer=2).provenance()
    assert EmbedTexts(layer=2, expect=expect)(batch_of(TEXTS[:2]))["vector"].shape == (2, 256)
    with pytest.raises(CheckpointError, match=r"layer 3, expected 2; use the same model, settings and version"):
        EmbedTexts(layer=3, expect=expect)(batch_of(TEXTS[:2]))
    with pytest.raises(CheckpointError, match=f"{minilm} on .*: model .*, expected .*; tokenizer .*, expected "):
        EmbedTexts(str(minilm), layer=2, expect=expect)(batch_of(TEXTS[:2]))


# ---- what cannot be used ----


@pytest.mark.parametrize(
    "value, told", [(None, r"None \(NoneType\)"), (7, r"7 \(int\)"), (b"bytes", r"b'bytes' \(bytes\)"),
                    (float("nan"), r"nan \(float\)")]
)  # fmt: skip
def test_what_is_no_text_is_told_with_column_row_and_neighbours(value, told):
    batch = batch_of(["a", value, "c"], url=np.array(["u" * 90, "v" * 90, "w"]), tokens=np.zeros((3, 2)))
    with pytest.raises(InputError) as error:
        EmbedTexts()(batch)
    found = str(error.value)
    assert found.startswith('column "text", row 1 of a batch of 3 (id=1, url=vvv') and "tokens" not in found
    assert "\n" not in found and len(found) < 220
    with pytest.raises(InputError, match=f"{told}, expected a string; fill in or drop what is missing"):
        EmbedTexts()(batch)


def test_numbers_a_missing_column_and_one_too_many_are_told():
    with pytest.raises(InputError, match=r'column "text", row 0 of a batch of 3: 0 \(int64\), expected a string'):
        EmbedTexts()({"text": np.arange(3)})
    with pytest.raises(InputError, match=r'no column "body" in the batch; its columns: id, text \(column=\.\.\.\)'):
        EmbedTexts(column="body")(batch_of(["a"]))
    with pytest.raises(InputError, match=r'has a column "vector" already; name another .* \(output=\.\.\.\)'):
        EmbedTexts()(batch_of(["a"], vector=np.zeros((1, 3))))
    with pytest.raises(InputError, match=r"the batch is a DataFrame, expected a dict of arrays"):
        EmbedTexts()(pd.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"pooling": "words"}, "several vectors a text"),
        ({"pooling": "men"}, "men"),
        ({"long": "cutt"}, "long='cutt' must be one of cut, window, error"),
        ({"dtype": "float16"}, "dtype='float16' must be one of float32, bfloat16"),
        ({"threads": 0}, "threads=0 must be a whole number"),
        ({"column": "vector"}, 'column and output are both "vector"'),
    ],
)
def test_settings_that_cannot_be_are_refused_where_they_are_given(options, told):
    with pytest.raises((InputError, NameUnknown), match=told):
        EmbedTexts(**options)


def test_what_only_the_model_can_tell_is_refused_at_the_first_batch(tmp_path):
    with pytest.raises(InputError, match="layer='all' gives 7 vectors a text, expected one"):
        EmbedTexts(layer="all")(batch_of(["a"]))
    with pytest.raises(FileError, match=str(tmp_path / "none")):
        EmbedTexts(str(tmp_path / "none"))(batch_of(["a"]))


# ---- Spark: its pandas, and its way into Arrow ----


def test_series_go_in_and_come_out_as_spark_takes_them(embed):
    parts = [pd.Series(TEXTS[:5]), pd.Series([], dtype=object), pd.Series(TEXTS[5:8], index=[7, 8, 9])]
    out = list(EmbedTexts(exact=True).series(iter(parts)))
    assert [list(series.index) for series in out] == [list(series.index) for series in parts]
    arrow = [pa.Array.from_pandas(series, type=pa.list_(pa.float32())) for series in out]
    rows = [row for array in arrow for row in array.to_pylist()]
    assert np.array_equal(np.array(rows, np.float32), embed(TEXTS[:8], exact=True))


def test_frames_keep_their_columns(embed):
    frame = pd.DataFrame({"id": [3, 1, 2], "text": TEXTS[:3]}, index=[5, 6, 7])
    (out,) = EmbedTexts(exact=True).frames([frame])
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float32()))])
    table = pa.RecordBatch.from_pandas(out, schema, preserve_index=False).to_pydict()
    assert table["id"] == [3, 1, 2] and table["text"] == TEXTS[:3] and list(frame) == ["id", "text"]
    assert np.array_equal(np.array(table["vector"], np.float32), embed(TEXTS[:3], exact=True))


def test_frames_and_series_tell_what_is_missing():
    frame = pd.DataFrame({"id": [3, 1], "text": ["a", None]})
    with pytest.raises(InputError, match=r'column "text", row 1 of a batch of 2 \(id=1\): \w+ \(\w+\), expected a str'):
        list(EmbedTexts().frames([frame]))
    with pytest.raises(InputError, match=r'column "text", row 1 of a batch of 2: \w+ \(\w+\), expected a string'):
        list(EmbedTexts().series([frame["text"]]))
    with pytest.raises(InputError, match=r'no column "body" in the batch; its columns: id, text'):
        list(EmbedTexts(column="body").frames([frame]))


# ---- Ray itself ----


@pytest.fixture(scope="module")
def ray():
    """A Ray of its own without network, page or reports; its directory has a short name, as sockets need it.

    It counts three CPUs, whatever the machine has: two for actors, one for who reads and writes.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as directory:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other programs' memory is not this test's affair
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray keeps one in the home directory
        import ray

        ray.init(num_cpus=3, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False,
                 logging_level=logging.CRITICAL, _temp_dir=directory, _node_ip_address="127.0.0.1")  # fmt: skip
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield ray
        finally:
            ray.shutdown()


def test_two_actors_of_ray_give_the_vectors_of_embedder_and_rows_keep_their_ids(ray, embed):
    rows = ray.data.from_items([{"id": n, "text": text} for n, text in enumerate(TEXTS)], override_num_blocks=8)
    options = {"layer": -1, "exact": True, "expect": EmbedTexts(layer=-1, exact=True).provenance()}
    pool = ray.data.ActorPoolStrategy(size=2)
    out = rows.map_batches(EmbedTexts, fn_constructor_kwargs=options, batch_size=25, num_cpus=1, compute=pool)
    found = sorted(out.take_all(), key=lambda row: row["id"])
    assert [row["text"] for row in found] == TEXTS
    vectors = np.stack([row["vector"] for row in found])
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have; more of them share a product in another way, and round otherwise
    try:
        assert vectors.dtype == np.float32 and np.array_equal(vectors, embed(TEXTS, layer=-1, exact=True))
    finally:
        torch.set_num_threads(before)
    assert np.abs(vectors - embed(TEXTS, layer=-1)).max() < 1e-5


def test_a_broken_rows_message_comes_through_ray(ray):
    rows = ray.data.from_items([{"id": n, "text": None if n == 23 else "a"} for n in range(40)])
    out = rows.map_batches(EmbedTexts, batch_size=20, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=1))
    with pytest.raises(ray.exceptions.RayError, match=r'column "text", row \d+ of a batch of \d+ \(id=23\): None'):
        out.take_all()


def test_the_example_of_the_docstring_runs(ray, embed, tmp_path):
    example = workers.__doc__.split("an EmbedTexts:\n\n")[1].split("\n\n(Leave")[0]
    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS))
    source = textwrap.dedent(example)
    for name in ("corpus.txt", "vectors", "vectors.json"):
        source = source.replace(f'"{name}"', repr(str(tmp_path / name)))  # Ray's processes are elsewhere
    exec(compile(source, "workers.py", "exec"), {})
    table = pq.read_table(tmp_path / "vectors").to_pydict()
    order = {text: n for n, text in enumerate(table["text"])}
    vectors = np.array(table["vector"], np.float32)[[order[text] for text in TEXTS]]
    assert np.abs(vectors - embed(TEXTS, layer="mean(-2..-1)", normalize=True)).max() < 1e-6
    made_by = EmbedTexts(layer="mean(-2..-1)", normalize=True).provenance()
    assert json.loads((tmp_path / "vectors.json").read_text()) == made_by


# ---- growth.py ----


def test_sentences_are_the_same_again_and_as_long_as_english_ones():
    some = [text for text, _ in zip(growth.sentences(), range(2000), strict=False)]
    assert some == [text for text, _ in zip(growth.sentences(), range(2000), strict=False)]
    lengths = [len(text.split()) for text in some]
    assert 20 < np.mean(lengths) < 26 and min(lengths) >= 3 and max(lengths) < growth.LONGEST + 30
    assert len(set(some)) > 1990 and all(text[0].isupper() and text[-1] in ".?!" for text in some)


@pytest.mark.parametrize("shards", [[], ["--shards"]])
def test_growth_runs_the_command_and_tells_what_it_takes(shards, capsys, monkeypatch):
    def here(command):
        assert command[1:3] == ["-m", "minialbert"] and main(command[3:]) == 0
        return Taken(2.0, 1.0, 10_000_000, 0)

    monkeypatch.setattr(growth, "watch", here)
    assert growth.main(["--texts", "20", "--layer", "1", *shards]) == 0
    out, err = capsys.readouterr()
    assert "20 texts: 2.0 s, of processors 1.0 s; 10 a second, 20 a processor's second; at most 10.0 MB" in out
    assert "\ntwice the texts: 1.00 times the seconds" in out and "40 texts in " in err


def test_what_grows_too_much_is_a_failure(capsys, monkeypatch):
    taken = iter([Taken(10, 10, 90_000_000, 1), Taken(20, 30, 100_000_000, 1)])
    monkeypatch.setattr(growth, "watch", lambda command: next(taken))
    assert growth.main(["--texts", "5"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: seconds of processors grew 3.00 times, at most 2.1 expected",
                     "error: memory at the peak grew 1.11 times, at most 1.1 expected"]  # fmt: skip
