"""from_pretrained, save_pretrained, digest, resize_token_embeddings: what every class can do."""

import json

import pytest
import torch
import transformers

import minialbert
from minialbert import AlbertForMaskedLM, AlbertForPreTraining, AlbertForSequenceClassification, AlbertModel
from minialbert.errors import InputError, MiniAlbertError
from tests.conftest import random_batch, theirs_of, tiny_bert, tiny_config
from tests.convert.directories import assert_same_bits, released, write, write_released

HEADS = ["Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
         "ForQuestionAnswering", "ForMultipleChoice"]  # fmt: skip
WITH_WORDS = [AlbertForPreTraining, AlbertForMaskedLM]


def word_logits(model, batch):
    with torch.no_grad():
        out = model(**batch)
    return out.prediction_logits if isinstance(model, AlbertForPreTraining) else out.logits


def seeded(cls, config, seed=0):
    torch.manual_seed(seed)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("config", [tiny_config(), tiny_bert()], ids=["albert", "bert"])
@pytest.mark.parametrize("head", HEADS)
def test_save_then_load_gives_the_same_bits_in_every_precision(head, config, tmp_path):
    cls = getattr(minialbert, "Albert" + head)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = seeded(cls, config).to(dtype)
        model.save_pretrained(tmp_path)
        again = cls.from_pretrained(tmp_path, dtype="auto")
        assert_same_bits(again, model)
        assert again.dtype == dtype and again.device.type == "cpu"
        assert not again.training
        assert type(again) is cls
        assert cls.from_pretrained(tmp_path).dtype == torch.float32


def test_the_configuration_survives(tmp_path):
    config = tiny_config(hidden_act="relu", num_hidden_groups=2, layer_norm_eps=1e-6, pad_token_id=1, ffn_dropout=False,
                         id2label={0: "no", 1: "yes", 2: "perhaps"}, num_labels=3, initializer_range=0.3)  # fmt: skip
    AlbertForSequenceClassification(config).save_pretrained(tmp_path)
    again = AlbertForSequenceClassification.from_pretrained(tmp_path).config
    assert again.to_json() | {"architectures": None, "dtype": None} == (
        config.to_json() | {"architectures": None, "dtype": None}
    )
    assert again.id2label == {0: "no", 1: "yes", 2: "perhaps"}


def test_fields_of_the_configuration_can_be_changed_on_the_way(tmp_path):
    write_released(tmp_path)
    with pytest.warns(UserWarning, match="classifier"):
        model = AlbertForSequenceClassification.from_pretrained(tmp_path, num_labels=5, classifier_dropout_prob=0.4)
    assert list(model(torch.tensor([[2, 5, 3]])).logits.shape) == [1, 5]
    assert model.drop.p == 0.4


def test_what_cannot_be_loaded_raises_only_our_own_error(tmp_path):
    with pytest.raises(MiniAlbertError) as caught:
        AlbertModel.from_pretrained(tmp_path / "nowhere")
    assert isinstance(caught.value, OSError)


# ---- digest ----


def test_the_digest_is_that_of_the_model_not_of_the_file(tmp_path):
    tensors, config = released()
    model = AlbertForPreTraining.from_pretrained(write(tmp_path / "a", tensors, config))
    model.save_pretrained(tmp_path / "b")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "4.1", "torch_dtype": "x"}))
    digests = {AlbertForPreTraining.from_pretrained(tmp_path / place).digest() for place in ("a", "b", ".")}
    assert digests == {model.digest()}
    assert len(model.digest()) == 64


def test_the_digest_changes_with_a_bit_a_name_a_precision_or_a_number_of_the_configuration():
    model = seeded(AlbertForMaskedLM, tiny_config())
    seen = {model.digest(), seeded(AlbertForMaskedLM, tiny_config(layer_norm_eps=1e-5)).digest()}
    seen |= {model.albert.digest(), seeded(AlbertForMaskedLM, tiny_config(), seed=1).digest()}
    with torch.no_grad():
        bias = model.mlm.bias
        bias[3] = torch.nextafter(bias[3], bias[3] + 1)
    seen.add(model.digest())
    seen.add(model.double().digest())
    assert len(seen) == 6


