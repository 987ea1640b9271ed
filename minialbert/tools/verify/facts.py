"""What others have published about the official checkpoints: numbers, words, ids, counts, sizes, each with its source.

Data only; verify.py holds a checkpoint against it. The ids are also for the makers of other ports, who can check
theirs with them (tests/golden/tokenizer has more, for a small vocabulary that ships). Every entry was read in the
source named; the few things that were not are marked "remembered". To add one: a line here, nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

SIZES = ("base", "large", "xlarge", "xxlarge")
ENGLISH = tuple(f"albert-{size}-{version}" for version in ("v1", "v2") for size in SIZES)  # one vocabulary for all
CHINESE = tuple(f"albert-{size}-zh" for size in SIZES)
VARIANTS = {  # models of the hub that facts are known of: the official model that each was made from; "" for none
    "textattack/albert-base-v2-imdb": "albert-base-v2",
    "twmkn9/albert-base-v2-squad2": "albert-base-v2",
    "vumichien/tiny-albert": "",
    "voidful/albert_chinese_tiny": "",  # brightmart's, not Google's
}
HUB_NAMES = {f"voidful/albert_chinese_{size}": f"albert-{size}-zh" for size in SIZES}  # Google's models, converted

# SHA-256 of published files: {model: {file name: digest}}. Empty, because none was to be had from a source that can be
# named. To add some: run `sha256sum` on files fetched from Google's archive or the hub, write down which revision, and
# let a second person do the same. None may be taken from a copy.
DIGESTS: dict[str, dict[str, str]] = {}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """`of`: the models it is true of; `source`: where it was published."""

    about: ClassVar[
        str
    ]  # what it needs: "weights", "sizes", "vocabulary", "file"; or "rules", nothing but this package
    name: str
    of: tuple[str, ...] = ("albert-base-v2",)
    source: str


@dataclass(frozen=True, kw_only=True)
class Numbers(Fact):
    """A part of one output [1, ...] for ready ids; without mask and types where they are not given."""

    about = "weights"
    output: str  # hidden, mlm, choice, classes, start, end, tags
    ids: tuple[int, ...]
    mask: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    part: Any = np.s_[0]
    expected: Any
    tolerance: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Guess(Fact):
    """The likeliest words at masked places of texts, decoded, best first; and how likely, where that was published."""

    about = "weights"
    texts: tuple[str, ...]
    words: Mapping[tuple[int, int | None], tuple[str, ...]]  # (row, position, None where [MASK] is): words
    chances: tuple[float, ...] = ()  # of the words of the only place
    pad_to: int | None = None
    mask: bool = True  # False: padding is looked at, too
    first_logit: float | None = None  # [0, 0, 0]
    tolerance: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Loss(Fact):
    """The cross entropy of the true word at the masked place, of a text and the same text whole."""

    about = "weights"
    text: str
    truth: str
    loss: float
    tolerance: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Answer(Fact):
    """The answer in a text to a question, and the loss for a target (first token, last token)."""

    about = "weights"
    question: str
    text: str
    answer: str
    target: tuple[int, int]
    loss: float
    tolerance: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Ids(Fact):
    """What a text, or a pair, becomes. Settings that are not given are those of the official models."""

    about = "vocabulary"
    of: tuple[str, ...] = ENGLISH
    text: str
    pair: str | None = None
    ids: tuple[int, ...]
    pieces: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    special: bool = True  # with [CLS] and [SEP] around
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Width(Fact):
    """How long the longest of some texts is, [CLS] and [SEP] counted."""

    about = "vocabulary"
    of: tuple[str, ...] = ENGLISH
    texts: tuple[str, ...]
    width: int


@dataclass(frozen=True, kw_only=True)
class Pieces(Fact):
    """How many entries, and which piece has which id."""

    about = "vocabulary"
    of: tuple[str, ...] = ENGLISH
    size: int = 30000
    pieces: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class WordPieces(Fact):
    """Pieces of a text with a vocabulary of the test's own: about the rules, whatever the checkpoint."""

    about = "rules"
    of: tuple[str, ...] = ()
    text: str
    pieces: tuple[str, ...]
    ids: tuple[int, ...] = ()
    vocabulary: tuple[str, ...] = ()  # when not given, [UNK], [CLS], [SEP] and the pieces
    lower: bool = True


