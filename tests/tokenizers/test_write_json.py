"""tokenizer.json as we write it: transformers gives our ids, masks, types and offsets. What differs is named here."""

import io
import json
import re
import tempfile
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from minialbert.errors import FileError
from minialbert.tokenizers import SentencePieceTokenizer, Tokenizer, WordPieceTokenizer, load_tokenizer
from minialbert.tokenizers.model_file import CONTROL, NORMAL, UNKNOWN, write_model
from minialbert.tokenizers.normalize import lower_each
from minialbert.tokenizers.write_json import all_that, any_of
from tests.tokenizers.conftest import sentencepiece_tokenizer, wordpiece_tokenizer
from tests.tokenizers.texts import BERT, GOLDEN, SENTENCES, TINY, fuzz, plain_text

NAMED = fuzz(seed=21)
TEXTS = [text for _, text in NAMED]
MASKS = [
    "a [MASK] b",
    "a[MASK]b",
    "  [MASK]  ",
    "[MASK][MASK] [MASK].",
    "x [mask] [ MASK ] [MASK",
    "the\u3000[MASK],\n[SEP]",
]
LANGUAGES = [
    "한국어 문장입니다",
    "हिन्दी की किताब",
    "ภาษาไทยก็มี",
    "日本語とカタカナ",
    "Σοφία σοφός",
    "été İstanbul",
    "<br>a<br>",
]
CHINESE = "今天天气很好。我们学习自然语言处理，２０２４年，用ALBERT！"


def saved(tokenizer: Tokenizer, directory: Path):
    """What transformers makes of a tokenizer that we have saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def chinese_tokenizer() -> WordPieceTokenizer:
    lines = [*BERT, *sorted(set(CHINESE) - set(BERT)), "##好", "albert", "##2"]
    return WordPieceTokenizer("chinese/vocab_chinese.txt", data="\n".join(lines).encode())


def trained(**changes) -> bytes:
    """A small SentencePiece model of several scripts, with the library's options changed."""
    out = io.BytesIO()
    recipe = {"vocab_size": 500, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "character_coverage": 1.0}
    recipe |= {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "user_defined_symbols": [*'()"-.', "–", "£", "<br>"]}
    lines = SENTENCES[:150] + LANGUAGES * 10
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, minloglevel=2, num_threads=1, **(recipe | changes)
    )
    return out.getvalue()


# ---- the named differences ----

CAPITALS = "<PAD>, <UNK> in capitals: special here, as in transformers 4, which lower-cases before it looks"
ACCENTS = "accents kept: a mark that follows what the model's own table changes (ﬁ, ½, …)"
COMMA = "flavor google: a second mark before digit and comma inside a word"
SIGMA = "a capital sigma at the end of a word: flavor google, or one that only decomposition shows (𝚺)"
NEWER = "characters newer than one of the two Unicode tables"


def newer(text: str) -> bool:
    characters = unicodedata.normalize("NFD", text)
    return any(unicodedata.category(c)[0] in "PMC" and unicodedata.ucd_3_2_0.category(c) == "Cn" for c in characters)


def why(tokenizer: Tokenizer, text: str) -> str | None:
    """The reason why transformers may give other ids than we do."""
    lowered = text if tokenizer.flavor == "google" else lower_each(text)
    decomposed = lowered if tokenizer.kind == "wordpiece" else unicodedata.normalize("NFKD", lowered)
    if tokenizer.do_lower_case and "Σ" in decomposed:
        return SIGMA
    if tokenizer.kind == "wordpiece":
        return NEWER if newer(text) else None
    if tokenizer.flavor == "google" and re.search(r"\d,", unicodedata.normalize("NFKD", text)):
        return COMMA
    if tokenizer.do_lower_case and any(found != found.lower() for found in re.findall("(?i)<pad>|<unk>", text)):
        return CAPITALS
    marked = any(unicodedata.category(c)[0] == "M" or c == "\u200d" for c in text)
    return ACCENTS if tokenizer.keep_accents and marked else None


