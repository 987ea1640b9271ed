"""How much memory it takes to tokenize a large corpus: less than LIMIT, with one process and with two.

    python -m tests.pretrain.memory --bytes 1e9
    python -m tests.pretrain.memory --bytes 1e9 --text news.txt.xz

The corpus is one text again and again, and after every hundredth word comes one that was never there before: whatever
remembers words, sentences or documents without a bound grows with it. `prepare_corpus` runs in a process of its own,
which is watched from outside through /proc (Linux). test_memory.py does the same with a few megabytes.
"""

import argparse
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from minialbert.pretrain.corpus import SHARD_TOKENS
from minialbert.pretrain.documents import OPENERS
from minialbert.tokenizers.train import train_tokenizer

ROOT = Path(__file__).parent.parent.parent
LIMIT = 500_000_000  # bytes, of all processes together
SYLLABLES = ["".join(pair) for pair in itertools.product("bcdfghjklmnprstvwxyz", "aeiou")]
LEXICON, FIRST_NEW = 20_000, 1_000_000  # words of the made-up language; number of the first one that is new
KILOBYTES = re.compile(r"^(\w+):\s+(\d+) kB$", re.M)  # a line in /proc
LEARNT = 2_000_000  # characters that the vocabulary is learnt from
MADE_UP = 20_000_000  # of the made-up text, before it is repeated
PREPARE = """
import sys
from minialbert.pretrain.corpus import prepare_corpus
from minialbert.tokenizers import load_tokenizer
text, vocabulary, directory, workers, shard_tokens = sys.argv[1:]
prepare_corpus([text], load_tokenizer(vocabulary), directory, workers=int(workers), shard_tokens=int(shard_tokens))
"""


class Taken(NamedTuple):
    """What a run took: seconds, those of processors, bytes of memory at most: of all processes, of the largest one."""

    seconds: float
    processors: float
    together: int
    largest: int

    @property
    def peak(self) -> int:
        return max(self.together, self.largest)


# ---- text ----


def word(number: int) -> str:
    """A pronounceable word, another one for every number."""
    syllables = [SYLLABLES[number % 100]]
    while number := number // 100:
        syllables.append(SYLLABLES[number % 100])
    return "".join(syllables)


def made_up(size: int) -> str:
    """About so many characters that look like English: sentences, a paragraph a line, blank lines between documents.

    The n-th word of the language comes with a frequency of 1 / n, as in real ones.
    """
    rng, parts, length = random.Random(0), [], 0
    words = [word(n) for n in range(LEXICON)]
    weights = list(itertools.accumulate(1 / n for n in range(1, LEXICON + 1)))
    while length < size:
        sentence = " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(5, 30)))
        parts.append(sentence.capitalize() + rng.choices((". ", ".\n", ".\n\n"), weights=(12, 3, 1))[0])
        length += len(parts[-1])
    return "".join(parts)


def write_corpus(path: Path, text: str, size: int) -> int:
    """`text` again and again, up to `size` bytes; returns how many new words are in it."""
    stretches = [stretch.encode() for stretch in re.findall(r"(?:\S+\s+){1,100}", text + "\n\n")]
    left = size
    with open(path, "wb") as file:
        for number, stretch in enumerate(itertools.cycle(stretches)):
            left -= file.write(b"%s%s " % (stretch, word(FIRST_NEW + number).encode()))
            if left <= 0:
                return number + 1
    raise AssertionError("a cycle has no end")


# ---- memory ----


def family(pid: int) -> Iterator[int]:
    """A process and all that come from it."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def figures(pid: int) -> Counter[str]:
    """What the kernel says of a process, in bytes by name; nothing of one that is gone."""
    found: Counter[str] = Counter()
    for file in ("status", "smaps_rollup"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/{file}").read_text()
            found.update({name: 1024 * int(size) for name, size in KILOBYTES.findall(text)})
    return found


def together_now(family: list[Counter[str]]) -> int:
    """Own pages of all processes, each counted once; and the files that the largest has mapped: they all map the same.

    Files are not counted in proportion (Pss), which would get less with every program beside this one that uses torch.
    """
    own = sum(process["Pss_Anon"] + process["Pss_Shmem"] for process in family)
    return own + max(process["RssFile"] for process in family)


def watch(command: list[str]) -> Taken:
    """Runs a command to its end, and looks at it five times a second. Raises CalledProcessError.

    The largest process is told by the kernel's own high-water mark (VmHWM), which misses no moment. (The ru_maxrss of
    getrusage would do, but it begins with that of whoever started the process.)
    """
    before, started, together, largest = os.times(), time.perf_counter(), 0, 0
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None:
        found = [figures(pid) for pid in family(process.pid)]
        together = max(together, together_now(found))
        largest = max([largest, *(one["VmHWM"] for one in found)])
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(seconds, used, together, largest)


def prepare(text: Path, vocabulary: Path, directory: Path, workers: int, shard_tokens: int = SHARD_TOKENS) -> Taken:
    """What `prepare_corpus` takes for a file."""
    arguments = [text, vocabulary, directory, workers, shard_tokens]
    return watch([sys.executable, "-c", PREPARE, *map(str, arguments)])


# ---- the whole ----


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pretrain.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--bytes", type=float, default=1e9, metavar="N", help="of text")
    parser.add_argument("--text", type=Path, metavar="F", help="what is repeated, also as .gz or .xz; made up without")
    parser.add_argument("--vocabulary", type=int, default=8000, metavar="N", help="pieces")
    given = parser.parse_args(arguments)
    if given.text:
        with OPENERS.get(given.text.suffix, open)(given.text, "rt", encoding="utf-8") as file:
            text = file.read()
    else:
        text = made_up(MADE_UP)
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        train_tokenizer(text[:LEARNT].splitlines(), top / "vocabulary", size=given.vocabulary, threads=1)
        new = write_corpus(top / "corpus.txt", text, int(given.bytes))
        size = os.path.getsize(top / "corpus.txt")
        print(f"{size / 1e6:,.0f} MB of text, {new:,} words only once in it, {given.vocabulary:,} pieces", flush=True)
        peaks = []
        for workers in (1, 2):
            taken = prepare(top / "corpus.txt", top / "vocabulary", top / f"corpus-{workers}", workers)
            peaks.append(taken.peak)
            print(
                f"workers={workers}: {taken.seconds:,.0f} s, of processors {taken.processors:,.0f} s; "
                f"at most {taken.together / 1e6:.0f} MB together, {taken.largest / 1e6:.0f} MB the largest process",
                flush=True,
            )
    if max(peaks) > LIMIT:
        print(f"error: {max(peaks) / 1e6:.0f} MB at most, expected {LIMIT / 1e6:.0f} MB or less", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
