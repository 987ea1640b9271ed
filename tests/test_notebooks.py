"""Every notebook runs from top to bottom without a network, and the committed file is what such a run left.

The first part asks the files, in no time: order of cells, links, numbers in prose, exercises. The last part runs each
in a kernel of its own (notebooks.py does it) and tells the times. Times are not compared, except with SECONDS.
"""

import ast
import copy
import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import DIRECTORY, SECONDS, clean, paths, run

ROOT = DIRECTORY.parent
NAMES = (
    "00_start_here", "01_words_into_numbers", "02_the_narrow_table", "03_attention", "04_one_layer_many_visits",
    "05_bert_is_the_same_code", "06_other_peoples_weights", "07_vectors_from_any_layer", "08_pretraining_in_minutes",
    "09_fine_tuning", "10_looking_inside", "11_myths",
)  # fmt: skip
LINES, DRAWING, TAGGED = 15, 25, 40  # at most in a cell, in one that draws, in an exercise's; imports not counted
OUTPUT_LINES, OUTPUT_WIDTH = 20, 100
FOLDED = "# A solution: unfold it when you have tried\n"  # the line that JupyterLab shows of a folded cell
ALT = 30  # letters that an alternative text has at least

HERE = [str(path) for path in (ROOT, Path.home(), Path(tempfile.gettempdir())) if len(path.parts) > 1]
PLACES = (r"/(?:home|root|Users|tmp|var/folders)/\w", r"\b[A-Z]:\\\w", "site-packages/", r"\bat 0x[0-9a-f]{6}")
MACHINE = re.compile("|".join([re.escape(path) + r"\b" for path in HERE] + list(PLACES)))  # paths, addresses

every_notebook = pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
Notebook = nbformat.NotebookNode
Faults = list[str]


def code_cells(notebook: Notebook) -> list[Notebook]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: Notebook) -> list[str]:
    return cell.metadata.get("tags", [])


def prose(notebook: Notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def printed(cell: Notebook) -> str:
    """All text of a cell's outputs, alternative texts included, pictures not."""
    texts = []
    for output in cell.get("outputs", []):
        texts += [output.get("text", ""), *output.get("traceback", [])]
        texts += [str(what) for kind, what in output.get("data", {}).items() if kind.startswith("text/")]
        texts += [str(more.get("alt", "")) for more in output.get("metadata", {}).values() if isinstance(more, dict)]
    return "\n".join(filter(None, texts))


def to_read(cell: Notebook) -> str:
    """What of it a reader sees: text where there is no picture instead."""
    plain = [output.data.get("text/plain", "") for output in cell.outputs if "data" in output and not pictured(output)]
    return "".join([output.text for output in cell.outputs if output.output_type == "stream"] + plain)


def pictured(output: Notebook) -> bool:
    return any(kind.startswith(("image/", "text/html")) for kind in output.get("data", {}))


def said(cell: Notebook) -> str:
    """The beginning of a cell, to find it by."""
    return repr((cell.source.splitlines() or [""])[0][:60])


# ---- what a run leaves ----


def faults_of_outputs(notebook: Notebook) -> Faults:
    """No error, no warning, nothing that only this machine would print, and words for every figure."""
    faults = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                faults.append(f"{said(cell)}: {output.ename}")
            if output.get("name") == "stderr":
                faults.append(f"{said(cell)} writes to stderr: {output.text[:80]!r}")
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                if len(alt) < ALT:
                    faults.append(f"{said(cell)}: a figure with the alternative text {alt!r}")
        text = printed(cell)
        if found := MACHINE.search(text):
            faults.append(f"{said(cell)} prints something of one machine: {found[0]!r}")
        if found := re.search(r"\w*Warning\b", text):
            faults.append(f"{said(cell)} prints {found[0]!r}")
        lines = to_read(cell).splitlines()
        widest = max(map(len, lines), default=0)
        if len(lines) > OUTPUT_LINES or widest > OUTPUT_WIDTH:
            faults.append(f"{said(cell)} prints {len(lines)} lines, {widest} letters wide: too much to read")
    return faults


def has_picture(cell: Notebook) -> bool:
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def faults_of_one_run(notebook: Notebook) -> Faults:
    """Cells were run in order, all of them, in a new kernel; nothing is kept that differs from run to run."""
    cells = code_cells(notebook)
    numbers = [cell.execution_count for cell in cells]
    faults = [] if numbers == list(range(1, len(cells) + 1)) else [f"cells were run in the order {numbers}"]
    if not any(cell.outputs for cell in cells):
        faults.append("there are no outputs")
    cleaned = copy.deepcopy(notebook)
    clean(cleaned)
    if cleaned != notebook:
        faults.append("times or an editor's notes are kept: write it with python -m tests.notebooks")
    return faults


# ---- the ten points ----

PLACE = re.compile(r"\b(?:[Ss]ection|[Tt]able|[Ff]igure|[Aa]ppendix)s? [A-D\d]|\|\s*\d\.\d[^|]*\|")  # or in a table


def faults_of_shape(notebook: Notebook, stem: str) -> Faults:
    """What every notebook has, from its title to what to read next; 00 is a page of signposts and needs no exercise."""
    first, openings = notebook.cells[0].source, code_cells(notebook)[:2]  # imports may take a cell of their own
    start, begun = "\n".join(cell.source for cell in openings), "\n".join(map(printed, openings))
    tests = [node for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source))]
    asserting = sum(isinstance(node, ast.Assert) for node in tests)
    places = targets(prose(notebook))
    last = targets("\n".join(cell.source for cell in notebook.cells[-3:] if cell.cell_type == "markdown"))
    points = {
        f"1: a title, # {stem[:2]} ...": re.match(rf"# {stem[:2]} \S", first),
        "1: one sentence to remember, in bold": re.search(r"\*\*[^*]{20,}\*\*", first),
        "1: how many minutes": re.search(r"\b\d+\s+minutes", first),
        "1: what to know before": re.search(r"(?i)\b(before|know)\b", first),
        "2: torch.manual_seed, FULL = False": re.search(r"manual_seed\(.*^FULL = False", start, re.M | re.S),
        "2: the versions": all(re.search(rf"{name}\W+\d", begun) for name in ("minialbert", "torch")),
        "6: asserts": asserting >= (1 if stem.startswith("00") else 5),
        "7: a figure": any(map(has_picture, code_cells(notebook))),
        "8: a link to the source": any(target.startswith("../minialbert/") for target in places),
        "8: a place in the paper": stem.startswith("00") or PLACE.search(prose(notebook)),
        "9: an exercise": stem.startswith("00") or "exercise" in [tag for c in notebook.cells for tag in tags(c)],
        "10: a link to another notebook at the end": any(t.endswith(".ipynb") and stem not in t for t in last),
    }  # fmt: skip
    return [f"missing: {point}" for point, there in points.items() if not there]


