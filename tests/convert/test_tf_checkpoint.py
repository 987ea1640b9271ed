"""TensorFlow's checkpoints: every kind is read to the right bits, every damage has its own line.

What happens to files that are damaged at random is in test_tf_damage.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minialbert.convert.tf_checkpoint import Checkpoint, find_prefix, is_bundle
from minialbert.convert.tf_entries import WHOLE, slice_key
from minialbert.convert.tf_writer import entry_of, write_checkpoint
from minialbert.errors import CheckpointError, FileError, NameUnknown
from minialbert.protobuf import bytes_field, number_field
from tests.convert.bundles import (
    PACKS,
    WORDS,
    arrays_of_every_dtype,
    assert_same,
    blocks_of,
    change,
    header,
    rows_cut,
    spans_message,
    table_of_blocks,
    write_bundle,
)

ARRAYS = arrays_of_every_dtype()
GRID = np.arange(60, dtype=np.float32).reshape(10, 6)
GRID_CUTS = [[(r, 5), (c, 3)] for r in (0, 5) for c in (0, 3)]


def all_of(prefix: Path, **options) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(prefix, **options)
    return {name: checkpoint.read(name) for name in checkpoint}


def assert_all_same(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    checkpoint = Checkpoint(prefix)
    assert list(checkpoint) == sorted(arrays)
    for name, x in arrays.items():
        assert checkpoint.listing[name] == (WORDS[x.dtype.name], list(x.shape))
        assert_same(checkpoint.read(name), x)


def refusal(prefix: Path, name: str = "", kind: type = CheckpointError) -> str:
    """The one line that opening a bundle, and reading a tensor of it, ends in."""
    with pytest.raises(kind) as caught:
        checkpoint = Checkpoint(prefix)
        assert name in checkpoint
        checkpoint.read(name)
    text = str(caught.value)
    assert "\n" not in text and str(prefix) in text
    return text


# ---- recorded files ----


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_the_recorded_checkpoints_of_google_are_read_bit_for_bit(pack):
    prefix = find_prefix(pack)
    checkpoint = Checkpoint(prefix)
    want = load_file(pack / "weights.safetensors")
    assert set(checkpoint) == set(want) and len(checkpoint) == len(want) > 40
    assert {"global_step", "bert/pooler/dense/kernel/adam_m"} <= set(checkpoint)
    for name, x in want.items():
        assert_same(checkpoint.read(name), x)
    assert checkpoint.files == [Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")]
    assert {checkpoint.home(name) for name in checkpoint} == {checkpoint.files[1]}


def test_tensorflow_is_not_imported():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"  # an attempt would raise
        "from minialbert.convert.tf_checkpoint import Checkpoint, find_prefix\n"
        f"checkpoint = Checkpoint(find_prefix({str(PACKS[0])!r}))\n"
        "print(sum(checkpoint.read(name).size for name in checkpoint), 'google.protobuf' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [
        str(sum(x.size for x in load_file(PACKS[0] / "weights.safetensors").values())),
        "False",
    ]


# ---- every kind ----


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", [0, 1], ids=["plain", "snappy"])
@pytest.mark.parametrize("per_block", [1, 5, 1000])
def test_every_dtype_is_read_from_shards_blocks_and_compressed_indexes(tmp_path, shards, kind, per_block):
    prefix = write_bundle(tmp_path / "model.ckpt", ARRAYS, shards=shards, kind=kind, per_block=per_block)
    assert_all_same(prefix, ARRAYS)
    names = [f"model.ckpt.data-{number:05}-of-{shards:05}" for number in range(shards)]
    assert [path.name for path in Checkpoint(prefix).files] == ["model.ckpt.index", *names]


def test_bfloat16_is_widened_exactly(tmp_path):
    bits = np.arange(65536, dtype=np.uint16)
    prefix = write_bundle(
        tmp_path / "x", {"b": bits.reshape(256, 256), "s": bits[:1].reshape(())}, codes={"b": 14, "s": 14}
    )
    checkpoint = Checkpoint(prefix)
    assert checkpoint.listing == {"b": ("BF16", [256, 256]), "s": ("BF16", [])}
    x = checkpoint.read("b")
    assert x.dtype == np.float32 and x.shape == (256, 256) and checkpoint.read("s").shape == ()
    assert np.array_equal(x.view(np.uint32).reshape(-1), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("shards", [1, 3])
def test_partitioned_variables_are_put_together_from_all_shards(tmp_path, shards):
    arrays = {
        "p/emb": np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32),
        "p/grid": GRID,
        "p/whole": np.arange(12.0).reshape(3, 4),
        "p/columns": np.arange(12).reshape(3, 4),
        "p/long": np.arange(9000, dtype=np.int16),
        "p/empty": np.zeros((0, 4), np.int8),
        "plain": np.ones(3),
    }
    cuts = {
        "p/emb": rows_cut(arrays["p/emb"], 67, 134),
        "p/grid": GRID_CUTS[::-1],
        "p/whole": [[WHOLE, WHOLE]],
        "p/columns": [[WHOLE, (2, 2)], [WHOLE, (0, 2)]],
        "p/long": rows_cut(arrays["p/long"], *range(60, 9000, 61)),
        "p/empty": [[(0, 0), (0, 4)]],
    }
    prefix = write_bundle(tmp_path / "x", arrays, shards=shards, cuts=cuts, kind=1)
    assert_all_same(prefix, arrays)
    checkpoint = Checkpoint(prefix)
    assert len(checkpoint.files) == 1 + shards
    assert all(checkpoint.home(name) in checkpoint.files for name in checkpoint)


def test_slices_of_bfloat16_are_widened_too(tmp_path):
    bits = np.arange(100, dtype=np.uint16).reshape(10, 10)
    prefix = write_bundle(tmp_path / "x", {"b": bits}, codes={"b": 14}, cuts={"b": rows_cut(bits, 3)})
    assert np.array_equal(Checkpoint(prefix).read("b").view(np.uint32) >> 16, bits)


def test_an_index_of_half_a_megabyte_with_several_blocks_is_read(tmp_path):
    arrays = {f"scope_{n * 37 % 12007:05}/kernel/with/a/long/name": np.array([n]) for n in range(12007)}
    write_bundle(tmp_path / "x", arrays, per_block=3000)
    write_checkpoint(tmp_path / "y", arrays.items())
    for prefix in (tmp_path / "x", tmp_path / "y"):
        table = Path(f"{prefix}.index").read_bytes()
        assert len(table) > 400_000 and len(blocks_of(table)[0]) > 1
        checkpoint = Checkpoint(prefix)
        assert list(checkpoint) == sorted(arrays)
        for name in sorted(arrays)[::50]:
            assert_same(checkpoint.read(name), arrays[name])


def test_200_megabytes_are_read_back_and_memory_holds_one_tensor_at_a_time(tmp_path):
    """About 3 seconds: written once, read here bit by bit and in a process whose memory is watched."""
    rows = 5_000_000  # of float32: 20 MB

    def tensor(number: int) -> np.ndarray:
        return np.arange(number, number + rows, dtype=np.int32).view(np.float32)

    write_checkpoint(tmp_path / "big", ((f"t{number}", tensor(number)) for number in range(10)))
    assert (tmp_path / "big.data-00000-of-00001").stat().st_size == 200_000_000
    checkpoint = Checkpoint(tmp_path / "big")
    assert all(np.array_equal(checkpoint.read(f"t{n}").view("i4"), tensor(n).view("i4")) for n in range(10))
    code = (
        "import sys, resource\n"
        "from pathlib import Path\n"
        "from minialbert.convert.tf_checkpoint import Checkpoint\n"
        "def resident():\n"
        "    try: return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()\n"
        "    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"  # where there is no /proc
        "before = resident()\n"
        f"checkpoint = Checkpoint({str(tmp_path / 'big')!r})\n"
        "listed = resident() - before\n"
        "most = 0\n"
        "for name in checkpoint:\n"
        "    x = checkpoint.read(name)\n"
        "    most = max(most, resident() - before)\n"
        "print(listed, most)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, most = map(int, run.stdout.split())
    assert listed < 5_000_000 and most < 60_000_000  # the last tensor is let go when the next is there


def test_what_was_read_is_no_view_of_the_file(tmp_path):
    prefix = write_bundle(tmp_path / "x", {"a": np.ones(3)})
    x = Checkpoint(prefix).read("a")
    Path(f"{prefix}.data-00000-of-00001").write_bytes(b"")
    x += 1
    assert x.tolist() == [2, 2, 2]


def test_dtypes_that_numpy_has_not_are_listed_and_refused_when_asked_for(tmp_path):
    odd = {"s": (7, "string"), "r": (20, "resource"), "v": (21, "variant"), "q": (11, "qint8"), "z": (99, "code 99")}

    def edit(items):
        items.update({name.encode(): entry_of(code, [2], 0, 0, 4, 0) for name, (code, _) in odd.items()})
        items[b"n"] = bytes_field(2, b"")

    prefix = change(write_bundle(tmp_path / "x", {"a": np.ones(3)}), edit)
    checkpoint = Checkpoint(prefix)
    assert checkpoint.listing == {
        "a": ("F64", [3]), "n": ("code 0", []), **{name: (word, [2]) for name, (_, word) in odd.items()},
    }  # fmt: skip
    assert checkpoint.read("a").tolist() == [1, 1, 1]
    for name, (_, word) in odd.items():
        assert f"{name} is of dtype {word}, which is not read" in refusal(prefix, name)


def test_an_unknown_name_gets_the_nearest(tmp_path):
    checkpoint = Checkpoint(find_prefix(PACKS[0]))
    for ask in (checkpoint.read, checkpoint.home):
        with pytest.raises(NameUnknown, match=r"no tensor named 'bert/pooler/dense/kernal'. Nearest: bert/pooler"):
            ask("bert/pooler/dense/kernal")
    assert "bert/pooler/dense/bias" in checkpoint and "bert" not in checkpoint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_way_to_cut_a_tensor_gives_it_back(data, tmp_path):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    x = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    at = data.draw(st.lists(st.integers(0, rows), max_size=4).map(sorted))
    cuts = data.draw(st.permutations([list(s) for s in {tuple(s) for s in rows_cut(x, *at)}]))
    prefix = write_bundle(tmp_path / "m", {"x": x}, cuts={"x": cuts}, shards=data.draw(st.integers(1, 3)))
    assert_same(Checkpoint(prefix).read("x"), x)


# ---- from a path to a prefix ----


def test_every_way_to_name_a_checkpoint_leads_to_the_same_prefix(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt-best", {"a": np.ones(3)})
    (tmp_path / "model.ckpt-best.meta").write_bytes(b"graph")
    (tmp_path / "._model.ckpt-best.index").write_bytes(b"what another system leaves in archives")
    for path in (tmp_path, prefix, *(Path(f"{prefix}{end}") for end in (".index", ".meta", ".data-00000-of-00001"))):
        assert find_prefix(path) == find_prefix(str(path)) == prefix
        assert is_bundle(path) and is_bundle(str(path))


def test_a_prefix_may_look_like_a_file_of_a_checkpoint(tmp_path):
    prefix = write_bundle(tmp_path / "best.index", {"a": np.ones(3)})
    assert find_prefix(prefix) == prefix == find_prefix(tmp_path)


def test_a_saved_model_is_read_from_its_variables(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"")
    prefix = write_bundle(tmp_path / "variables" / "variables", {"a": np.ones(3)})
    assert find_prefix(tmp_path) == prefix and is_bundle(tmp_path)


def test_of_several_checkpoints_the_one_is_taken_that_the_text_file_names(tmp_path):
    for step in (5, 50):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"a": np.ones(3)})
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints \(model.ckpt-5, model.ckpt-50\)"):
        find_prefix(tmp_path)
    assert is_bundle(tmp_path)
    named = tmp_path / "checkpoint"
    for text in ('model_checkpoint_path: "model.ckpt-50"', '# x\nmodel_checkpoint_path: "/elsewhere/model.ckpt-50"\n'):
        named.write_text(text + '\nall_model_checkpoint_paths: "model.ckpt-5"\n')
        assert find_prefix(tmp_path) == tmp_path / "model.ckpt-50"
    for text in ('model_checkpoint_path: "model.ckpt-7"', "", "\0\xff", 'model_checkpoint_path: "'):
        named.write_text(text)
        with pytest.raises(CheckpointError, match="holds 2 checkpoints"):
            find_prefix(tmp_path)


def test_where_there_is_no_checkpoint_it_is_said_what_is_there(tmp_path):
    with pytest.raises(FileError, match=r"no \*.index of a TensorFlow checkpoint \(there are no files\)"):
        find_prefix(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "old.ckpt").write_bytes(b"one file")
    (tmp_path / "folder.index").mkdir()
    with pytest.raises(FileError, match=r"among config\.json, folder\.index, old\.ckpt"):
        find_prefix(tmp_path)
    with pytest.raises(FileError, match=r"best\.index: no such index, .* among config\.json"):
        find_prefix(tmp_path / "best.data-00000-of-00001")
    with pytest.raises(FileError, match=r"no old\.ckpt\.index beside it; .* V1 format"):
        find_prefix(tmp_path / "old.ckpt")
    with pytest.raises(FileError, match="there are no files"):
        find_prefix(tmp_path / "missing" / "best")
    for path in (tmp_path, tmp_path / "best", tmp_path / "old.ckpt", tmp_path / "missing" / "best", Path("/")):
        assert not is_bundle(path)


# ---- damage ----


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "m", {"a": np.arange(4.0), "b": np.ones((2, 3), np.float32)})


def data_of(prefix: Path) -> Path:
    return Path(f"{prefix}.data-00000-of-00001")


def test_a_missing_index_or_shard_is_a_file_error_and_no_damage(bundle):
    data_of(bundle).unlink()
    assert f"{data_of(bundle)}: missing, with a in it" in refusal(bundle, "a", FileError)
    Path(f"{bundle}.index").unlink()
    with pytest.raises(FileError, match="cannot be read"):
        Checkpoint(bundle)


def test_a_header_that_counts_more_shards_leads_to_their_names(bundle):
    change(bundle, lambda items: items.update({b"": header(2)}))
    assert f"{bundle}.data-00000-of-00002: missing" in refusal(bundle, "a", FileError)
    assert [path.name for path in Checkpoint(bundle).files] == ["m.index", "m.data-00000-of-00002"]


def test_a_shard_that_was_cut_off_or_never_fetched_is_told_apart(bundle):
    data_of(bundle).write_bytes(data_of(bundle).read_bytes()[:-1])
    assert Checkpoint(bundle).read("a").tolist() == [0, 1, 2, 3]  # it lies before the cut
    assert "55 bytes, b needs 56: cut off" in refusal(bundle, "b")
    data_of(bundle).write_bytes(b"version https://git-lfs")
    assert "git lfs pull" in refusal(bundle, "a")
    data_of(bundle).write_bytes(b"<html>404</html>")
    assert "a web page" in refusal(bundle, "a")


def test_a_shard_that_is_a_folder_is_a_file_error(bundle):
    data_of(bundle).unlink()
    data_of(bundle).mkdir()
    change(bundle, lambda items: items.update({b"a": entry_of(2, [0], 0, 0, 0, 0)}))
    assert "cannot be read" in refusal(bundle, "a", FileError)


def test_a_flipped_bit_in_the_data_is_noticed_unless_checks_are_off(bundle):
    data = bytearray(data_of(bundle).read_bytes())
    data[9] ^= 4
    data_of(bundle).write_bytes(data)
    assert "wrong checksum of a" in refusal(bundle, "a")
    assert Checkpoint(bundle).read("b").tolist() == [[1, 1, 1], [1, 1, 1]]
    assert Checkpoint(bundle, check=False).read("a").tolist() != [0, 1, 2, 3]


def test_a_shard_that_shrinks_between_two_looks_is_noticed(bundle, monkeypatch):
    data_of(bundle).write_bytes(data_of(bundle).read_bytes()[:20])
    monkeypatch.setattr(Checkpoint, "_locate", lambda *_: (data_of(bundle), 56))  # as it was a moment ago
    assert "a ends too early" in refusal(bundle, "a")


MANY = (2**31, 2**31)


@pytest.mark.parametrize(
    "value, text",
    [
        (entry_of(99, [4], 0, 0, 32, 0), "a is of dtype code 99"),
        (entry_of(0, [4], 0, 0, 32, 0), "a is of dtype code 0"),
        (entry_of(2, [5], 0, 0, 32, 0), r"a is F64 [5], that is 40 bytes, its entry says 32"),
        (entry_of(2, [4], 0, 0, 31, 0), "that is 32 bytes, its entry says 31"),
        (entry_of(2, [4], 5, 0, 32, 0), "bad shard number 5: there are 1"),
        (entry_of(2, [4], 0, 2**62, 32, 0), f"56 bytes, a needs {2**62 + 32}"),
        (entry_of(2, [4], 0, -1, 32, 0), "a negative number"),
        (entry_of(2, [-4], 0, 0, 32, 0), "a negative number"),
        (entry_of(2, [4], 0, 0, 32, 1), "wrong checksum of a"),
        (entry_of(2, MANY * 2, 0, 0, 0, 0), "which no array can have"),  # 2^124 elements: 0 in 64 bits
        (entry_of(2, MANY, 0, 0, 0, 0), "which no array can have"),
        (entry_of(2, [2**62] * 254, 0, 0, 8, 0), "which no array can have"),
        (entry_of(2, [0, *MANY, 9], 0, 0, 0, 0), "which no array can have"),
        (entry_of(2, [1] * 33, 0, 0, 8, 0), "which no array can have"),
        (entry_of(2, [1 << 30], 0, 0, 8 << 30, 0), "56 bytes, a needs 8589934592"),
        (b"\xff", "the entry of 'a' is damaged (a number without end)"),
        (b"plain text", "the entry of 'a' is damaged"),
    ],
)
def test_each_impossible_entry_has_its_own_line(bundle, value, text):
    change(bundle, lambda items: items.update({b"a": value}))
    assert text in refusal(bundle, "a")


@pytest.mark.parametrize(
    "first, text",
    [
        (None, "its first key is 'a', expected the empty key of the header"),
        (entry_of(2, [4], 0, 0, 32, 0), "its header is not one of a V2 checkpoint"),
        (bytes_field(1, b"\x0a\0"), "its header is not one of a V2 checkpoint"),  # V1 has a message there
        (header(endianness=1), "big-endian"),
        (header(min_consumer=9), "newer"),
        (b"", "counts 0 shards"),
    ],
)
def test_each_impossible_header_has_its_own_line(bundle, first, text):
    change(bundle, lambda items: items.pop(b"") if first is None else items.update({b"": first}))
    assert text in refusal(bundle)


def test_a_table_with_nothing_in_it_has_no_header(bundle):
    Path(f"{bundle}.index").write_bytes(table_of_blocks([]))
    assert "its first key is missing" in refusal(bundle)


@pytest.mark.parametrize("key", [b"\xff\xfe", b"two\nlines", b"\x1b[31mred", "\u202eright to left".encode()])
def test_names_that_are_no_text_are_refused_in_one_line(bundle, key):
    change(bundle, lambda items: items.update({key: entry_of(2, [4], 0, 0, 32, 0)}))
    text = refusal(bundle)
    assert "is damaged" in text and text.isprintable()


def slices_of(items) -> list[bytes]:
    return [key for key in items if key.startswith(b"\0")]


def whole_of(shape: tuple[int, ...], slices) -> bytes:
    dims = b"".join(bytes_field(2, number_field(1, n)) for n in shape)
    return number_field(1, 1) + bytes_field(2, dims) + b"".join(bytes_field(7, spans_message(s)) for s in slices)


def repeat_a_piece(items):
    """Two slices of equal size, both with the bytes of the first: more elements than the shard has bytes for."""
    first, second = (slice_key("g", spans) for spans in rows_cut(GRID, 5))
    items[second] = items[first]


@pytest.mark.parametrize(
    "edit, text",
    [
        (lambda items: items.pop(slices_of(items)[0]), "the slice [0:5, 0:3] of g is missing"),
        (lambda items: items.update({b"g": whole_of((10, 6), GRID_CUTS[:3])}), "have 45 elements, expected 60"),
        (
            lambda items: items.update({b"g": whole_of((10, 6), GRID_CUTS + GRID_CUTS[:1])}),
            "have 75 elements, expected",
        ),
        (lambda items: items.update({b"g": whole_of((10, 6), GRID_CUTS[:3] + GRID_CUTS[:1])}), "slices of g overlap"),
        (lambda items: items.update({b"g": whole_of((10, 5), GRID_CUTS)}), "is F32 [10, 5], its slice [0:5, 3:6]"),
        (lambda items: items.update({b"g": whole_of((10, 6), [[(0, 5)]])}), "slices that have others"),
        (lambda items: items.update({b"g": whole_of((10, 6), [[(-5, 5), (0, 3)]])}), "[-5:0, 0:3] of g is missing"),
        (lambda items: items.update({b"g": whole_of((2**40, 6), GRID_CUTS)}), "have 60 elements, expected"),
        (lambda items: items.update({b"g": whole_of(MANY, GRID_CUTS)}), "which no array can have"),
        (
            lambda items: items.update({slices_of(items)[1]: entry_of(2, [5, 3], 0, 0, 120, 0)}),
            "0:5, 3:6] is F64 [5, 3]",
        ),
        (
            lambda items: items.update({slices_of(items)[1]: entry_of(1, [3, 5], 0, 0, 60, 0)}),
            "0:5, 3:6] is F32 [3, 5]",
        ),
        (lambda items: items.update({slices_of(items)[1]: entry_of(1, [5, 3], 0, 0, 59, 0)}), "its entry says 59"),
        (lambda items: items.update({slices_of(items)[1]: entry_of(1, [5, 3], 9, 0, 60, 0)}), "bad shard number 9"),
    ],
)
def test_each_impossible_slice_has_its_own_line(tmp_path, edit, text):
    prefix = change(write_bundle(tmp_path / "m", {"g": GRID}, cuts={"g": GRID_CUTS}), edit)
    assert text in refusal(prefix, "g")


def test_slices_cannot_share_their_bytes(tmp_path):
    prefix = write_bundle(tmp_path / "m", {"g": GRID}, cuts={"g": rows_cut(GRID, 5)})
    change(prefix, repeat_a_piece)
    data_of(prefix).write_bytes(data_of(prefix).read_bytes()[:120])
    assert "share their bytes" in refusal(prefix, "g")


def test_a_piece_in_a_missing_shard_names_the_shard(tmp_path):
    prefix = write_bundle(tmp_path / "m", {"g": GRID}, cuts={"g": GRID_CUTS}, shards=3)
    Path(f"{prefix}.data-00002-of-00003").unlink()
    assert "data-00002-of-00003: missing, with g in it" in refusal(prefix, "g", FileError)
