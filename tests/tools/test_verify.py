"""What verify says of good, wrong and missing parts. No official weights are at hand: facts are recomputed for models
made here, by Hugging Face's code, and the published ones must fail on them."""

import dataclasses
import json
import re
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert import convert
from minialbert.errors import CheckpointError, FileError, NameUnknown
from minialbert.heads import (
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
)
from minialbert.model import AlbertModel
from minialbert.protobuf import fields
from minialbert.tokenizers import load_tokenizer
from minialbert.tokenizers.model_file import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, write_model
from minialbert.tools.verify import Report, facts, verify
from minialbert.tools.verify.factcheck import RUN, _close
from minialbert.tools.verify.facts import DIGESTS, ENGLISH, FACTS, VARIANTS
from minialbert.tools.verify.identify import BY_NUMBERS, IN_TRAINING, SHAPES, compare, identify, official_name
from tests.conftest import GOLDEN, tiny_config

ROOT = Path(__file__).parent.parent.parent
TINY_MODEL = GOLDEN / "tokenizer" / "albert-tiny-500.model"
ALBERTS = [name for name in PRESETS if name.startswith("albert-")]
WORDS = re.findall(r"\S+", "[PAD] [UNK] [CLS] [SEP] [MASK] who was jim henson a nice puppet ? . 今 天 情 很 好 感")
WORDS += [f"{start}{letter}" for start in ("", "##") for letter in "bcdefghijklmnopqrstuvwxyz"]


def statuses(report: Report) -> dict[str, set[str]]:
    """What became of the checks of each name; several have one name."""
    found: dict[str, set[str]] = {}
    for check in report.checks:
        found.setdefault(check.name, set()).add(check.status)
    return found


def said(report: Report, name: str) -> str:
    return next(check.said for check in report.checks if check.name == name)


def of_kind(*kinds: type) -> list:
    return [fact for fact in FACTS if isinstance(fact, kinds)]


@cache
def made_up_vocabulary() -> bytes:
    """30,000 pieces laid out as the official ones: those of the small golden model, and words that mean nothing."""
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(TINY_MODEL))
    charsmap = dict(fields(dict(fields(TINY_MODEL.read_bytes()))[3]))[2]
    pieces = []
    for i in range(sp.get_piece_size()):
        kind = UNKNOWN if i == 1 else CONTROL if i < 5 else USER_DEFINED if i < 13 else NORMAL
        pieces.append((sp.id_to_piece(i), sp.get_score(i), kind))
    pieces += [(f"▁qq{i}", -20.0, NORMAL) for i in range(30000 - len(pieces))]
    return write_model(pieces, {"unk": 1, "pad": 0}, charsmap, dummy_prefix=True)


def write_configuration(directory: Path, config: AlbertConfig, name: str = "config.json") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(json.dumps(config.to_json()))
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """albert-base-v2 in everything but its numbers: random weights, a made-up vocabulary."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    with torch.device("meta"):
        model = transformers.AlbertForPreTraining(
            transformers.AlbertConfig(**AlbertConfig.preset("albert-base-v2").to_json())
        )
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("Norm.weight") or "layer_norm.weight" in name else 0.0, 0.03)
    model.tie_weights()
    model.save_pretrained(directory)
    (directory / "spiece.model").write_bytes(made_up_vocabulary())
    return directory


@pytest.fixture(scope="module")
def own_facts(base) -> list:
    return recomputed(base)


def recomputed(directory: Path) -> list:
    """The facts about base with the numbers, words and ids that Hugging Face's code gives for a directory."""
    mlm = transformers.AlbertForMaskedLM.from_pretrained(directory).eval()
    trunk = transformers.AlbertModel.from_pretrained(directory).eval()
    tokenizer = load_tokenizer(directory)
    out = []
    for fact in FACTS:
        if "albert-base-v2" not in fact.of or fact.about != "weights":
            continue
        if isinstance(fact, facts.Numbers):
            mask = None if fact.mask is None else torch.tensor([fact.mask])
            with torch.no_grad():
                both = trunk(torch.tensor([fact.ids]), mask)
                found = {
                    "hidden": both.last_hidden_state,
                    "mlm": mlm(torch.tensor([fact.ids]), mask).logits,
                    "choice": both.pooler_output.sum(-1, keepdim=True) / 1000,
                }[fact.output]
            out.append(dataclasses.replace(fact, expected=found[fact.part].tolist()))
        elif isinstance(fact, facts.Guess):
            batch = tokenizer(list(fact.texts), padding="max_length" if fact.pad_to else True, max_length=fact.pad_to)
            mask = torch.as_tensor(batch.attention_mask) if fact.mask else None
            with torch.no_grad():
                logits = mlm(torch.as_tensor(batch.input_ids), mask).logits
            words = {}
            for (row, _), old in fact.words.items():
                place = batch.input_ids[row].tolist().index(4)
                best = logits[row, place].softmax(-1).topk(len(old))
                words[row, place] = tuple(tokenizer.decode([i]) for i in best.indices.tolist())
            chances = tuple(best.values.tolist()) if fact.chances else ()
            first = None if fact.first_logit is None else float(logits[0, 0, 0])
            out.append(dataclasses.replace(fact, words=words, chances=chances, first_logit=first))
        elif isinstance(fact, facts.Loss):
            fact = dataclasses.replace(fact, text="a [MASK] b", truth="a a b")
            ids, truth = (torch.tensor([tokenizer.encode(text)]) for text in (fact.text, fact.truth))
            with torch.no_grad():
                loss = mlm(ids, labels=truth.where(ids == 4, torch.tensor(-100))).loss
            out.append(dataclasses.replace(fact, loss=float(loss)))
    return out