# ---- more words, or fewer ----


@pytest.mark.parametrize("cls", WITH_WORDS)
@pytest.mark.parametrize("config", [tiny_config(), tiny_bert()], ids=["albert", "bert"])
@pytest.mark.parametrize("size", [40, 31, 20])
def test_a_resized_table_takes_matrix_and_bias_with_it_and_leaves_old_logits_as_they_were(cls, config, size, tmp_path):
    model = seeded(cls, config)
    batch = random_batch(config)
    batch["input_ids"] %= 20
    before, kept = word_logits(model, batch), min(size, 31)
    table, bias = model.albert.embeddings.word.weight.clone(), model.mlm.bias.clone()
    model.resize_token_embeddings(size)
    after = word_logits(model, batch)
    assert list(after.shape) == [3, 9, size]
    assert torch.equal(after[..., :kept], before[..., :kept])
    assert torch.equal(model.albert.embeddings.word.weight[:kept], table[:kept])
    assert torch.equal(model.mlm.bias[:kept], bias[:kept])
    assert model.config.vocab_size == model.albert.config.vocab_size == size

    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert_same_bits(again, model)
    assert again.config.vocab_size == size
    assert torch.equal(word_logits(again, batch), after)


def test_new_rows_are_the_mean_of_the_old_and_new_biases_nothing():
    model = seeded(AlbertForMaskedLM, tiny_config())
    mean = model.albert.embeddings.word.weight.mean(0)
    model.resize_token_embeddings(33)
    assert torch.equal(model.albert.embeddings.word.weight[31:], mean.repeat(2, 1))
    assert model.mlm.bias[31:].tolist() == [0, 0]
    model(torch.tensor([[32]]))


@pytest.mark.parametrize("head", HEADS)
def test_every_class_can_be_resized(head):
    model = seeded(getattr(minialbert, "Albert" + head), tiny_config())
    model.resize_token_embeddings(50)
    ids = torch.tensor([[[2, 49, 3]]] if head == "ForMultipleChoice" else [[2, 49, 3]])
    model(ids)
    model.resize_token_embeddings(4)
    with pytest.raises(InputError, match=r"the table has rows 0\.\.3"):
        model(ids)


def test_a_resized_model_still_learns_what_it_learnt_before_and_nothing_frozen():
    model = seeded(AlbertForMaskedLM, tiny_config())
    model.albert.embeddings.word.weight.requires_grad_(False)
    model.mlm.bias.requires_grad_(False)
    model.resize_token_embeddings(33)
    assert not model.albert.embeddings.word.weight.requires_grad and not model.mlm.bias.requires_grad
    model = seeded(AlbertForMaskedLM, tiny_config()).to(torch.bfloat16)
    model.resize_token_embeddings(33)
    ids = torch.tensor([[2, 32, 3]])
    model(ids, labels=ids).loss.backward()
    assert model.dtype == torch.bfloat16
    assert model.albert.embeddings.word.weight.grad[32].any() and model.mlm.bias.grad[32] != 0


def test_hugging_face_loads_a_resized_model(tmp_path):
    theirs_of(tiny_config(), "ForMaskedLM").save_pretrained(tmp_path)
    model = AlbertForMaskedLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(40)
    model.save_pretrained(tmp_path)
    theirs = transformers.AlbertForMaskedLM.from_pretrained(tmp_path).eval()
    batch = random_batch(model.config)
    with torch.no_grad():
        assert (theirs(**batch).logits - model(**batch).logits).abs().max() < 1e-5


@pytest.mark.parametrize("size", [0, -1, 3.0, "40", None])
def test_a_size_that_is_no_vocabulary_is_refused(size):
    with pytest.raises(InputError, match="must be a whole number of at least 1"):
        AlbertModel(tiny_config()).resize_token_embeddings(size)