@dataclass(frozen=True, kw_only=True)
class Count(Fact):
    """Parameters of AlbertModel ("model") or with both pre-training heads ("pretraining")."""

    about = "sizes"
    whole: str = "model"
    parameters: int
    tolerance: int = 0


@dataclass(frozen=True, kw_only=True)
class Size(Fact):
    """Bytes of a published file, to the digits published. `again`: tools write this file anew, then of another size."""

    about = "file"
    file: str
    bytes: int
    tolerance: int = 0
    again: bool = True


HF = "transformers, tests/models/albert/test_modeling_albert.py"
HF_TF = "transformers 4, tests/models/albert/test_modeling_tf_albert.py"
HF_IDS = "transformers, tests/models/albert/test_tokenization_albert.py"
HF_DOCS = "transformers 5.23, documentation strings of its ALBERT"
BEE = "bumblebee, test/bumblebee/text/albert_test.exs"
BEE_IDS = "bumblebee, test of the ALBERT tokenizer"
RUST = "rust-bert, tests/albert.rs"
RUST_IDS = "rust-tokenizers, test_albert_uncased.rs"
KERAS = "keras-hub, the table of its ALBERT presets"
CARD = "the model card on the Hugging Face hub"
LISTING = "a public listing of Google's archive of base v2"
HUB = "the file list on the Hugging Face hub"

SENTENCE = (101, 1996, 3007, 1997, 2605, 2003, 103, 1012, 102)  # of BERT's vocabulary: no words of ALBERT's
ONES = (1,) * len(SENTENCE)
SQUARE = np.s_[0, 1:4, 1:4]

NUMBERS: tuple[Fact, ...] = (
    Numbers(
        name="hidden states behind a masked first token", output="hidden", source=f"{HF}; bumblebee, PaddleNLP too",
        ids=(0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2), mask=(0, *[1] * 10), shape=(1, 11, 768), part=SQUARE,
        expected=((-0.6513, 1.5035, -0.2766), (-0.6515, 1.5046, -0.2780), (-0.6512, 1.5049, -0.2784)),
    ),
    Numbers(
        name="word logits of ids 0 to 5", output="mlm", source=HF_TF,
        ids=(0, 1, 2, 3, 4, 5), shape=(1, 6, 30000), part=np.s_[0, :3, :3],
        expected=(
            (4.595668, 0.74462754, -1.818147), (4.5954347, 0.7454184, -1.8188258), (4.5954905, 0.7448235, -1.8182316),
        ),
    ),
    Numbers(
        name="word logits of nine ids", output="mlm", source=BEE, ids=SENTENCE, mask=ONES, part=SQUARE,
        expected=((1.0450, -2.2835, -3.8152), (1.0635, -2.3124, -3.8890), (1.2576, -2.4207, -3.9500)),
    ),
    Numbers(
        name="multiple choice with weights of 0.001", output="choice", source=BEE, ids=SENTENCE, mask=ONES,
        shape=(1, 1), expected=(-0.0200,), tolerance=1e-3,
    ),
    Numbers(
        name="class logits", output="classes", of=("textattack/albert-base-v2-imdb",), source=BEE,
        ids=SENTENCE, mask=ONES, shape=(1, 2), expected=(0.4954, 0.1815),
    ),
    Numbers(
        name="answer starts", output="start", of=("twmkn9/albert-base-v2-squad2",), source=BEE,
        ids=SENTENCE, shape=(1, 9), part=np.s_[0, 1:4], expected=(-0.2464, -0.1028, -0.2076),
    ),
    Numbers(
        name="answer ends", output="end", of=("twmkn9/albert-base-v2-squad2",), source=BEE,
        ids=SENTENCE, shape=(1, 9), part=np.s_[0, 1:4], expected=(-1.3742, -1.3609, -1.3454),
    ),
    Numbers(
        name="token class logits", output="tags", of=("vumichien/tiny-albert",), source=BEE, ids=SENTENCE,
        part=np.s_[0, 1:4], expected=((0.1364, -0.0437), (0.0360, -0.0786), (-0.1296, 0.0436)),
    ),
)  # fmt: skip

