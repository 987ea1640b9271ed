"""Tags of words: every scheme is read, entities are seqeval's, every word is predicted once, transformers agrees."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as by_type
from seqeval.metrics.v1 import precision_recall_fscore_support as strictly
from seqeval.scheme import IOB2

from minialbert.errors import FileError, InputError
from minialbert.finetune.columns import Sentence, labels_of, read_tags, sentence_of
from minialbert.finetune.tag import TagTask, windows_of
from minialbert.finetune.tags import (
    entities,
    entity_scores,
    first_pieces,
    labels_to_pieces,
    pieces_to_labels,
    scheme_of,
    to_iob2,
)  # fmt: skip
from minialbert.heads import AlbertForTokenClassification
from minialbert.tokenizers import WordPieceTokenizer, load_tokenizer
from tests.conftest import tiny_bert, tiny_config
from tests.tokenizers.conftest import sentencepiece_tokenizer, wordpiece_tokenizer
from tests.tokenizers.texts import any_text


def of(directory, text, name="a.conll", **how):
    """What is read from a file that says `text`."""
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_tags(path, **how)


# ---- entities and their F1 ----


def tag_pairs(letters):
    tag = st.one_of(st.just("O"), st.builds("{}-{}".format, st.sampled_from(letters), st.sampled_from("XYZ")))
    sentence = st.lists(st.tuples(tag, tag), min_size=1, max_size=9)
    return st.lists(sentence, min_size=1, max_size=4).map(
        lambda rows: tuple([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    )


@given(tag_pairs("BI") | tag_pairs("BIES"))
@settings(max_examples=200, deadline=None)
def test_entity_f1_is_that_of_seqeval(pair):
    truth, answers = pair
    ours = entity_scores(truth, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        micro = by_type(truth, answers, average="micro")
        each = by_type(truth, answers, average=None)
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(micro[:3])
    rows = [[row[key] for key in ("precision", "recall", "f1", "support")] for row in ours["types"].values()]
    assert np.array(rows).reshape(-1, 4) == pytest.approx(np.stack(each, 1).reshape(-1, 4))


@given(tag_pairs("BI"))
@settings(max_examples=100, deadline=None)
def test_strict_entity_f1_is_that_of_seqeval(pair):
    ours = entity_scores(*pair, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        micro = strictly(*pair, average="micro", scheme=IOB2)
    assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(micro[:3])


def test_scores_of_tags_of_another_number_are_refused():
    with pytest.raises(InputError, match="1 tags for a sentence of 2 words"):
        entity_scores([["O", "O"]], [["O"]])


# ---- schemes ----

SPANS = st.lists(st.tuples(st.sampled_from(["", "X", "Y"]), st.integers(1, 3)), min_size=1, max_size=6)


def written(spans, scheme):
    """Tags of a sentence that consists of these stretches, "" for O."""
    out: list[str] = []
    for kind, length in spans:
        if not kind:
            out += ["O"] * length
        elif scheme == "iob1":
            out += [("B-" if out and out[-1].endswith(kind) else "I-") + kind] + [f"I-{kind}"] * (length - 1)
        elif scheme == "iob2":
            out += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
        else:
            letters = "S" if length == 1 else "B" + "I" * (length - 2) + "E"
            out += [f"{letter}-{kind}" for letter in letters]
    return out


@given(SPANS)
@settings(max_examples=100, deadline=None)
def test_every_scheme_becomes_the_same_tags(spans):
    want = written(spans, "iob2")
    for scheme in ("iob1", "iob2", "bioes"):
        assert to_iob2(written(spans, scheme)) == want
        assert entities(written(spans, scheme)) == entities(want) == entities(want, strict=True)
    bilou = [tag.replace("E-", "L-").replace("S-", "U-") for tag in written(spans, "bioes")]
    assert to_iob2(bilou) == want


@pytest.mark.parametrize(
    ("tags", "scheme", "told"),
    [
        ("B-X I-X O B-X", "iob2", "B-X I-X O B-X"),
        ("B-X I-X B-X", "iob2", "B-X I-X B-X"),
        ("I-X I-X B-X O I-Y", "iob1", "B-X I-X B-X O B-Y"),
        ("I-X I-X I-Y O", "io", "B-X I-X B-Y O"),
        ("PER PER LOC O", "io", "B-PER I-PER B-LOC O"),
        ("B-X E-X S-X O", "bioes", "B-X I-X B-X O"),
        ("B-X L-X U-X O", "bioes", "B-X I-X B-X O"),
        ("B M E S O", "bioes", "B I I B O"),
        ("B I O", "iob2", "B I O"),
        ("B I O B", "iob2", "B I O B"),
        ("T-cell bio beam O", "io", "B-T-cell B-bio B-beam O"),
        ("O O", "io", "O O"),
        ("DT NN VB-X .", "plain", "DT NN VB-X ."),
    ],
)
def test_the_scheme_is_found_and_changed_to_iob2(tmp_path, tags, scheme, told):
    assert scheme_of([tags.split()]) == scheme
    data = of(tmp_path, "".join(f"w{n} x {tag}\n" for n, tag in enumerate(tags.split())))
    assert data.scheme == scheme and list(data.examples[0].tags) == told.split()
    assert data.changed == sum(a != b for a, b in zip(tags.split(), told.split(), strict=True)) and data.opened == 0
    assert set(data.examples[0].tags) <= set(data.labels) and data.plain == (scheme == "plain")


def test_an_i_that_continues_nothing_begins_an_entity_and_is_told(tmp_path):
    data = of(tmp_path, "a B-X\nb B-X\nc O\nd I-X\ne I-Y\n")
    assert data.examples[0].tags == ("B-X", "B-X", "O", "B-X", "B-Y") and data.opened == 2
    told = "1 sentences, 5 words, 4 entities (X, Y), IOB2, 2 tags changed to IOB2, 2 I- that continue nothing"
    assert told in data.describe()


def test_labels_hold_i_even_of_a_type_that_never_needs_it():
    assert labels_of([Sentence(("a",), ("B-Y",)), Sentence(("a",), ("B-X",))]) == ("O", "B-X", "I-X", "B-Y", "I-Y")


# ---- files ----

WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\t "), min_size=1, max_size=6)
WORD = WORD.filter(lambda word: word.strip() and word[0] != "#" and not word.startswith(("-DOCSTART-", "\ufeff")))
TAGS = st.sampled_from(["O", "B-X", "I-X", "B-Y"])


@given(st.lists(st.lists(st.tuples(WORD, TAGS), min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_words_come_back_from_columns(tmp_path_factory, sentences, tabs):
    cut, end = ("\t", "\r\n") if tabs else (" ", "\n")
    lines = [[f"{word}{cut}-{cut}{tag}{end}" for word, tag in sentence] for sentence in sentences]
    directory = tmp_path_factory.mktemp("in")
    data = of(directory, (end * 2).join("".join(sentence) for sentence in lines), scheme="iob2")
    assert [list(s.words) for s in data.examples] == [[word for word, _ in sentence] for sentence in sentences]
    assert [list(s.tags) for s in data.examples] == [to_iob2([tag for _, tag in s]) for s in sentences]


def test_comments_documents_and_a_sign_of_the_same_look(tmp_path):
    text = "# newdoc\n-DOCSTART- -X- O\n\n# text = a b c\n# id 1\nNew York\tNNP\tB-X\n#\t#\tO\n"
    text += "-DOCSTART-\t-X-\tO\n1\t_\tO\n"
    data = of(tmp_path, text)
    assert [s.words for s in data.examples] == [("New York", "#"), ("1",)]
    assert [s.line for s in data.examples] == [6, 9]
    data = of(tmp_path, "# id\n# O\nrun  B-X\n# O\n\n# newdoc\n#tag I-X\n")
    assert [s.words for s in data.examples] == [("#", "run", "#"), ("#tag",)]


def test_words_alone_are_read_for_prediction(tmp_path):
    data = of(tmp_path, "a\nb\n\nc\n", labelled=False)
    assert [s.words for s in data.examples] == [("a", "b"), ("c",)] and data.examples[0].tags is None
    assert data.describe().endswith("2 sentences, 3 words, no tags") and data.labels == ()


def test_a_dev_file_has_the_labels_of_the_training_file(tmp_path):
    train = of(tmp_path, "a B-X\nb O\n")
    dev = of(tmp_path, "a I-X\nb I-X\nc I-Z\n", "dev.conll", like=train)
    assert dev.labels == train.labels == ("O", "B-X", "I-X") and dev.examples[0].tags == ("B-X", "I-X", "B-Z")
    with pytest.raises(FileError, match=r'dev.conll: tags such as "NN", but .*a.conll has tags with B-'):
        of(tmp_path, "a NN\n", "dev.conll", like=train)


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        ("", {}, r"a.conll: no word in it, expected a word and its tag a line"),
        ("# only\n\n", {}, r"no word in it|a word and its tag"),
        ("a B-X\nb\n\nc d e\n", {}, r"line 2: 1 column, expected 2, as in the first line \(and 1 more problem.*line 4"),
        ("a\nb\n", {}, r"line 1: 1 column, expected a word and its tag \(and 1 more"),
        ("a\tO\n\tO\n", {}, r"line 2: the word is empty"),
        ("a\tO\nb\t\n", {}, r"line 2: the tag is empty"),
        ("a B-X\nb PER\n", {}, r'line 2: tag "PER" is unknown in IOB2, expected O or B-..., I-...'),
        ("a B-X\nb S-X\nc 0\n", {}, r'line 3: tag "0" is unknown in BIOES'),
        ("a B-X\nb S-X\n", {"scheme": "iob2"}, r'line 2: tag "S-X" is unknown in IOB2'),
        ("a I-X\nb B-X\n", {"scheme": "io"}, r'line 2: tag "B-X" is unknown in IO, expected O or I-...'),
        (
            "a B-X\nb O\nc Q-X\nd b-x\n",
            {},
            r'line 3: tag "Q-X" is unknown in IOB2, .* \(and 1 more problem, next in line 4',
        ),
        ("a B-X\nb B-\n", {}, r'line 2: tag "B-" is unknown in IOB2, expected O or B-..., I-...'),
        ("a B\nb I\nc O\nd B-\n", {}, r'line 4: tag "B-" is unknown in IOB2, expected O or B, I$'),
        ("a O\nb B_X\nc I_X\n", {}, r'line 2: tag "B_X" is unknown in IO, expected O, a type alone .* \(and 1 more'),
        ("a b-x\nb O\n", {}, r'line 1: tag "b-x" .* or a prefix in capitals, "-" and the type \(B-PER\)$'),
        ("a I-\nb O\n", {}, r'line 1: tag "I-" is unknown in IO'),
        (b"a O\n\xff O\n", {}, r"line 2: not UTF-8 \(byte 0xFF\)"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, text, how, said):
    with pytest.raises(FileError, match=said) as caught:
        of(tmp_path, text, **how)
    assert "\n" not in str(caught.value)


def test_an_unknown_scheme_or_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match="scheme='iob3' must be one of iob2, iob1"):
        of(tmp_path, "a O\n", scheme="iob3")
    with pytest.raises(InputError, match=r"a.csv: expected .conll"):
        of(tmp_path, "a O\n", "a.csv")


# ---- words, pieces, windows ----


@given(st.lists(any_text, max_size=8))
@settings(max_examples=80, deadline=None)
def test_labels_of_words_come_back_from_pieces(words):
    for tokenizer in (sentencepiece_tokenizer(), wordpiece_tokenizer()):
        encoding = tokenizer([words], is_split_into_words=True, padding=False)
        labels = [f"L{n}" for n in range(len(words))]
        of_pieces = labels_to_pieces(encoding.word_ids[0], labels)
        assert len(of_pieces) == len(encoding.input_ids[0])
        back = pieces_to_labels(encoding.word_ids[0], of_pieces, len(words))
        with_pieces = [len(encoding.word_to_tokens(0, n)) > 0 for n in range(len(words))]
        assert back == [label if yes else None for label, yes in zip(labels, with_pieces, strict=True)]
        assert sum(label != -100 for label in of_pieces) == sum(with_pieces)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(5, 14))
@settings(max_examples=200, deadline=None)
def test_each_word_has_one_window_that_shows_most_around_it(sizes, room):
    windows, speaker = windows_of(sizes, room)
    assert all(sum(sizes[start:stop]) <= room for start, stop in windows) and len(speaker) == len(sizes)
    assert windows[0].start == 0 and windows[-1].stop == len(sizes)
    assert len(windows) == 1 or sum(sizes) > room

    def around(word, window):
        start, stop = windows[window]
        left = sum(sizes[start:word]) if start else 999
        return min(left, sum(sizes[word + 1 : stop]) if stop < len(sizes) else 999)

    for word, n in enumerate(speaker):
        there = [k for k, (start, stop) in enumerate(windows) if start <= word < stop]
        assert n in there and around(word, n) == max(around(word, k) for k in there)


def test_rows_are_what_the_tokenizer_makes_of_the_words():
    tokenizer, task = sentencepiece_tokenizer(), TagTask(("O", "B-X", "I-X"))
    words = ["Hello", "2009,", "\x01", "[MASK]", "café", "x" * 30]
    (row,) = task.features(tokenizer, [Sentence(tuple(words), ("O", "B-X", "I-X", "O", "O", "B-Q"))])
    encoding = tokenizer([words], is_split_into_words=True, padding=False)
    assert row.ids == encoding.input_ids[0] and row.types == encoding.token_type_ids[0]
    assert row.more == first_pieces(encoding.word_ids[0])
    assert row.target == labels_to_pieces(encoding.word_ids[0], [0, 1, 2, 0, 0, -100])
    assert task.counts["words without pieces"] == 1 and task.counts["unknown tags"] == 1 and task.cut == 0


def said_of(model, task, tokenizer, examples, size=16):
    rows, said = task.features(tokenizer, examples), []
    for at in range(0, len(rows), size):
        with torch.no_grad():
            said += task.read(model(**task.batch(rows[at : at + size], tokenizer.pad_id)), rows[at : at + size])
    return rows, said


def test_a_long_sentence_is_cut_into_windows_and_nothing_is_dropped():
    tokenizer, task = wordpiece_tokenizer(), TagTask(("O", "B-X", "I-X"), max_length=12)
    words = random.Random(0).choices(["hello", "world", "unwanted", "running", "\x00", "aaaaaaaaaaaaaaaaaaaa"], k=80)
    examples = [Sentence(tuple(words), ("B-X",) * 80), Sentence((), ()), Sentence(("\x00",), ("B-X",))]
    rows = task.features(tokenizer, examples)
    assert all(len(row.ids) <= 12 for row in rows)
    spoken = [word for row in rows if row.example == 0 for word in row.more]
    assert sorted(spoken) == [n for n, word in enumerate(words) if word != "\x00"]
    assert sum(label == 1 for row in rows for label in row.target) == len(spoken)
    assert task.counts["sentences in windows"] == 1 and task.cut == words.count("aaaaaaaaaaaaaaaaaaaa")
    assert [row.ids for row in rows[-2:]] == [[tokenizer.cls_id, tokenizer.sep_id]] * 2
    said = [np.tile(np.float32([0, 3, 0]), (len(row.more), 1)) for row in rows]
    told = task.predictions(examples, rows, said)
    assert told[0]["tags"] == ["O" if word == "\x00" else "B-X" for word in words] and told[1]["tags"] == []
    assert told[2] == {"words": ["\x00"], "tags": ["O"], "probabilities": [None], "entities": []}
    batch = task.batch(rows, tokenizer.pad_id)
    assert task.counted(batch) == len(spoken) and batch["labels"].shape == batch["input_ids"].shape
    with pytest.raises(InputError, match=r"--max-length \(max_length\) 2 leaves no room"):
        TagTask((), max_length=2).features(tokenizer, [["a"]])


@given(any_text)
@settings(max_examples=100, deadline=None)
def test_words_of_a_text_know_their_characters(text):
    sentence = sentence_of(text)
    assert sentence.words == tuple(text[a:b] for a, b in sentence.spans)
    assert all(a < b for a, b in sentence.spans)
    assert all(b <= c for (_, b), (c, _) in zip(sentence.spans, sentence.spans[1:], strict=False))


def test_entities_of_a_text_are_cut_out_of_it():
    task, text = TagTask(("O", "B-X", "I-X")), "  Hello,  WORLD unwanted."
    rows = task.features(wordpiece_tokenizer(), [text, ["Hello", "WORLD"]])
    said = [np.float32([[0, 0, 9], [9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]]), np.float32([[0, 9, 0], [0, 0, 9]])]
    first, second = task.predictions([text, ["Hello", "WORLD"]], rows, said)
    assert first["words"] == ["Hello", ",", "WORLD", "unwanted", "."]
    found = [(e["type"], e["text"], e["start"], e["end"], e["characters"]) for e in first["entities"]]
    assert found == [("X", "Hello", 0, 1, [2, 7]), ("X", "WORLD unwanted", 2, 4, [10, 24])]
    assert all(text[slice(*e["characters"])] == e["text"] and 0.99 < e["probability"] <= 1 for e in first["entities"])
    assert [e["text"] for e in second["entities"]] == ["Hello WORLD"] and "characters" not in second["entities"][0]


def test_scores_and_floors():
    task = TagTask(("O", "B-X", "I-X"))
    examples = [Sentence(("a", "b", "c"), ("B-X", "I-X", "B-Z"))]
    scores = task.scores(examples, [{"tags": ["B-X", "I-X", "O"]}])
    assert scores["f1"] == pytest.approx(2 / 3) and scores["accuracy"] == pytest.approx(2 / 3) and scores["words"] == 3
    assert scores["types"]["Z"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "answered": 0}
    assert task.scores(examples, [{"tags": ["O"] * 3}])["f1"] == task.floor(examples, examples) == 0.0
    plain = TagTask(("DT", "NN"))
    examples = [Sentence(("a", "b", "c"), ("DT", "NN", "NN"))]
    assert (
        plain.scores(examples, [{"tags": ["NN"] * 3}])["f1"] == pytest.approx(2 / 3) == plain.floor(examples, examples)
    )
    assert plain.plain and not task.plain and "types" not in plain.scores(examples, [{"tags": ["NN"] * 3}])


# ---- transformers, and learning ----


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_transformers_loads_the_directory_and_finds_the_same_tags(tmp_path, family):
    tokenizer = sentencepiece_tokenizer() if family == "albert" else wordpiece_tokenizer()
    task = TagTask(("O", "B-X", "I-X", "B-Y", "I-Y"))
    make = tiny_config if family == "albert" else tiny_bert
    config = replace(
        make(vocab_size=len(tokenizer), max_position_embeddings=40, initializer_range=0.5), **task.changes()
    )
    torch.manual_seed(1)
    model = AlbertForTokenClassification(config).eval().double()
    text = "hello world unwanted running a b world hello c"
    batch = task.batch(task.features(tokenizer, [text]), tokenizer.pad_id)
    with torch.no_grad():
        model.classifier.bias -= model(**batch).logits[0].mean(0)  # so that no tag wins everywhere
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path, dtype=torch.float64)
    assert type(theirs).__name__.lower() == f"{family}fortokenclassification"
    assert theirs.config.id2label == {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y", 4: "I-Y"}
    rows, _ = said_of(model, task, load_tokenizer(tmp_path), [text, "hello"])
    batch = task.batch(rows, tokenizer.pad_id)
    with torch.no_grad():
        ours, other = model(**batch).logits, theirs.eval()(**batch).logits
    assert (ours - other)[batch["attention_mask"] == 1].abs().max() < 1e-10
    pipeline = transformers.pipeline(
        "token-classification", model=theirs.float(), tokenizer=transformers.AutoTokenizer.from_pretrained(tmp_path)
    )
    pieces = {piece["start"]: piece for piece in pipeline(text, ignore_labels=[])}
    (told,) = task.predictions([text], *said_of(model.float(), task, tokenizer, [text]))
    for (start, _), tag, probability in zip(sentence_of(text).spans, told["tags"], told["probabilities"], strict=True):
        piece = pieces.get(start) or pieces[start - 1]  # the space belongs to the piece in some tokenizers
        assert piece["entity"] == tag and piece["score"] == pytest.approx(probability, abs=1e-5)
    assert len(set(told["tags"])) > 1


NAMES, SURNAMES, PLACES = ("ann", "bob", "cat", "dan"), ("low", "day", "fox"), ("rome", "oslo", "lima")
OTHERS = ("the", "and", "saw", "of", "was")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NAMES, *SURNAMES, *PLACES, *OTHERS, "bank", "##s"]


def sentence(draw):
    """A name and a surname are one person; a place is one, but where the sentence speaks of banks it is a firm."""
    about, words, tags = draw.choice(["banks", "the"]), [], []
    for _ in range(draw.randint(2, 5)):
        kind = draw.randrange(3)
        if kind == 0:
            words, tags = [*words, draw.choice(NAMES), draw.choice(SURNAMES)], [*tags, "B-PER", "I-PER"]
        elif kind == 1:
            words, tags = [*words, draw.choice(PLACES)], [*tags, "B-ORG" if about == "banks" else "B-LOC"]
        words, tags = [*words, draw.choice(OTHERS)], [*tags, "O"]
    at = draw.randrange(len(words)) if len(words) > 4 else 0
    at -= at > 0 and tags[at] == "I-PER"
    return Sentence((*words[:at], about, *words[at:]), (*tags[:at], "O", *tags[at:]))


def test_a_tiny_model_learns_a_rule_of_tags():
    draw = random.Random(0)
    train, dev = ([sentence(draw) for _ in range(n)] for n in (400, 100))
    tokenizer = WordPieceTokenizer("vocab.txt", data="\n".join(VOCABULARY).encode())
    task = TagTask(labels_of(train), max_length=24)
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 24}
    config = tiny_config(vocab_size=len(VOCABULARY), initializer_range=0.1, **sizes)
    model = AlbertForTokenClassification(replace(config, **task.changes()))
    rows = task.features(tokenizer, train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1 - step / 200))
    for step in range(200):
        batch = task.batch([rows[(step * 32 + k) % len(rows)] for k in range(32)], tokenizer.pad_id)
        task.loss(model(**batch), batch).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    scores = task.scores(dev, task.predictions(dev, *said_of(model.eval(), task, tokenizer, dev)))
    assert scores["f1"] > 0.9 > task.floor(train, dev)
