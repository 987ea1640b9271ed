"""The rows of `minialbert bench` that need fresh processes: import, first-vector, memory.

A process that has imported both sides can tell neither how long one takes to import nor how much memory it needs. So
here each side is a short program, in the words of its users; they take turns, a process each. What is told in one line
of JSON is read from outside. The other rows are in bench_vectors.py, bench_files.py and bench_training.py.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minialbert.convert import tokenizer_of
from minialbert.tools.bench_measuring import Row, Subject, compare, distance, interleave
from minialbert.tools.bench_peers import PADDED_BATCH

MEMORY_TEXTS = 96  # three batches of theirs; the most that is held at once does not grow with more
TEXT = "The small boat crossed the wide river before the rain began, and everyone on the other side waved and shouted."

IMPORT = """
import json, time, torch
start = time.perf_counter()
{line}
print(json.dumps([time.perf_counter() - start, 0]))
"""
IMPORTS = {"ours": "import minialbert", "theirs": "from transformers import AlbertModel"}

FIRST_VECTOR = {
    "ours": """
import json, sys, time
from minialbert import Embedder, load
model, tokenizer = load(sys.argv[1], any_vocabulary=True)
vector = Embedder(model, tokenizer)([sys.argv[2]], layer=-1)[0]
print(json.dumps([time.monotonic(), vector.tolist()]))
""",
    "theirs": """
import json, sys, time, torch
from transformers import AutoModel, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1])
with torch.inference_mode():
    vector = model(**tokenizer(sys.argv[2], return_tensors="pt")).last_hidden_state[0].mean(0)
print(json.dumps([time.monotonic(), vector.tolist()]))
""",
}

PEAK = """
import json, re, sys, torch
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
start, ids = peak(), json.load(open(sys.argv[2]))
"""
MEMORY = {
    "ours": """
from minialbert import AlbertModel, Embedder
model = AlbertModel.from_pretrained(sys.argv[1])
vectors = Embedder(model, None).encode_ids(ids, -1, types=[[0] * len(row) for row in ids])
print(json.dumps([peak() - start, vectors.tolist()]))
""",
    "theirs": f"""
from transformers import AutoModel
model, vectors = AutoModel.from_pretrained(sys.argv[1]), []
for batch in (ids[i : i + {PADDED_BATCH}] for i in range(0, len(ids), {PADDED_BATCH})):
    width = max(map(len, batch))
    rows = torch.tensor([row + [0] * (width - len(row)) for row in batch])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
    with torch.inference_mode():
        hidden = model(input_ids=rows, attention_mask=mask).last_hidden_state
    vectors += ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).tolist()
print(json.dumps([peak() - start, vectors]))
""",
}


def import_rows(subject: Subject) -> Iterator[Row]:
    """Seconds that importing takes beyond `import torch`."""
    programs = {name: IMPORT.format(line=line) for name, line in IMPORTS.items()}
    yield from side_by_side(subject, "import", programs, [], "transformers' AlbertModel", "<= 0.1")


def first_vector_rows(subject: Subject) -> Iterator[Row]:
    """Seconds from the start of Python to the vector of one text, from the same directory."""
    home, config = subject.home, subject.model.config
    if subject.tokenizer is None:
        shipped = tokenizer_of()
        if config.model_type != "albert" or len(shipped) > config.vocab_size:
            subject.leave_out("first-vector: left out, random weights of this kind have no tokenizer; give --model")
            return
        shipped.save_pretrained(home)  # its ids mean nothing to random weights, and take as long
    yield from side_by_side(subject, "first-vector", FIRST_VECTOR, [str(home), TEXT], "transformers, Auto classes",
                            clock=time.monotonic)  # fmt: skip


def memory_rows(subject: Subject) -> Iterator[Row]:
    """The most memory resident at once beyond that of `import torch`, from the model's directory to vectors."""
    if not Path("/proc/self/status").exists():
        subject.leave_out("memory: left out, this system does not tell a process's peak in /proc")
        return
    file = subject.folder / "ids.json"
    file.write_text(json.dumps(subject.ids[:MEMORY_TEXTS]))
    programs = {name: PEAK + program for name, program in MEMORY.items()}
    yield from side_by_side(subject, "memory", programs, [str(subject.home), str(file)],
                            f"transformers, batches of {PADDED_BATCH}", unit="MiB")  # fmt: skip


def side_by_side(
    subject: Subject, name: str, programs: dict[str, str], arguments: list[str], peer: str, goal: str = "",
    unit: str = "s", clock: Callable[[], float] = lambda: 0.0,
) -> Iterator[Row]:  # fmt: skip
    """A row of what the programs tell, less what the clock showed as each began; a side that fails is left out."""
    numbers: dict[str, list[float]] = {side: [] for side in programs}
    results: dict[str, Any] = {}

    def run(side: str) -> None:
        if side in numbers:
            started = clock()
            try:
                number, results[side] = told_by(programs[side], arguments)
                numbers[side].append(number - started)
            except RuntimeError as error:
                subject.leave_out(f"{name}: {'ours' if side == 'ours' else peer} left out, {error}")
                del numbers[side]

    unused = 0 if subject.quick else 1  # the first round fills the file cache
    interleave({side: partial(run, side) for side in programs}, subject.repeats - 1 + unused)
    if "ours" in numbers:
        theirs = numbers["theirs"][unused:] if "theirs" in numbers else None
        same = distance(np.array(results["ours"]), np.array(results["theirs"])) if theirs and results["ours"] else {}
        yield compare(name, numbers["ours"][unused:], peer, theirs, goal, unit, **same)


def told_by(program: str, arguments: list[str]) -> list[Any]:
    """What a program prints in its last line. Raises RuntimeError, in one line, when it fails."""
    settings = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True,
                          env=os.environ | settings)  # fmt: skip
    if told.returncode:
        raise RuntimeError(
            " ".join((told.stderr.strip().splitlines() or ["it ended without a word"])[-1].split())[:200]
        )
    return json.loads(told.stdout.splitlines()[-1])