def assert_equal_but_for(ours: Tokenizer, theirs, texts: list[str], limits: dict[str, float]) -> Counter:
    """Ids, masks and types are equal; texts that differ have a reason, each reason at most its share of the texts."""
    encoding, reference = ours(texts, padding=False), theirs(texts)
    reasons: Counter = Counter()
    for i, text in enumerate(texts):
        if encoding.input_ids[i] != reference["input_ids"][i]:
            reason = why(ours, text)
            assert reason in limits, (text, encoding.tokens[i], theirs.convert_ids_to_tokens(reference["input_ids"][i]))
            reasons[reason] += 1
        else:
            assert encoding.attention_mask[i] == reference["attention_mask"][i]
            assert encoding.token_type_ids[i] == reference["token_type_ids"][i]
    for reason, count in reasons.items():
        assert count <= limits[reason] * len(texts), (reason, count)
    return reasons


CASES = [
    (sentencepiece_tokenizer, {}, {CAPITALS: 0.04}),
    (sentencepiece_tokenizer, {"do_lower_case": False}, {}),
    (sentencepiece_tokenizer, {"do_lower_case": False, "remove_space": False}, {}),
    (sentencepiece_tokenizer, {"do_lower_case": False, "keep_accents": True}, {ACCENTS: 0.005}),
    (sentencepiece_tokenizer, {"split_special": False}, {}),
    (sentencepiece_tokenizer, {"flavor": "google"}, {COMMA: 0.15, SIGMA: 0.005}),
    (wordpiece_tokenizer, {}, {NEWER: 0.004}),
    (wordpiece_tokenizer, {"do_lower_case": False}, {NEWER: 0.004}),
    (wordpiece_tokenizer, {"do_lower_case": False, "strip_accents": True, "max_chars": 3}, {NEWER: 0.004}),
    (wordpiece_tokenizer, {"tokenize_chinese_chars": False, "strip_accents": False}, {NEWER: 0.004}),
    (wordpiece_tokenizer, {"flavor": "google"}, {NEWER: 0.004, SIGMA: 0.005}),
]


@pytest.mark.parametrize(("make", "changes", "limits"), CASES)
def test_transformers_gives_our_ids_masks_and_types_for_every_fuzz_string(make, changes, limits, tmp_path):
    ours = make(**changes)
    texts = TEXTS if not changes else TEXTS[::2]
    reasons = assert_equal_but_for(ours, saved(ours, tmp_path), texts, limits)
    print(f"\n{ours.kind} {changes}: {sum(reasons.values())} of {len(texts)} differ", *reasons.items(), sep="\n  ")


def test_before_and_after(tmp_path):
    """transformers with spiece.model alone, and with the directory that we write."""
    for lower in (True, False):
        ours = sentencepiece_tokenizer(do_lower_case=lower)
        alone = tmp_path / f"alone{lower}"
        alone.mkdir()
        (alone / "spiece.model").write_bytes(ours.data)
        config = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": lower, "keep_accents": False}
        (alone / "tokenizer_config.json").write_text(json.dumps(config))
        want = ours(TEXTS, padding=False).input_ids
        counts = {}
        for name, theirs in {
            "before": AutoTokenizer.from_pretrained(alone),
            "after": saved(ours, tmp_path / f"ours{lower}"),
        }.items():
            pairs = zip(NAMED, want, theirs(TEXTS).input_ids, strict=True)
            counts[name] = Counter(category for (category, _), a, b in pairs if a != b)
        print(f"\nlower={lower}, of {len(TEXTS)}:", *counts.items(), sep="\n  ")
        assert counts["before"].total() > 2000 and counts["before"]["natural"] > 1000
        assert set(counts["after"]) == ({"special"} if lower else set())


