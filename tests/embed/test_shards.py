import functools
import json
import multiprocessing
import os
import random
import resource
import signal
import time
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from minialbert.embed import shards
from minialbert.embed.shards import ShardReader, ShardWriter
from minialbert.errors import FileError, InputError

ABOUT = {"model": "ab12", "layer": -1, "dtype": "bfloat16"}
FORK = multiprocessing.get_context("fork")


def corpus(count):
    return (f"text {i} é" for i in range(count))


@functools.cache
def vector(text):
    return np.random.default_rng(list(text.encode())).normal(size=8).astype(np.float32)


def tokens(text):
    """[T, 8], T from 0 to 3."""
    return np.array([vector(f"{text} {t}") for t in range(int(text.split()[1]) % 4)], np.float32).reshape(-1, 8)


def labels(text):
    return [{"piece": "x", "start": t, "end": t + 1} for t in range(len(tokens(text)))]


def write(directory, count, ragged=False, batch=7, pause=0.0, texts=None, **options):
    """Embeds the whole corpus, or what is left of it; returns how many texts were done already."""
    with ShardWriter(directory, ABOUT, 8, part_size=options.pop("part_size", 20), ragged=ragged, **options) as writer:
        rest = writer.skip(texts or corpus(count))
        while block := list(islice(rest, batch)):
            if ragged:
                writer.write([tokens(text) for text in block], block, [labels(text) for text in block])
            else:
                writer.write(np.stack([vector(text) for text in block]), block)
            time.sleep(pause)
    return writer.done_texts


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def stopped_after(directory, count, total=100, **options):
    """A run that an exception ends after `count` of the texts."""

    def texts():
        yield from corpus(count)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write(directory, total, texts=texts(), batch=1, **options)


def test_vectors_are_read_by_the_number_of_their_text(tmp_path):
    assert write(tmp_path / "v", 105) == 0
    reader, want = ShardReader(tmp_path / "v", verify=True), np.stack([vector(text) for text in corpus(105)])
    assert sorted(os.listdir(tmp_path / "v")) == ["manifest.json"] + [f"part-0000{i}.npy" for i in range(6)]
    assert len(reader) == 105 and reader.provenance == ABOUT and reader.width == 8 and reader.dtype == np.float32
    assert all(np.array_equal(reader[i], want[i]) for i in range(-105, 105))
    assert all(np.array_equal(a, b) for a, b in zip(reader, want, strict=True))
    for cut in (
        slice(None),
        slice(3, 57),
        slice(19, 21),
        slice(20, 40),
        slice(-5, None),
        slice(9, 2),
        slice(99, 3, -7),
    ):
        assert np.array_equal(reader[cut], want[cut])
    assert np.array_equal(reader[np.int64(3)], want[3])
    for index in (105, -106):
        with pytest.raises(InputError, match="there are 105"):
            reader[index]


def test_vectors_of_tokens_are_read_by_the_number_of_their_text(tmp_path):
    write(tmp_path / "v", 105, ragged=True)
    reader, texts = ShardReader(tmp_path / "v"), list(corpus(105))
    assert len(reader) == 105 and len(reader[18:43]) == 25
    for i in (*range(105), -1):
        assert np.array_equal(reader[i], tokens(texts[i])) and reader[i].shape[1:] == (8,)
        assert reader.offsets(i).tolist() == [[label["start"], label["end"]] for label in labels(texts[i])]
    assert all(np.array_equal(a, b) for a, b in zip(reader[18:43], reader[:][18:43], strict=True))


def test_all_layers_and_float16_are_kept(tmp_path):
    block = np.random.default_rng(0).normal(size=(50, 3, 8)).astype(np.float32)
    with ShardWriter(tmp_path / "v", ABOUT, 8, 20, dtype="float16") as writer:
        writer.write(block, list(corpus(50)))
    reader = ShardReader(tmp_path / "v")
    assert reader[:].dtype == np.float16 and np.array_equal(reader[:], block.astype(np.float16))
    assert reader[7].shape == (3, 8)


def test_no_texts_give_a_complete_directory_of_none(tmp_path):
    write(tmp_path / "v", 0)
    reader = ShardReader(tmp_path / "v")
    assert len(reader) == 0 and reader[:].shape == (0, 8) and list(reader) == []


