"""Memory does not grow with the corpus: memory.py, with a few megabytes in place of a gigabyte."""

import sys

import pytest

from tests.conftest import GOLDEN
from tests.pretrain import memory
from tests.pretrain.memory import FIRST_NEW, Taken, made_up, main, prepare, watch, word, write_corpus

VOCABULARY = GOLDEN / "tokenizer" / "albert-tiny-500.model"
MB = 1_000_000


@pytest.mark.parametrize("workers, small, large", [(1, 4, 20), (2, 8, 40)])
def test_more_text_takes_the_same_memory(tmp_path, workers, small, large):
    """What is kept of the rest of the text, as text or as numbers of Python, would be its size and more.

    The small corpus is two shards, and for two processes more than what waits for them; how much waits is a matter of
    who is faster, 15 MB of it on a busy machine.
    """
    text, taken = made_up(MB), []
    for size in (small, large):
        write_corpus(tmp_path / "corpus.txt", text, size * MB)
        taken.append(prepare(tmp_path / "corpus.txt", VOCABULARY, tmp_path / str(size), workers, shard_tokens=1 << 19))
        print(f"{workers} workers, {size} MB of text: {taken[-1]}")
    assert taken[1].largest - taken[0].largest < (large - small) * MB / 2
    assert taken[1].together - taken[0].together < (large - small) * MB * 3 / 4
    assert taken[1].peak < memory.LIMIT


# ---- is it measured rightly? ----


def test_memory_of_all_processes_is_seen_and_what_they_share_is_counted_once():
    code = f"import os, time; x = bytearray({100 * MB}); os.fork(); y = bytearray({60 * MB}); time.sleep(1)"
    taken, alone = (watch([sys.executable, "-c", what]) for what in (code, "import time; time.sleep(1)"))
    assert 215 * MB < taken.together - alone.together < 235 * MB, "100 of both, and 60 of each"
    assert 155 * MB < taken.largest - alone.largest < 170 * MB


def test_the_corpus_has_the_text_and_words_that_come_once(tmp_path):
    text = made_up(20_000)
    new = write_corpus(tmp_path / "corpus.txt", text, 50_000)
    words = (tmp_path / "corpus.txt").read_text().split()
    coined = {word(FIRST_NEW + number) for number in range(new)}
    assert len(coined) == new and not coined & set(text.lower().split())
    assert [w for w in words if w in coined] == [word(FIRST_NEW + number) for number in range(new)]
    assert " ".join(w for w in words if w not in coined).startswith(" ".join(text.split()))
    assert 90 < len(words) / new < 102 and 50_000 <= (tmp_path / "corpus.txt").stat().st_size < 52_000
    assert made_up(20_000) == text and "\n\n" in text


def test_too_much_memory_is_a_failure(monkeypatch, capsys):
    peaks = iter([100 * MB, 100 * MB, 100 * MB, 501 * MB])
    monkeypatch.setattr(memory, "MADE_UP", 20_000)
    monkeypatch.setattr(memory, "train_tokenizer", lambda *given, **more: None)
    monkeypatch.setattr(memory, "prepare", lambda *given: Taken(1.0, 1.0, next(peaks), 90 * MB))
    assert main(["--bytes", "1e4"]) == 0
    assert main(["--bytes", "1e4"]) == 1
    assert "error: 501 MB at most, expected 500 MB or less" in capsys.readouterr().err
