"""For the tokenizer tests: strategies for hypothesis, fuzz texts by category, small vocabularies made on the spot."""

import random
import re
from functools import cache
from pathlib import Path

import sentencepiece
from hypothesis import strategies as st

from minialbert.protobuf import fields
from minialbert.tokenizers.model_file import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, write_model

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizer"
TINY = GOLDEN / "albert-tiny-500.model"
CORPUS = (GOLDEN / "corpus.txt").read_text(encoding="utf-8")
SENTENCES = [line for line in CORPUS.split("\n") if line]
WORDS = sorted({word for line in SENTENCES for word in line.split()})
COMMAS = [("▁2009,", -8.0), ("9,", -7.0), ("▁1,", -7.0), ("/03,", -9.0), ("0,", -6.5), ("▁3,", -7.5), ("5,5", -8.0)]
PIECES = "want ##want ##ed wa un runn ##ing , . hello world a b c ##a ##b 1 ##1 日 σ"
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *re.findall(r"\S+", PIECES)]

ODD = (
    " \t\n\r\u00a0\u3000\u2003\u200b\u200d\ufeff\u00ad\u0085\x0b\x0c\x1c\x1f\x00\x01\x7f\u0301\u0308\u0323\u0327\u2028"
    "éÉüßøŁıİΣςσϹ𝚺ﬁﬀ½²①ＡｂＣ日本한각かカ🙂\ufe0f\u20dd❤कีขั\ufffd\ue000\u0378'`\"([-–]).,;£€_㎏ǅﷺ¨\u302e\U0001d165▁豈‘’“”…\u2029"
    "\ud800\udfff"
)
any_text = st.text(st.one_of(st.sampled_from(ODD), st.sampled_from("abcxyzABC 019,./"), st.characters()), max_size=24)
words_text = st.lists(st.sampled_from([*WORDS[:60], "2009,", "(x)", "[MASK]", "café", "日本", "1,000,"]), max_size=12)
plain_text = st.one_of(any_text, words_text.map(" ".join))


@cache
def comma_model() -> bytes:
    """The golden model with a few pieces that end in digit and comma, which its own small corpus did not give it."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(TINY))
    normalizer = dict(fields(dict(fields(TINY.read_bytes()))[3]))
    pieces = []
    for i in range(sp.get_piece_size()):
        kind = UNKNOWN if i == 1 else CONTROL if i < 5 else USER_DEFINED if i < 13 else NORMAL
        pieces.append((sp.id_to_piece(i), sp.get_score(i), kind))
    pieces += [(piece, score, NORMAL) for piece, score in [*COMMAS, ("/", -6.0)]]
    return write_model(pieces, {"unk": 1, "pad": 0}, normalizer[2], dummy_prefix=True)


def write_bert(directory: Path, lines: list[str] = BERT) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return directory


def fuzz(seed: int = 0, scale: float = 1.0) -> list[tuple[str, str]]:
    """(category, text): natural, mixed, special, random, quotes, numbers, edge; without lone surrogates."""
    draw = random.Random(seed)
    odd = [c for c in ODD if not "\ud800" <= c <= "\udfff"] + list("aAbBzZ09,. ")
    special = re.findall(r"\S+", "[MASK] [CLS] [SEP] <pad> <unk> [mask] <PAD> [UNK] [PAD] <Unk> [[MASK]] [MASK")
    special.append("[ MASK ]")

    def natural() -> str:
        out = []
        for _ in range(draw.randint(1, 14)):
            word = draw.choice(WORDS)
            chance = draw.random()
            if chance < 0.15:
                word = word.capitalize()
            elif chance < 0.3:
                word = str(draw.randint(0, 3000)) + draw.choice([",", "", ".", ",50", "/03,"])
            out.append(
                draw.choice(['"', "(", "£", ""]) * (draw.random() < 0.2) + word + draw.choice(["", "", ",", ")", "–"])
            )
        return " ".join(out)

    def code_points() -> str:
        tops = [draw.choice([0x2FFF, 0xFFFF, 0x10FFFF]) for _ in range(draw.randint(1, 10))]
        return "".join(chr(c) for c in (draw.randint(0, top) for top in tops) if not 0xD800 <= c <= 0xDFFF)

    def number() -> str:
        return "".join(draw.choice("0123459/03,.,") for _ in range(draw.randint(1, 9)))

    def several(make, low: int, high: int, between: str = "") -> str:
        return between.join(make() for _ in range(draw.randint(low, high)))

    makers = {
        "natural": (natural, 1500),
        "mixed": (lambda: several(lambda: draw.choice(odd), 1, 20), 1500),
        "special": (lambda: several(lambda: draw.choice([*special, *WORDS[:20], " ", "  ", ","]), 1, 8), 600),
        "random": (code_points, 1000),
        "quotes": (lambda: several(lambda: draw.choice(["``", "''", "'", "`", '"', "a ", "b", " c"]), 1, 10), 200),
        "numbers": (lambda: several(number, 1, 5, " "), 400),
    }
    out = [(name, make()) for name, (make, count) in makers.items() for _ in range(int(count * scale))]
    return out + [("edge", text) for text in ("", " ", "\n\t", ".", "[MASK]", "\u0301", "a" * 300, "'" * 7)]
