"""The tree holds what the design promises: floors, shape comments that are true, a README that runs."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minialbert
from minialbert.config import AlbertConfig
from minialbert.packed import PackedEncoder

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minialbert"

FLOOR = {  # a file imports from lower floors only
    "errors": 0, "version": 0, "protobuf": 0, "tokenizers.normalize": 0, "convert.crc32c": 0,
    "pretrain": 0, "pretrain.lamb": 1, "pretrain.masking": 0, "pretrain.sop": 0, "pretrain.documents": 1,
    "tools.parity.verdict": 0, "tools.parity.diagnose": 0, "tools.verify.facts": 0,
    "dialects": 1, "hooks": 1, "whole": 1, "inputs": 1, "pretrained": 1,
    "tokenizers.encoding": 1, "tokenizers.model_file": 1, "tokenizers.batch": 1, "tokenizers.vocabulary": 1,
    "embed.pool": 1, "embed.post": 2, "embed.texts": 1, "convert.torch_files": 2,
    "convert.web": 1, "convert.sstable": 1, "convert.tf_entries": 1, "tools.parity.plot": 3,
    "tokenizers.files": 2, "tokenizers.write_json": 2, "config": 2, "embed.files": 2, "tokenizers.base": 3,
    "tokenizers.tokenizer_json": 3,
    "convert.archives": 2, "convert.fetch": 2, "convert.tf_checkpoint": 2, "convert.tf_writer": 2,
    "model": 3, "embed.shards": 3, "tools.cost": 3, "convert.names": 3, "convert.hub": 3, "convert.google_files": 3,
    "tokenizers.sentencepiece": 4, "tokenizers.wordpiece": 4, "tools.parity.probe": 3, "heads": 4, "packed": 4,
    "edits": 2, "sharing": 5, "training": 2, "checkpoints": 6,
    "tools.count": 0, "tools.cost_measuring": 7, "tools.trace": 5, "tools.plot_style": 2, "tools.lens": 5,
    "tools.plots": 6, "tools.explore": 12, "tools.linear": 3, "tools.probe": 12, "cli.look": 13, "cli.probe": 13,
    "finetune": 0, "finetune.rows": 1, "finetune.data": 2, "finetune.metrics": 0,
    "finetune.tags": 1, "finetune.columns": 4, "finetune.questions": 3, "finetune.presets": 3, "finetune.task": 6,
    "finetune.classify": 7, "finetune.choose": 7, "finetune.tag": 7, "finetune.answer": 7, "finetune.freeze": 6,
    "finetune.lora": 7, "finetune.adapter": 8, "finetune.predict": 7, "finetune.loop": 8, "finetune.seeds": 9,
    "finetune.tasks": 9, "cli.tune": 13, "sklearn": 12, "tools.drift": 12, "tools.search": 12, "cli.vectors": 13,
    "tokenizers": 5, "tools.verify.identify": 4,
    "tokenizers.train": 6, "pretrain.corpus": 6, "pretrain.examples": 7, "pretrain.report": 8,
    "pretrain.ranks": 1, "pretrain.start": 7, "pretrain.plan": 8, "pretrain.measure": 8,
    "pretrain.loop": 9, "pretrain.fitness": 9, "pretrain.vitals": 10, "pretrain.symptoms": 10, "pretrain.doctor": 11,
    "pretrain.toy": 10, "tools.bench_measuring": 6, "tools.bench_training": 11, "tools.bench_peers": 5,
    "tools.bench_plot": 7, "tools.bench_vectors": 11, "tools.bench_processes": 11, "tools.bench_files": 11,
    "embed.prepare": 6, "convert.sources": 6, "tools.parity.sides": 5, "tools.verify.factcheck": 6,
    "convert.reading": 7, "tools.parity.hypotheses": 6,
    "convert.filling": 8, "convert.writing": 8, "tools.parity.mistakes": 7,
    "convert.conversion": 9, "tools.parity.comparison": 8,
    "convert": 10, "embed": 10, "tools.parity.google_pack": 9,
    "embed.workers": 12, "tools.inspect": 11, "tools.ask": 11, "tools.parity.against_transformers": 11,
    "tools.bench": 12, "cli.settings": 12, "tools.parity": 12, "tools.verify": 12,
    "cli.texts": 13, "cli.ask": 13, "cli.models": 13, "cli.files": 13, "cli.proof": 13, "cli.hub": 13, "cli.learn": 13,
    "cli.speed": 13, "cli.health": 13,
    "cli": 14,
    "": 15, "__main__": 15,
}  # fmt: skip
UPWARD = {("pretrained", "convert"), ("pretrained", "config")}  # inside a function; for types alone
BRANCHES = ("embed", "pretrain", "finetune")
EXTRAS = {
    "transformers", "matplotlib", "pyarrow", "pandas", "ray", "huggingface_hub", "tensorboard", "sklearn", "tensorflow",
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PACKAGES = {module_name(path) for path in PACKAGE.rglob("__init__.py")}
FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(tree: ast.AST) -> set[str]:
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return names | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def test_every_file_has_its_floor():
    assert set(FILES) - {"tools"} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_imports_go_down_the_stairs(name):
    for other in imports_of(ast.parse(FILES[name].read_text())):
        if other.split(".")[0] == "minialbert":
            other = other.removeprefix("minialbert").removeprefix(".")
            own_parts = other == name and name in PACKAGES  # `from minialbert.cli import texts`, inside minialbert/cli
            if (name, other) not in UPWARD and not own_parts:
                assert FLOOR[other] < FLOOR[name], f"{name} (floor {FLOOR[name]}) imports {other} ({FLOOR[other]})"


def test_branches_never_import_each_other():
    for name, path in FILES.items():
        for other in imports_of(ast.parse(path.read_text())):
            both = (name, other.removeprefix("minialbert."))
            branches = {branch for branch in BRANCHES for module in both if module.startswith(branch)}
            assert len(branches) < 2, f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_no_file_imports_an_extra_at_import_time(name):
    top = [node for node in ast.parse(FILES[name].read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    roots = {module.split(".")[0] for module in imports_of(ast.Module(top, []))}
    if name == "sklearn":  # nobody imports it but who has scikit-learn
        roots -= {"sklearn"}
    assert not roots & EXTRAS
    assert not (name.startswith("tokenizers") and "torch" in roots), "no torch in the tokenizers"


def test_import_minialbert_loads_no_extra():
    code = f"import sys, minialbert; print(sorted(set(sys.modules) & {EXTRAS!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---- shape comments ----

SHAPE = re.compile(r"#\s(\[[A-Z0-9]+(?:, [A-Z0-9]+)*\])$")
SIZES = {"B": 2, "T": 5, "E": 7, "H": 12, "A": 3, "D": 4, "F": 20, "V": 31, "M": 4, "C": 6}
CONFIG = {"vocab_size": 31, "embedding_size": 7, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20,
          "num_hidden_layers": 8, "max_position_embeddings": 16, "num_labels": 6}  # fmt: skip


class ShapeChecker:
    """Follows a call line by line, and compares each shape comment with the tensor assigned or returned there."""

    def __init__(self, path: Path, sizes: dict[str, int]):
        self.file, self.sizes = str(path), sizes
        source = path.read_text()
        tree = ast.parse(source)
        self.comments = {
            number: [int(s) if s.isdigit() else sizes.get(s, s) for s in found[1][1:-1].split(", ")]
            for number, line in enumerate(source.splitlines(), start=1)
            if (found := SHAPE.search(line))
        }
        simple = (ast.Assign, ast.AnnAssign, ast.Return)
        self.statements = {s.end_lineno: s for s in ast.walk(tree) if isinstance(s, simple)}
        self.line_of = {n: s for s in self.statements.values() for n in range(s.lineno, (s.end_lineno or 0) + 1)}
        self.reached: set[int] = set()
        self.wrong: list[str] = []

    def __enter__(self):
        sys.settrace(self.call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def call(self, frame, event, _):
        if frame.f_code.co_filename != self.file:
            return None
        last: list = [None]

        def step(frame, event, value):
            now = self.line_of.get(frame.f_lineno)
            before, last[0] = last[0], now
            if before is not None and (event == "return" or before is not now):
                self.check(before, frame, value if event == "return" else None)
            return step

        return step

    def check(self, statement, frame, returned):
        expected = self.comments.get(statement.end_lineno)
        if expected is None:
            return
        if isinstance(statement, ast.Return):
            found = returned
        else:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            first = target.elts[0] if isinstance(target, ast.Tuple) else target
            if isinstance(first, ast.Attribute):
                return
            found = frame.f_locals.get(first.id)
        if found is None:
            return
        self.reached.add(statement.end_lineno)
        if list(found.shape) != expected:
            self.wrong.append(f"{Path(self.file).name}:{statement.end_lineno} says {expected}, is {list(found.shape)}")


def run_model():
    model = minialbert.AlbertModel(AlbertConfig(**CONFIG))
    ids, mask = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5)
    model(ids, mask)
    out = model(ids, mask, tap=lambda name, layer, x: x)
    model(ids, mask, tap=lambda name, layer, x: x + 0)
    model(hidden_states=out.last_hidden_state, from_layer=2)
    model(inputs_embeds=torch.randn(2, 5, 7))


def run_heads():
    ids = torch.ones(2, 5, dtype=torch.long)
    config = AlbertConfig(**CONFIG)
    minialbert.AlbertForPreTraining(config)(ids, masked_positions=torch.ones(2, 4, dtype=torch.long))
    minialbert.AlbertForSequenceClassification(config)(ids)
    minialbert.AlbertForTokenClassification(config)(ids)
    minialbert.AlbertForQuestionAnswering(config)(ids)
    minialbert.AlbertForMultipleChoice(config)(torch.ones(2, 9, 5, dtype=torch.long))


def run_packed():
    ids = torch.ones(11, dtype=torch.long)
    PackedEncoder(minialbert.AlbertModel(AlbertConfig(**CONFIG)))(ids, ids, [4, 4, 3], [-1, 0, 8])


@pytest.mark.parametrize(
    "file, run, more",
    [("model.py", run_model, {}), ("heads.py", run_heads, {"N": 9}), ("packed.py", run_packed, {"N": 11})],
)
def test_shape_comments_are_true(file, run, more):
    with ShapeChecker(PACKAGE / file, SIZES | more) as checker:
        run()
    assert not checker.wrong
    statements = {n for n in checker.comments if n in checker.statements}
    assert statements - checker.reached == set(), "comments that no call reaches"
    assert len(checker.reached) >= {"model.py": 30, "heads.py": 8, "packed.py": 5}[file]


def test_the_shape_checker_notices_a_wrong_comment(tmp_path):
    source = (PACKAGE / "model.py").read_text()
    wrong = tmp_path / "wrong.py"
    wrong.write_text(source.replace("# [B, A, T, D]", "# [B, T, A, D]", 1))
    namespace: dict = {"__name__": "wrong"}
    with ShapeChecker(wrong, SIZES) as checker:
        exec(compile(wrong.read_text(), str(wrong), "exec"), namespace)
        namespace["AlbertModel"](AlbertConfig(**CONFIG))(torch.ones(2, 5, dtype=torch.long))
    assert len(checker.wrong) >= 1


# ---- stepping ----


def test_a_forward_stays_in_one_file_with_few_functions_and_lines():
    model = minialbert.AlbertModel(AlbertConfig(**CONFIG)).eval()
    ids, mask = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5)
    functions, lines, files = set(), set(), set()

    def follow(frame, event, _):
        code = frame.f_code
        if not code.co_filename.startswith(str(PACKAGE)):
            return None
        files.add(code.co_filename)
        functions.add(code)
        if event == "line":
            lines.add((code.co_filename, frame.f_lineno))
        return follow

    sys.settrace(follow)
    try:
        model(ids, mask)
    finally:
        sys.settrace(None)
    functions = {code for code in functions if code.co_name not in ("<genexpr>", "<lambda>")}
    print(f"one forward: {len(files)} files, {len(functions)} functions, {len(lines)} distinct lines")
    print(sorted(code.co_qualname for code in functions))
    assert {Path(f).name for f in files} <= {"model.py"}, files
    assert len(functions) <= 10 and len(lines) <= 60
    assert len((PACKAGE / "model.py").read_text().splitlines()) <= 300


# ---- README ----

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 3
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["vectors"].shape == (2, 256)
    told = re.findall(r"a cosine of (0\.\d+)", README)
    assert len(told) == 1 and abs(namespace["river"][1] @ namespace["money"][1] - float(told[0])) < 0.005
    assert 'Recorder("hidden"' in README and namespace["tape"]["hidden", 3].shape[-1] == 256


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, minilm, capsys):
    from minialbert.cli import main

    (tmp_path / "sentences.txt").write_text(README, encoding="utf-8")
    for name, words in (
        ("train", ["king", "queen", "knight", "sword", "horse", "crown", "file", "disk", "key", "byte", "code", "bug"]),
        ("dev", ["castle", "server"]),
    ):
        rows = [f"{'old' if n < len(words) / 2 else 'new'}\tThe {word} is here." for n, word in enumerate(words)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["label\ttext", *rows]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = [
        line
        for block in re.findall(r"(?<!-->\n)```bash\n(.*?)```", README, re.S)
        for line in block.splitlines()
        if line.startswith("minialbert ")
    ]
    assert len(commands) >= 5
    for command in commands:
        assert main(shlex.split(command.replace("MODEL", str(minilm)))[1:]) == 0, command
    assert (tmp_path / "vectors.npy").exists() and (tmp_path / "vectors" / "manifest.json").exists()


def test_the_numbers_that_the_readme_gives_for_values_are_true():
    for line in re.findall(r"^sharing_plan\(.*$", README, re.M):
        call, value = line.split("  # ")
        assert eval(call, {"sharing_plan": minialbert.sharing_plan}) == eval(value.split(": ")[1])
    assert AlbertConfig.preset("albert-base-v2").count_parameters()["model"] == 11_683_584


def test_the_file_list_of_the_readme_is_the_tree():
    listed = re.search(r"## The files\n\n```text\n(.*?)```", README, re.S)[1].splitlines()
    assert listed[0] == "minialbert/"
    names = [line.split()[0] for line in listed[1:] if line.startswith("  ") and not line.startswith("   ")]
    assert sorted(names) == sorted(str(path.relative_to(PACKAGE)) for path in FILES.values() if path.stat().st_size)
    assert all(len(line.split(maxsplit=1)) == 2 for line in listed[1:])


def test_file_sizes_are_told():
    for name, path in FILES.items():
        print(f"{len(path.read_text().splitlines()):5}  {name or '__init__'}")
