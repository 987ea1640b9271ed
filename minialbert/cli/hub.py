"""The command about official checkpoints: download."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert.hub import OFFICIAL, complaints, download, files_of, local, weight_bytes


def add_commands(commands) -> None:
    get = commands.add_parser(
        "download", help="an official checkpoint by name",
        description="Download an official checkpoint by name, or any ALBERT or BERT of the hub as OWNER/NAME. What is "
        "there already is checked and kept; a download that was stopped goes on.",
        epilog="examples: minialbert download albert-base-v2\n"
        "          minialbert download albert-base-v2 --source archive --directory DIR",
    )  # fmt: skip
    get.add_argument("name", metavar="NAME", nargs="?", help="as albert-base-v2, bert-base-uncased, OWNER/NAME")
    get.add_argument("--list", action="store_true", help="all official names, and which are on this machine")
    get.add_argument(
        "--directory", metavar="DIR", help="where to put it (weights/NAME where weights/ is, else the cache)"
    )
    get.add_argument("--source", choices=("hub", "archive"), help="hub where the model is there, else Google's archive")
    get.add_argument("--address", metavar="URL", help="a mirror: of the archive, or of the hub")
    get.add_argument("--json", action="store_true")
    get.set_defaults(run=run_download, wrong=get.error)


def run_download(given: argparse.Namespace) -> int:
    if given.list == bool(given.name):
        given.wrong("give either NAME or --list")
    if given.list:
        return _list(given.json)
    path = download(given.name, given.directory, source=given.source, address=given.address)
    for line in complaints(given.name, path):
        print(f"warning: {line}", file=sys.stderr)
    files = {file.name: _facts(file) for file in files_of(path)}
    if given.json:
        print(json.dumps({"name": given.name, "path": str(path), "files": files}, indent=2))
        return 0
    print(path)
    for name, row in files.items():
        print(f"  {name}  {row['bytes']:,} bytes  sha256 {row['sha256']}")
    print(f'use it: minialbert embed --model {given.name if local(given.name) == path else path} "Some text."')
    return 0


def _facts(file: Path) -> dict[str, Any]:
    with open(file, "rb") as content:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def _list(as_json: bool) -> int:
    rows: list[dict[str, Any]] = []
    for name, official in OFFICIAL.items():
        found = local(name)
        rows.append({
            "name": name, "hub": official.hub, "archive": official.archive, "sha256": official.sha256,
            "parameters": AlbertConfig(**PRESETS[name]).count_parameters()["pretraining"],
            "weight_bytes": weight_bytes(name), "here": str(found) if found else None,
        })  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'name':<30}{'source':<9}{'parameters':>12}{'float32':>10}  here")
    for row in rows:
        size = f"{row['weight_bytes'] / 1e6:,.0f} MB"
        source = "hub" if row["hub"] else "archive"
        print(f"{row['name']:<30}{source:<9}{row['parameters']:>12,}{size:>10}  {row['here'] or '-'}")
    return 0
