"""The tokenized corpus on disk: what was read, whole or not at all, the same for any number of processes."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.errors import CheckpointError, FileError, InputError, MiniAlbertError
from minialbert.pretrain import corpus as module
from minialbert.pretrain.corpus import Corpus, prepare_corpus
from minialbert.pretrain.documents import read_documents
from minialbert.tokenizers import load_tokenizer
from tests.conftest import GOLDEN

TEXT = GOLDEN / "tokenizer" / "corpus.txt"
MODEL = GOLDEN / "tokenizer" / "albert-tiny-500.model"
TOKENIZER = load_tokenizer(MODEL, flavor="google")
MANIFEST = "manifest.json"


def prepare(directory, paths=(TEXT,), tokenizer=TOKENIZER, **how):
    return prepare_corpus(paths, tokenizer, directory, **({"layout": "sentences"} | how))


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 1500)


def test_every_sentence_of_every_document_is_there_in_order(tmp_path, small_batches):
    corpus = prepare(tmp_path / "c", shard_tokens=1000)
    assert (corpus.documents, corpus.sentences, corpus.tokens) == (27, 379, 6900), "Google's program counted the same"
    assert len(corpus.shards) > 3
    at = 0
    for number, document in enumerate(read_documents([TEXT], "sentences")):
        first, lengths = corpus.document(number)
        assert first == at and len(lengths) == len(document)
        for i, sentence in enumerate(document):
            want = TOKENIZER.encode(sentence)[1:-1]
            assert corpus.ids(at + i, at + i + 1).tolist() == want and lengths[i] == len(want)
        assert len(corpus.ids(at, at + len(lengths))) == sum(lengths)
        at += len(lengths)


def test_files_are_the_same_bytes_for_any_number_of_processes(tmp_path, small_batches):
    found = []
    for workers in (1, 2, 4):
        prepare(tmp_path / str(workers), shard_tokens=1000, workers=workers)
        found.append(contents(tmp_path / str(workers)))
    assert found[0] == found[1] == found[2]
    assert not [name for name in found[0] if name.endswith(".tmp")]


def test_the_digest_is_of_text_and_layout_and_not_of_the_place(tmp_path):
    first, moved = prepare(tmp_path / "c").digest(), tmp_path / "moved.txt"
    moved.write_bytes(TEXT.read_bytes())
    assert prepare(tmp_path / "d", paths=[moved]).digest() == first
    moved.write_bytes(TEXT.read_bytes().replace(b"harbour", b"Harbour", 1))
    others = [prepare(tmp_path / "e", paths=[moved]), prepare(tmp_path / "f", layout="paragraphs")]
    assert len({first, *(other.digest() for other in others)}) == 3


def test_a_finished_corpus_is_found_and_not_made_again(tmp_path):
    first = contents(prepare(tmp_path / "c").directory)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}
    assert contents(prepare(tmp_path / "c").directory) == first
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}


def killed(directory):
    module.BATCH_CHARACTERS = 1500
    shards = iter(range(3))

    def kill_in_the_third(counts):
        if next(shards) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    prepare(directory, shard_tokens=1000, progress=kill_in_the_third)


def test_a_killed_run_goes_on_after_its_last_whole_shard(tmp_path, small_batches):
    whole = contents(prepare(tmp_path / "whole", shard_tokens=1000).directory)
    process = multiprocessing.get_context("fork").Process(target=killed, args=(tmp_path / "c",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(CheckpointError, match="is unfinished"):
        Corpus(tmp_path / "c")
    made: list[int] = []
    prepare(tmp_path / "c", shard_tokens=1000, progress=lambda counts: made.append(counts["tokens"]))
    assert contents(tmp_path / "c") == whole
    assert len(made) == len(json.loads(whole[MANIFEST])["shards"]) - 3, "the first three were not made again"


def die(documents):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_work", die)
    with pytest.raises(MiniAlbertError, match="process was killed; run again, it goes on"):
        prepare(tmp_path / "c", workers=2)


def test_workers_end_with_the_process_that_began_them():
    code = (
        "import os, time\nfrom minialbert.pretrain.corpus import _begin\n"
        "if os.fork() == 0:\n    _begin(None, '')\n    print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert running(child)
        parent.kill()
        parent.wait()
        for _ in range(200):
            if not running(child):
                return
            time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the worker lives on")


def running(process: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_over_other_text_tokenizer_or_layout_is_refused(tmp_path, small_batches):
    prepare(tmp_path / "c", shard_tokens=1000)
    other = load_tokenizer(MODEL, flavor="hf")
    with pytest.raises(CheckpointError, match=r"made with tokenizer .* this run has .*; use a new directory"):
        prepare(tmp_path / "c", tokenizer=other, shard_tokens=1000)
    with pytest.raises(CheckpointError, match="made with layout sentences"):
        prepare(tmp_path / "c", layout="paragraphs", shard_tokens=1000)
    with pytest.raises(CheckpointError, match="made with sources"):
        prepare(tmp_path / "c", paths=[TEXT, TEXT], shard_tokens=1000)
    with pytest.raises(CheckpointError, match="another tokenizer"):
        Corpus(tmp_path / "c").check_tokenizer(other)
    manifest = json.loads((tmp_path / "c" / MANIFEST).read_text())
    (tmp_path / "c" / MANIFEST).write_text(json.dumps(manifest | {"complete": False, "shards": manifest["shards"][:2]}))
    changed = tmp_path / "changed" / TEXT.name
    changed.parent.mkdir()
    changed.write_bytes(TEXT.read_bytes().replace(b"harbour", b"Harbour", 1))  # as many bytes
    with pytest.raises(CheckpointError, match="shard-00000: was made from other text"):
        prepare(tmp_path / "c", paths=[changed], shard_tokens=1000)


def test_damaged_directories_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"manifest\.json: cannot be read"):
        Corpus(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "is not the manifest"), ("{}", "is not the manifest")):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(CheckpointError, match=message):
            Corpus(tmp_path)
    directory = prepare(tmp_path / "c").directory
    path = directory / "shard-00000.ids.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="damaged or missing"):
        Corpus(directory)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged or missing"):
        Corpus(directory)
    path.unlink()
    with pytest.raises(CheckpointError, match="damaged or missing"):
        Corpus(directory)
    np.save(path, np.zeros(3, np.uint16))
    with pytest.raises(CheckpointError, match=r"holds \(3,\), the manifest says 6900"):
        Corpus(directory)


def test_text_without_a_piece_is_refused_and_sentences_without_one_are_left_out(tmp_path):
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n\n \n")
    with pytest.raises(FileError, match=r"blank\.txt: no text in it"):
        prepare(tmp_path / "c", paths=[blank])
    text = tmp_path / "text.txt"
    text.write_text("\u200b\nThe sea.\n\u200b\n\n\u200b\n\nThe town.\n")  # SentencePiece deletes U+200B
    corpus = prepare(tmp_path / "d", paths=[text])
    assert (corpus.documents, corpus.sentences) == (2, 2)
    with pytest.raises(InputError, match="shard_tokens=0"):
        prepare(tmp_path / "e", shard_tokens=0)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be written"):
        prepare(tmp_path / "file" / "c")


def test_a_large_vocabulary_takes_four_bytes_an_id(tmp_path):
    vocabulary, text = tmp_path / "vocab.txt", tmp_path / "text.txt"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for count, dtype in ((65531, "uint16"), (65532, "uint32")):
        vocabulary.write_text("\n".join([*special, *(f"w{i}" for i in range(count))]))
        text.write_text(f"w{count - 1} w0\n")
        corpus = prepare(tmp_path / dtype, paths=[text], tokenizer=load_tokenizer(vocabulary))
        assert corpus.manifest["dtype"] == corpus.ids(0, 1).dtype == dtype
        assert corpus.ids(0, 1).tolist() == [count + 4, 5]


@given(st.integers(1, 8000))
@settings(max_examples=30, deadline=None)
def test_blocks_are_runs_of_documents_that_cover_the_corpus(tmp_path_factory, tokens):
    directory = tmp_path_factory.getbasetemp() / "blocks"
    edges = prepare(directory).blocks(tokens).tolist()
    assert edges[0] == 0 and edges[-1] == 27 and edges == sorted(set(edges))
    assert len(edges) - 1 <= max(6900 // tokens + 1, 1)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_held_out_documents_and_the_others_are_all_and_none_is_in_both(tmp_path, share):
    text = tmp_path / "t.txt"
    said = [f"the wind number {n} is here.\nthe sea number {n} is there." for n in range(60)]
    text.write_text("\n\n".join([*said, said[0], said[1]]), encoding="utf-8")  # two documents are there twice
    found = []
    for held_out in (True, False):
        corpus = prepare_corpus([text], TOKENIZER, tmp_path / str(held_out), "sentences", part=(share, held_out))
        firsts = [corpus.document(d) for d in range(corpus.documents)]
        found.append([TOKENIZER.decode(corpus.ids(at, at + len(lengths)).tolist()) for at, lengths in firsts])
    assert len(found[0]) + len(found[1]) == 62 and len(set(found[0]) | set(found[1])) == 60
    assert not set(found[0]) & set(found[1])
    assert abs(len(found[0]) / 62 - share) < 0.2
    with pytest.raises(CheckpointError, match="made with part"):
        prepare_corpus([text], TOKENIZER, tmp_path / "True", "sentences")
    with pytest.raises(InputError, match=r"a share of 1\.0 of the documents cannot be held out"):
        prepare_corpus([text], TOKENIZER, tmp_path / "x", "sentences", part=(1.0, True))


def test_to_another_process_goes_the_name_and_not_the_corpus(tmp_path):
    corpus = prepare(tmp_path / "c")
    data = pickle.dumps(corpus)
    assert len(data) < 500 and (pickle.loads(data).ids(0, 3) == corpus.ids(0, 3)).all()


def test_memory_does_not_grow_with_the_text(tmp_path, small_batches):
    peaks = []
    for copies in (2, 20):
        text = tmp_path / f"{copies}.txt"
        text.write_text((TEXT.read_text() + "\n\n") * copies)
        tracemalloc.start()
        prepare(tmp_path / f"c{copies}", paths=[text], shard_tokens=5000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks


def test_describe_warns_of_what_looks_wrong(tmp_path):
    assert prepare(tmp_path / "c").describe().startswith("27 documents, 379 sentences, 6,900 tokens (18.2 a sentence)")
    apart = tmp_path / "apart.txt"
    apart.write_text("\n\n".join(TEXT.read_text().split("\n")))
    assert "most documents are one sentence" in prepare(tmp_path / "d", paths=[apart]).describe()
    one = tmp_path / "one.txt"
    one.write_text("\n".join(line for line in TEXT.read_text().split("\n") if line) * 3)
    assert "no blank line between documents" in prepare(tmp_path / "e", paths=[one]).describe()
    strange = tmp_path / "strange.txt"
    strange.write_text("Ж Я\nЖ Я\n")
    assert "many unknown pieces" in prepare(tmp_path / "f", paths=[strange]).describe()