@pytest.mark.parametrize("changes", [{}, {"do_lower_case": False}])
def test_offsets_are_equal_but_for_three_rules(changes, tmp_path):
    ours = sentencepiece_tokenizer(**changes)
    counts: Counter = Counter()
    texts = TEXTS[::4]
    encoding, reference = ours(texts, padding=False), saved(ours, tmp_path)(texts, return_offsets_mapping=True)
    for i, text in enumerate(texts):
        if encoding.input_ids[i] != reference.input_ids[i]:
            continue
        for piece, span, other in zip(
            encoding.tokens[i], encoding.offsets[i], reference.offset_mapping[i], strict=True
        ):
            if span == tuple(other):
                counts["equal"] += 1
            elif piece == "▁":
                counts["lone mark: empty here, the next character there"] += 1
                assert span[0] == span[1] and other[1] - other[0] == 1
            elif piece == "[MASK]":
                counts["[MASK]: with the white space it swallows there"] += 1
                assert text[slice(*span)] == "[MASK]" == text[slice(*other)].strip()
            else:
                counts["a replaced quotation mark: both characters here, one there"] += 1
                assert piece == '"' and text[slice(*span)] in ("``", "''")
    print("\noffsets:", *counts.most_common(), sep="\n  ")


def test_wordpiece_offsets_are_equal(tmp_path):
    for ours in (wordpiece_tokenizer(), wordpiece_tokenizer(do_lower_case=False), chinese_tokenizer()):
        texts = [t for t in TEXTS[::5] if not newer(t)] + [CHINESE]
        encoding, reference = ours(texts, padding=False), saved(ours, tmp_path)(texts, return_offsets_mapping=True)
        for i, text in enumerate(texts):
            if encoding.offsets[i] != [tuple(span) for span in reference.offset_mapping[i]]:
                decomposed = "".join(unicodedata.normalize("NFD", c) for c in text)
                assert unicodedata.normalize("NFD", text) != decomposed, text  # marks out of canonical order


# ---- real texts ----


@pytest.mark.parametrize("flavor", ["hf", "google"])
def test_googles_24_recorded_texts_get_the_recorded_ids_in_transformers(flavor, tmp_path):
    theirs = saved(SentencePieceTokenizer(TINY, flavor=flavor), tmp_path)
    lines = [json.loads(line) for line in (GOLDEN / "tokenization.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 24
    for want in lines:
        assert theirs(want["text"], add_special_tokens=False).input_ids == want["ids"], want["text"]


@pytest.mark.parametrize("make", [sentencepiece_tokenizer, wordpiece_tokenizer, chinese_tokenizer])
def test_the_corpus_pairs_masks_and_added_tokens_are_equal_through_and_through(make, tmp_path):
    """Without asking for token types: those of ALBERT are missing in transformers 5 unless the files ask for them."""
    ours = make()
    ours.add_tokens(["[E1]", "[E11]", "the", "Hello", "wa"])
    ours.add_tokens(["[E2]"], special=True)
    theirs = saved(ours, tmp_path)
    added = ["a[E1]b [E11]c", "Hello hello the other [E2] x[E2]", "wa[MASK] [E1]"]
    chinese = [CHINESE, CHINESE[:9] + " " + CHINESE[9:], "a" * 100, "a" * 101, "a" * 201, "ab" * 100]
    texts = [*SENTENCES, *MASKS, *added, *chinese]
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    firsts, seconds = map(list, zip(*pairs, strict=True))
    for mine, reference in (
        (ours(texts), theirs(texts, padding=True, return_tensors="np")),
        (ours(pairs), theirs(firsts, seconds, padding=True, return_tensors="np")),
    ):
        assert set(reference) == set(mine)
        for key, value in mine.items():
            assert (value == reference[key]).all(), key
    assert len(theirs) == len(ours) and theirs.mask_token_id == ours.mask_id
    for text in texts[::3] + MASKS + added:
        ids = ours.encode(text)
        for skip in (False, True):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_a_real_checkpoint_saved_by_us_gives_the_ids_of_its_own_directory(minilm, tmp_path):
    original = AutoTokenizer.from_pretrained(minilm)
    original.backend_tokenizer.no_truncation()
    original.backend_tokenizer.no_padding()
    ours = load_tokenizer(minilm)
    theirs = saved(ours, tmp_path)
    texts = [*SENTENCES, *MASKS, CHINESE, *(text for text in TEXTS[::3] if not newer(text))]
    reference, found = original(texts, verbose=False), theirs(texts, verbose=False)
    for key in ("input_ids", "token_type_ids", "attention_mask"):
        assert found[key] == reference[key]
    assert theirs.model_max_length == ours.model_max_length and load_tokenizer(tmp_path) == ours


# ---- unusual vocabularies ----


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_dummy_prefix": False},
        {"split_by_whitespace": False, "vocab_size": 600},
        {"normalization_rule_name": "identity"},
        {"normalization_rule_name": "nfkc"},
    ],
)
def test_other_sentencepiece_options_are_kept(changes, tmp_path):
    """Hangul, vowel signs that are no accents, a user-defined piece of several characters, pieces over a space."""
    ours = SentencePieceTokenizer("other/spiece.model", data=trained(**changes))
    texts = [*LANGUAGES, *SENTENCES[:200], "a ▁b", "▁", "▁▁ x", "Ϲ Σ", "＜pad＞ [ＣLS]", *TEXTS[::5]]
    assert_equal_but_for(ours, saved(ours, tmp_path), texts, {CAPITALS: 0.04, SIGMA: 0.01})


