"""Why an input cannot be used: the lines that model.py raises when something does not fit."""

from collections.abc import Sequence

from torch import Tensor, nn

from minialbert.errors import InputError


def bad_numbers(table: nn.Embedding, numbers, what: str, shape: Sequence[int]) -> InputError | None:
    """For a look-up that failed: what is wrong with the numbers; None if they are not to blame."""
    expected = f"expected whole numbers {list(shape) if shape else '[B, T]'}"
    if not isinstance(numbers, Tensor):
        return InputError(
            f"{what} is a {type(numbers).__name__} that makes no tensor, {expected}; text needs a tokenizer"
        )
    if (shape and numbers.shape not in ((1, shape[1]), tuple(shape))) or numbers.is_floating_point():
        return InputError(f"{what} is {list(numbers.shape)} {numbers.dtype}, {expected}")
    if numbers.numel() and not 0 <= numbers.min() <= numbers.max() < len(table.weight):
        found = f"{what} run from {int(numbers.min())} to {int(numbers.max())}"
        return InputError(f"{found}, the table has rows 0..{len(table.weight) - 1}")
    return None


def bad_words(words: Tensor, ids, E: int, P: int) -> InputError:
    """For rows of the word table, or vectors in their place, that cannot be placed."""
    if words.dim() != 3 or words.shape[-1] != E:
        if ids is None:
            return InputError(
                f"inputs_embeds is {list(words.shape)}, expected [B, T, {E}]: E wide, before the projection"
            )
        return InputError(f"input_ids is {list(words.shape[:-1])}, expected input_ids [B, T]")
    return InputError(
        f"input has T={words.shape[1]} tokens, the model has P={P} positions. "
        f"Cut it (max_length={P}) or use windows (long='window', --long window)"
    )


def bad_mask(mask: Tensor, B: int, T: int) -> InputError:
    return InputError(
        f"attention_mask is {list(mask.shape)} {mask.dtype}, expected [{B}, {T}] with 1 for real tokens, "
        f"or bool [{B}, 1, {T}, {T}]"
    )


def checked_start(hidden_states: Tensor | None, layer: int, layers: int, H: int, others: Sequence) -> Tensor:
    """Stored hidden states to go on from; raises InputError for what does not go together."""
    if hidden_states is None:
        raise InputError(f"from_layer={layer} needs hidden_states, stored at that layer")
    if any(other is not None for other in others):
        raise InputError(
            "hidden_states take the place of input_ids, token types, positions and inputs_embeds; leave them out"
        )
    if not 0 <= layer <= layers:
        raise InputError(f"from_layer={layer}: layers are 0..{layers}")
    if hidden_states.dim() != 3 or hidden_states.shape[-1] != H:
        raise InputError(f"hidden_states is {list(hidden_states.shape)}, expected [B, T, {H}]")
    return hidden_states


def check_tap(tap, layers: int) -> None:
    """Refuse what is no tap, and one that can never fire in a run of this many layers."""
    if not callable(tap):
        raise InputError(
            f"tap is a {type(tap).__name__}, expected a function (name, layer, tensor) -> tensor; "
            "chain(...) makes one of several"
        )
    if hasattr(tap, "check"):
        tap.check(layers)