WORDS: tuple[Fact, ...] = (
    Guess(
        name="masked words of two texts, padding seen", source=RUST, mask=False, first_logit=4.6143,
        texts=("Looks like one [MASK] is missing", "It's like comparing [MASK] to apples"),
        words={(0, 4): ("them",), (1, 6): ("grapes",)},
    ),
    Guess(
        name="Paris is the ... of France, padded to 64", source=HF,
        texts=("Paris is the [MASK] of France.",), pad_to=64,
        words={(0, 4): ("capital", "capitol", "comune", "arrondissement", "bastille")},
    ),
    Guess(
        name="The capital of ... is Paris", source=HF_DOCS, texts=("The capital of [MASK] is Paris.",),
        words={(0, None): ("france",)},
    ),
    Loss(
        name="loss of France in the same", source=HF_DOCS, loss=0.81,
        text="The capital of [MASK] is Paris.", truth="The capital of France is Paris.",
    ),
    Guess(
        name="Hello I'm a ... model", source=f"{CARD}, seen in a copy", texts=("Hello I'm a [MASK] model.",),
        words={(0, None): ("modeling", "modelling", "model", "runway", "lingerie")},
        chances=(0.05816134, 0.03748831, 0.03372528, 0.01731343, 0.01440530),
    ),
    Guess(
        name="今天[MASK]情很好", of=("albert-base-zh",), source=f"{CARD}, voidful/albert_chinese_base",
        texts=("今天[MASK]情很好",), words={(0, None): ("感",)}, chances=(0.36333346,),
    ),
    Guess(
        name="今天[MASK]情很好", of=("voidful/albert_chinese_tiny",), source=CARD,
        texts=("今天[MASK]情很好",), words={(0, None): ("感",)}, chances=(0.40312356,),
    ),
    Answer(
        name="Who was Jim Henson?", of=("twmkn9/albert-base-v2-squad2",), source=f"{HF_DOCS}; the question remembered",
        question="Who was Jim Henson?", text="Jim Henson was a nice puppet", answer="a nice puppet",
        target=(12, 13), loss=7.36,
    ),
)  # fmt: skip

LONG = (
    "transformers (formerly known as pytorch-transformers and pytorch-pretrained-bert) provides general-purpose "
    "architectures (bert, gpt-2, roberta, xlm, distilbert, xlnet...) for natural language understanding (nlu) and "
    "natural language generation (nlg) with over 32+ pretrained models in 100+ languages and deep interoperability "
    "between jax, pytorch and tensorflow."
)
LONG_IDS = (
    2, 21970, 13, 5, 6092, 167, 28, 7103, 2153, 673, 8, 7028, 12051, 18, 17, 7103, 2153, 673, 8, 3515, 18684, 8, 4461,
    6, 1927, 297, 8, 12060, 2607, 18, 13, 5, 4461, 15, 10538, 38, 8, 135, 15, 822, 58, 15, 993, 10363, 15, 1460, 8005,
    4461, 15, 993, 255, 2328, 9, 9, 9, 6, 26, 1112, 816, 3260, 13, 5, 103, 2377, 6, 17, 1112, 816, 2782, 13, 5, 103,
    10641, 6, 29, 84, 2512, 2430, 782, 18684, 2761, 19, 808, 2430, 2556, 17, 855, 1480, 9477, 4091, 128, 11712, 15,
    7103, 2153, 673, 17, 24883, 9990, 9, 3,
)  # fmt: skip