def faults_of_size(notebook: Notebook) -> Faults:
    faults = []
    for cell in code_cells(notebook):
        most = TAGGED if tags(cell) else DRAWING if has_picture(cell) else LINES
        if (lines := len(lines_of_code(cell.source))) > most:
            faults.append(f"{said(cell)}: {lines} lines, {most} at most")
    return faults


def lines_of_code(source: str) -> list[str]:
    """Lines that a reader has to understand: no imports, no comments, nothing blank."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    skipped = {number for node in imports for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = [line.strip() for number, line in enumerate(source.splitlines(), start=1) if number not in skipped]
    return [line for line in lines if line and not line.startswith("#")]


# ---- links ----


def targets(text: str) -> list[str]:
    """Where a markdown text's relative links lead, without what follows a #."""
    without_code = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", without_code) + re.findall(r"(?:href|src)=[\"']([^\"']+)", without_code)
    return [target.split("#")[0] for target in found if not re.match(r"\w+:|#", target)]


def faults_of_links(notebook: Notebook) -> Faults:
    return [f"{target} does not exist" for target in targets(prose(notebook)) if not (DIRECTORY / target).exists()]


# ---- exercises ----


def faults_of_exercises(notebook: Notebook) -> Faults:
    """Exercise, check, solution, in this order, once or more; what the check says is tested in the solution."""
    steps = [(tag, cell) for cell in code_cells(notebook) for tag in tags(cell)]
    order = " ".join(tag for tag, _ in steps)
    if not re.fullmatch(r"((exercise )+(check )+(solution )+)*", order + " " * bool(steps)):
        return [f"the tags are {order}, expected exercise, check, solution"]
    faults = []
    for is_solution, group in groupby(steps, lambda step: step[0] == "solution"):
        cells = [cell for tag, cell in group if tag != "exercise"]
        if not is_solution and not any("not yet" in printed(cell) for cell in cells):
            faults.append('nobody has solved it, and the check does not say "not yet"')
        if is_solution:
            if not all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in cells):
                faults.append("the solution is not hidden")
            if not all(cell.source.startswith(FOLDED) for cell in cells):
                faults.append("the first line of the solution, which is seen when it is folded, gives it away")
            right, wrong = map(sum, zip(*(asserted_answers(cell.source) for cell in cells), strict=True))
            if right < 1 or wrong < 2:
                faults.append(f"the solution asserts {right} right and {wrong} wrong answers, expected 1 and 2")
    return faults


