"""Commands that look inside a forward: trace, explore. What they tell is made in tools/, here it is printed."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from itertools import groupby

from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.errors import InputError
from minialbert.heads import IN_ORDER, AlbertForMaskedLM, AlbertForPreTraining, encoder_of
from minialbert.hooks import POINTS
from minialbert.tokenizers import Tokenizer
from minialbert.tools.ask import Guess, load_with_heads
from minialbert.tools.explore import check_target, explore, write
from minialbert.tools.trace import Step, follow, shared_with

WIDTH = 80  # of every line, whatever the terminal: two fit side by side, and a pager never wraps
TOP = 3  # words told for each [MASK]
BOLD, DIM = "1", "2"
JOINERS, AS_EMOJI = "\u200c\u200d", "\ufe0f"  # the last one makes the character before it a column wider
Paint = Callable[[str, str], str]


def add_commands(commands) -> None:
    steps = commands.add_parser(
        "trace", help="the forward step by step: shapes, numbers, formulas, lines of code",
        description="Each point that a text passes on its way through the model, visit by visit: its shape, its "
                    "numbers, its formula, and the line of model.py or heads.py where it passes.",
        epilog='example: minialbert trace "The cat [MASK] on the mat." --layer 0 1 6 --point hidden attention.probs',
    )  # fmt: skip
    steps.add_argument("text", metavar="TEXT")
    steps.add_argument("--pair", metavar="TEXT2", help="a second segment")
    steps.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    steps.add_argument(
        "--layer", type=layer_number, nargs="+", action="extend", metavar="N", help="only these; 0 is the input"
    )
    steps.add_argument(
        "--point", nargs="+", action="extend", metavar="NAME", help=f"only these, of {', '.join(POINTS)}"
    )
    steps.add_argument("--depth", type=int, metavar="N", help="layers to visit, if not all")
    steps.add_argument("--json", action="store_true")
    steps.set_defaults(run=run_trace)

    page = commands.add_parser(
        "explore", help="one page to open in a browser: attention, logit lens, paths, every point",
        description="Writes one HTML page about a text: where each head looks at each visit, what the model would "
                    "answer after each, how the hidden states move, and every point with its numbers. It needs no "
                    "network; a file that is there is replaced.",
        epilog='example: minialbert explore "The cat [MASK] on the mat." --output page.html',
    )  # fmt: skip
    page.add_argument("text", metavar="TEXT")
    page.add_argument("--pair", metavar="TEXT2", help="a second segment")
    page.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    page.add_argument("--output", required=True, metavar="FILE", help="the page, such as page.html")
    page.set_defaults(run=run_explore)


def layer_number(text: str) -> int:
    """A number of --layer; what else stands there is likely the text."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a layer; TEXT stands before --layer")
    return int(text)


def run_trace(given: argparse.Namespace) -> int:
    model, tokenizer = load_with_heads(given.model)
    encoder = encoder_of(model)
    batch = tokenizer([given.text if given.pair is None else (given.text, given.pair)])
    ids = batch.input_ids[0].tolist()
    T, P = len(ids), encoder.config.max_position_embeddings
    if T > P:
        raise InputError(f"the text makes T={T} tokens, the model has P={P} positions: trace a shorter one")
    steps, output = follow(model, batch, points=given.point, layers=given.layer, depth=given.depth)
    if not steps:
        raise InputError(
            f"no step to show: in an {type(model).__name__} nothing passes {', '.join(given.point or ['any point'])}"
            + (f" at layer {', '.join(map(str, given.layer))}" if given.layer else "")
        )
    plan = encoder.encoder.visits(given.depth)
    masks, order = answers(model, tokenizer, ids, output, given.pair is not None)
    if given.json:
        page = {
            "text": given.text,
            "pair": given.pair,
            "ids": ids,
            "pieces": batch.tokens[0],
            "plan": plan,
            "steps": [dataclasses.asdict(step) for step in steps],
            "masks": {place: [guess._asdict() for guess in row] for place, row in masks.items()},
            "in_order": order,
        }
        print(json.dumps(page, ensure_ascii=False))
        return 0
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    paint: Paint = (lambda text, code: f"\x1b[{code}m{text}\x1b[0m") if in_colour else (lambda text, code: text)
    for part in (
        heading(encoder.config, plan, T, paint), table_of(batch.tokens[0], ids, paint), sections(steps, plan, paint),
        said(model, tokenizer, masks, order, paint),
    ):  # fmt: skip
        print("\n".join(part))
    return 0


def run_explore(given: argparse.Namespace) -> int:
    check_target(given.output)
    model, tokenizer = load_with_heads(given.model)
    html = explore(model, tokenizer, given.text, given.pair, ref=given.model)
    write(html, given.output)
    print(f"{given.output}: {len(html.encode()):,} bytes; open it in a browser", file=sys.stderr)
    return 0


def answers(
    model: nn.Module, tokenizer: Tokenizer, ids: list[int], output, pair: bool
) -> tuple[dict[int, list[Guess]], float | None]:
    """What the heads say: the likeliest words at each place of a [MASK]; the chance that a pair is in order."""
    masks: dict[int, list[Guess]] = {}
    if isinstance(model, (AlbertForPreTraining, AlbertForMaskedLM)):
        logits: Tensor = output.prediction_logits if isinstance(model, AlbertForPreTraining) else output.logits
        chances = logits[0, :, : len(tokenizer)].softmax(-1)  # [T, V]
        for place in places_of_mask(tokenizer, ids):
            p, numbers = chances[place].topk(min(TOP, chances.shape[-1]))
            found = zip(numbers.tolist(), p.tolist(), strict=True)
            masks[place] = [Guess(tokenizer.convert_ids_to_tokens(n), n, chance) for n, chance in found]
    if pair and isinstance(model, AlbertForPreTraining):
        return masks, output.sop_logits.softmax(-1)[0, IN_ORDER].item()
    return masks, None