# ---- whole checkpoints ----


def test_a_base_model_passes_the_facts_that_hugging_faces_code_gives_for_it(base, own_facts):
    assert {type(fact) for fact in own_facts} == {facts.Numbers, facts.Guess, facts.Loss} and len(own_facts) == 9
    report = verify(base, facts=own_facts)
    assert report.passed, "\n".join(report.lines())
    assert all(check.status == "pass" for check in report.checks)


def test_right_words_with_a_wrong_probability_logit_or_loss_fail(base, own_facts):
    wrong = []
    for fact in own_facts:
        if isinstance(fact, facts.Loss):
            wrong.append(dataclasses.replace(fact, loss=fact.loss + 0.011))
        elif isinstance(fact, facts.Guess) and fact.chances:
            wrong.append(dataclasses.replace(fact, chances=(*fact.chances[:-1], fact.chances[-1] + 2e-4)))
        elif isinstance(fact, facts.Guess) and fact.first_logit is not None:
            wrong.append(dataclasses.replace(fact, first_logit=fact.first_logit + 2e-4))
    assert len(wrong) == 3
    found = statuses(verify(base, facts=wrong))
    assert all(found[fact.name] == {"FAIL"} for fact in wrong)


def test_random_weights_fail_every_published_number_and_pass_what_is_true_of_any_base_model(base):
    report = verify(base)
    found = statuses(report)
    assert not report.passed
    for fact in FACTS:
        if fact.about == "weights":
            assert ("FAIL" in found[fact.name]) == ("albert-base-v2" in fact.of), fact.name
        if fact.about == "rules":
            assert found[fact.name] == {"pass"}
    assert found["official model"] == {"pass"} and found["size of the vocabulary"] == {"pass"}
    assert "pass" in found["parameters of the base encoder"]
    line = next(line for line in report.lines() if "hidden states" in line)
    assert line.startswith("FAIL") and "tolerance 0.0001" in line and "test_modeling_albert.py" in line
    assert re.search(r"expected -?[0-9.]+, found -?[0-9.]+ \(the worst of 9\)", line)
    line = next(line for line in report.lines() if "class logits" in line)
    assert (
        line.startswith("not applicable") and "made for textattack/albert-base-v2-imdb, this is albert-base-v2" in line
    )


def test_every_check_is_a_line_and_the_report_is_json(base):
    report = verify(base, facts=of_kind(facts.Ids, facts.WordPieces))
    lines = report.lines()
    assert all(str(check) in lines for check in report.checks) and all("\n" not in line for line in lines)
    digest = verify(base, facts=()).files["spiece.model"]["sha256"]
    assert any(digest in line for line in lines)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["passed"] is False and len(told["checks"]) == len(report.checks)
    assert lines[-1].startswith(f"pass: {sum(c.status == 'pass' for c in report.checks)}, FAIL: ")