def asserted_answers(source: str) -> tuple[int, int]:
    """How many right answers and how many wrong ones a solution gives to `check` in an assert.

    Right: check(...).startswith("Right"). Wrong: "some words" in check(...). In a loop over a literal, rounds count.
    """
    right = wrong = 0

    def look(node: ast.AST, rounds: int) -> None:
        nonlocal right, wrong
        if isinstance(node, ast.For):
            rounds *= rounds_of(node.iter)
        if isinstance(node, ast.Assert):
            if re.search(r"check\w*\(.*\)\.startswith\(['\"]Right['\"]\)", ast.unparse(node.test), re.S):
                right += rounds
            else:
                compared = [part for part in ast.walk(node.test) if isinstance(part, ast.Compare)]
                found = [part.comparators[0] for part in compared if isinstance(part.ops[0], ast.In)]
                wrong += rounds * sum("check" in ast.unparse(part) for part in found)
        for child in ast.iter_child_nodes(node):
            look(child, rounds)

    look(ast.parse(source), 1)
    return right, wrong


def rounds_of(looped: ast.expr) -> int:
    """How often a loop goes round, where that can be read: over a list, a tuple, a dictionary, its items(); else 2."""
    if isinstance(looped, ast.Call) and isinstance(looped.func, ast.Attribute):
        looped = looped.func.value
    return len(getattr(looped, "elts", None) or getattr(looped, "keys", None) or [0, 0])


# ---- numbers in prose ----

NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z]-)\d+(?:[,_]\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?![\d])")
UNITS = {"%": 0.01, "million": 1e6, "billion": 1e9, "thousand": 1e3, "M": 1e6, "k": 1e3}
ROUGHLY = re.compile(r"(?i)(?:\babout|\baround|\broughly|\bnearly|\balmost|\bsome|≈|~|\\approx)\s*\$?\s*$")
LISTED = r"\d+(?:\.\d+)*(?:(?:,| and| to|, and)\s+\d+(?:\.\d+)*)*"  # 3, or 3.1 and 4
NO_CLAIM = [  # what is written with digits and claims nothing that could be computed
    r"```.*?```",
    r"\[[^\]]*\]\([^)]*\.ipynb[^)]*\)",  # another notebook, with its title
    r"\]\([^)]*\)",  # the target of another link
    r"\b(?:19[5-9]|20[12])\d\b(?![,.]\d)",  # years
    r"(?i)\barxiv:?\s*[\d.]+",
    rf"(?<=\|)\s*{LISTED}\s*(?=\||, (?:section|table|figure))",  # sections in a column of a table
    rf"(?i)\b(?:sections?|tables?|figures?|equations?|appendix)\s+{LISTED}",
    rf"(?i)\b(?:version|python|torch|transformers)\s+{LISTED}",
    r"\b[\d.]+(?: to [\d.]+)?\s+minutes",
]  # fmt: skip


def value(word: str) -> float:
    return float(word.replace(",", "").replace("_", ""))


def known_numbers(notebook: Notebook) -> set[float]:
    """Every number that stands in the code cells, in their source or in what they printed."""
    known: set[float] = set()
    for cell in code_cells(notebook):
        for word in re.findall(r"\d+(?:[,_]\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?", cell.source + "\n" + printed(cell)):
            known |= {value(word), *map(float, re.findall(r"\d+\.?\d*", word))}
    return known


def claimed_numbers(text: str) -> Iterator[tuple[str, float, float]]:
    """(as written, its value, how far from it is still the same) of numbers of three digits or with decimals.

    A decimal may be rounded, and so may what has a unit such as "million"; "about" allows one part in twenty; any
    other whole number is exact.
    """
    text = text.replace("{,}", ",").replace("\\,", "").replace("\\%", "%").replace("−", "-")
    for pattern in NO_CLAIM:
        text = re.sub(pattern, " ", text, flags=re.S)
    for found in NUMBER.finditer(text):
        word = found[0]
        digits, _, decimals = word.split("e")[0].partition(".")
        if not decimals and "e" not in word and len(re.sub(r"\D", "", digits)) < 3:
            continue
        unit = re.match(r"\s?(%|million|billion|thousand|[Mk]\b)", text[found.end() :])
        scale = UNITS[unit[1]] if unit else 1.0
        exact = not decimals and "e" not in word and not unit
        slack = 0.0 if exact else 0.5 * 10 ** -len(decimals) * scale * float("1e" + (word.partition("e")[2] or "0"))
        if ROUGHLY.search(text[: found.start()]):
            slack = max(slack, abs(value(word) * scale) / 20)
        yield word + (unit[0] if unit else ""), value(word) * scale, slack