@pytest.mark.parametrize("ragged", [False, True])
def test_parts_do_not_depend_on_the_batches(tmp_path, ragged):
    for name, batch in (("a", 1), ("b", 20), ("c", 64)):
        write(tmp_path / name, 105, ragged, batch)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


# ---- going on


@pytest.mark.parametrize("ragged", [False, True])
def test_runs_killed_at_random_moments_end_as_the_unbroken_one(tmp_path, ragged):
    write(tmp_path / "whole", 1000, ragged)
    want, moments, kills, done = contents(tmp_path / "whole"), random.Random(0), 0, 0
    while done < 48:  # of 50 parts
        run = FORK.Process(target=write, args=(tmp_path / "v", 1000, ragged, 7, 0.001))
        run.start()
        target = done + moments.randint(1, 5)
        while run.is_alive() and len(list(tmp_path.glob("v/part-?????.np?"))) < target:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        run.kill()
        run.join()
        assert run.exitcode in (0, -signal.SIGKILL)
        kills += run.exitcode != 0
        done = len(ShardReader(tmp_path / "v", incomplete=True, verify=True)) // 20
    write(tmp_path / "v", 1000, ragged)
    assert contents(tmp_path / "v") == want and kills >= 5


def kill_at(moment, directory, ragged, count):
    """Write shards, but die at the moment-th opening, renaming or removing of a file, before or after it."""
    calls = 0

    def deadly(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    os.replace, os.unlink, Path.write_text = deadly(os.replace), deadly(os.unlink), deadly(Path.write_text)
    Path.unlink, Path.mkdir = deadly(Path.unlink), deadly(Path.mkdir)
    write(directory, count, ragged)


@pytest.mark.parametrize("ragged", [False, True])
def test_a_kill_before_or_after_any_change_of_the_directory_does_no_harm(tmp_path, ragged):
    write(tmp_path / "whole", 50, ragged)
    want, moment, exitcode = contents(tmp_path / "whole"), 0, None
    while exitcode != 0:
        moment += 1
        directory = tmp_path / f"v{moment}"
        run = FORK.Process(target=kill_at, args=(moment, directory, ragged, 50))
        run.start()
        run.join()
        exitcode = run.exitcode
        assert exitcode in (0, -signal.SIGKILL)
        write(directory, 50, ragged)
        assert contents(directory) == want, moment
    assert moment > 15


def test_going_on_tells_how_many_texts_are_done(tmp_path):
    stopped_after(tmp_path / "v", 50)
    assert sorted(os.listdir(tmp_path / "v")) == ["manifest.json", "part-00000.npy", "part-00001.npy"]
    with pytest.raises(FileError, match="is incomplete, 2 whole parts"):
        ShardReader(tmp_path / "v")
    assert len(ShardReader(tmp_path / "v", incomplete=True)) == 40
    assert write(tmp_path / "v", 100) == 40
    assert write(tmp_path / "v", 100) == 100  # complete: nothing to do
    write(tmp_path / "whole", 100)
    assert contents(tmp_path / "v") == contents(tmp_path / "whole")


def test_other_texts_are_refused_and_the_part_is_named(tmp_path):
    stopped_after(tmp_path / "v", 50)
    before = contents(tmp_path / "v")
    changed = ["other" if i == 30 else text for i, text in enumerate(corpus(100))]
    with pytest.raises(InputError, match=r"part-00001\.npy: was made from other texts than numbers 20 to 39"):
        write(tmp_path / "v", 100, texts=changed)
    with pytest.raises(InputError, match="has 40 texts, this input only 33"):
        write(tmp_path / "v", 33)
    moved = ["", "text 0 étext 1 é", *list(corpus(100))[2:]]  # the same letters, other texts
    with pytest.raises(InputError, match="part-00000"):
        write(tmp_path / "v", 100, texts=moved)
    assert contents(tmp_path / "v") == before


def test_texts_that_are_done_must_be_skipped(tmp_path):
    stopped_after(tmp_path / "v", 50)
    with (
        pytest.raises(InputError, match=r"40 texts are done; pass over them with skip"),
        ShardWriter(tmp_path / "v", ABOUT, 8, 20) as writer,
    ):
        writer.write(np.zeros((1, 8)), ["text"])
    with pytest.raises(InputError, match="40 texts are done"):
        ShardWriter(tmp_path / "v", ABOUT, 8, 20).close()
    assert write(tmp_path / "v", 100) == 40


def test_a_complete_directory_takes_no_more_texts(tmp_path):
    write(tmp_path / "v", 50)
    before = contents(tmp_path / "v")
    with pytest.raises(InputError, match="is complete with 50 texts"):
        write(tmp_path / "v", 51)
    assert contents(tmp_path / "v") == before and len(ShardReader(tmp_path / "v")) == 50


@pytest.mark.parametrize(
    ("provenance", "options", "message"),
    [
        ({**ABOUT, "layer": 3}, {}, "its vectors have layer=-1, this run has layer=3; use a new directory"),
        ({**ABOUT, "more": 1}, {}, "more=None, this run has more=1"),
        ({"model": "ab12"}, {}, "layer=-1, dtype='bfloat16', this run has layer=None, dtype=None"),
        (ABOUT, {"width": 9}, "width=8, this run has width=9"),
        (ABOUT, {"part_size": 10}, "part_size=20"),
        (ABOUT, {"dtype": "float16"}, "dtype='float32', this run has dtype='float16'"),
        (ABOUT, {"ragged": True}, "ragged=False"),
    ],
)
def test_another_run_is_refused_saying_what_differs(tmp_path, provenance, options, message):
    write(tmp_path / "v", 50)
    before = contents(tmp_path / "v")
    with pytest.raises(InputError, match=message) as caught:
        ShardWriter(tmp_path / "v", provenance, **{"width": 8, "part_size": 20, **options})
    assert "\n" not in str(caught.value) and contents(tmp_path / "v") == before


def test_two_runs_at_once_are_refused(tmp_path):
    refused = pytest.raises(FileError, match="another run is writing there")
    with ShardWriter(tmp_path / "v", ABOUT, 8, 20), refused:
        ShardWriter(tmp_path / "v", ABOUT, 8, 20)
    write(tmp_path / "v", 0)
    abandoned = ShardWriter(tmp_path / "w", ABOUT, 8, 20)
    del abandoned
    write(tmp_path / "w", 10)


# ---- what is refused


def test_a_directory_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "part-00000.npy").write_text("mine")
    with pytest.raises(FileError, match=r"has other files \(part-00000.npy\) and no manifest.json"):
        write(tmp_path / "v", 10)
    assert contents(tmp_path / "v") == {"part-00000.npy": b"mine"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="could not be read or written"):
        write(tmp_path / "file", 10)