def places_of_mask(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    try:
        return [place for place, number in enumerate(ids) if number == tokenizer.mask_id]
    except InputError:  # a vocabulary without [MASK]
        return []


# ---- the page, part by part ----


def heading(config: AlbertConfig, plan: list[tuple[int, int]], T: int, paint: Paint) -> Iterator[str]:
    A, H, blocks = config.num_attention_heads, config.hidden_size, len(set(plan))
    title = f"{config.model_type}: {blocks} block{'s' if blocks != 1 else ''}, {len(plan)} visits"
    yield paint(title, BOLD)
    yield (
        f"B=1 T={T} E={config.embedding_size} H={H} A={A} D={H // A} F={config.intermediate_size} "
        f"L={config.num_visits} V={config.vocab_size}"
    )


def table_of(pieces: list[str], ids: list[int], paint: Paint) -> Iterator[str]:
    """Places, pieces and ids in columns, in as many bands as needed."""
    bands: list[list[list[str]]] = []
    room = 0
    for place, (piece, number) in enumerate(zip(pieces, ids, strict=True)):
        cell = [str(place), clipped(piece, WIDTH // 2), str(number)]
        width = max(map(columns, cell))
        if room < width + 2:
            bands.append([])
            room = WIDTH - len("place")
        room -= width + 2
        bands[-1].append([" " * (width - columns(text)) + text for text in cell])
    for band in bands:
        places, words, numbers = ("".join(f"  {cell}" for cell in line) for line in zip(*band, strict=True))
        yield from ("", paint(f"place{places}", DIM), f"piece{words}", paint(f"id   {numbers}", DIM))
    yield ""


def sections(steps: list[Step], plan: list[tuple[int, int]], paint: Paint) -> Iterator[str]:
    """A heading for the input, each visit, and what comes after; under it two lines a step."""
    yield from (
        paint(line, DIM)
        for line in (
            "mean, std, low and high are of all numbers of a tensor, norm is the mean length",
            "of its vectors along the last axis.",
        )
    )
    for title, group in groupby(steps, key=lambda step: title_of(step, plan)):
        yield ""
        yield from (paint(line, BOLD) for line in textwrap.wrap(title, WIDTH))
        names = "".join(f"{name:>8}" for name in ("mean", "std", "norm", "low", "high"))
        yield paint(f"  point{'shape':>33}{names}", DIM)
        for step in group:
            yield from told(step, paint)
    yield ""


def title_of(step: Step, plan: list[tuple[int, int]]) -> str:
    if step.layer:
        return f"layer {step.layer} of {len(plan)}: {shared_with(plan, step.layer)}"
    return "layer 0: the input" if step.point.startswith(("embeddings", "hidden")) else "after the last layer"


def told(step: Step, paint: Paint) -> Iterator[str]:
    shape = str(list(step.shape))
    numbers = "".join(f"{short(x):>8}" for x in (step.mean, step.std, step.norm, step.low, step.high))
    yield f"  {step.point}{shape:>{38 - len(step.point)}}{numbers}"
    right = f"{step.letters}{f'{step.file}:{step.line}':>14}"
    yield paint(f"    {step.formula}{right:>{WIDTH - 4 - len(step.formula)}}", DIM)


def said(
    model: nn.Module, tokenizer: Tokenizer, masks: dict[int, list[Guess]], order: float | None, paint: Paint
) -> Iterator[str]:
    """What the heads say, for a model that has some."""
    if not isinstance(model, (AlbertForPreTraining, AlbertForMaskedLM)):
        yield "no head was saved with this model, so it says no word and no order"
        return
    yield paint("what the heads say", BOLD)
    for place, row in masks.items():
        words = ", ".join(f"{guess.piece} {guess.probability:.3f}" for guess in row)
        yield clipped(f"  at place {place}: {words}", WIDTH)
    if not masks:
        yield "  no [MASK] in the text, so no word is asked for"
    if order is None and isinstance(model, AlbertForPreTraining):
        yield "  no --pair, so no order is asked for"
    elif order is not None:
        names = ("follows", "does not") if encoder_of(model).config.model_type == "bert" else ("in order", "swapped")
        yield f"  the pair: {names[0]} {order:.3f}, {names[1]} {1 - order:.3f}"


# ---- what fits a column ----


def short(x: float) -> str:
    """A number in at most 7 characters, its point in the same place where that can be."""
    if x == 0 or 0.001 <= abs(x) < 99.9995:
        return f"{x:.3f}"
    if 1 <= abs(x) < 9999.95:
        return f"{x:.1f}"
    digits, _, power = f"{x:.1e}".partition("e")
    text = f"{digits}e{int(power)}" if power else digits  # inf and nan have none
    return text if len(text) < 8 else f"{x:.0e}"


def clipped(text: str, width: int) -> str:
    """A text without control characters, cut to so many columns."""
    text = "".join(c if c.isprintable() or c in JOINERS else "\N{REPLACEMENT CHARACTER}" for c in text)
    if columns(text) <= width:
        return text
    while columns(text) >= width:
        text = text[:-1]
    return f"{text}…"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: 2 for East Asia's wide characters and for emoji, 0 for marks."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    marks = sum(unicodedata.category(c) in ("Mn", "Me", "Cf") and c != AS_EMOJI for c in text)
    return len(text) + wide - marks
