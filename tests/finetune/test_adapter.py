"""A LoRA apart from its base comes back to the bit, onto that base and no other, whole or not at all."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import minialbert.finetune.adapter as adapter
from minialbert import AlbertForMaskedLM, AlbertForSequenceClassification, AlbertModel
from minialbert.errors import CheckpointError, FileError
from minialbert.finetune.adapter import load_lora, save_lora
from minialbert.finetune.lora import MAPS, Lora, with_lora
from tests.conftest import random_batch, tiny_bert, tiny_config

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def made(cls, config, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return cls(config).to(dtype).eval()


def learned(wrapped, seed=1):
    """As after training: what learns has other numbers."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in wrapped.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.2)
    return wrapped


@pytest.fixture
def saved(tmp_path):
    wrapped = learned(with_lora(made(AlbertForSequenceClassification, tiny_config()), Lora(tiny_config(), 3)))
    save_lora(wrapped, tmp_path / "adapter")
    return tmp_path / "adapter"


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([AlbertModel, AlbertForMaskedLM, AlbertForSequenceClassification]),
    st.sampled_from([tiny_config(), tiny_config(num_hidden_groups=3), tiny_bert()]),
    st.sets(st.sampled_from(list(MAPS)), min_size=1),
    st.integers(1, 12),
    st.floats(0.1, 64),
    st.booleans(),
    DTYPES,
)
def test_what_was_saved_comes_back_to_the_bit(tmp_path_factory, cls, config, parts, rank, alpha, per_visit, dtype):
    path = tmp_path_factory.mktemp("saved") / "adapter"
    lora = Lora(config, rank, alpha, parts, per_visit, dropout=0.1)
    first = learned(with_lora(made(cls, config, dtype=dtype), lora))
    save_lora(first, path)
    again = load_lora(made(cls, config, dtype=dtype), path)
    assert (again.lora.rank, again.lora.alpha, again.lora.dropout) == (rank, alpha, 0.1)
    assert (again.lora.parts, again.lora.per_visit, again.training) == (lora.parts, per_visit, False)
    for (name, a), (other, b) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b) and a.dtype == b.dtype and a.requires_grad == b.requires_grad, name
    batch = random_batch(config)
    with torch.no_grad():
        assert torch.equal(
            first(**batch)[-1 if cls is AlbertModel else 1], again(**batch)[-1 if cls is AlbertModel else 1]
        )
    assert sorted(p.name for p in path.iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_the_file_has_the_lora_and_the_head_and_nothing_of_the_base(saved):
    facts = json.loads((saved / "adapter.json").read_text())
    assert facts["parts"] == ["attention.query", "attention.value"] and facts["rank"] == 3 and not facts["per_visit"]
    assert facts["base"]["class"] == "AlbertForSequenceClassification" and len(facts["base"]["sha256"]) == 64
    with safe_open(saved / "adapter.safetensors", "pt") as file:
        assert set(file.keys()) == {f"lora.block.0.attention.{m}.{x}" for m in ("query", "value") for x in "AB"} | {
            "model.classifier.weight", "model.classifier.bias",
        }  # fmt: skip


def test_another_base_is_refused_in_one_line_and_left_as_it_was(saved):
    config = tiny_config()
    for model, line in [
        (made(AlbertForSequenceClassification, config, seed=5), "weights of the same sizes, but not the same"),
        (made(AlbertForSequenceClassification, config, dtype=torch.float64), "or in another dtype"),
        (made(AlbertForMaskedLM, config), "class AlbertForSequenceClassification, here AlbertForMaskedLM"),
        (made(AlbertForSequenceClassification, tiny_config(hidden_size=24)), "hidden_size 12, here 24"),
        (made(AlbertForSequenceClassification, tiny_config(num_hidden_layers=3)), "sharing_plan .*, here"),
        (
            made(AlbertForSequenceClassification, tiny_config(num_labels=5)),
            r"classifier.bias is \[2\], this model has it \[5\]",
        ),
    ]:
        before = {name: x.clone() for name, x in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=line) as caught:
            load_lora(model, saved)
        assert str(saved) in str(caught.value) and "\n" not in str(caught.value)
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())


def test_the_head_of_the_base_may_differ_for_it_is_in_the_file(saved):
    model = made(AlbertForSequenceClassification, tiny_config())
    torch.nn.init.normal_(model.classifier.weight)
    assert load_lora(model, saved).model is model


@pytest.mark.parametrize(
    "damage, line",
    [
        (lambda d: (d / "adapter.json").unlink(), "adapter.json: cannot be read"),
        (lambda d: (d / "adapter.json").write_text("{"), "adapter.json: is not JSON"),
        (lambda d: (d / "adapter.json").write_bytes(b"\xff\xfe"), "adapter.json: is not JSON"),
        (lambda d: (d / "adapter.json").write_text("[]"), 'is not a "minialbert adapter 1"'),
        (lambda d: (d / "adapter.safetensors").unlink(), "adapter.safetensors: missing, damaged"),
        (lambda d: flip(d / "adapter.safetensors"), "adapter.safetensors: missing, damaged"),
        (lambda d: change(d, format="minialbert adapter 2"), "was it written by another version"),
        (lambda d: change(d, base=3), "trained on another model: class None"),
        (lambda d: change(d, rank="many"), r"describes no LoRA .*rank.* 'many'"),
        (lambda d: change(d, alpha=None), r"describes no LoRA"),
        (lambda d: change(d, parts=["nose"]), r"describes no LoRA \(no linear map named 'nose'"),
        (lambda d: change(d, per_visit=True), "lora.block.0.attention.query.A is .*, this model has it missing"),
        (lambda d: change(d, parts=["query", "key"]), "lora.block.0.attention.value.A is .* missing"),
        (lambda d: change(d, parts=["attention"]), r"lora.block.0.attention.key.A is missing, .* has it \[3, 12\]"),
    ],
)  # fmt: skip
def test_each_damage_has_its_line(saved, damage, line):
    damage(saved)
    with pytest.raises(FileError, match=line) as caught:
        load_lora(made(AlbertForSequenceClassification, tiny_config()), saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change(directory, **facts):
    path = directory / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_directory_in_use_is_refused_and_a_disk_that_fails_leaves_nothing(saved, monkeypatch):
    wrapped = with_lora(made(AlbertModel, tiny_config()), Lora(tiny_config()))
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileError, match="adapter: is there and not empty"):
        save_lora(wrapped, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter, "digest_of", full)
    with pytest.raises(FileError, match=r"new: cannot be written \(No space left"):
        save_lora(wrapped, saved.parent / "new")
    assert [path.name for path in saved.parent.iterdir()] == ["adapter"]


def test_the_real_model_and_its_adapter_by_size(minilm, tmp_path):
    model = AlbertModel.from_pretrained(minilm)
    wrapped = learned(with_lora(model, Lora(model.config, 8)))
    save_lora(wrapped, tmp_path / "adapter")
    size = (tmp_path / "adapter" / "adapter.safetensors").stat().st_size
    print(f"adapter of rank 8 for query and value, all-MiniLM-L6: {size:,} bytes")
    assert 0 < size - 4 * 6 * 2 * 8 * (384 + 384) < 5000
    again = load_lora(AlbertModel.from_pretrained(minilm), tmp_path / "adapter")
    batch = random_batch(model.config)
    with torch.no_grad():
        assert torch.equal(again(**batch).pooler_output, wrapped(**batch).pooler_output)
