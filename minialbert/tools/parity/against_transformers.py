"""minialbert against transformers on the same weights: the comparison that parity.py runs by default.

float64 first, then float32, whose tolerance needs to know how far transformers is from itself. Ours runs first and its
points are kept; theirs is compared as it is computed and dropped, so that large models fit.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minialbert.config import AlbertConfig
from minialbert.convert import as_directory
from minialbert.convert.torch_files import Weights
from minialbert.dialects import read_json
from minialbert.errors import FileError, MiniAlbertError
from minialbert.packed import PackedEncoder
from minialbert.tokenizers import load_tokenizer
from minialbert.tools.parity.comparison import DTYPES, Comparison
from minialbert.tools.parity.diagnose import Text, equal, gradient_relation, shared_facts, why_ids_differ
from minialbert.tools.parity.mistakes import DECODER
from minialbert.tools.parity.probe import Batch, make_batch
from minialbert.tools.parity.sides import (
    CLASSES,
    Point,
    Points,
    farthest,
    our_points,
    our_tensors,
    their_last_hidden,
    their_names,
    their_points,
)
from minialbert.tools.parity.verdict import tolerance

NO_COUNTERPART = ("embedding_hidden_mapping_in",)  # an identity where we have no projection; the loader has checked it


class AgainstTransformers(Comparison):
    """Theirs is transformers' class on a directory: the same as ours, or another that should be equal to it."""

    def __init__(
        self, path: str | Path, place: str | Path, kinds: tuple[str, ...], allowed: float | None,
        device: str | torch.device, attention: str, texts: Sequence[Text], seed: int,
    ):  # fmt: skip
        super().__init__(path, kinds, allowed, device, f"transformers on {place}")
        self.place, self.attention, self.texts, self.seed = place, attention, texts, seed
        self.in_float64: dict[Any, Tensor] = {}  # what theirs was there, kept in float32
        self.library = _transformers()
        self.report.versions["transformers"] = self.library.__version__

    def run(self, gradients: bool) -> None:
        same = str(self.path) == str(self.place)
        with as_directory(self.path) as own, nullcontext(own) if same else as_directory(self.place) as directory:
            for place in {own, directory}:
                Weights(place)  # our reader first: it says in one line what is damaged, or would run code when read
            self.compare_texts(own, directory)
            self.load(own, directory)
        self.compare_facts(shared_facts(self.model.config.to_json(), self.theirs.config.to_dict()))
        ours, theirs = our_tensors(self.model), self.their_state()
        self.compare_tensors(ours, theirs)
        if self.can_run(ours, theirs):
            for kind in DTYPES:
                if kind in self.kinds or "float32" in self.kinds:
                    self.compare(kind, gradients)
        self.told_facts()

    # ---- before the forward ----

    def compare_texts(self, own: Path, directory: Path) -> None:
        """The ids that both tokenizers give for some texts and pairs."""
        try:
            ours = load_tokenizer(own)
        except MiniAlbertError as error:
            self.report.skipped.append(f"tokenizer: {str(error).replace(str(own), str(self.path))}")
            return
        try:
            theirs = self.library.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # whatever a library raises at a file that it cannot read
            self.report.skipped.append(f"tokenizer: transformers cannot load it ({_line(error)})")
            return

        def our_ids(text: Text) -> list[int]:
            return ours.encode(text) if isinstance(text, str) else ours.encode(*text)

        def their_ids(text: Text) -> list[int]:
            return theirs(text)["input_ids"] if isinstance(text, str) else theirs(*text)["input_ids"]

        for text in self.texts:
            a, b = our_ids(text), their_ids(text)
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            note = "" if a == b else f"from id {at} on {a[at : at + 5]} here, {b[at : at + 5]} there"
            self.exact("tokenizer", repr(text), float(a != b), note)
        if self.first("tokenizer"):
            why = why_ids_differ(our_ids, their_ids, self.texts)
            self.find("tokenizer", f"explained by: {why}" if why else None)

    def load(self, own: Path, directory: Path) -> None:
        """Both models in float64: what a file holds in any precision is exact there."""
        name, self.theirs, lacks = self.load_theirs(directory)
        self.their_config = AlbertConfig.from_json(self.theirs.config.to_dict(), dialect="hf")
        mine: Any = CLASSES[_kind(name)]
        self.model = mine.from_pretrained(self.path, dtype=torch.float64)
        both = lacks if own == directory or not lacks else lacks & self._load(name, own)[1]
        self.lost = lacks - both
        self.share_new_heads(both)
        config = self.model.config
        self.batch = make_batch(config, _kind(name), self.seed)
        sizes = f"V={config.vocab_size} E={config.embedding_size} H={config.hidden_size} L={config.num_visits}"
        self.report.model = f"{name}, {sizes}, {sum(p.numel() for p in self.model.parameters()):,} parameters"

    def load_theirs(self, directory: Path) -> tuple[str, Any, set[str]]:
        """Their class by config.json, the model, and what the file lacks for it.

        Where the file has pooler and word head it is the class for pre-training, whatever is said: it compares most.
        """
        keys = read_json(directory / "config.json")
        family = "Bert" if keys.get("model_type") == "bert" else "Albert"
        said = [str(name) for name in keys.get("architectures") or []]
        named = next((x for x in said if x.startswith(family) and _kind(x) in CLASSES), f"{family}Model")
        if _kind(named) in ("Model", "ForMaskedLM"):
            model, lacks = self._load(f"{family}ForPreTraining", directory)
            if not any("pooler" in key or "predictions" in key for key in lacks):
                return f"{family}ForPreTraining", model, lacks
        model, lacks = self._load(named, directory)
        if _kind(named) == "Model" and any("pooler" in key for key in lacks):
            model, lacks = self._load(named, directory, add_pooling_layer=False)
        return named, model, lacks

    def _load(self, name: str, directory: Path, **more: Any) -> tuple[Any, set[str]]:
        try:
            with torch.random.fork_rng(devices=[]):
                model, info = getattr(self.library, name).from_pretrained(
                    directory, dtype=torch.float64, attn_implementation=self.attention, local_files_only=True,
                    output_loading_info=True, **more,
                )  # fmt: skip
        except Exception as error:  # whatever a library raises at a file that it cannot read
            raise FileError(f"{directory}: transformers cannot load it as {name} ({_line(error)})") from error
        return model.eval(), set(info["missing_keys"])

    def share_new_heads(self, missing: set[str]) -> None:
        """Parameters that no file has are new on both sides; we take theirs, so that what follows can be compared."""
        own = our_tensors(self.model)
        for name, ours, parameter in their_names(self.theirs, self.their_config):
            if name in missing and ours in own:
                own[ours].data = parameter.detach().clone()
                self.report.skipped.append(f"weights: {name} is in no file; their new numbers are used on both sides")

    def their_state(self) -> dict[str, Tensor]:
        """Theirs under our names; where theirs has copies of one of ours, the first that differs."""
        own, found = our_tensors(self.model), {}
        for name, ours, parameter in their_names(self.theirs, self.their_config):
            if ours in own and name.endswith("decoder.weight"):
                if not equal(own[ours], parameter):
                    found[DECODER] = parameter
            elif name in self.lost:
                continue
            elif ours in own and (ours not in found or equal(own[ours], found[ours])):
                found[ours] = parameter
            elif ours not in own and not any(word in name for word in NO_COUNTERPART):
                self.report.skipped.append(f"weights: {name} of theirs has no counterpart")
        return found

    # ---- the forward and back ----

    def compare(self, kind: str, gradients: bool) -> None:
        """Every point in one precision; theirs alone where it is only needed as the measure of float32."""
        asked = kind in self.kinds
        self.model.to(DTYPES[kind])
        self.theirs.to(DTYPES[kind])
        batch = self.batch.to(DTYPES[kind])
        ours: Points = {}
        grads: dict[str, Tensor | None] = {}
        seen: set[Point] = set()

        def see(point: Point, x: Tensor) -> None:
            mine = ours.pop(point, None)
            if asked and point not in seen and (mine is not None or point[0] != "pooled"):
                if mine is None:
                    self.only_theirs.add(point)
                distance = float("inf") if mine is None else farthest(mine, x)
                self.measure("forward", point, kind, distance, self.allowed(kind, point, x))
            seen.add(point)
            self.remember(kind, point, x)

        with torch.set_grad_enabled(gradients):
            if asked:
                ours, grads = self.run_ours(batch, gradients)
            loss, plan = their_points(self.theirs, self.their_config, batch, see, maps=self.attention == "eager")
        if asked:
            self.compare_plan(plan)
            for point in ours:  # what theirs never came to
                if point[0] != "attention.probs" or self.attention == "eager":
                    self.measure("forward", point, kind, float("inf"), 0.0)
        if gradients and loss is not None:
            self.compare_gradients(kind, loss, grads)
        self.compare_fast_ways(kind, batch)
        if asked:
            self.explain(kind, batch)

    def run_ours(self, batch: Batch, gradients: bool) -> tuple[Points, dict[str, Tensor | None]]:
        self.model.to(self.device)
        points, loss = our_points(self.model, batch.to(self.device))
        if gradients and loss is not None:
            loss.backward()
        grads = {name: None if p.grad is None else p.grad.cpu() for name, p in our_tensors(self.model).items()}
        self.model.zero_grad(set_to_none=True)
        self.model.cpu()
        return points, grads

    def remember(self, kind: str, key: Any, x: Tensor) -> None:
        if kind == "float64" and "float32" in self.kinds and self.tolerance is None:
            self.in_float64[key] = x.detach().to(torch.float32, copy=True)

    def rounding(self, kind: str, key: Any, x: Tensor) -> float:
        """How far theirs in float32 is from theirs in float64."""
        exact = self.in_float64.pop(key, None) if kind == "float32" else None
        return 0.0 if exact is None else farthest(exact, x)

    def allowed(self, kind: str, key: Any, x: Tensor) -> float:
        return tolerance(kind, max(1.0, x.abs().max().item()), self.rounding(kind, key, x), self.tolerance)

    def compare_plan(self, plan: Iterable[Sequence[int]]) -> None:
        """Which weights each layer uses: planned in ours, seen in theirs."""
        planned = getattr(self.model, "albert", self.model).encoder.plan
        used = [(a, f) for a, f in plan]
        if planned == used or len(planned) != len(used):
            return
        self.their_plan = used
        ours, theirs = (" ".join(str(a) if a == f else f"{a}/{f}" for a, f in order) for order in (planned, used))
        self.facts["sharing plan"] = ours, theirs
        self.exact("config", "sharing plan", 1.0, f"{ours} here, {theirs} there")

    def compare_gradients(self, kind: str, loss: Tensor, ours: dict[str, Tensor | None]) -> None:
        """Every parameter; theirs are dropped as they come. Copies that theirs has of one of ours are summed up."""
        everyone = [(name, p) for _, name, p in their_names(self.theirs, self.their_config) if name and p.requires_grad]
        left = {name: sum(name == other for other, _ in everyone) for name, _ in everyone}
        sums: dict[str, Tensor] = {}
        found: dict[str, tuple[float, float, str]] = {}  # distance, rounding, words
        largest = [0.0]

        def take(name: str, parameter: Tensor) -> None:
            assert parameter.grad is not None
            sums[name] = sums[name] + parameter.grad if name in sums else parameter.grad
            parameter.grad = None
            left[name] -= 1
            if not left[name]:
                x, mine = sums.pop(name), ours.pop(name, None)
                mine = torch.zeros_like(x) if mine is None else mine
                largest[0] = max(largest[0], x.abs().max().item())
                found[name] = farthest(mine, x), self.rounding(kind, ("gradient", name), x), gradient_relation(mine, x)
                self.remember(kind, ("gradient", name), x)

        handles = [p.register_post_accumulate_grad_hook(lambda p, name=name: take(name, p)) for name, p in everyone]
        loss.backward()
        for handle in handles:
            handle.remove()
        self.theirs.zero_grad(set_to_none=True)
        if kind not in self.kinds:
            return
        lost = [name for name, x in ours.items() if x is not None and x.any()]
        found |= dict.fromkeys(lost, (float("inf"), 0.0, "theirs has no gradient"))
        for name in our_tensors(self.model):  # in order of computation
            if name in found:
                distance, rounding, words = found[name]
                allowed = tolerance(kind, largest[0], rounding, self.tolerance)
                self.measure("gradients", (name, 0), kind, distance, allowed)
                self.row("gradients", name).note = "" if distance <= allowed else words
        if not self.first("forward") and (row := self.first("gradients")):
            self.find("gradients", f"explained by: {row.note}" if row.note else None)

    @torch.no_grad()
    def compare_fast_ways(self, kind: str, batch: Batch) -> None:
        """The last hidden state by other ways: theirs with the fused attention, ours as packed.py computes it."""
        trunk, flat = getattr(self.model, "albert", self.model), batch.flat()
        reference = their_last_hidden(self.theirs, batch)
        allowed = self.allowed(kind, "last", reference)
        self.remember(kind, "last", reference)
        if kind not in self.kinds:
            return
        if self.attention == "eager":
            self.theirs.set_attn_implementation("sdpa")
            fused = their_last_hidden(self.theirs, batch)
            self.theirs.set_attn_implementation("eager")
            self.measure("forward", ("sdpa", 0), kind, farthest(trunk(**flat).last_hidden_state, fused), allowed)
        real, last = flat["attention_mask"] != 0, trunk.config.num_visits
        encoder, lengths = PackedEncoder(trunk), real.sum(1).tolist()
        packed = encoder(flat["input_ids"][real], flat["token_type_ids"][real], lengths, [last])[last]
        self.measure("forward", ("packed", 0), kind, farthest(packed, reference[real]), allowed)

    @torch.no_grad()
    def explain(self, kind: str, batch: Batch) -> None:
        if self.first("forward") is None:
            return
        theirs: Points = {}
        their_points(self.theirs, self.their_config, batch, theirs.__setitem__, maps=self.attention == "eager")
        theirs = {point: x for point, x in theirs.items() if self.allowed_at(point, kind) < float("inf")}
        self.ask_why(
            kind, batch, theirs, lambda point: self.allowed_at(point, kind),
            lambda batch, tap, **more: our_points(self.model, batch, tap, **more)[0],
        )  # fmt: skip


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise FileError(
            "transformers is not installed, and parity compares with it: pip install 'transformers>=5'"
        ) from None
    return transformers


def _kind(name: str) -> str:
    """The class without its family: "ForMaskedLM", "Model"."""
    return name.removeprefix("Albert").removeprefix("Bert")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
