"""Commands that ask the heads of pre-training: fill-mask, order."""

import argparse
import json

from minialbert.heads import AlbertForMaskedLM, AlbertForPreTraining
from minialbert.tools.ask import fill_mask, load_with_head, order


def add_commands(commands) -> None:
    words = commands.add_parser(
        "fill-mask", help="the likeliest words for each [MASK]",
        description="The words that a pre-trained model finds likeliest for each [MASK] in a text, with probabilities.",
        epilog='example: minialbert fill-mask "Paris is the [MASK] of France."',
    )  # fmt: skip
    words.add_argument("texts", nargs="+", metavar="TEXT")
    words.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    words.add_argument("--top", type=int, default=5, metavar="K", help="words for each [MASK]")
    words.add_argument("--json", action="store_true")
    words.set_defaults(run=run_fill_mask)

    pair = commands.add_parser(
        "order", help="which of two segments comes first",
        description="The probability that A stands before B, from the sentence-order head; in a BERT, that B follows.",
        epilog='example: minialbert order "He opened the door." "Then he went in."',
    )  # fmt: skip
    pair.add_argument("first", metavar="A")
    pair.add_argument("second", metavar="B")
    pair.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    pair.add_argument("--json", action="store_true")
    pair.set_defaults(run=run_order)


def run_fill_mask(given: argparse.Namespace) -> int:
    model, tokenizer = load_with_head(AlbertForMaskedLM, given.model)
    for text in given.texts:
        found = fill_mask(model, tokenizer, text, given.top)
        if given.json:
            print(json.dumps({"text": text, "masks": [[guess._asdict() for guess in row] for row in found]},
                             ensure_ascii=False))  # fmt: skip
            continue
        print(text)
        for number, row in enumerate(found, start=1):
            for guess in row:
                place = f"[MASK] {number}  " if len(found) > 1 else ""
                print(f"  {place}{guess.probability:.4f}  {guess.piece}")
    return 0


def run_order(given: argparse.Namespace) -> int:
    model, tokenizer = load_with_head(AlbertForPreTraining, given.model)
    chance = order(model, tokenizer, given.first, given.second)
    other = order(model, tokenizer, given.second, given.first)
    if given.json:
        print(json.dumps({"first": given.first, "second": given.second, "in_order": chance, "swapped": other}))
        return 0
    print(f"{chance:.4f}  as given")
    print(f"{other:.4f}  the other way round")
    return 0