def faults_of_numbers(notebook: Notebook) -> Faults:
    """Numbers that a reader is told, and that no code cell has: nothing would notice if they were wrong."""
    known = known_numbers(notebook)
    faults = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for word, number, slack in claimed_numbers(cell.source):
                slack += 1e-9 * abs(number)
                scales = (1, 100) if word.endswith("%") else (1,)  # 27.3 % may be printed as 0.273 or as it is
                if not any(abs(x - number * scale) <= slack * scale for x in known for scale in scales):
                    faults.append(f"{word} in {said(cell)}: no code cell has it")
    return faults


# ---- the files ----


def no(faults: Faults) -> None:
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def read(path: Path) -> Notebook:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_all_twelve_are_there_and_the_readme_lists_each_with_its_title():
    assert [path.stem for path in paths()] == list(NAMES)
    readme = (DIRECTORY / "README.md").read_text(encoding="utf-8")
    for path in paths():
        title = read(path).cells[0].source.splitlines()[0].removeprefix(f"# {path.stem[:2]} ")
        assert f"({path.name})" in readme and title in readme, title
    assert not [target for target in targets(readme) if not (DIRECTORY / target).exists()]


@every_notebook
def test_its_outputs_are_those_of_one_clean_run(path):
    no(faults_of_one_run(read(path)) + faults_of_outputs(read(path)))


@every_notebook
def test_it_has_the_ten_points(path):
    no(faults_of_shape(read(path), path.stem))


@every_notebook
def test_its_cells_are_short(path):
    no(faults_of_size(read(path)))


@every_notebook
def test_its_links_lead_somewhere(path):
    no(faults_of_links(read(path)))


@every_notebook
def test_its_check_knows_a_right_answer_and_two_wrong_ones(path):
    no(faults_of_exercises(read(path)))


@every_notebook
def test_numbers_in_its_prose_stand_in_its_code(path):
    no(faults_of_numbers(read(path)))


# ---- do the checks notice? ----


def small_notebook() -> Notebook:
    """A notebook without a fault, as short as can be."""
    title = "# 42 An answer\n\n**The answer is a number that somebody computed.** *Before:* nothing. *Time:* 5 minutes."
    picture = new_output(
        "display_data", {"image/png": "", "text/plain": "alt"}, metadata={"image/png": {"alt": "x" * ALT}}
    )
    cells = [
        new_markdown_cell(title),
        new_code_cell("import torch\n\ntorch.manual_seed(0)\nFULL = False\nprint(torch.__version__)",
                      outputs=[new_output("stream", text="minialbert 1.0 | torch 2.13\n")]),
        new_code_cell("answer = 6 * 7 * 1000\n" + "assert answer == 42_000\n" * 5, outputs=[picture]),
        new_markdown_cell("It is 42,000, or 42.0 thousand: [model](../minialbert/model.py), section 3.1. About 43100."),
        new_code_cell("answer = None", metadata={"tags": ["exercise"]}),
        new_code_cell("def check(x): return 'not yet'", metadata={"tags": ["check"]},
                      outputs=[new_output("stream", text="not yet: try\n")]),
        new_code_cell(FOLDED + 'assert check(1).startswith("Right")\nfor x in (2, 3):\n    assert "half" in check(x)',
                      metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}}),
        new_markdown_cell("[Next](00_start_here.ipynb)"),
    ]  # fmt: skip
    for number, cell in enumerate(code_cells(notebook := new_notebook(cells=cells)), start=1):
        cell.execution_count = number
    clean(notebook)
    return notebook


def faults_of_file(notebook: Notebook) -> Faults:
    looks = (
        faults_of_one_run, faults_of_outputs, faults_of_size, faults_of_links, faults_of_exercises, faults_of_numbers,
    )  # fmt: skip
    return [fault for look in looks for fault in look(notebook)] + faults_of_shape(notebook, "42_an_answer")


def test_the_checks_have_nothing_to_say_about_a_good_notebook():
    assert faults_of_file(small_notebook()) == []


def edit(number: int, old: str, new: str) -> Callable[[Notebook], None]:
    def change(notebook: Notebook) -> None:
        assert old in notebook.cells[number].source
        notebook.cells[number].source = notebook.cells[number].source.replace(old, new)

    return change


