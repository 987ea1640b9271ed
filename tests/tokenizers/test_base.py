"""What both tokenizers share: batches, pairs, truncation, padding, added tokens, decoding, pickling, saving."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.errors import CheckpointError, FileError, InputError
from minialbert.tokenizers import load_tokenizer
from minialbert.tokenizers.batch import STRATEGIES, kept_lengths, padded_width
from tests.tokenizers.conftest import sentencepiece_tokenizer, wordpiece_tokenizer
from tests.tokenizers.texts import SENTENCES, plain_text

BOTH = (sentencepiece_tokenizer(), wordpiece_tokenizer())
both = st.sampled_from(BOTH)
items = st.one_of(plain_text, st.tuples(plain_text, st.one_of(st.none(), plain_text)))
counts = st.integers(0, 12)


def google_loop(n1: int, n2: int, room: int) -> tuple[int, int]:
    while n1 + n2 > room:
        n1, n2 = (n1 - 1, n2) if n1 > n2 else (n1, n2 - 1)
    return n1, n2


@settings(max_examples=400)
@given(counts, counts, counts)
def test_longest_first_is_googles_loop(n1, n2, room):
    assert kept_lengths(n1, n2, room, "longest_first") == google_loop(n1, n2, room)


@settings(max_examples=400)
@given(counts, counts, counts, st.sampled_from(STRATEGIES))
def test_every_strategy_fills_the_room_or_refuses(n1, n2, room, strategy):
    try:
        k1, k2 = kept_lengths(n1, n2, room, strategy)
    except InputError:
        assert strategy.startswith("only") and n1 + n2 > room
        return
    assert 0 <= k1 <= n1 and 0 <= k2 <= n2 and k1 + k2 == min(room, n1 + n2)
    assert strategy != "only_first" or k2 == n2
    assert strategy != "only_second" or k1 == n1


@given(st.lists(counts, max_size=5), st.sampled_from([1, 8, None]), st.sampled_from(["longest", "max_length"]))
def test_the_padded_width_is_the_least_multiple_that_holds_every_row(lengths, multiple, padding):
    width = padded_width(lengths, padding, 10, multiple)
    least = max([*lengths, 10 if padding == "max_length" else 0])
    assert width % (multiple or 1) == 0 and least <= width < least + (multiple or 1)


@settings(max_examples=150, deadline=None)
@given(both, st.lists(items, max_size=5))
def test_a_batch_is_its_texts_one_by_one(tokenizer, texts):
    batch = tokenizer(texts, padding=False)
    alone = [tokenizer([text], padding=False) for text in texts]
    for key in (*batch, "offsets", "word_ids", "sequence_ids", "tokens", "special_tokens_mask", "cut"):
        assert getattr(batch, key) == [getattr(one, key)[0] for one in alone]


@settings(max_examples=150, deadline=None)
@given(
    both,
    st.lists(items, min_size=1, max_size=4),
    st.sampled_from(["longest", "max_length"]),
    st.sampled_from([None, 8]),
)
def test_padding_never_changes_what_it_pads(tokenizer, texts, padding, multiple):
    bare = tokenizer(texts, padding=False)
    padded = tokenizer(texts, padding=padding, max_length=40, pad_to_multiple_of=multiple)
    B, T = padded.input_ids.shape
    assert B == len(texts) == len(padded) and T % (multiple or 1) == 0
    fillers = {"input_ids": tokenizer.pad_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
    fillers |= {"offsets": (0, 0), "word_ids": None, "sequence_ids": None, "tokens": tokenizer.convert_ids_to_tokens(0)}
    for key, filler in fillers.items():
        for short, long in zip(getattr(bare, key), getattr(padded, key), strict=True):
            long = long.tolist() if isinstance(long, np.ndarray) else long
            assert long == short + [filler] * (T - len(short))
    assert all(array.dtype == np.int64 for array in dict(padded).values())


@settings(max_examples=200, deadline=None)
@given(both, items, st.integers(3, 20), st.sampled_from(STRATEGIES[:2]), st.sampled_from(["left", "right"]))
def test_truncation_keeps_one_end_and_counts_what_it_cut(tokenizer, item, length, strategy, side):
    whole = tokenizer([item], padding=False)
    short = tokenizer([item], padding=False, truncation=strategy, max_length=length, truncation_side=side)
    assert len(short.input_ids[0]) == min(length, len(whole.input_ids[0]))
    assert short.cut == [len(whole.input_ids[0]) - len(short.input_ids[0])] and whole.cut == [0]
    for sequence in (0, 1):
        columns = ("input_ids", "offsets", "word_ids", "tokens")
        all_of, some = (
            [entry for *entry, s in zip(*(getattr(e, c)[0] for c in columns), e.sequence_ids[0]) if s == sequence]  # noqa: B905
            for e in (whole, short)
        )
        assert some == (all_of[: len(some)] if side == "right" else all_of[len(all_of) - len(some) :])


@settings(max_examples=300, deadline=None)
@given(both, items)
def test_the_three_views_agree(tokenizer, item):
    encoding = tokenizer([item])
    texts = item if isinstance(item, tuple) else (item, None)
    line = list(zip(encoding.offsets[0], encoding.word_ids[0], encoding.sequence_ids[0], strict=True))
    for t, (span, word, sequence) in enumerate(line):
        assert encoding.token_to_word(0, t) == word
        assert encoding.token_to_chars(0, t) == (None if sequence is None else span)
        if sequence is None:
            continue
        assert t in encoding.word_to_tokens(0, word, sequence)
        start, end = encoding.word_to_chars(0, word, sequence)
        assert span[0] == span[1] or (start <= span[0] and span[1] <= end)
    for sequence, text in enumerate(texts):
        for char in range(len(text or "")):
            token = encoding.char_to_token(0, char, sequence)
            word = encoding.char_to_word(0, char, sequence)
            if token is not None:
                (start, end), number, of = line[token]
                assert start <= char < end and of == sequence and number == word
            if word is not None:
                start, end = encoding.word_to_chars(0, word, sequence)
                assert start <= char < end
        assert encoding.word_to_tokens(0, 10**6, sequence) == range(0)
        assert encoding.word_to_chars(0, 10**6, sequence) is None


@settings(max_examples=400, deadline=None)
@given(both, plain_text)
def test_offsets_are_ordered_and_words_cover_and_never_overlap(tokenizer, text):
    encoding = tokenizer(text, add_special_tokens=False)
    spans, words = encoding.offsets[0], encoding.word_ids[0]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(spans, spans[1:]))  # noqa: B905, RUF007
    assert all(a <= b for a, b in zip(words, words[1:]))  # noqa: B905, RUF007
    covered = [encoding.word_to_chars(0, word) for word in dict.fromkeys(words)]
    filled = [span for span in covered if span[0] < span[1]]
    assert all(a[1] <= b[0] for a, b in zip(filled, filled[1:]))  # noqa: B905, RUF007


@settings(max_examples=200, deadline=None)
@given(both, st.lists(plain_text, max_size=6))
def test_words_given_as_a_list_keep_their_numbers_and_offsets_are_inside_them(tokenizer, words):
    encoding = tokenizer([words], is_split_into_words=True, add_special_tokens=False)
    ids = [tokenizer(word, add_special_tokens=False, padding=False) for word in words]
    assert encoding.input_ids[0].tolist() == [number for one in ids for number in one.input_ids[0]]
    assert encoding.offsets[0] == [span for one in ids for span in one.offsets[0]]
    assert encoding.word_ids[0] == [n for n, one in enumerate(ids) for _ in one.input_ids[0]]
    for n, word in enumerate(words):
        for char in range(len(word)):
            token = encoding.char_to_token(0, char, word=n)
            assert token is None or encoding.token_to_word(0, token) == n
    with pytest.raises(InputError, match="word="):
        encoding.char_to_token(0, 0)


def test_an_encoding_is_what_a_model_takes(tokenizer):
    encoding = tokenizer(["hello", ("hello", "world"), ("a", ""), ("a", None)])
    assert list(encoding) == list(encoding.keys()) == ["input_ids", "attention_mask", "token_type_ids"]
    assert set(dict(**encoding)) == {"input_ids", "attention_mask", "token_type_ids"} and len(encoding) == 4
    assert encoding.input_ids.shape == encoding.attention_mask.shape == encoding.token_type_ids.shape
    for ids, types, mask in zip(encoding.input_ids, encoding.token_type_ids, encoding.attention_mask, strict=True):
        n = mask.sum()
        first = ids.tolist().index(tokenizer.sep_id)
        assert types.tolist() == [0] * (first + 1) + [1] * (n - first - 1) + [0] * (len(ids) - n)
    assert encoding.input_ids[2][encoding.attention_mask[2] == 1].tolist()[-2:] == [tokenizer.sep_id] * 2
    assert f"input_ids [4, {encoding.input_ids.shape[1]}]" in repr(encoding) and "2 pairs" in repr(encoding)
    assert "lists of" in repr(tokenizer(["a"], padding=False))
    with pytest.raises(KeyError, match=r"encoding\.offsets"):
        encoding["offsets"]


def test_an_empty_batch_and_an_empty_text_have_an_answer(tokenizer):
    assert tokenizer([]).input_ids.shape == (0, 0) and tokenizer([], padding=False).input_ids == []
    assert tokenizer([]).special_tokens_mask.shape == (0, 0)
    assert tokenizer("").input_ids.tolist() == [[tokenizer.cls_id, tokenizer.sep_id]]
    assert tokenizer("", add_special_tokens=False).input_ids.shape == (1, 0)
    assert tokenizer([[]], is_split_into_words=True).input_ids.tolist() == [[tokenizer.cls_id, tokenizer.sep_id]]
    assert tokenizer.encode("") == [tokenizer.cls_id, tokenizer.sep_id] and tokenizer.tokenize("") == []


def test_a_very_long_line_is_no_accident(tokenizer):
    for text in ("a" * 1_000_000, "hello " * 160_000, "[MASK]" * 20_000, "\ud800" * 100_000):
        ids = tokenizer(text, padding=False).input_ids[0]
        assert ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
        short = tokenizer(text, truncation=True, max_length=16)
        assert short.input_ids.shape[1] <= 16 and short.cut[0] == len(ids) - short.input_ids.shape[1]


@pytest.mark.parametrize(
    ("texts", "how", "message"),
    [
        (None, {}, "not NoneType"),
        (b"x", {}, "not bytes"),
        ({"a": 1}, {}, "not dict"),
        (["a", 3], {}, "text 1 is int"),
        (["a", ["b"]], {}, "text 1 is list, expected str; a pair is a tuple"),
        (["a", b"b"], {}, "text 1 is bytes"),
        ([("a", 2)], {}, "text 0 is int"),
        ([("a", "b", "c")], {}, "tuple of 3"),
        (["a"], {"is_split_into_words": True}, "expected a list of words"),
        ([["a", 3]], {"is_split_into_words": True}, "text 0, word 1 is int"),
        (["a"], {"truncation": "first"}, "only_first"),
        (["a"], {"truncation_side": "top"}, "right"),
        (["a"], {"padding": "long"}, "max_length"),
        (["a"], {"pad_to_multiple_of": 0}, "at least 1"),
        (["a"], {"truncation": True, "max_length": 1}, "too small"),
        (["a b c"], {"truncation": "only_second", "max_length": 3}, "no second text"),
        (["a", ("a", "a b c a b c")], {"truncation": "only_first", "max_length": 6}, "text 1: only_first"),
    ],
)
def test_wrong_input_is_named(tokenizer, texts, how, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        tokenizer(texts, **how)


def test_special_tokens_in_text_can_be_forbidden():
    text = "a [MASK] b [SEP]"
    for make in (sentencepiece_tokenizer, wordpiece_tokenizer):
        special = {make().mask_id, make().sep_id}
        assert special <= set(make().encode(text)[1:-1])
        assert set(make(allowed_special=["[MASK]"]).encode(text)[1:-1]) & special == {make().mask_id}
        for careful in (make(allowed_special=()), make(split_special=False), make(flavor="google")):
            assert not special & set(careful.encode(text)[1:-1])
        assert special <= set(make(flavor="google", split_special=True).encode(text)[1:-1])
        with pytest.raises(InputError, match="no special token"):
            make(allowed_special=["[X]"])


def test_added_tokens_get_the_next_ids_and_are_found_whole():
    for make in (sentencepiece_tokenizer, wordpiece_tokenizer):
        tokenizer = make()
        size = tokenizer.vocab_size
        assert len(tokenizer) == size
        assert tokenizer.add_tokens(["[E1]", "[E11]", "hello", "[MASK]", "[E1]"]) == 2 + (
            tokenizer.kind == "sentencepiece"
        )
        assert tokenizer.convert_tokens_to_ids(["[E1]", "[E11]"]) == [size, size + 1]
        assert tokenizer.vocab_size == size and tokenizer.add_tokens(["[E1]"]) == 0
        encoding = tokenizer("a[E1]b [E11]hello", add_special_tokens=False)
        at = encoding.tokens[0].index("[E1]")
        assert encoding.offsets[0][at] == (1, 5) and "[E11]" in encoding.tokens[0] and encoding.tokens[0][-1] == "hello"
        assert encoding.word_ids[0][at] == 1
        assert size not in tokenizer.special_ids
        tokenizer.add_tokens(["[E1]"], special=True)
        assert size in tokenizer.special_ids and "[E1]" not in tokenizer.decode([size], skip_special_tokens=True)
        assert tokenizer.convert_ids_to_tokens(np.array([size, 0])) == ["[E1]", tokenizer.convert_ids_to_tokens(0)]
        for wrong in ("[E2]", [" "], [3], [""]):
            with pytest.raises(InputError):
                tokenizer.add_tokens(wrong)
        with pytest.raises(InputError, match="not in the vocabulary"):
            tokenizer.convert_ids_to_tokens(len(tokenizer))
        with pytest.raises(InputError, match="whole number"):
            tokenizer.convert_ids_to_tokens(1.5)


def test_an_encoding_made_before_tokens_were_added_does_not_lie():
    tokenizer = wordpiece_tokenizer()
    encoding = tokenizer("a [E1]")
    tokenizer.add_tokens(["[E1]"])
    with pytest.raises(InputError, match="changed"):
        _ = encoding.offsets


def test_names_ids_and_build_fit_together(tokenizer):
    assert tokenizer.special_tokens[tokenizer.convert_ids_to_tokens(tokenizer.mask_id)] == tokenizer.mask_id
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.build([7, 8]) == ([2, 7, 8, 3], [0, 0, 0, 0])
    assert tokenizer.build([7], [8, 9]) == ([2, 7, 3, 8, 9, 3], [0, 0, 0, 1, 1, 1])
    assert tokenizer.num_special(False) == 2 and tokenizer.num_special(True) == 3
    assert tokenizer.convert_tokens_to_ids("nothing like it") == tokenizer.unk_id
    assert tokenizer.encode("hello", "world") == tokenizer([("hello", "world")]).input_ids[0].tolist()
    assert tokenizer.kind in tokenizer.describe() and "flavor hf" in tokenizer.describe()


def ids_in_a_worker(tokenizer):
    return tokenizer(SENTENCES[:20], padding=False).input_ids


def test_a_tokenizer_travels_to_other_processes():
    for tokenizer in BOTH:
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy == tokenizer and hash(copy) == hash(tokenizer) and copy.settings == tokenizer.settings
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(ids_in_a_worker, BOTH) == [ids_in_a_worker(tokenizer) for tokenizer in BOTH]


@pytest.mark.filterwarnings("ignore:.*in transformers")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flavor": "google", "do_lower_case": False, "model_max_length": 77},
        {"split_special": False},
        {"allowed_special": ["[MASK]"]},
        {"allowed_special": []},
    ],
)
def test_saving_and_loading_give_an_equal_tokenizer(tmp_path, changes):
    for make in (sentencepiece_tokenizer, wordpiece_tokenizer):
        tokenizer = make(**changes)
        tokenizer.add_tokens(["[E1]"])
        tokenizer.add_tokens(["[E2]"], special=True)
        target = tmp_path / tokenizer.kind
        tokenizer.save_pretrained(target)
        names = {tokenizer.FILE_NAME, "tokenizer.json", "tokenizer_config.json"}
        assert {path.name for path in target.iterdir()} == names
        assert (target / tokenizer.FILE_NAME).read_bytes() == tokenizer.data
        again = load_tokenizer(target)
        assert again == tokenizer and again.settings == tokenizer.settings
        assert again.added == tokenizer.added and again.special_ids == tokenizer.special_ids
        assert pickle.loads(pickle.dumps(again)) == tokenizer
        config = json.loads((target / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["cls_token"] == "[CLS]"


def test_a_digest_tells_what_determines_the_ids():
    plain = wordpiece_tokenizer()
    assert plain.digest() == wordpiece_tokenizer(model_max_length=9).digest() and len(plain.digest()) == 64
    added = wordpiece_tokenizer()
    added.add_tokens(["[E1]"])
    others = [added, wordpiece_tokenizer(do_lower_case=False), wordpiece_tokenizer(flavor="google")]
    assert len({t.digest() for t in [plain, *others]}) == 4 and plain != added and plain != 3


def test_saving_over_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be written"):
        wordpiece_tokenizer().save_pretrained(tmp_path / "file")


def test_unknown_settings_are_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="do_lower_case"):
        wordpiece_tokenizer(do_lowercase=True)
    with pytest.raises(InputError, match="no setting 'keep_accents'"):
        wordpiece_tokenizer(keep_accents=True)
    with pytest.raises(InputError, match="google"):
        wordpiece_tokenizer(flavor="facebook")
    with pytest.raises(InputError, match="collection"):
        wordpiece_tokenizer(allowed_special="[MASK]")


def test_what_a_vocabulary_lacks_is_missed_only_when_needed():
    from minialbert.tokenizers import WordPieceTokenizer

    google = b"[UNK]\n[CLS]\n[SEP]\nwant\n##want\n##ed\nwa\nun\nrunn\n##ing\n,\n"
    tokenizer = WordPieceTokenizer("vocab.txt", data=google)
    assert tokenizer(["want", "un"]).input_ids.shape == (2, 3)
    for need in (lambda: tokenizer(["want", "un un"]), lambda: tokenizer.mask_id):
        with pytest.raises(InputError, match=r"has no \["):
            need()
    with pytest.raises(CheckpointError, match=r"\[CLS\]"):
        WordPieceTokenizer("vocab.txt", data=b"[UNK]\n[SEP]\na\n")
    limitless = WordPieceTokenizer("vocab.txt", data=google, model_max_length=None)
    with pytest.raises(InputError, match="max_length is needed"):
        limitless("want", truncation=True)