IDS: tuple[Fact, ...] = (
    Pieces(
        name="pieces by number", source=f"{HF_IDS}; {CARD}; the ids published below",
        pieces={
            0: "<pad>", 1: "<unk>", 2: "[CLS]", 3: "[SEP]", 4: "[MASK]", 5: "(", 6: ")", 8: "-", 9: ".",
            13: "▁", 15: ",", 1061: "▁model", 8014: "▁runway", 12807: "▁modeling", 23089: "▁modelling",
            29104: "▁lingerie", 29999: "▁eloquent",
        },
    ),
    Ids(
        name="This is a test", source=HF_IDS, text="This is a test", special=False,
        ids=(48, 25, 21, 1289), pieces=("▁this", "▁is", "▁a", "▁test"),
    ),
    Ids(
        name="I was born in 92000 (accents kept)", source=HF_IDS, special=False, settings={"keep_accents": True},
        text="I was born in 92000, and this is falsé.",
        ids=(31, 23, 386, 19, 561, 3050, 15, 17, 48, 25, 8256, 18, 1, 9),
        pieces=("▁i", "▁was", "▁born", "▁in", "▁9", "2000", ",", "▁and", "▁this", "▁is", "▁fal", "s", "é", "."),
    ),
    Ids(
        name="Test sentence with [MASK].", source=BEE_IDS, text="Test sentence with [MASK].",
        ids=(2, 1289, 5123, 29, 4, 13, 9, 3),
    ),
    Ids(
        name="a pair", source=BEE_IDS, text="Question?", pair="Answer",
        ids=(2, 1301, 60, 3, 1623, 3), types=(0, 0, 0, 0, 1, 1),
    ),
    Ids(
        name="tokénized", source=RUST_IDS, text="This is a sample sentence to be tokénized",
        ids=(2, 48, 25, 21, 5717, 5123, 20, 44, 20, 2853, 1333, 3),
    ),
    Ids(
        name="Wondering", source=RUST_IDS, text="Wondering how this will get tokenized 🤔 ?",
        ids=(2, 5712, 184, 48, 129, 164, 20, 2853, 1333, 13, 1, 13, 60, 3),
    ),
    Ids(
        name="letters of all kinds", source=RUST_IDS, text="İs th!s 𩸽 Ϻ Šœ Ugljšić dấu nặng",
        ids=(2, 25, 13, 96, 187, 18, 13, 1, 13, 1, 13, 18, 1, 13, 5127, 15664, 7820, 18758, 13, 103, 1712, 3),
    ),
    Ids(
        name="The quick brown fox. (case kept)", source="keras-hub, albert_tokenizer_test.py", special=False,
        text="The quick brown fox.", ids=(13, 1, 438, 2231, 886, 2385, 9), settings={"do_lower_case": False},
    ),
    Ids(name="a long text with brackets", source=HF_IDS, text=LONG, ids=LONG_IDS),
    Ids(
        name="bert is designed", source=HF_IDS,
        text="bert is designed to pre-train deep bidirectional representations from unlabeled text by jointly "
        "conditioning on both left and right context in all layers.",
        ids=(2, 11502, 25, 1006, 20, 782, 8, 11809, 855, 1732, 19393, 18667, 37, 367, 21018, 69, 1854, 34, 11860, 19124,
             27, 156, 225, 17, 193, 4141, 19, 65, 9124, 9, 3),
    ),
    Ids(
        name="the quick brown fox jumps", source=HF_IDS, text="the quick brown fox jumps over the lazy dog.",
        ids=(2, 14, 2231, 886, 2385, 17659, 84, 14, 16792, 1952, 9, 3),
    ),
    Width(
        name="two texts padded together", source=RUST, width=12,
        texts=("Looks like one thing is missing", "It's like comparing oranges to apples"),
    ),
)  # fmt: skip