def test_the_one_thing_that_lowered_scores_cannot_do(tmp_path):
    """The best cut with "▁1," goes another way than the best cut without it."""
    scores = {"▁1,": -2, "68": -4, "1": -4, "▁1,6": -5, "8": -4, "▁1": -5, ",": -3, "6": -4, "▁": -4}
    special = [("<pad>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN), *((f"[{x}]", 0.0, CONTROL) for x in ("CLS", "SEP"))]
    pieces = [*special, *((piece, float(score), NORMAL) for piece, score in scores.items())]
    ours = SentencePieceTokenizer("c/spiece.model", data=write_model(pieces, {"unk": 1, "pad": 0}, b"", True))
    assert ours.tokenize("1,681") == ["▁1", ",", "68", "1"]
    assert saved(ours, tmp_path).tokenize("1,681") == ["▁1,6", "8", "1"]
    assert saved(ours, tmp_path).tokenize("1, 1,") == ours.tokenize("1, 1,") == ["▁1", ",", "▁1", ","]


def test_a_text_that_becomes_a_special_token_by_cleaning_is_text(tmp_path):
    ours = sentencepiece_tokenizer()
    theirs = saved(ours, tmp_path)
    assert theirs("＜pad＞").input_ids == ours.encode("＜pad＞") and ours.pad_id not in ours.encode("＜pad＞")


def test_vocabularies_with_lines_twice_empty_lines_or_few_special_tokens_keep_their_numbers(tmp_path):
    for lines in (
        ["[UNK]", "[CLS]", "[SEP]", "want", "##ed", "wa"],
        [*BERT[:5], "hello", "", "hello", "", "wa", "##x"],
    ):
        ours = WordPieceTokenizer("v/vocab.txt", data="\n".join(lines).encode())
        ours.add_tokens(["[E1]", "wa"])
        theirs = saved(ours, tmp_path)
        for text in ("hello wa [E1]x wanted", "wax hellox ok"):
            assert (
                theirs(text).input_ids == ours.encode(text) == load_tokenizer(tmp_path / "tokenizer.json").encode(text)
            )
        assert len(theirs) == len(ours) and load_tokenizer(tmp_path) == ours


# ---- round trips ----

changed = st.fixed_dictionaries(
    {
        "flavor": st.sampled_from(["hf", "google"]),
        "do_lower_case": st.booleans(),
        "split_special": st.sampled_from([None, True, False]),
        "allowed_special": st.sampled_from([None, [], ["[MASK]"]]),
        "model_max_length": st.integers(8, 512),
    }
)
by_kind = {
    sentencepiece_tokenizer: {"keep_accents": st.booleans(), "remove_space": st.booleans()},
    wordpiece_tokenizer: {"strip_accents": st.sampled_from([None, True, False]), "max_chars": st.integers(1, 200)},
}
tokens = st.lists(st.sampled_from(["[E1]", "[E2]", "the", "Hello", "a b", "é", "日本", "wa"]), unique=True, max_size=4)


@pytest.mark.parametrize("make", by_kind)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), common=changed, plain=tokens, special=tokens, text=plain_text)
def test_saved_and_loaded_again_it_is_the_same_tokenizer(make, data, common, plain, special, text):
    ours = make(**common, **data.draw(st.fixed_dictionaries(by_kind[make])))
    ours.add_tokens(plain)
    ours.add_tokens(special, special=True)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.save_pretrained(directory)
        again = load_tokenizer(directory)
        assert again == ours and again.settings == ours.settings
        assert again.added == ours.added and again.added_special == ours.added_special
        from_json = load_tokenizer(Path(directory) / "tokenizer.json")
        assert from_json.encode(text) == ours.encode(text) and from_json.settings == ours.settings
        files = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
        again.save_pretrained(directory)
        assert files == {path.name: path.read_bytes() for path in Path(directory).iterdir()}
        from_json.save_pretrained(directory)
        assert load_tokenizer(directory) == from_json
        rust = RustTokenizer.from_file(f"{directory}/tokenizer.json")
        assert rust.get_vocab_size() == len(ours)
        if not ours.differences() and ours.splits() and why(ours, text) is None:
            text = re.sub("[\ud800-\udfff]", "", text)
            assert rust.encode(text).ids == ours.encode(text)


