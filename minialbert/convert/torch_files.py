"""Reads and writes the files of Hugging Face's directory that hold tensors: safetensors and .bin, whole or in shards.

What the tensors are called and where they belong is in names.py and __init__.py. Nothing in a file is ever executed:
a .bin is a pickle and is read with weights_only=True or not at all.
"""

import json
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minialbert.errors import CheckpointError, FileError

Listing = dict[str, tuple[str, list[int]]]  # name: (dtype, shape)
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
_UNREAD = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "with-prefix-tf_model.h5")


def list_safetensors(path: Path) -> Listing:
    """Names, dtypes and shapes from the header alone, every number in it checked against the file's size."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise CheckpointError(f"{path}: {size} bytes, too short to be safetensors; download it again")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, 100_000_000):
            raise CheckpointError(
                f"{path}: its header claims {length:,} bytes, the file has {size:,}: not safetensors, or cut off; "
                "download it again"
            )
        try:
            header = json.loads(file.read(length))
            fields = header.pop("__metadata__", None) or {}
            listing = {name: (row["dtype"], list(row["shape"])) for name, row in header.items()}
            spans = {name: (*map(int, row["data_offsets"]),) for name, row in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(f"{path}: its header is not the JSON of safetensors; download it again") from None
    if fields.get("format") in ("tf", "flax", "mlx"):
        raise CheckpointError(f"{path}: its tensors are laid out for {fields['format']}, expected format 'pt'")
    end = 0
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        dtype, shape = listing[name]
        count = 1
        for n in shape:
            count *= n
        if start != end or stop - start != count * _SIZES.get(dtype, -1):
            raise CheckpointError(
                f"{path}: its header says {name} is {dtype} {shape} in bytes {start}..{stop}, which cannot be; "
                "the file is damaged"
            )
        end = stop
    if 8 + length + end != size:
        raise CheckpointError(
            f"{path}: the tensors need {8 + length + end:,} bytes, the file has {size:,}; "
            + ("it was cut off: download it again" if size < 8 + length + end else "something was added at its end")
        )
    return listing


def read_bin(path: Path) -> dict[str, Tensor]:
    """A pickle of tensors, of any torch version, refused when it holds anything else."""
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: empty file; download it again")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = str(error).split("\n")[0].split(". ")[-1]
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path}: this pickle holds more than tensors and would run code when read; refused. "
                "Ask its maker for a safetensors file"
            ) from None
        raise CheckpointError(f"{path}: not a whole torch file ({what}); download it again") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        what = str(error).strip().split("\n")[0][:120]
        raise CheckpointError(f"{path}: not a whole torch file ({what}); download it again") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
    if not isinstance(data, Mapping) or not all(isinstance(x, Tensor) for x in data.values()):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, expected a dictionary of tensors")
    return dict(data)


class Weights:
    """The tensors of a directory by name, read one at a time. `listing` has dtypes and shapes, `files` what was found.

    Preference: model.safetensors, its shards, pytorch_model.bin, its shards.
    Raises FileError when there is nothing to read, CheckpointError for a damaged file, each naming it.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._loaded: dict[str, Tensor] = {}
        self._home: dict[str, Path] = {}
        self.listing: Listing = {}
        single, index, parts = _choose(directory)
        self.files = [single] if single else parts
        for path in self.files:
            if path.suffix == ".safetensors":
                found = list_safetensors(path)
            else:
                tensors = read_bin(path)
                self._loaded |= tensors
                found = {n: (str(t.dtype).removeprefix("torch."), list(t.shape)) for n, t in tensors.items()}
            if twice := self.listing.keys() & found.keys():
                raise CheckpointError(f"{path}: {sorted(twice)[0]} is in another shard too; which one is right?")
            self.listing |= found
            self._home |= dict.fromkeys(found, path)
        for name, shard in index.items():
            if self._home.get(name) != directory / shard:
                raise CheckpointError(f"{directory / shard}: the index promises {name} here, it is not")

    def __iter__(self) -> Iterator[str]:
        return iter(self.listing)

    def read(self, name: str) -> Tensor:
        if name in self._loaded:
            return self._loaded[name]
        try:
            with safe_open(self._home[name], framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._home[name]}: {name} cannot be read ({error}); download it again") from None


def _choose(directory: Path) -> tuple[Path | None, dict[str, str], list[Path]]:
    """The single file, or the index and the shards it names."""
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        single = directory / f"{stem}.{ending}"
        if single.is_file():
            return single, {}, []
        index_path = directory / f"{stem}.{ending}.index.json"
        if index_path.is_file():
            index = _read_index(index_path)
            return None, index, [directory / shard for shard in sorted(set(index.values()))]
    here = sorted(p.name for p in directory.iterdir())
    unread = [name for name in here if name in _UNREAD]
    if unread:
        raise FileError(f"{directory}: holds only {', '.join(unread)}, which is not read; get its model.safetensors")
    raise FileError(
        f"{directory}: no model.safetensors or pytorch_model.bin, whole or with an index, "
        f"among {', '.join(here[:8]) or 'no files at all'}"
    )


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = {str(name): str(shard) for name, shard in index.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: not an index (JSON with a weight_map); download it again") from None
    for shard in sorted(set(pairs.values())):
        if Path(shard).name != shard or shard in (".", ".."):
            raise CheckpointError(f"{path}: names a shard outside its directory, {shard!r}; refused")
        if not (path.parent / shard).is_file():
            raise CheckpointError(f"{path}: the shard {shard} is missing; download it too")
    return pairs


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write all tensors under a temporary name, then rename: the file is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, temporary, {"format": "pt"})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The same for a text file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
