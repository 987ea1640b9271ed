"""TensorFlow itself beside the reader and the writer: each reads what the other writes, bit for bit.

Not run by default, for TensorFlow is large and nothing else needs it: `pip install tensorflow-cpu`, then
`pytest -m tensorflow tests/convert/test_tensorflow.py`.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from minialbert.convert import convert
from minialbert.convert.tf_checkpoint import Checkpoint, find_prefix
from minialbert.convert.tf_entries import WHOLE, word_of
from minialbert.convert.tf_writer import write_checkpoint
from tests.convert.bundles import (
    CODES,
    PACKS,
    arrays_of_every_dtype,
    assert_same,
    rows_cut,
    write_bundle,
)

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
ARRAYS = arrays_of_every_dtype()


@pytest.fixture(scope="module")
def tf():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow

    print(f"tensorflow {tensorflow.__version__}, numpy {np.__version__}")
    return tensorflow


def assert_equal_readers(tf, prefix: Path, but: tuple[str, ...] = ()) -> Checkpoint:
    """Names, shapes, dtypes and bits, as both see them."""
    ours, theirs = Checkpoint(prefix), tf.train.load_checkpoint(str(prefix))
    shapes, dtypes = theirs.get_variable_to_shape_map(), theirs.get_variable_to_dtype_map()
    assert set(ours) == set(shapes) and len(ours) > 0
    for name, shape in shapes.items():
        assert ours.listing[name] == (word_of(dtypes[name].as_datatype_enum), list(shape)), name
        if name not in but:
            want = np.asarray(theirs.get_tensor(name))
            assert_same(ours.read(name), want.astype(np.float32) if ours.listing[name][0] == "BF16" else want)
    return ours


def save(tf, prefix: Path, tensors: dict, slices: dict[str, str] | None = None) -> Path:
    specs = [(slices or {}).get(name, "") for name in tensors]
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=list(tensors), shape_and_slices=specs, tensors=list(tensors.values())
    )
    return prefix


def files_of(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}.{ending}").read_bytes() for ending in ("index", "data-00000-of-00001")]


# ---- TensorFlow's files, read by us ----


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_both_read_the_recorded_checkpoints_alike(tf, pack):
    assert_equal_readers(tf, find_prefix(pack))


def test_every_dtype_that_tensorflow_saves_is_read(tf, tmp_path):
    prefix = save(tf, tmp_path / "m", {name: tf.constant(x) for name, x in ARRAYS.items()})
    assert len(assert_equal_readers(tf, prefix)) == len(ARRAYS)


def test_bfloat16_is_read_as_tensorflow_widens_it(tf, tmp_path):
    bits = tf.constant(np.arange(65536).astype(np.uint16))
    values = tf.bitcast(bits, tf.bfloat16)
    checkpoint = Checkpoint(save(tf, tmp_path / "m", {"b": values, "s": values[3]}))
    assert checkpoint.listing == {"b": ("BF16", [65536]), "s": ("BF16", [])}
    want = tf.cast(values, tf.float32).numpy()
    got = checkpoint.read("b")
    assert np.array_equal(got, want, equal_nan=True)
    number = ~np.isnan(want)  # of what is no number the bits differ: a cast may set one, widening sets none
    assert np.array_equal(got[number].view(np.uint32), want[number].view(np.uint32))


def test_strings_are_listed_and_left_alone(tf, tmp_path):
    prefix = save(tf, tmp_path / "m", {"s": tf.constant(["a", "bc"]), "x": tf.constant([1.0])})
    ours = assert_equal_readers(tf, prefix, but=("s",))
    assert ours.listing["s"] == ("string", [2])


def test_several_shards_are_read(tf, tmp_path):
    parts = []
    for number in range(3):
        tensors = {name: tf.constant(x) for name, x in list(ARRAYS.items())[number::3]}
        parts.append(str(save(tf, tmp_path / f"part{number}", tensors)))
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "m"))
    ours = assert_equal_readers(tf, tmp_path / "m")
    assert len(ours.files) == 4 and ours.files[-1].name == "m.data-00002-of-00003"


@pytest.mark.parametrize("shards", [1, 3])
def test_slices_are_read(tf, tmp_path, shards):
    x = RNG.normal(size=(200, 5)).astype(np.float32)
    bounds = [(0, 67), (67, 67), (134, 66)]
    parts = []
    for number in range(shards):
        names, specs, pieces = [], [], []
        for start, length in bounds[number::shards]:
            names.append("p/emb")
            specs.append(f"200 5 {start},{length}:0,5")
            pieces.append(tf.constant(x[start : start + length]))
        names.append(f"plain{number}")
        specs.append("")
        pieces.append(tf.constant([number]))
        prefix = str(tmp_path / f"part{number}")
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=specs, tensors=pieces)
        parts.append(prefix)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "m"))
    ours = assert_equal_readers(tf, tmp_path / "m")
    assert len(ours.files) == 1 + shards
    assert_same(ours.read("p/emb"), x)


@pytest.mark.parametrize("specs", [["-:0,2", "-:2,2"], ["0,3:0,2", "0,3:2,2"]], ids=["open", "told"])
def test_slices_of_whole_dimensions_are_read(tf, tmp_path, specs):
    x = RNG.normal(size=(3, 4))
    specs = [f"3 4 {spec}" for spec in specs]
    pieces = [tf.constant(x[:, :2]), tf.constant(x[:, 2:])]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "m"), tensor_names=["x"] * 2, shape_and_slices=specs, tensors=pieces)
    assert_same(assert_equal_readers(tf, tmp_path / "m").read("x"), x)


@pytest.mark.parametrize("sharded", [False, True])
def test_partitioned_variables_of_a_tf1_saver_are_read(tf, tmp_path, sharded):
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        partitioner = v1.fixed_size_partitioner(3)
        columns = v1.fixed_size_partitioner(2, axis=1)
        start = v1.random_normal_initializer(seed=1)
        with v1.variable_scope("bert"):
            v1.get_variable("emb", (31, 7), initializer=start, partitioner=partitioner, use_resource=False)
            v1.get_variable("kernel", (6, 9), initializer=start, partitioner=columns, use_resource=False)
            v1.get_variable("bias", (9,), initializer=start)
            v1.get_variable("half", (9,), tf.bfloat16, initializer=v1.ones_initializer())
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        prefix = Path(v1.train.Saver(sharded=sharded).save(session, str(tmp_path / "model.ckpt"), global_step=7))
    ours = assert_equal_readers(tf, prefix)
    assert ours.listing["bert/emb"] == ("F32", [31, 7]) and ours.listing["bert/half"] == ("BF16", [9])
    assert find_prefix(tmp_path) == find_prefix(f"{prefix}.meta") == prefix


def test_of_several_checkpoints_tensorflows_own_text_file_names_the_newest(tf, tmp_path):
    checkpoint = tf.train.Checkpoint(w=tf.Variable([1.0, 2.0]))
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=3)
    saved = [manager.save() for _ in range(3)]
    assert str(find_prefix(tmp_path)) == saved[-1] == tf.train.latest_checkpoint(str(tmp_path))


def test_an_object_based_checkpoint_is_read(tf, tmp_path):
    checkpoint = tf.train.Checkpoint(model=tf.train.Checkpoint(w=tf.Variable([[1.0, 2.0]]), n=tf.Variable(3)))
    prefix = Path(checkpoint.save(str(tmp_path / "ckpt")))
    ours = assert_equal_readers(tf, prefix, but=("_CHECKPOINTABLE_OBJECT_GRAPH",))
    assert ours.read("model/w/.ATTRIBUTES/VARIABLE_VALUE").tolist() == [[1.0, 2.0]]


def test_a_saved_model_is_read(tf, tmp_path):
    module = tf.Module()
    module.w = tf.Variable(RNG.normal(size=(3, 4)))
    tf.saved_model.save(module, str(tmp_path / "module"))
    assert_equal_readers(tf, find_prefix(tmp_path / "module"), but=("_CHECKPOINTABLE_OBJECT_GRAPH",))


# ---- our files, read by TensorFlow ----


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", [0, 1], ids=["plain", "snappy"])
def test_tensorflow_reads_the_bundles_of_the_tests(tf, tmp_path, shards, kind):
    arrays = ARRAYS | {"p/grid": RNG.normal(size=(10, 6)), "p/rows": RNG.normal(size=(9, 2)).astype(np.float32)}
    cuts = {"p/grid": [[(r, 5), (c, 3)] for r in (0, 5) for c in (0, 3)], "p/rows": rows_cut(arrays["p/rows"], 4, 7)}
    prefix = write_bundle(tmp_path / "m", arrays, shards=shards, cuts=cuts, kind=kind, per_block=7)
    ours = assert_equal_readers(tf, prefix)
    for name, x in arrays.items():
        assert_same(ours.read(name), x)


def test_tensorflow_reads_slices_that_take_a_whole_dimension(tf, tmp_path):
    x = np.arange(12).reshape(3, 4)
    cuts = {"c": [[WHOLE, (0, 2)], [WHOLE, (2, 2)]], "r": [[(0, 1), WHOLE], [(1, 2), WHOLE]]}
    assert_equal_readers(tf, write_bundle(tmp_path / "m", {"c": x, "r": x}, cuts=cuts))


def test_tensorflow_reads_what_the_writer_writes(tf, tmp_path):
    write_checkpoint(tmp_path / "m", ARRAYS.items())
    theirs = tf.train.load_checkpoint(str(tmp_path / "m"))
    for name, x in ARRAYS.items():
        assert_same(np.array(theirs.get_tensor(name)), x)
    assert_equal_readers(tf, tmp_path / "m")


def test_tensorflow_reads_the_bfloat16_of_the_writer(tf, tmp_path):
    values = tf.cast(tf.constant(RNG.normal(size=(5, 6))), tf.bfloat16)
    write_checkpoint(tmp_path / "m", [("b", tf.bitcast(values, tf.uint16).numpy())], bfloat16={"b"})
    assert tf.train.load_checkpoint(str(tmp_path / "m")).get_tensor("b").tobytes() == values.numpy().tobytes()
    assert_same(Checkpoint(tmp_path / "m").read("b"), tf.cast(values, tf.float32).numpy())


def test_variables_are_restored_from_what_the_writer_writes(tf, tmp_path):
    arrays = {"bert/w": RNG.normal(size=(4, 3)).astype(np.float32), "global_step": np.array(12)}
    write_checkpoint(tmp_path / "model.ckpt", arrays.items())
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        variable = v1.get_variable("bert/w", (4, 3))
        step = v1.train.get_or_create_global_step()
        v1.train.Saver().restore(session, str(tmp_path / "model.ckpt"))
        w, n = session.run([variable, step])
    assert_same(w, arrays["bert/w"])
    assert n == 12


# ---- the same bytes ----


def test_the_writer_writes_the_same_bytes_as_tensorflow(tf, tmp_path):
    save(tf, tmp_path / "theirs", {name: tf.constant(x) for name, x in ARRAYS.items()})
    write_checkpoint(tmp_path / "ours", ARRAYS.items())
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")


def test_the_writer_closes_blocks_where_tensorflow_does(tf, tmp_path):
    names = [f"scope_{n * 37 % 20011:05}/a/rather/long/name/{n}" for n in range(20_000)]
    save(tf, tmp_path / "theirs", {name: tf.constant([n]) for n, name in enumerate(names)})
    write_checkpoint(tmp_path / "ours", ((name, np.array([n], np.int32)) for n, name in enumerate(names)))
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")
    assert len(files_of(tmp_path / "ours")[0]) > 3 * 2**18


def test_the_codes_are_those_of_tensorflow(tf):
    assert {name: tf.as_dtype(name).as_datatype_enum for name in CODES} == CODES
    for code in (7, 11, 12, 13, 15, 16, 20, 21, *range(24, 34)):
        assert word_of(code) == tf.as_dtype(code).name
    assert tf.bfloat16.as_datatype_enum == 14


@pytest.mark.parametrize("pack", PACKS)
def test_tensorflow_reads_a_model_that_went_to_hugging_face_and_back(tf, pack, tmp_path):
    convert(pack, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "google", to="google")
    theirs = tf.train.load_checkpoint(str(tmp_path / "google" / "model.ckpt-best"))
    once = tf.train.load_checkpoint(str(pack / "model.ckpt-best"))
    names = theirs.get_variable_to_shape_map()
    kept = {name for name in once.get_variable_to_shape_map() if not name.endswith(("adam_m", "adam_v", "global_step"))}
    assert set(names) == kept
    for name in names:
        assert_same(theirs.get_tensor(name), once.get_tensor(name))