def test_a_name_that_the_sizes_contradict_fails_and_runs_no_facts_about_it(base):
    report = verify(base, name="albert-large-v2")
    assert "hidden_size is 768, the release has 1024" in said(report, "official model")
    assert statuses(report)["official model"] == {"FAIL"}
    assert statuses(report)["word logits of ids 0 to 5"] == {"not applicable"}


def test_a_fine_tuned_model_of_the_hub_is_verified_by_name(base):
    report = verify(base, name="twmkn9/albert-base-v2-squad2")
    found = statuses(report)
    assert found["answer starts"] == found["Who was Jim Henson?"] == {"not applicable"}  # no such head in this file
    assert "no head for AlbertForQuestionAnswering" in said(report, "answer starts")
    assert found["word logits of ids 0 to 5"] == {"not applicable"}
    assert found["This is a test"] == {"FAIL"} and "pass" in found["parameters of the base encoder"]


def test_a_small_model_is_no_official_one(tmp_path):
    AlbertForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    report = verify(tmp_path)
    assert not report.passed and statuses(report)["official model"] == {"FAIL"}
    assert "vocab_size is 31, the release has" in said(report, "official model")
    assert {
        check.status for check in report.checks if check.name != "official model" and check.said[:8] == "made for"
    } == {"not applicable"}
    assert "no official model" in said(report, "hidden states behind a masked first token")


def test_a_checkpoint_of_googles_is_read_like_any_other(tmp_path):
    torch.manual_seed(3)
    AlbertForMaskedLM(tiny_config(vocab_size=6100, hidden_act="gelu_new")).save_pretrained(tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "google", to="google")
    published = next(fact for fact in of_kind(facts.Numbers) if fact.output == "hidden")
    with torch.no_grad():
        model = transformers.AlbertModel.from_pretrained(tmp_path / "hub").eval()
        found = model(torch.tensor([published.ids]), torch.tensor([published.mask])).last_hidden_state
    changes = {"of": ("vumichien/tiny-albert",), "shape": (1, 11, 12), "expected": found[published.part].tolist()}
    own = dataclasses.replace(published, **changes)
    (prefix,) = (tmp_path / "google").glob("*.index")
    for path in (tmp_path / "google", prefix.with_suffix("")):
        report = verify(path, "vumichien/tiny-albert", facts=[own])
        assert statuses(report)[own.name] == {"pass"}, report.lines()
        assert prefix.name in report.files and "albert_config.json" in report.files
    assert statuses(verify(path))["official model"] == {"FAIL"}


HEADS = {
    "classes": (AlbertForSequenceClassification, "ForSequenceClassification", "logits"),
    "tags": (AlbertForTokenClassification, "ForTokenClassification", "logits"),
    "start": (AlbertForQuestionAnswering, "ForQuestionAnswering", "start_logits"),
    "end": (AlbertForQuestionAnswering, "ForQuestionAnswering", "end_logits"),
}


