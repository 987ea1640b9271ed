"""kill -9 in the middle of a run, again and again, also in the middle of a checkpoint: the same weights in the end.

test_loop.py kills after a random time, and where a file gets or loses its name. Here every other kill waits until a
checkpoint is being written or deleted, and strikes within it; the others wait for a random number of steps, or for
none. So it does not matter how fast the machine is. The test does a few; as many as you like:

    python -m tests.pretrain.test_kill --kills 20
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from minialbert.checkpoints import LOG, checkpoints, last
from minialbert.pretrain.corpus import prepare_corpus
from tests.pretrain.test_loop import ROOT, TEXT, TOKENIZER, in_child, killed_run, rows_of, same_bytes

LATER = 0.03  # seconds that a kill waits, at most, when what it waited for is there: a step takes about as long


class Kill(NamedTuple):
    """What was there right after a kill: the step of the last checkpoint, and files of one that is not whole."""

    aimed: bool
    step: int
    half: list[str]

    def __str__(self) -> str:
        how = "at a checkpoint" if self.aimed else "at any moment"
        return f"killed {how:<16} last whole step {self.step:>2}; left over: {', '.join(self.half) or 'nothing'}"


def over(child: int) -> bool:
    """Whether a child has come to its end by itself; it can still be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def logged(directory: Path) -> set[str]:
    return set((directory / LOG).read_text().splitlines()) if (directory / LOG).exists() else set()


def in_the_making(directory: Path) -> set[str]:
    """Checkpoints that are being written or deleted."""
    return {path.name for path in directory.glob(".step-*")}


def strike(directory: Path, child: int, aimed: bool, later: float, rng: random.Random) -> Kill | None:
    """Kills a run after some steps and up to `later` seconds more, or within a checkpoint; None if it ended before."""
    look, number = (in_the_making, rng.randint(1, 3)) if aimed else (logged, rng.randint(0, 6))
    old, new = look(directory), set[str]()
    while len(new) < number and not over(child):
        new |= look(directory) - old
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, later))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        assert status == 0
        return None
    path = last(directory)
    files = {half.name: sorted(file.name for file in half.rglob("*")) for half in directory.glob(".step-*")}
    left = [f"{name} ({', '.join(names) or 'empty'})" for name, names in sorted(files.items())]
    return Kill(aimed, int(path.name[5:]) if path else 0, left)


def kill_and_resume(top: Path, kills: int, seed: int = 0) -> list[str]:
    """An unbroken run, and as many as it takes to spend the kills; prints each kill, and returns what differs."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prepare_corpus([TEXT], TOKENIZER, top / "corpus", layout="sentences")
    assert os.waitpid(in_child(lambda: killed_run(top / "whole", top / "corpus")), 0)[1] == 0
    rng, spent, number = random.Random(seed), 0, 0
    wrong: list[str] = []
    while spent < kills:
        number += 1
        directory = top / f"killed-{number}"
        while True:
            child = in_child(lambda directory=directory: killed_run(directory, top / "corpus"))
            if spent == kills:
                assert os.waitpid(child, 0)[1] == 0
                break
            kill = strike(directory, child, spent % 2 == 0, LATER if spent else 0.0, rng)
            if kill is None:
                break
            spent += 1
            print(f"run {number}: {kill}", flush=True)
        found = differences(top / "whole", directory)
        print(f"run {number}: at its end, {', '.join(found) or 'the same bytes as the unbroken run'}", flush=True)
        wrong += found
    return wrong


def differences(whole: Path, killed: Path) -> list[str]:
    """What a run that was killed has otherwise than the unbroken one."""
    same = {
        "other weights or another state of the optimizer": same_bytes(last(whole), last(killed)),
        "another log": rows_of(whole) == rows_of(killed),
        "other checkpoints": [p.name for p in checkpoints(whole)] == [p.name for p in checkpoints(killed)],
        "half-written files": not [path for path in killed.iterdir() if path.name.startswith(".")],
    }
    return [what for what, equal in same.items() if not equal]


def test_kills_within_checkpoints_and_anywhere_else_change_no_bit():
    command = [sys.executable, "-m", "tests.pretrain.test_kill", "--kills", "4"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(told.stdout)
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    assert told.stdout.count("killed at a checkpoint") == 2 and told.stdout.count("killed at any moment") == 2
    assert ".step-" in told.stdout, "a kill has left half a checkpoint behind"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pretrain.test_kill", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        wrong = kill_and_resume(Path(directory), given.kills, given.seed)
    if wrong:
        print(f"error: after a kill: {', '.join(wrong)}; expected what the unbroken run ends in", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