GOOGLE_WORDS = ("[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ",")
GOOGLE = "Google's tokenization_test.py"

RULES: tuple[Fact, ...] = (
    WordPieces(
        name="UNwantéd,running", source=GOOGLE, text="UNwant\u00e9d,running", vocabulary=GOOGLE_WORDS,
        pieces=("un", "##want", "##ed", ",", "runn", "##ing"), ids=(7, 4, 5, 10, 8, 9),
    ),
    WordPieces(
        name="unwantedX running", source=GOOGLE, text="unwantedX running", vocabulary=GOOGLE_WORDS, lower=False,
        pieces=("[UNK]", "runn", "##ing"), ids=(0, 8, 9),
    ),
    WordPieces(name="ideographs", source=GOOGLE, text="ah\u535a\u63a8zz", pieces=("ah", "\u535a", "\u63a8", "zz")),
    WordPieces(
        name="white space, lower-cased", source=GOOGLE, text=" \tHeLLo!how  \n Are yoU?  ",
        pieces=("hello", "!", "how", "are", "you", "?"),
    ),
    WordPieces(
        name="white space, case kept", source=GOOGLE, text=" \tHeLLo!how  \n Are yoU?  ", lower=False,
        pieces=("HeLLo", "!", "how", "Are", "yoU", "?"),
    ),
    WordPieces(name="accents", source=GOOGLE, text="H\u00e9llo", pieces=("hello",)),
    WordPieces(
        name="what is white space", source=GOOGLE, text="a b\tc\rd\ne\u00a0f", pieces=("a", "b", "c", "d", "e", "f"),
    ),
    WordPieces(
        name="what is a control character", source=GOOGLE, text="a\u0005b \U0001f4a9", pieces=("ab", "\U0001f4a9"),
    ),
    WordPieces(
        name="what is punctuation", source=GOOGLE, text="a-b$c`d.e",
        pieces=("a", "-", "b", "$", "c", "`", "d", ".", "e"),
    ),
)  # fmt: skip


def _both(size: str) -> tuple[str, str]:
    return f"albert-{size}-v1", f"albert-{size}-v2"


COUNTS: tuple[Fact, ...] = (
    *(
        Count(name=f"parameters of the {size} encoder", of=_both(size), source=KERAS, parameters=n)
        for size, n in zip(SIZES, (11_683_584, 17_683_968, 58_724_864, 222_595_584), strict=True)
    ),
    Count(
        name="parameters of the Chinese base, heads included", of=("albert-base-zh",),
        source=f"{CARD}, voidful/albert_chinese_base", whole="pretraining", parameters=10_700_000, tolerance=50_000,
    ),
)  # fmt: skip


def _size(file: str, size: int, source: str, **more: Any) -> Size:
    return Size(name=f"size of {file}", file=file, bytes=size, source=source, **more)


ZH_HUB = "voidful/albert_chinese_base on the Hugging Face hub"
FILES: tuple[Fact, ...] = (
    _size("config.json", 684, HUB),
    _size("model.safetensors", 47_400_000, HUB, tolerance=50_000),
    _size("pytorch_model.bin", 47_400_000, HUB, tolerance=50_000),
    _size("tokenizer.json", 1_310_000, HUB, tolerance=5_000),
    _size("tf_model.h5", 63_000_000, HUB, tolerance=500_000),
    _size("flax_model.msgpack", 44_900_000, HUB, tolerance=50_000),
    _size("spiece.model", 760_289, f"{LISTING}, for the same file; 760 kB in {HUB}", of=ENGLISH, again=False),
    _size("30k-clean.model", 760_289, LISTING, of=ENGLISH, again=False),
    _size("30k-clean.vocab", 548_994, LISTING, of=ENGLISH, again=False),
    _size("albert_config.json", 480, LISTING),
    _size("pytorch_model.bin", 42_700_000, ZH_HUB, of=("albert-base-zh",), tolerance=50_000),
    _size("vocab.txt", 110_000, ZH_HUB, of=("albert-base-zh",), tolerance=500, again=False),
)

FACTS = (*COUNTS, *FILES, *RULES, *IDS, *NUMBERS, *WORDS)  # the cheap ones first