def printing(text: str, name: str = "stdout") -> Callable[[Notebook], None]:
    return lambda notebook: notebook.cells[2].outputs.append(new_output("stream", name=name, text=text))


PLANTED: dict[str, Callable[[Notebook], object]] = {
    "run in the order": lambda notebook: notebook.cells[2].update(execution_count=9),
    "editor's notes": lambda notebook: notebook.cells[2].metadata.update(scrolled=True),
    "alternative text": lambda notebook: notebook.cells[2].outputs[0].metadata["image/png"].update(alt=""),
    "stderr": printing("psst", "stderr"),
    "one machine": printing(f"saved as {tempfile.gettempdir()}/some.npy"),
    "Warning": printing("UserWarning: take care"),
    "too much to read": printing("x" * 101),
    "15 at most": edit(1, "print(", "print()\n" * 15 + "print("),
    "1: a title": edit(0, "# 42", "# 41"),
    "1: one sentence": edit(0, "**", "_"),
    "1: what to know": edit(0, "Before", "Needed"),
    "1: how many minutes": edit(0, "minutes", "hours"),
    "2: torch.manual_seed": edit(1, "FULL", "SMALL"),
    "2: the versions": lambda notebook: notebook.cells[1].update(outputs=[]),
    "6: asserts": edit(2, "assert", "print,"),
    "7: a figure": lambda notebook: notebook.cells[2].update(outputs=[]),
    "8: a link": edit(3, "../minialbert/model.py", "https://example.org"),
    "8: a place": edit(3, "section 3.1", "here"),
    "9: an exercise": lambda notebook: notebook.cells.__delitem__(slice(4, 7)),
    "10: a link": edit(7, ".ipynb", ""),
    "model.pi does not exist": edit(3, "model.py", "model.pi"),
    "42,001 in": edit(3, "42,000", "42,001"),
    "42.1 thousand in": edit(3, "42.0", "42.1"),
    "4310 in": edit(3, "43100", "4310"),
    "the tags are": lambda notebook: notebook.cells[5].metadata.update(tags=[]),
    "not yet": lambda notebook: notebook.cells[5].update(outputs=[]),
    "not hidden": lambda notebook: notebook.cells[6].metadata.pop("jupyter"),
    "1 right and 1 wrong": edit(6, "(2, 3)", "(2,)"),
    "0 right and 2 wrong": edit(6, "Right", "Nearly"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_checks_notice(fault):
    notebook = small_notebook()
    PLANTED[fault](notebook)
    assert any(fault in line for line in faults_of_file(notebook))


# ---- the runs ----


class Times:
    """Written under pytest's summary, since a test that passes shows nothing of what it prints."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float, str]] = []

    def pytest_terminal_summary(self, terminalreporter) -> None:
        for name, total, slowest, cell in self.rows:
            terminalreporter.write_line(f"{name:<28}{total:6.1f} s, slowest cell {slowest:5.1f} s: {cell}")
        if len(self.rows) > 1:
            terminalreporter.write_line(f"{'all notebooks':<28}{sum(row[1] for row in self.rows):6.1f} s")


def test_a_notebook_that_wants_the_network_fails(tmp_path):
    path = tmp_path / "42_an_answer.ipynb"
    ask = "import socket\n\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"  # an address that is nobody's
    nbformat.write(new_notebook(cells=[new_code_cell(ask)]), path)
    with pytest.raises(CellExecutionError, match="wanted the network"):
        run(path)


@pytest.fixture(scope="module")
def times(request) -> Iterator[Times]:
    found = Times()
    request.config.pluginmanager.register(found)
    yield found


@every_notebook
def test_it_runs_from_top_to_bottom_without_a_network(path, times):
    written, ran = read(path), run(path)  # run raises where a cell fails, wants the network, or takes over SECONDS
    slowest = max(ran.seconds)
    cells = code_cells(ran.notebook)
    times.rows.append((path.stem, sum(ran.seconds), slowest, said(cells[ran.seconds.index(slowest)])))
    no(faults_of_outputs(ran.notebook))
    assert slowest < SECONDS
    for before, after in zip(code_cells(written), cells, strict=True):
        assert kinds(before) == kinds(after), f"{said(before)}: run python -m tests.notebooks {path.name[:2]} again"


def kinds(cell: Notebook) -> set[str]:
    """What sorts of output a cell has: text, figures."""
    return {kind for output in cell.outputs for kind in output.get("data", {output.get("name", ""): ""})}
