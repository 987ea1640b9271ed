import os
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.embed.post import FLOOR, Post, PostFit
from minialbert.errors import FileError, InputError

SEEDS = st.integers(0, 2**32 - 1)
STEPS = [{"center": True}, {"standardize": True}, {"whiten": True}, {"whiten": 3}]


def corpus(seed=0, count=200, width=8, mean=3.0):
    """Vectors with a common mean and columns that hang together, float32 [N, H]."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) + 2 * np.eye(width)
    return (rng.normal(size=(count, width)) @ mixing + mean).astype(np.float32)


def covariance(vectors):
    return np.cov(np.asarray(vectors, np.float64), rowvar=False, ddof=0)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_centring_takes_the_mean_away_and_nothing_else(seed):
    vectors = corpus(seed)
    out = Post.fit(vectors, center=True).apply(vectors)
    assert out.dtype == np.float32 and np.abs(out.mean(axis=0)).max() < 1e-5
    assert np.allclose(out[0] - out[1], vectors[0] - vectors[1], atol=1e-5)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_standardized_columns_have_mean_zero_and_variance_one(seed):
    vectors = corpus(seed)
    out = Post.fit(vectors, standardize=True).apply(vectors)
    assert np.abs(out.mean(axis=0)).max() < 1e-5 and np.abs(out.var(axis=0) - 1).max() < 1e-5


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_covariance_of_whitened_vectors_is_the_identity(seed):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    vectors = rng.normal(size=(300, 8)) * np.geomspace(1, 20, 8) @ basis + 5  # condition known
    out = Post.fit(vectors, whiten=True).apply(vectors)
    assert np.abs(covariance(out) - np.eye(8)).max() < 1e-5


@given(SEEDS, st.lists(st.integers(1, 199), max_size=12), st.sampled_from([0.0, 1e4, 1e9]))
@settings(max_examples=50, deadline=None)
def test_any_cutting_into_blocks_gives_the_same_statistics(seed, cuts, mean):
    vectors = corpus(seed).astype(np.float64) + mean
    whole, pieces = PostFit(8, whiten=True), PostFit(8, whiten=True)
    whole.add(vectors)
    for piece in np.split(vectors, sorted(cuts)):
        pieces.add(piece)
    assert pieces.count == whole.count == 200
    assert np.abs(pieces.moments - whole.moments).max() < 1e-10 * np.abs(whole.moments).max()
    assert np.abs(pieces.mean - whole.mean).max() < 1e-10 * np.abs(whole.mean).max()


def test_the_statistics_are_those_of_numpy():
    vectors = corpus()
    fitting = PostFit(8, whiten=True)
    fitting.add(vectors)
    assert np.allclose(fitting.moments / 200, covariance(vectors), rtol=1e-10)
    assert np.allclose(fitting.finish().mean, vectors.astype(np.float64).mean(axis=0), rtol=1e-12)


def test_a_huge_common_mean_costs_no_digits():
    small = np.random.default_rng(0).integers(-9, 9, (100, 4)).astype(np.float64)  # exact beside 1e9
    near, far = PostFit(4, whiten=True), PostFit(4, whiten=True)
    near.add(small)
    for start in range(0, 100, 7):
        far.add(small[start : start + 7] + 1e9)
    assert np.allclose(near.moments, far.moments, rtol=1e-12)


@given(SEEDS, st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_k_directions_are_the_first_k_of_all(seed, k):
    vectors = corpus(seed)
    full, part = Post.fit(vectors, whiten=True), Post.fit(vectors, whiten=k)
    assert np.array_equal(part.directions, full.directions[:, :k])
    assert part.width == k and np.allclose(part.apply(vectors), full.apply(vectors)[:, :k], atol=1e-6)


def test_the_strongest_direction_comes_first():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 3)) * [1, 100, 10]
    directions = Post.fit(vectors, whiten=True).directions
    assert np.abs(directions).argmax(axis=0).tolist() == [1, 2, 0]
    assert (
        directions.max(axis=0) > -directions.min(axis=0)
    ).all()  # the largest entry is positive: no sign is arbitrary


@pytest.mark.parametrize("steps", STEPS)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_save_then_load_is_bit_equal(tmp_path_factory, steps, seed):
    path = tmp_path_factory.mktemp("post") / "post.safetensors"
    vectors, about = corpus(seed), {"layer": "mean(-4..-1)", "digest": "ab", "parts": (1, 2)}
    post = Post.fit(vectors, **steps, provenance=about)
    post.save(path)
    back = Post.load(path)
    for name in ("mean", "scale", "directions"):
        ours, theirs = getattr(post, name), getattr(back, name)
        assert (ours is theirs is None) or ours.tobytes() == theirs.tobytes()
    assert (back.steps, back.count, back.provenance) == (post.steps, 200, {**about, "parts": [1, 2]})
    assert post.apply(vectors).tobytes() == back.apply(vectors).tobytes()
    back.check(about)


def test_the_steps_are_written_in_the_file_in_their_order():
    vectors = corpus()
    assert [Post.fit(vectors, **steps).steps[1:] for steps in STEPS] == [[], ["standardize"], ["whiten"], ["whiten"]]


@pytest.mark.parametrize("steps", STEPS)
def test_one_vector_is_the_row_of_many(steps):
    vectors = corpus(count=9000)
    post = Post.fit(vectors, **steps)
    many = post.apply(vectors)
    for i in (0, 4095, 4096, 8999):
        one = post.apply(vectors[i])
        assert one.shape == (post.width,)
        if "whiten" in steps:
            assert np.allclose(one, many[i], rtol=0, atol=2**-23 * np.abs(many[i]).max())
        else:
            assert np.array_equal(one, many[i])


def test_exact_whitening_gives_the_same_bits_alone_and_among_others():
    vectors = corpus(count=300, width=96)
    post = Post.fit(vectors, whiten=True)
    many = post.apply(vectors, exact=True)
    for i in range(0, 300, 17):
        assert np.array_equal(post.apply(vectors[i], exact=True), many[i])
        assert np.array_equal(post.apply(vectors[i : i + 5], exact=True)[0], many[i])


@pytest.mark.parametrize("steps", STEPS)
def test_one_text_can_be_centred_and_nothing_else(steps):
    if "center" not in steps or len(steps) > 1:
        with pytest.raises(InputError, match="1 vectors are too few to fit on"):
            Post.fit(corpus(count=1), **steps)
        return
    post = Post.fit(corpus(count=1), **steps)
    assert not post.apply(corpus(count=1)).any()
    assert np.isfinite(post.apply(corpus(seed=1))).all()


def test_as_many_directions_as_the_texts_span_need_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Post.fit(corpus(count=20, width=64), whiten=19)


@pytest.mark.parametrize("steps", STEPS)
def test_constant_columns_stay_zero(steps):
    vectors = corpus()
    vectors[:, 2], vectors[:, 5] = 0.1, 1e7
    out = Post.fit(vectors, **steps).apply(vectors)
    assert np.isfinite(out).all()
    if "whiten" not in steps:
        assert not out[:, [2, 5]].any()


def test_fewer_texts_than_columns_warns_and_does_not_blow_up():
    vectors = corpus(count=20, width=64)
    with pytest.warns(UserWarning, match="64 directions were fitted on 20 texts"):
        post = Post.fit(vectors[:20], whiten=True)
    out, new = post.apply(vectors), post.apply(corpus(seed=1, count=50, width=64))
    assert np.abs(covariance(out[:, :19]) - np.eye(19)).max() < 1e-4
    largest = np.abs(corpus(seed=1, count=50, width=64) - post.mean).max() * 8
    assert np.abs(new).max() <= largest / np.sqrt(FLOOR * np.linalg.eigvalsh(covariance(vectors))[-1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused_and_the_row_is_named(bad):
    vectors = corpus(count=9000).astype(np.float64)
    vectors[8123, 3] = bad
    fitting = PostFit(8, center=True)
    fitting.add(vectors[:8000])
    with pytest.raises(InputError, match=r"vector 8123 .*NaN or infinity"):
        fitting.add(vectors[8000:])
    with pytest.raises(InputError, match="vector 8123 "):
        Post.fit(vectors[:8000], center=True).apply(vectors)


def test_a_refused_block_leaves_the_statistics_as_they_were():
    fitting = PostFit(8, whiten=True)
    fitting.add(corpus())
    before = fitting.moments.copy()
    with pytest.raises(InputError):
        fitting.add(np.full((1, 8), np.nan))
    assert fitting.count == 200 and np.array_equal(fitting.moments, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PostFit(8), "nothing to fit"),
        (lambda: PostFit(8, whiten=True, standardize=True), "not both"),
        (lambda: PostFit(8, whiten=0), "between 1 and the width 8"),
        (lambda: PostFit(8, whiten=9), "between 1 and the width 8"),
        (lambda: PostFit(8, center=True).finish(), "0 vectors are too few"),
        (lambda: Post.fit(corpus()[:0], center=True), "0 vectors are too few"),
        (lambda: Post.fit(np.zeros((5, 13, 8)), center=True), "texts, layers, width.*choose one layer"),
        (lambda: Post.fit(3.0, center=True), "expected numbers"),
        (lambda: Post.fit([["a", "b"]], center=True), "expected numbers"),
        (lambda: Post.fit(corpus(), center=True).apply(np.zeros((5, 4))), r"\[5, 4\].*\[N, 8\]"),
        (lambda: Post.fit(corpus(), center=True).apply(np.zeros(4)), r"\[1, 4\].*\[N, 8\]"),
        (lambda: Post.fit(corpus(), center=True, provenance={"a": {1}}), "plain JSON"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_vectors_of_another_layer_are_refused():
    post = Post.fit(corpus(), center=True, provenance={"layer": -1, "pooling": "mean"})
    post.check({"layer": -1, "pooling": "mean", "texts": "others.txt"})
    with pytest.raises(InputError, match="fitted with layer=-1, the vectors here have layer=3"):
        post.check({"layer": 3, "pooling": "mean"})
    with pytest.raises(InputError, match="no pooling"):
        post.check({"layer": -1})


def test_files_that_are_not_statistics_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "post.safetensors"
    with pytest.raises(FileError, match="no such file"):
        Post.load(path)
    Post.fit(corpus(), whiten=True).save(path)
    whole = path.read_bytes()
    save_file({"mean": np.zeros(3)}, tmp_path / "other.safetensors")
    for data in (b"", b"hello", whole[:-9], whole[:20], (tmp_path / "other.safetensors").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(FileError, match="not statistics"):
            Post.load(path)


def test_a_failed_save_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "post.safetensors"
    path.write_bytes(b"older")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(FileError, match="No space left"):
        Post.fit(corpus(), center=True).save(path)
    assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["post.safetensors"]
    with pytest.raises(FileError, match="cannot be written"):
        Post.fit(corpus(), center=True).save(tmp_path / "missing" / "post.safetensors")


def test_no_vectors_in_give_no_vectors_out():
    assert Post.fit(corpus(), whiten=3).apply(np.zeros((0, 8))).shape == (0, 3)


def test_a_memory_mapped_file_is_fitted_block_by_block(tmp_path):
    np.save(tmp_path / "v.npy", corpus(count=10_000))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert np.allclose(Post.fit(mapped, center=True).mean, corpus(count=10_000).mean(axis=0, dtype=np.float64))