@pytest.mark.parametrize("output", HEADS)
def test_facts_about_task_heads_are_run_on_the_head_of_the_file(output, tmp_path):
    ours, theirs, key = HEADS[output]
    torch.manual_seed(1)
    ours(tiny_config(vocab_size=3100)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Albert" + theirs]}))
    model = getattr(transformers, "Albert" + theirs).from_pretrained(tmp_path).eval()
    published = next(fact for fact in of_kind(facts.Numbers) if fact.output == output)
    with torch.no_grad():
        found = getattr(model(torch.tensor([published.ids])), key)[published.part]
    own = dataclasses.replace(published, of=("vumichien/tiny-albert",), expected=found.tolist())
    assert verify(tmp_path, name="vumichien/tiny-albert", facts=[own]).passed
    report = verify(
        tmp_path, name="vumichien/tiny-albert", facts=[dataclasses.replace(own, expected=(found + 1e-3).tolist())]
    )
    assert statuses(report)[own.name] == {"FAIL"}


def test_an_answer_and_its_loss_are_those_of_hugging_face(tmp_path):
    torch.manual_seed(2)
    AlbertForQuestionAnswering(tiny_config(vocab_size=len(WORDS), max_position_embeddings=64)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    published = of_kind(facts.Answer)[0]
    batch = tokenizer([(published.question, published.text)])
    inputs = {key: torch.as_tensor(batch[key]) for key in ("input_ids", "attention_mask", "token_type_ids")}
    model = transformers.AlbertForQuestionAnswering.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        out = model(**inputs, start_positions=torch.tensor([12]), end_positions=torch.tensor([13]))
    first, last = int(out.start_logits.argmax()), int(out.end_logits.argmax())
    answer = tokenizer.decode(batch.input_ids[0, first : last + 1].tolist())
    own = dataclasses.replace(published, of=("vumichien/tiny-albert",), answer=answer, loss=float(out.loss))
    name = "vumichien/tiny-albert"
    assert statuses(verify(tmp_path, name, facts=[own]))[own.name] == {"pass"}
    for wrong in ({"answer": "something else"}, {"loss": own.loss + 0.02}):
        assert statuses(verify(tmp_path, name, facts=[dataclasses.replace(own, **wrong)]))[own.name] == {"FAIL"}


def test_what_the_file_does_not_hold_is_not_made_up(tmp_path):
    AlbertModel(tiny_config(vocab_size=3100), pooler=False).save_pretrained(tmp_path)
    own = [dataclasses.replace(fact, of=("vumichien/tiny-albert",), shape=None) for fact in of_kind(facts.Numbers)]
    report = verify(tmp_path, "vumichien/tiny-albert", facts=own)
    assert said(report, "multiple choice with weights of 0.001") == "the file has no pooler"
    assert "no head for AlbertForMaskedLM" in said(report, "word logits of ids 0 to 5")
    assert statuses(report)["hidden states behind a masked first token"] == {"FAIL"}


def test_ids_outside_a_small_table_fail_with_the_models_own_words(tmp_path):
    AlbertModel(tiny_config()).save_pretrained(tmp_path)
    own = dataclasses.replace(of_kind(facts.Numbers)[0], of=("vumichien/tiny-albert",))
    report = verify(tmp_path, "vumichien/tiny-albert", facts=[own])
    assert statuses(report)[own.name] == {"FAIL"} and "the table has rows 0..30" in said(report, own.name)


# ---- which model ----


@pytest.mark.parametrize("name", PRESETS)
def test_every_official_configuration_is_recognised_and_its_published_count_is_right(name, tmp_path):
    report = verify(write_configuration(tmp_path, AlbertConfig.preset(name)), facts=of_kind(facts.Count))
    assert report.passed and report.candidates[0].startswith(f"{name}, as released")
    assert said(report, "official model") == name
    passed = [check for check in report.checks if check.source and check.status == "pass"]
    assert len(passed) == (name in ENGLISH or name == "albert-base-zh")


@pytest.mark.parametrize("name", ENGLISH)
def test_v1_and_v2_are_both_named_and_what_tells_them_apart(name):
    first, second = identify(AlbertConfig.preset(name))
    assert first.name == name and not first.differences
    assert second.name == name[:-1] + {"1": "2", "2": "1"}[name[-1]]
    fields_told = {difference.field for difference in second.differences}
    assert fields_told <= {"hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"}
    assert "hidden_act" in fields_told


def test_googles_gelu_does_not_make_a_v1_of_its_own_archive_a_v2():
    google = {"hidden_act": "gelu_new"}  # as the word "gelu" in albert_config.json is read
    first, second = identify(AlbertConfig.preset("albert-base-v1", **google), google=True)
    assert first.name == "albert-base-v1" and not first.differences and second.name == "albert-base-v2"
    assert "known: the first publication of v2 said so" in str(second)
    first, second = identify(AlbertConfig.preset("albert-xxlarge-v1", **google), google=True)
    assert not first.differences and not second.differences  # nothing in Google's files tells these two apart
    first, _ = identify(AlbertConfig.preset("albert-base-v1", **google))  # in a file of the hub it is v2's
    assert first.name == "albert-base-v2"


def test_a_configuration_of_googles_is_read_as_one(tmp_path):
    config = AlbertConfig.preset("albert-xxlarge-v1", hidden_act="gelu_new").to_google_json()
    (tmp_path / "albert_config.json").write_text(json.dumps(config))
    assert said(verify(tmp_path, facts=()), "official model") == "albert-xxlarge-v1 or albert-xxlarge-v2"


@pytest.mark.parametrize("heads", [16, 32])
def test_both_published_numbers_of_heads_of_xlarge_are_accepted_and_said(heads, tmp_path):
    config = AlbertConfig.preset("albert-xlarge-v2", num_attention_heads=heads)
    report = verify(write_configuration(tmp_path, config), facts=())
    assert report.passed
    assert ("one of the two published xlarge configurations" in report.candidates[0]) == (heads == 32)


def test_another_number_of_heads_fails_because_no_shape_would_show_it(tmp_path):
    config = AlbertConfig.preset("albert-base-v2", num_attention_heads=6)
    report = verify(write_configuration(tmp_path, config), facts=())
    assert statuses(report)["official model"] == {"FAIL"}
    assert "num_attention_heads is 6, the release has 12" in said(report, "official model")


def test_the_first_publications_of_v2_are_named(tmp_path):
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    report = verify(write_configuration(tmp_path, AlbertConfig.preset("albert-large-v2", **rates)), facts=())
    assert said(report, "official model") == "albert-large-v2" and "the first publication of v2" in report.candidates[0]
    hub = AlbertConfig.preset("albert-base-v2", hidden_act="gelu", **rates)
    assert identify(hub)[0].name == "albert-base-v1"  # the same words as v1's
    report = verify(write_configuration(tmp_path, hub), name="albert/albert-base-v2", facts=())
    assert report.passed and "the first upload to the hub said so" in report.candidates[0]


numbers = st.integers(1, 4).map(lambda n: n * 12)


@given(st.sampled_from(ALBERTS), st.sampled_from(["vocab_size", "embedding_size", "intermediate_size"]), numbers)
@settings(max_examples=30, deadline=None)
def test_no_model_of_other_shapes_is_ever_a_candidate(name, field, value):
    config = AlbertConfig.preset(name, **{field: value})
    assert identify(config) == []
    assert field in {difference.field for difference in compare(config, name).differences}


@given(st.sampled_from(ALBERTS), st.floats(0, 0.9), st.floats(0, 0.9), st.sampled_from(["gelu", "gelu_new", "relu"]))
@settings(max_examples=50, deadline=None)
def test_whatever_shapes_do_not_show_keeps_the_model_among_the_candidates(name, hidden, attention, activation):
    config = AlbertConfig.preset(
        name, hidden_dropout_prob=hidden, attention_probs_dropout_prob=attention, hidden_act=activation
    )
    candidates = identify(config)
    assert name in [candidate.name for candidate in candidates]
    assert [candidate.rank for candidate in candidates] == sorted(candidate.rank for candidate in candidates)
    for candidate in candidates:
        released = AlbertConfig.preset(candidate.name)
        differing = {f for f in (*SHAPES, *BY_NUMBERS, *IN_TRAINING) if getattr(config, f) != getattr(released, f)}
        assert {difference.field for difference in candidate.differences} == differing


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(NameUnknown, match="Nearest: albert-base-v2"):
        verify("anywhere", name="albert-base-v3")
    assert official_name("voidful/albert_chinese_base") == ("albert-base-zh", "albert-base-zh")
    assert official_name("textattack/albert-base-v2-imdb")[1] == "albert-base-v2"


# ---- vocabularies ----


def test_a_small_sentencepiece_vocabulary_is_none_of_the_official_ones(tmp_path):
    (tmp_path / "spiece.model").write_bytes(TINY_MODEL.read_bytes())
    for path in (tmp_path, tmp_path / "spiece.model"):
        report = verify(path)
        found = statuses(report)
        assert found["kind of vocabulary"] == {"FAIL"} and "500 entries" in said(report, "kind of vocabulary")
        assert found["ids 0 to 4"] == found["[MASK] in a text"] == {"pass"}
        assert all(found[fact.name] == {"not applicable"} for fact in FACTS if fact.about in ("vocabulary", "weights"))


def test_a_vocabulary_that_is_given_out_as_official_fails_the_published_ids(tmp_path):
    (tmp_path / "spiece.model").write_bytes(TINY_MODEL.read_bytes())
    found = statuses(verify(tmp_path, name="albert-large-v1"))
    assert all(found[fact.name] == {"FAIL"} for fact in of_kind(facts.Ids, facts.Pieces))
    assert found["size of spiece.model"] == {"FAIL"}
    assert found["word logits of ids 0 to 5"] == {"not applicable"}


def test_a_made_up_vocabulary_of_the_right_size_fails_by_its_ids(tmp_path):
    (tmp_path / "30k-clean.model").write_bytes(made_up_vocabulary())
    report = verify(tmp_path)
    found = statuses(report)
    assert found["official model"] == {"not applicable"} and report.names == ENGLISH
    assert len(report.candidates) == 1 and report.candidates[0].endswith("or albert-xxlarge-v2, by the vocabulary")
    assert found["kind of vocabulary"] == {"pass"} and found["size of 30k-clean.model"] == {"FAIL"}
    assert all(found[fact.name] == {"FAIL"} for fact in of_kind(facts.Ids))
    assert "first difference at id 0: expected 48" in said(report, "This is a test")
    assert said(report, "pieces by number") == "expected id 15 to be ',', found '▁the'"


def test_ids_that_this_vocabulary_gives_are_passed_with_the_settings_of_the_fact(tmp_path):
    (tmp_path / "spiece.model").write_bytes(made_up_vocabulary())
    (tmp_path / "tokenizer_config.json").write_text('{"keep_accents": true}')  # facts have settings of their own
    loaded, own = cache(partial(load_tokenizer, tmp_path)), []
    for fact in of_kind(facts.Ids):
        tokenizer = loaded(**({"keep_accents": False} | dict(fact.settings)))
        batch = tokenizer([(fact.text, fact.pair)], add_special_tokens=fact.special)
        changed = {"ids": tuple(batch.input_ids[0].tolist())}
        changed["pieces"] = tuple(batch.tokens[0]) if fact.pieces else ()
        changed["types"] = tuple(batch.token_type_ids[0].tolist()) if fact.types else ()
        own.append(dataclasses.replace(fact, **changed))
    width = max(len(loaded(keep_accents=False).encode(text)) for text in of_kind(facts.Width)[0].texts)
    own.append(dataclasses.replace(of_kind(facts.Width)[0], width=width))
    report = verify(tmp_path, facts=own)
    assert {check.status for check in report.checks if check.source} == {"pass"}
    assert statuses(report)["settings of the tokenizer"] == {"FAIL"}  # accents kept, which no release does
    (pair,) = (fact for fact in own if isinstance(fact, facts.Ids) and fact.types)
    (pieces,) = (fact for fact in own if isinstance(fact, facts.Ids) and fact.settings.get("keep_accents"))
    pair = dataclasses.replace(pair, types=(*pair.types[:-1], 0))
    pieces = dataclasses.replace(pieces, pieces=(*pieces.pieces[:-1], "!"))
    report = verify(tmp_path, facts=[pair, pieces])
    assert said(report, pair.name).endswith("expected 0, found 1")
    assert said(report, pieces.name).endswith("expected !, found .")


def test_special_pieces_in_another_order_are_told(tmp_path):
    data = made_up_vocabulary().replace(b"[SEP]", b"[TMP]").replace(b"[CLS]", b"[SEP]").replace(b"[TMP]", b"[CLS]")
    (tmp_path / "spiece.model").write_bytes(data)
    report = verify(tmp_path, facts=())
    assert statuses(report)["ids 0 to 4"] == {"FAIL"}
    assert said(report, "ids 0 to 4").startswith("<pad> <unk> [SEP] [CLS] [MASK]; expected <pad> <unk> [CLS]")


def test_case_kept_is_said_to_be_wrong_for_the_official_vocabulary(tmp_path):
    (tmp_path / "spiece.model").write_bytes(made_up_vocabulary())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert "do_lower_case False" in said(verify(tmp_path, facts=()), "settings of the tokenizer")


def test_the_wrong_kind_and_a_vocabulary_of_another_size_are_told(tmp_path):
    write_configuration(tmp_path, AlbertConfig.preset("albert-base-v2"))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    report = verify(tmp_path, facts=of_kind(facts.Ids))
    found = statuses(report)
    assert found["kind of vocabulary"] == found["size of the vocabulary"] == found["official model"] == {"FAIL"}
    assert "the word table has 30,000 rows" in said(report, "size of the vocabulary")
    assert found["This is a test"] == {"not applicable"} and found["special tokens"] == {"pass"}


def test_a_vocabulary_that_can_spell_neither_language_is_told_by_its_unknown_tokens(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nvrouw\n", encoding="utf-8")
    report = verify(tmp_path, facts=())
    assert statuses(report)["unknown tokens"] == {"FAIL"} and said(report, "unknown tokens").startswith("100%")
    assert statuses(report)["[MASK] in a text"] == {"FAIL"}
    assert said(report, "special tokens").endswith("missing: [MASK]")


def test_a_chinese_vocabulary_is_asked_for_chinese(tmp_path):
    letters = sorted(set("今天天气很好,我们去公园走走。他买了一本关于中国历史的书。你知道火车几点到北京吗?"))
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    lines += [f"x{i}" for i in range(21128 - len(lines))]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = verify(tmp_path, facts=())
    assert "albert-base-zh" in said(report, "official model") and statuses(report)["unknown tokens"] == {"pass"}
    (tmp_path / "vocab.txt").write_text("\n".join([*lines[:5], *"abcdefgh", *lines[13:]]) + "\n", encoding="utf-8")
    assert "Chinese sentences" in said(verify(tmp_path, facts=()), "unknown tokens")


def test_googles_own_wordpiece_test_passes_without_any_file_of_the_user(tmp_path):
    rules = of_kind(facts.WordPieces)
    report = verify(write_configuration(tmp_path, tiny_config()), facts=rules)
    assert len(rules) == 9 and {check.status for check in report.checks if check.source} == {"pass"}
    wrong = dataclasses.replace(rules[0], ids=(7, 4, 5, 10, 9, 8))
    assert "first difference at id 4: expected 9 8, found 8 9" in said(verify(tmp_path, facts=[wrong]), wrong.name)


# ---- files ----


def test_digests_are_held_against_those_published(tmp_path, monkeypatch):
    write_configuration(tmp_path, AlbertConfig.preset("albert-base-v2"))
    right = verify(tmp_path, facts=()).files["config.json"]["sha256"]
    assert not any(DIGESTS.values()), "each digest needs a source that can be named"
    for digest, status in ((right, "pass"), ("0" * 64, "FAIL")):
        monkeypatch.setitem(DIGESTS, "albert-base-v2", {"config.json": digest})
        assert statuses(verify(tmp_path, facts=()))["digest of config.json"] == {status}


def test_a_size_fails_only_for_files_that_nobody_writes_anew(tmp_path):
    write_configuration(tmp_path, AlbertConfig.preset("albert-base-v2"))
    (tmp_path / "30k-clean.vocab").write_bytes(b"x" * 548_994)
    (tmp_path / "tf_model.h5.txt").write_bytes(b"x")
    found = statuses(verify(tmp_path, facts=of_kind(facts.Size)))
    assert found["size of config.json"] == {"not applicable"} and found["size of 30k-clean.vocab"] == {"pass"}
    (tmp_path / "30k-clean.vocab").write_bytes(b"x" * 548_993)
    assert statuses(verify(tmp_path, facts=of_kind(facts.Size)))["size of 30k-clean.vocab"] == {"FAIL"}


def test_nothing_to_verify_and_damaged_weights_are_errors(tmp_path):
    with pytest.raises(FileError, match="nothing to verify"):
        verify(tmp_path)
    with pytest.raises(FileError):
        verify(tmp_path / "not-there")
    AlbertForMaskedLM(tiny_config()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cut off"):
        verify(tmp_path)


# ---- the facts themselves ----


def test_the_facts_are_whole():
    assert {type(fact) for fact in FACTS} == set(RUN)
    assert all(fact.source and fact.name for fact in FACTS)
    assert {name for fact in FACTS for name in fact.of} <= set(PRESETS) | set(VARIANTS)
    for fact in of_kind(facts.Numbers):
        assert fact.mask is None or len(fact.mask) == len(fact.ids)
        assert max(fact.ids) < 30000
    assert all(0 <= number < 30000 for fact in of_kind(facts.Ids) for number in fact.ids)
    assert [len(fact.ids) for fact in of_kind(facts.Ids)][-3:] == [101, 31, 12]  # as published


def test_published_ids_agree_with_the_published_pieces():
    """The same word has one id in every text, and the ids have the names that the list of pieces gives them."""
    names = dict(of_kind(facts.Pieces)[0].pieces)
    for fact in of_kind(facts.Ids):
        for number, piece in zip(fact.ids, fact.pieces, strict=False):
            if number != 1:
                assert names.setdefault(number, piece) == piece
        if fact.special:
            assert names[fact.ids[0]] == "[CLS]" and names[fact.ids[-1]] == "[SEP]"


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), st.integers(0, 5), st.floats(2e-4, 1.0))
@settings(deadline=None)
def test_numbers_pass_within_the_tolerance_and_fail_beyond_it_or_when_they_are_none(values, at, away):
    found = torch.tensor(values, dtype=torch.float64)
    assert _close(found, values, 1e-4)[0]
    moved = found.clone()
    moved[at % len(values)] += away
    assert not _close(moved, values, 1e-4)[0]
    moved[at % len(values)] = float("nan")
    assert not _close(moved, values, 1e-4)[0] and "found nan" in _close(moved, values, 1e-4)[1]
    assert not _close(found, [*values, 0.0], 1e-4)[0]


# ---- weights/README.md ----


def test_the_table_of_checkpoints_is_that_of_the_presets():
    text = (ROOT / "weights" / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| albert-")
    ]
    tables = {len(row): {r[0]: r[1:] for r in rows if len(r) == len(row)} for row in rows}
    assert all(list(table) == ALBERTS for table in tables.values()) and len(tables) == 2
    for name, row in tables[12].items():
        config = AlbertConfig.preset(name)
        counts = config.count_parameters()
        sizes = [config.vocab_size, config.embedding_size, config.hidden_size, config.num_hidden_layers]
        sizes += [config.num_attention_heads, config.intermediate_size, counts["model"], counts["pretraining"]]
        assert [int(cell.replace(",", "")) for cell in row[:8]] == sizes
        assert row[8] == config.hidden_act and float(row[9]) == config.hidden_dropout_prob
        assert config.attention_probs_dropout_prob == config.hidden_dropout_prob
        assert row[10] == ("WordPiece" if name.endswith("-zh") else "SentencePiece")
    for name, row in tables[4].items():
        _, size, version = name.split("-")
        assert row[0] == f"`albert_{size}_{version}.tar.gz`"
        hub = row[1].split("`")[1]
        assert official_name(hub)[0] == name
    assert "P = 512" in text and all(AlbertConfig.preset(name).max_position_embeddings == 512 for name in ALBERTS)


def test_every_source_of_facts_stands_in_the_page_about_weights():
    text = (ROOT / "weights" / "README.md").read_text()
    for source in (
        "transformers",
        "bumblebee",
        "rust-bert",
        "rust-tokenizers",
        "keras-hub",
        "listing",
        "tokenization_test",
    ):
        assert source in text and any(source in fact.source for fact in FACTS)
    for link in re.findall(r"\]\((\S+)\)", text):
        assert (ROOT / "weights" / link).exists(), link


def test_a_model_about_whose_numbers_nothing_is_published_is_said_to_be_unproven(tmp_path):
    config = AlbertConfig.preset("albert-base-v1")
    report = verify(config_alone(tmp_path, config))
    assert report.passed and "unproven" not in report.lines()[-1]  # there are no weights at all
    AlbertForPreTraining(config).save_pretrained(tmp_path / "random")
    report = verify(tmp_path / "random")
    assert report.passed and report.lines()[-1].endswith("the weights themselves are unproven")
    assert "nothing is published about the weights of albert-base-v1" in str(report.checks[-1])
    short = report.lines(everything=False)
    assert len(short) < len(report.lines()) and not any("made for albert-base-v2" in line for line in short)


def config_alone(directory: Path, config: AlbertConfig) -> Path:
    (directory / "alone").mkdir()
    (directory / "alone" / "config.json").write_text(json.dumps(config.to_json()))
    return directory / "alone"