# ---- what cannot be said, and what goes wrong ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"split_special": False, "do_lower_case": False, "keep_accents": True}, None),
        ({"allowed_special": []}, None),
        ({"allowed_special": ["[MASK]"]}, "all recognised there, here only some"),
        ({"flavor": "google"}, "capital sigma .*; a digit and a comma inside a word"),
    ],
)
def test_a_warning_says_what_transformers_will_do_otherwise(changes, message, tmp_path):
    ours = sentencepiece_tokenizer(**changes)
    if message is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours.save_pretrained(tmp_path)
        return
    with pytest.warns(UserWarning, match=message) as caught:
        ours.save_pretrained(tmp_path)
    assert len(caught) == 1 and str(tmp_path) in str(caught[0].message)


def test_added_special_tokens_are_text_to_transformers_when_nothing_is_split(tmp_path):
    ours = wordpiece_tokenizer(split_special=False)
    ours.add_tokens(["[E1]"], special=True)
    with pytest.warns(UserWarning, match="added special tokens"):
        ours.save_pretrained(tmp_path)
    added = ours.added["[E1]"]
    assert added in ours.encode("a [E1]") and added not in AutoTokenizer.from_pretrained(tmp_path)("a [E1]").input_ids


def test_a_model_that_is_no_unigram_is_saved_without_tokenizer_json(tmp_path):
    ours = SentencePieceTokenizer("bpe/spiece.model", data=trained(model_type="bpe"))
    sentencepiece_tokenizer().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="cannot hold a model of this type"):
        ours.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"spiece.model", "tokenizer_config.json"}
    assert ours.tokenizer_json() is None and load_tokenizer(tmp_path) == ours
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "AlbertTokenizer"


def test_a_file_that_cannot_be_written_leaves_no_half_of_it(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    ours = wordpiece_tokenizer()
    with pytest.raises(FileError, match=r"tokenizer\.json: cannot be written"):
        ours.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.txt", "tokenizer.json"}


def test_a_pattern_names_exactly_the_characters_given():
    assert any_of("abcxz") == r"[\x{61}-\x{63}\x{78}\x{7a}]" and any_of("") == ""
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    assert all_that(str.isspace) == "".join(c for c in every if c.isspace())
    assert all_that(unicodedata.combining) == "".join(c for c in every if unicodedata.combining(c))
