"""Files of tensors: every way they are written is read to the same bits, every way they break has its own line."""

import io
import json
import os
import pickle
import struct
import warnings

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from minialbert.convert.torch_files import (
    Weights,
    dtype_word,
    list_safetensors,
    read_bin,
    write_safetensors,
    write_text,
)
from minialbert.errors import CheckpointError, FileError, MiniAlbertError
from tests.convert.directories import halves, parts_of, put_together, write_index

KINDS = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
         "uint64", "bool", "float8_e4m3fn", "float8_e5m2"]  # fmt: skip
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5, float("nan"), -0.0]), "c.d": torch.ones(4).half()}


def bits(x: torch.Tensor) -> tuple:
    return x.dtype, list(x.shape), x.contiguous().flatten().view(torch.uint8).tolist()


def all_of(directory) -> dict:
    weights = Weights(directory)
    return {name: bits(weights.read(name)) for name in weights}


WANT = {name: bits(x) for name, x in TENSORS.items()}


# ---- what is read ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_of_safetensors_is_read_bit_for_bit(kind, tmp_path):
    x = torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind)) if kind != "bool" else torch.ones(3) > 0
    tensors = {"x": x.view(2, -1) if len(x) % 2 == 0 else x, "none": x[:0], "one": x[0].clone()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert all_of(tmp_path) == {name: bits(y) for name, y in tensors.items()}


def test_the_listing_is_what_the_safetensors_library_says(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in TENSORS}
        want = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    assert list_safetensors(tmp_path / "x.safetensors") == want


def test_metadata_may_be_missing_or_say_pt_or_anything_but_another_framework(tmp_path):
    for metadata in (None, {"format": "pt"}, {"format": "whatever"}, {"made_by": "hand"}):
        save_file(TENSORS, tmp_path / "model.safetensors", metadata)
        assert all_of(tmp_path) == WANT


@pytest.mark.parametrize("how", ["zip", "legacy", "shared storage", "transposed", "parameters"])
def test_a_bin_of_any_kind_is_read_bit_for_bit(how, tmp_path):
    tensors = dict(TENSORS)
    if how == "shared storage":
        whole = torch.cat([x.float().flatten() for x in TENSORS.values()])
        tensors = {"a": whole[:6].view(2, 3), "b": whole[6:9], "c.d": TENSORS["c.d"]}
    if how == "transposed":
        tensors["a"] = tensors["a"].T.contiguous().T
    if how == "parameters":
        tensors = {name: torch.nn.Parameter(x) for name, x in tensors.items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=how != "legacy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_of(tmp_path) == WANT
    weights = Weights(tmp_path)
    one, two = weights.read("a"), weights.read("b")
    assert not one.requires_grad and one.is_contiguous()
    assert one.untyped_storage().data_ptr() != two.untyped_storage().data_ptr()
    assert one.untyped_storage().nbytes() == 24, "no more memory than the tensor needs"


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_dictionary_is_unwrapped(key, tmp_path):
    torch.save({key: TENSORS, "epoch": 3}, tmp_path / "x.bin")
    assert {name: bits(x) for name, x in read_bin(tmp_path / "x.bin").items()} == WANT


@pytest.mark.parametrize("ending, kind", [("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")])
def test_shards_with_an_index_are_one_file(ending, kind, tmp_path):
    write_index(tmp_path, halves(TENSORS, ending), kind)
    assert all_of(tmp_path) == WANT
    assert len(Weights(tmp_path).files) == 2


def test_the_order_of_preference_is_safetensors_its_shards_bin_its_shards(tmp_path):
    def found():
        return float(Weights(tmp_path).read("x"))

    write_index(tmp_path, {"b-1.bin": {"x": torch.tensor(4.0)}}, "pytorch_model.bin")
    assert found() == 4
    torch.save({"x": torch.tensor(3.0)}, tmp_path / "pytorch_model.bin")
    assert found() == 3
    write_index(tmp_path, {"s-1.safetensors": {"x": torch.tensor(2.0)}})
    assert found() == 2
    save_file({"x": torch.tensor(1.0)}, tmp_path / "model.safetensors")
    assert found() == 1


def test_what_is_read_stays_when_the_file_is_overwritten_in_place(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    weights = Weights(tmp_path)
    x = weights.read("a")
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert bits(x) == WANT["a"]
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(CheckpointError, match="a ends too early"):
        weights.read("a")


def test_an_index_of_many_thousand_tensors_is_read_quickly(tmp_path):
    tensors = {f"encoder.layer.{i}.weight": torch.tensor([float(i)]) for i in range(5000)}
    write_index(tmp_path, halves(tensors, "safetensors"))
    weights = Weights(tmp_path)
    assert len(weights.listing) == 5000
    assert float(weights.read("encoder.layer.4321.weight")) == 4321


# ---- what is refused: a file, and the words of its line ----

GOOD = save(TENSORS)
HEADER, DATA = parts_of(GOOD)


def changed(name="a", **keys) -> bytes:
    return put_together(HEADER | {name: HEADER[name] | keys}, DATA)


def with_offsets(**offsets) -> bytes:
    return put_together({name: row | {"data_offsets": offsets[name]} for name, row in HEADER.items()}, DATA)


A, B, C = (HEADER[name]["data_offsets"] for name in ("a", "b", "c.d"))
BAD_SAFETENSORS = {
    "empty": (b"", "0 bytes, too short"),
    "seven bytes": (GOOD[:7], "7 bytes, too short"),
    "cut in the header": (GOOD[:60], "header claims", "cut off; download it again"),
    "cut in the tensors": (GOOD[:-5], "was cut off: download it again"),
    "only the header": (GOOD[: -len(DATA)], "was cut off"),
    "trailing bytes": (GOOD + b"\0", "something was added at its end"),
    "header length larger than the file": (struct.pack("<Q", 10_000) + GOOD[8:], "header claims 10,000 bytes"),
    "header length as a negative number": (b"\xff" * 8 + GOOD[8:], "18,446,744,073,709,551,615"),
    "header length 0": (bytes(8) + GOOD[8:], "not the JSON of safetensors"),
    "header not JSON": (put_together(b"{this is no JSON", DATA), "not the JSON of safetensors"),
    "header not UTF-8": (put_together(b'{"\xff": 1}', DATA), "not the JSON of safetensors"),
    "header a list": (put_together([], DATA), "not the JSON of safetensors"),
    "header nested ten thousand deep": (put_together(b"[" * 10_000, DATA), "not the JSON of safetensors"),
    "header with metadata that is a text": (put_together(HEADER | {"__metadata__": "pt"}, DATA), "not the JSON"),
    "a tensor without a shape": (put_together(HEADER | {"a": {"dtype": "F32"}}, DATA), "not the JSON of safetensors"),
    "a tensor that is null": (put_together(HEADER | {"a": None}, DATA), "not the JSON of safetensors"),
    "a name with a line break": (put_together({"a\nb": HEADER["a"]}, DATA), "not the JSON of safetensors"),
    "shape with a negative number": (changed(shape=[-2, -3]), "not the JSON of safetensors"),
    "shape of another size": (changed(shape=[2, 4]), "a is F32 [2, 4] in bytes", "the file is damaged"),
    "shape of texts": (changed(shape=["2", "3"]), "not the JSON of safetensors"),
    "shape enormous": (changed(shape=[10**18, 10**18]), "the file is damaged"),
    "dtype of another size": (changed(dtype="F64"), "a is F64 [2, 3] in bytes", "the file is damaged"),
    "dtype unknown": (changed(dtype="F4"), "a is of dtype 'F4'; known are F64, F32"),
    "dtype a list": (changed(dtype=["F32"]), "is of dtype \"['F32']\"; known are"),
    "offsets infinite": (changed(data_offsets=[0, float("inf")]), "not the JSON of safetensors"),
    "offsets of three numbers": (changed(data_offsets=[0, 1, 2]), "not the JSON of safetensors"),
    "offsets overlapping": (with_offsets(**{"a": A, "b": [A[1] - 4, B[1]], "c.d": C}), "the file is damaged"),
    "offsets with a gap": (with_offsets(**{"a": A, "b": B, "c.d": [C[0] + 4, C[1] + 4]}), "the file is damaged"),
    "offsets backwards": (changed(data_offsets=[A[1], A[0]]), "the file is damaged"),
    "offsets past the end": (changed(data_offsets=[A[0], A[1] + 10**12]), "the file is damaged"),
    "laid out for TensorFlow": (save(TENSORS, {"format": "tf"}), "laid out for tf, expected format 'pt'"),
    "laid out for Flax": (save(TENSORS, {"format": "flax"}), "laid out for flax, expected format 'pt'"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html><html>Sign in</html>", "not safetensors, or cut off; download it again"),
}


def refused(action, *words, kind=CheckpointError) -> str:
    with pytest.raises(MiniAlbertError) as caught:
        action()
    line = str(caught.value)
    assert isinstance(caught.value, kind)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_a_safetensors_file_is_refused_in_one_line_when_it_is(name, tmp_path):
    path = tmp_path / "model.safetensors"
    content, *words = BAD_SAFETENSORS[name]
    path.write_bytes(content)
    refused(lambda: list_safetensors(path), str(path), *words)
    refused(lambda: Weights(tmp_path), str(path), *words)


class Ran(list):
    """Pickles as a call to a function of this machine."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def touch(path):
    return Ran(os.system, f"touch {path}")


def saved(data, **options) -> bytes:
    file = io.BytesIO()
    torch.save(data, file, **options)
    return file.getvalue()


ZIP, LEGACY = saved(TENSORS), saved(TENSORS, _use_new_zipfile_serialization=False)
BAD_BIN = {
    "empty": (b"", "empty file; download it again"),
    "zip cut in half": (ZIP[: len(ZIP) // 2], "not a torch file that can be read", "download it again"),
    "zip without its last bytes": (ZIP[:-30], "not a torch file that can be read", "download it again"),
    "legacy cut at the start": (LEGACY[:20], "not a torch file that can be read", "download it again"),
    "legacy cut in half": (LEGACY[: len(LEGACY) // 2], "not a torch file that can be read", "download it again"),
    "legacy without its last bytes": (LEGACY[:-3], "not a torch file that can be read", "download it again"),
    "a text": (b"these are not the weights you are looking for", "not a torch file, it begins with b'these"),
    "a web page": (b"<!DOCTYPE html><html>Sign in</html>", "not a torch file, it begins with b'<!DOCTYP'"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "git lfs pull"),
    "random bytes": (b"\x80" + bytes(range(256)) * 9, "not a torch file that can be read", "download it again"),
    "a list": (saved([1, 2]), "holds a list, expected a dictionary of tensors"),
    "one tensor": (saved(torch.ones(3)), "holds a Tensor, expected a dictionary of tensors"),
    "a number among the tensors": (
        saved(TENSORS | {"step": 5}),
        "step is no plain tensor but a int; expected nothing else",
    ),
    "a sparse tensor": (saved({"x": torch.eye(3).to_sparse()}), "x is no plain tensor but a tensor (torch.sparse_coo"),
    "a tensor without numbers": (
        saved({"x": torch.ones(3, device="meta")}),
        "x is no plain tensor but a tensor (torch.strided, meta",
    ),
    "numbers for names": (saved({1: torch.ones(3)}), "its keys are not the names of tensors"),
    "a name with a line break": (saved({"a\nb": torch.ones(3)}), "its keys are not the names of tensors"),
    "a pickle of protocol 4": (pickle.dumps(TENSORS, protocol=4), "not a torch file that can be read"),
    "a whole module": (saved(torch.nn.Linear(2, 2)), "holds more than tensors and would run code"),
}


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization|.*sparse")
@pytest.mark.parametrize("name", BAD_BIN)
def test_a_bin_is_refused_in_one_line_when_it_is(name, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    content, *words = BAD_BIN[name]
    path.write_bytes(content)
    refused(lambda: Weights(tmp_path), str(path), *words)


@pytest.mark.parametrize("how", ["a bare pickle", "zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(how, tmp_path):
    trace, path = tmp_path / "it-ran", tmp_path / "pytorch_model.bin"
    evil = TENSORS | {"x": touch(trace)}
    pickle.loads(pickle.dumps(evil))
    assert trace.exists(), "the bait works"
    trace.unlink()
    content = pickle.dumps(evil, protocol=2)
    if how != "a bare pickle":
        content = saved(evil, _use_new_zipfile_serialization=how == "zip")
    path.write_bytes(content)
    refused(lambda: Weights(tmp_path), str(path), "would run code when read; refused", "safetensors")
    assert not trace.exists()


INDEX = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c.d": "two.safetensors"}}


def index(**moves) -> str:
    return json.dumps({"weight_map": INDEX["weight_map"] | moves})


BAD_INDEX = {
    "empty": ("", "not an index"),
    "cut": (json.dumps(INDEX)[:40], "not an index (JSON with a weight_map); download it again"),
    "a list": ("[]", "not an index"),
    "without weight_map": ('{"metadata": {}}', "not an index"),
    "with a weight_map that is a list": ('{"weight_map": [1]}', "not an index"),
    "with an empty weight_map": ('{"weight_map": {}}', "its weight_map is empty"),
    "with a number for a shard": (index(a=1), "not an index"),
    "nested ten thousand deep": ("[" * 10_000, "not an index"),
    "naming a shard that is missing": (index(a="three.safetensors"), "the shard 'three.safetensors' is missing"),
    "naming a shard above": (index(a="../one.safetensors"), "outside its directory, '../one.safetensors'; refused"),
    "naming a shard anywhere": (index(a="/etc/passwd"), "outside its directory, '/etc/passwd'; refused"),
    "naming the directory": (index(a="."), "outside its directory, '.'; refused"),
    "naming the folder above": (index(a=".."), "outside its directory, '..'; refused"),
    "naming a shard with a line break": (index(a="one\n.safetensors"), "not an index"),
    "promising a tensor that is nowhere": (index(e="two.safetensors"), "the index promises e here"),
    "promising a tensor that is elsewhere": (index(a="two.safetensors"), "the index promises a here"),
    "naming a text as a shard": (index(a="notes.txt"), "notes.txt: not a torch file"),
}


@pytest.mark.parametrize("name", BAD_INDEX)
def test_an_index_is_refused_in_one_line_when_it_is(name, tmp_path):
    content, *words = BAD_INDEX[name]
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, tmp_path / "one.safetensors")
    save_file({"c.d": TENSORS["c.d"]}, tmp_path / "two.safetensors")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    refused(lambda: Weights(tmp_path), str(tmp_path), *words)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards = halves(TENSORS, "safetensors")
    write_index(tmp_path, shards)
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, tmp_path / "part-2-of-2.safetensors")
    refused(lambda: Weights(tmp_path), "part-2-of-2.safetensors: a is in part-1-of-2.safetensors too")


def test_a_directory_without_weights_says_what_it_looked_for_and_what_is_there(tmp_path):
    refused(lambda: Weights(tmp_path), "no model.safetensors or pytorch_model.bin", "no files at all", kind=FileError)
    (tmp_path / "vocab.txt").write_text("[PAD]")
    refused(lambda: Weights(tmp_path), "among vocab.txt", kind=FileError)
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    refused(lambda: Weights(tmp_path), "holds only tf_model.h5, which is not read", kind=FileError)


# ---- whatever happens to the bytes, it loads or it is a line ----

ANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
edits = st.lists(
    st.tuples(st.sampled_from(["flip", "put", "cut", "drop"]), st.integers(0, 1 << 16), st.binary(max_size=9)),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, changes, end: int | None = None) -> bytes:
    for how, where, new in changes:
        at = where % max(min(len(content), end or len(content)), 1)
        if how == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << where % 8)]) + content[at + 1 :]
        if how == "put":
            content = content[:at] + new + content[at:]
        if how == "cut":
            content = content[:at]
        if how == "drop":
            content = content[:at] + content[at + len(new) :]
    return content


def loads_or_says_why(directory) -> None:
    try:
        all_of(directory)
    except MiniAlbertError as error:
        assert str(directory) in str(error)
        assert "\n" not in str(error)


@ANY
@given(changes=edits)
@example(changes=[("put", 0, b"\xff" * 8)])
def test_no_change_in_a_header_raises_anything_else(changes, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(edited(GOOD, changes, end=len(GOOD) - len(DATA)))
    loads_or_says_why(tmp_path)


@ANY
@given(changes=edits)
def test_no_change_in_a_safetensors_file_raises_anything_else(changes, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(edited(GOOD, changes))
    loads_or_says_why(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@ANY
@given(tensor=st.sampled_from(["a", "b", "x"]), key=st.sampled_from([None, *HEADER["a"]]), value=json_values)
def test_no_value_in_a_header_raises_anything_else(tensor, key, value, tmp_path):
    row = value if key is None else HEADER["a"] | {key: value}
    (tmp_path / "model.safetensors").write_bytes(put_together(HEADER | {tensor: row}, DATA))
    loads_or_says_why(tmp_path)


@ANY
@given(key=st.sampled_from(["weight_map", "a", "b"]), value=json_values, changes=st.none() | edits)
def test_no_change_in_an_index_raises_anything_else(key, value, changes, tmp_path):
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, tmp_path / "one.safetensors")
    save_file({"c.d": TENSORS["c.d"]}, tmp_path / "two.safetensors")
    whole = {"weight_map": value} if key == "weight_map" else {"weight_map": INDEX["weight_map"] | {key: value}}
    content = json.dumps(whole).encode() if changes is None else edited(json.dumps(INDEX).encode(), changes)
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    loads_or_says_why(tmp_path)


@ANY
@given(changes=edits, legacy=st.booleans())
def test_no_change_in_a_bin_raises_anything_else(changes, legacy, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(edited(LEGACY if legacy else ZIP, changes))
    loads_or_says_why(tmp_path)


# ---- what is written ----


def write_all(path, tensors) -> None:
    listing = {name: (dtype_word(x), list(x.shape)) for name, x in tensors.items()}
    write_safetensors(path, listing, tensors.__getitem__)


def test_what_is_written_is_byte_for_byte_what_the_safetensors_library_writes(tmp_path):
    tensors = {name: x.contiguous() for name, x in TENSORS.items()}
    write_all(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_is_written_the_safetensors_library_reads_with_the_format_pt(tmp_path):
    path = tmp_path / "x.safetensors"
    write_all(path, TENSORS | {"turned": torch.arange(6.0).view(2, 3).T})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {name: bits(file.get_tensor(name)) for name in TENSORS} == WANT
        assert file.get_tensor("turned").tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_text(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for write, content in ((write_text, "new"), (write_all, TENSORS)):
        refused(lambda w=write, c=content: w(path, c), "config.json: cannot be written (No space left", kind=FileError)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    assert path.read_text() == "old"


def test_a_directory_that_is_not_there_is_a_line(tmp_path):
    path = tmp_path / "nowhere" / "x.safetensors"
    refused(lambda: write_all(path, TENSORS), str(path), "cannot be written", kind=FileError)
    refused(lambda: write_text(path, "x"), str(path), "cannot be written", kind=FileError)