def test_files_of_others_beside_the_manifest_stay(tmp_path):
    stopped_after(tmp_path / "v", 50)
    mine = {"README.md": "a", "part-00000.npy.bak": "b", "x.tmp": "c", "part-1.npy": "d"}
    strays = ["part-00002.npy", "part-00002.npy.77.tmp", "part-00003.npz.77.vectors.tmp", "manifest.json.77.tmp"]
    for name in (*mine, *strays):
        (tmp_path / "v" / name).write_text(mine.get(name, "stray"))
    write(tmp_path / "v", 50)
    assert not [name for name in strays[1:] if (tmp_path / "v" / name).exists()]
    assert all((tmp_path / "v" / name).read_text() == text for name, text in mine.items())


def test_missing_and_damaged_parts_are_refused(tmp_path):
    write(tmp_path / "v", 50)
    part = tmp_path / "v" / "part-00001.npy"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"?")
    ShardReader(tmp_path / "v")
    with pytest.raises(FileError, match=r"part-00001\.npy: is damaged, its sha256"):
        ShardReader(tmp_path / "v", verify=True)
    part.write_bytes(whole[:-1])
    for act in (lambda: ShardReader(tmp_path / "v"), lambda: write(tmp_path / "v", 50)):
        with pytest.raises(FileError, match=r"part-00001\.npy: has 767 bytes, the manifest says 768"):
            act()
    part.unlink()
    for act in (lambda: ShardReader(tmp_path / "v", incomplete=True), lambda: write(tmp_path / "v", 50)):
        with pytest.raises(FileError, match=r"part-00001\.npy: is missing"):
            act()


