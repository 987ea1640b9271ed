"""A pre-trained model on held-out text, as pre-training measures it: python -m tests.pretrain.held_out RUN [REF ...]

RUN is a run's directory with its held-out/ corpus; REF what `load` takes, the model that ships if none is given.
Each is measured on the same examples, at lengths 128 and 512, in float32. weights/README.md has the shipped model's.
"""

import contextlib
import sys
from pathlib import Path

from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain.corpus import Corpus
from minialbert.pretrain.examples import Examples, Recipe
from minialbert.pretrain.loop import HELD_OUT_SEED
from minialbert.pretrain.measure import held_out_batches, measure
from minialbert.tools.ask import load_with_head

LENGTHS, ROWS = (128, 512), 8192  # pieces at a time


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    corpus = Corpus(Path(sys.argv[1]) / "held-out")
    for ref in sys.argv[2:] or [None]:
        model, tokenizer = load_with_head(AlbertForPreTraining, ref)
        for length in LENGTHS:
            examples = Examples(corpus, tokenizer, Recipe(max_length=length), HELD_OUT_SEED)
            batches = held_out_batches(examples, corpus.sentences, ROWS // length)
            found = measure(model, batches, contextlib.nullcontext)
            told = ", ".join(f"{name} {x:,}" if isinstance(x, int) else f"{name} {x:.4f}" for name, x in found.items())
            print(f"{ref or 'the model that ships'}, length {length}: {told}", flush=True)


if __name__ == "__main__":
    main()
