"""Runs a notebook as a reader would: from top to bottom, in a fresh kernel, without a network.

    python -m tests.notebooks [01 02 ...]     runs them and writes what they print back into the files

test_notebooks.py does the same and writes nothing.
"""

import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

DIRECTORY = Path(__file__).parents[1] / "notebooks"
KEPT = ("tags", "jupyter")  # of a cell's metadata; times and editors' notes are dropped
SECONDS = 100  # that one cell may take
NO_NETWORK = """
import socket

def _refuse(self, address, *rest):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a notebook wanted the network: {address}")
    return _connect(self, address, *rest)

_connect, socket.socket.connect = socket.socket.connect, _refuse
del _refuse
"""  # what the kernel runs before the first cell; its own sockets are on this machine


class Ran(NamedTuple):
    notebook: nbformat.NotebookNode  # with the outputs of this run
    seconds: list[float]  # of each code cell


def paths(wanted: tuple[str, ...] = ()) -> list[Path]:
    """All notebooks in their order, or those whose numbers are given."""
    return [path for path in sorted(DIRECTORY.glob("[0-9][0-9]_*.ipynb")) if not wanted or path.name[:2] in wanted]


def run(path: Path) -> Ran:
    """Raises nbclient's CellExecutionError where a cell fails, CellTimeoutError where it takes too long."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        startup = Path(scratch, "ipython", "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "00-no-network.py").write_text(NO_NETWORK)
        here = Path(scratch, "here")
        here.mkdir()
        more = {"IPYTHONDIR": str(startup.parents[1]), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        sockets = {"transport": "ipc", "ip": str(Path(scratch, "kernel"))}  # files; no port of this machine is opened
        client = NotebookClient(notebook, kernel_name="python3", timeout=SECONDS, record_timing=True,
                                config=Config(AsyncKernelManager=sockets),
                                resources={"metadata": {"path": str(here)}})  # fmt: skip
        client.execute(env=os.environ | more)
    return Ran(notebook, [seconds_of(cell) for cell in notebook.cells if cell.cell_type == "code"])


def seconds_of(cell: nbformat.NotebookNode) -> float:
    """How long a cell took, by the times that the kernel tells."""
    times = cell.metadata.get("execution", {})
    if not {"iopub.execute_input", "shell.execute_reply"} <= set(times):
        return 0.0
    first, last = (datetime.fromisoformat(times[name]) for name in ("iopub.execute_input", "shell.execute_reply"))
    return (last - first).total_seconds()


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drops what differs from run to run and from machine to machine, so that a diff shows what changed."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name in KEPT}


def main(wanted: tuple[str, ...]) -> None:
    for path in paths(wanted):
        ran = run(path)
        clean(ran.notebook)
        path.write_text(nbformat.writes(ran.notebook) + "\n", encoding="utf-8")
        print(f"{path.name:<40}{sum(ran.seconds):6.1f} s, slowest cell {max(ran.seconds):5.1f} s", flush=True)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