def test_manifests_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(FileError, match="no such directory"):
        ShardReader(tmp_path / "v")
    write(tmp_path / "v", 50)
    path = tmp_path / "v" / "manifest.json"
    manifest = json.loads(path.read_text())
    escape = {**manifest, "parts": [{**manifest["parts"][0], "file": "../part-00000.npy"}]}
    gap = {**manifest, "parts": manifest["parts"][1:]}
    texts = ["", "[]", "3", path.read_text()[:90], "{}", '{"parts": []}']
    for text in [*texts, *map(json.dumps, ({**manifest, "version": 2}, escape, gap, {**manifest, "provenance": 3}))]:
        path.write_text(text)
        for act in (lambda: ShardReader(tmp_path / "v"), lambda: write(tmp_path / "v", 50)):
            with pytest.raises(FileError, match=r"manifest\.json: damaged"):
                act()
    path.unlink()
    with pytest.raises(FileError, match="not a directory of shards"):
        ShardReader(tmp_path / "v")


def test_blocks_that_do_not_fit_are_refused(tmp_path):
    stopped_after(tmp_path / "v", 50)
    for block, texts, message in [
        (np.zeros((2, 8)), ["a"], "1 texts were given with vectors of 2"),
        (np.zeros((2, 7)), ["a", "b"], r"\[2, 7\], expected \[any number, 8\]"),
        (np.zeros((2, 3, 8)), ["a", "b"], r"\[2, 3, 8\], expected \[any number, 8\]"),
    ]:
        with pytest.raises(InputError, match=message), ShardWriter(tmp_path / "v", ABOUT, 8, 20) as writer:
            list(writer.skip(corpus(40)))
            writer.write(block, texts)
    for options in ({"part_size": 0}, {"dtype": "float64"}, {"provenance": {"a": {1}}}):
        with pytest.raises(InputError):
            ShardWriter(tmp_path / "w", **{"provenance": {}, "width": 8, **options})
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("ragged", [False, True])
def test_a_full_disk_keeps_the_whole_parts_and_nothing_else(tmp_path, ragged):
    old, texts = resource.getrlimit(resource.RLIMIT_FSIZE), list(corpus(60))
    block = np.ones((20, 8), np.float32)
    large = np.ones((20, 5000, 8), np.float32) if ragged else None
    writer = ShardWriter(tmp_path / "v", ABOUT, 8, 20, ragged)
    writer.write(list(block[:, None]) if ragged else block, texts[:20])
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000 if ragged else 600, old[1]))
    try:
        with pytest.raises(FileError, match="could not be"):
            writer.write(list(large) if ragged else block, texts[20:40])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    writer.close()
    assert len(ShardReader(tmp_path / "v", incomplete=True)) == 20
    assert len(contents(tmp_path / "v")) == 2 and not json.loads(contents(tmp_path / "v")["manifest.json"])["complete"]


def test_a_corpus_is_never_whole_in_memory(tmp_path):
    block, count = np.ones((100, 256), np.float32), 20_000  # 20 MB
    tracemalloc.start()
    with ShardWriter(tmp_path / "v", ABOUT, 256, part_size=7000) as writer:
        rest = writer.skip(f"text {i}" for i in range(count))
        while texts := list(islice(rest, 100)):
            writer.write(block, texts)
    with ShardWriter(tmp_path / "v", ABOUT, 256, part_size=7000) as writer:
        assert next(writer.skip(f"text {i}" for i in range(count)), None) is None
    assert sum(row[0] for row in ShardReader(tmp_path / "v")) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_many_parts_are_read_with_few_files_open(tmp_path):
    write(tmp_path / "v", 300, part_size=2)
    reader = ShardReader(tmp_path / "v")
    before = len(os.listdir("/proc/self/fd"))
    assert len(list(reader)) == 300 and len(os.listdir("/proc/self/fd")) <= before + 40
    assert shards.OURS.fullmatch("part-100000.npy")
