"""LAMB, AdamW and the learning rate: equal to Google's recorded steps, to a loop in plain words, and to torch's AdamW.

tests/golden/optim-google holds five steps of both optimizers, five more with schedule and clipping, and five schedules,
recorded with Google's own code (README.md there).
"""

import copy
import io
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import minialbert
from minialbert.convert.names import expand
from minialbert.errors import InputError
from minialbert.pretrain.lamb import Lamb, rate, scaled_rate, set_rate
from minialbert.training import parameter_groups
from tests.conftest import GOLDEN, random_batch, theirs_of, tiny_bert, tiny_config

RECORDED = GOLDEN / "optim-google"
FACTS = json.loads((RECORDED / "optimizers.json").read_text())
NAMES = [row["name"] for row in FACTS["parameters"]]
GOOGLE_EXCLUDES = re.compile("|".join(FACTS["direct"]["exclude_from_weight_decay"]))  # searched anywhere in the name
FEW = settings(max_examples=40, deadline=None)


def recorded(file: str, dtype=torch.float32) -> tuple[dict, list[dict], Lamb]:
    """The recorded numbers, our groups with the initial values, and the optimizer as Google's was set."""
    arrays = {key: x.to(dtype) if x.is_floating_point() else x for key, x in load_file(RECORDED / file).items()}
    weights = {name: arrays[f"initial/{name}"].clone().requires_grad_() for name in NAMES}
    groups: list[dict] = [{"params": []}, {"params": [], "weight_decay": 0.0, "trust": False}]
    for name, w in weights.items():
        groups[bool(GOOGLE_EXCLUDES.search(name))]["params"].append((name, w))
    return arrays, weights, Lamb(groups, lr=FACTS["direct"]["learning_rate"], trust=file.startswith("lamb"))


# ---- equal to Google's code ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("file", ["lamb.safetensors", "adamw.safetensors"])
def test_parameters_and_both_means_equal_googles_after_each_of_five_steps(file, dtype):
    arrays, weights, optimizer = recorded(file, dtype)
    for n in range(1, 6):
        for name, w in weights.items():
            w.grad = arrays[f"step{n}/gradient/{name}"].clone()
        optimizer.step()
        for name, w in weights.items():
            state = optimizer.state[w]
            for what, ours in (("parameter", w.detach()), ("adam_m", state["m"]), ("adam_v", state["v"])):
                error = (ours - arrays[f"step{n}/{what}/{name}"]).abs().max()
                assert error < 1e-6, f"step {n}, {what} of {name}: {error:.1e}"


@pytest.mark.parametrize("file", ["lamb_full_step.safetensors", "adamw_full_step.safetensors"])
def test_schedule_clipping_and_step_together_equal_googles(file):
    arrays, weights, optimizer = recorded(file)
    full, clipped = FACTS["full_step"], []
    curve = {"peak": full["init_lr"], "total": full["num_train_steps"], "warmup": full["num_warmup_steps"]}
    for n in range(1, 6):
        for name, w in weights.items():
            w.grad = arrays[f"step{n}/gradient/{name}"].clone()
        clipped.append(nn.utils.clip_grad_norm_(weights.values(), 1.0).item() > 1)
        set_rate(optimizer, rate(int(arrays[f"step{n}/global_step_before"]), **curve))
        assert abs(optimizer.param_groups[1]["lr"] - arrays[f"step{n}/learning_rate"]) < 1e-8
        optimizer.step()
        for name, w in weights.items():
            assert (w.detach() - arrays[f"step{n}/parameter/{name}"]).abs().max() < 1e-6, f"step {n}, {name}"
    assert clipped == [True, False, True, False, True]


# Each is one rule broken, so that the arrays are known to be sharp enough. One rule they cannot show: no ratio among
# them is above 1, so that Google's has no upper bound is known from its formula alone.
WRONG = {
    "bias correction": {"bias_correction": True},
    "no decay": {"weight_decay": 0.0},
    "a bound of 0.05 on the ratio": {"max_trust": 0.05},
    "a bound of 0.1 on the weights": {"phi": (0.0, 0.1)},
    "another epsilon": {"eps": 1e-3},
}


@pytest.mark.parametrize("mistake", WRONG)
def test_the_recorded_steps_notice(mistake):
    arrays, weights, optimizer = recorded("lamb.safetensors")
    optimizer.param_groups[0].update(WRONG[mistake])
    for name, w in weights.items():
        w.grad = arrays[f"step1/gradient/{name}"].clone()
    optimizer.step()
    assert max((w.detach() - arrays[f"step1/parameter/{name}"]).abs().max() for name, w in weights.items()) > 2e-5


@pytest.mark.parametrize("schedule", FACTS["schedules"], ids=lambda schedule: schedule["label"])
def test_every_recorded_rate_is_ours_to_float32_except_the_negative_ones(schedule):
    curve = {
        "peak": schedule["init_lr"], "total": schedule["num_train_steps"], "warmup": schedule["num_warmup_steps"],
        "power": schedule["poly_power"], "start": schedule["start_warmup_step"],
    }  # fmt: skip
    for step, google in zip(schedule["steps"], schedule["learning_rate"], strict=True):
        ours = rate(step, **curve)
        if step < curve["start"]:
            assert google < 0 and ours == 0, "not copied: a negative rate climbs the loss"
        else:
            assert abs(ours - google) < 2e-6 * curve["peak"], f"step {step}: {ours}, Google {google}"


def test_the_decay_counts_from_step_0_so_the_rate_drops_when_the_warm_up_ends():
    albert = {"peak": 0.00176, "total": 125_000, "warmup": 3125}
    assert [f"{rate(step, **albert):.7f}" for step in (0, 3124, 3125)] == ["0.0000000", "0.0017594", "0.0017160"]


def norm_of(gradients) -> float:
    return math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))


@FEW
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), st.floats(0.01, 10))
def test_torchs_clipping_is_googles_to_one_part_in_a_million(values, limit):
    w = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    w.grad = torch.tensor(values, dtype=torch.float64)
    google = w.grad * limit / max(norm_of([w.grad]), limit)
    nn.utils.clip_grad_norm_([w], limit)
    assert (w.grad - google).abs().max() <= 1.01e-6 / limit * google.abs().max()


# ---- equal to a loop in plain words ----


def plain_step(w, g, m, v, t, *, lr, betas, eps, weight_decay, trust, bias_correction, phi, max_trust):
    """One step of one tensor, each line as it stands in the paper; returns the new w, m, v and the ratio."""
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    m_hat = m / (1 - betas[0] ** t) if bias_correction else m
    v_hat = v / (1 - betas[1] ** t) if bias_correction else v
    u = m_hat / (v_hat.sqrt() + eps) + weight_decay * w
    w_norm, u_norm = min(max(w.norm().item(), phi[0]), phi[1]), u.norm().item()
    ratio = min(w_norm / u_norm if w_norm > 0 and u_norm > 0 else 1.0, max_trust) if trust else 1.0
    return w - lr * ratio * u, m, v, ratio


options = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([0.0, 1e-3, 0.1]),
        "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)]),
        "eps": st.sampled_from([1e-6, 1e-2]),
        "weight_decay": st.sampled_from([0.0, 0.01, 1.0]),
        "trust": st.booleans(),
        "bias_correction": st.booleans(),
        "phi": st.sampled_from([(0.0, math.inf), (0.0, 10.0), (0.5, 2.0)]),
        "max_trust": st.sampled_from([math.inf, 1.0, 10.0]),
    }
)
shapes = st.lists(st.sampled_from([(), (1,), (5,), (3, 4), (2, 3, 2), (0,), (4, 0)]), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(options, options, shapes, st.integers(0, 2**31), st.data())
def test_all_tensors_at_once_equal_one_after_the_other(first, second, shapes, seed, data):
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        scale = data.draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    owners = [first if i % 2 else second for i in range(len(shapes))]
    weights = [draw(shape).requires_grad_() for shape in shapes]
    groups = [
        {"params": [w for w, owner in zip(weights, owners, strict=True) if owner is o], **o} for o in (first, second)
    ]
    optimizer = Lamb([group for group in groups if group["params"]], lr=9.0)
    for t in (1, 2, 3):  # each from where the optimizer stands: 1e-17 and 0 differ little, their ratios do not
        expected = []
        for w, owner in zip(weights, owners, strict=True):
            w.grad = draw(w.shape)
            m, v = (optimizer.state[w][key].clone() if t > 1 else torch.zeros_like(w) for key in ("m", "v"))
            expected.append(plain_step(w.detach().clone(), w.grad, m, v, t, **owner))
        optimizer.step()
        for w, owner, (new, m, v, ratio) in zip(weights, owners, expected, strict=True):
            state = optimizer.state[w]
            for ours, plain in ((w.detach(), new), (state["m"], m), (state["v"], v)):
                torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
            assert ("trust_ratio" in state) == owner["trust"]
            assert not owner["trust"] or state["trust_ratio"].item() == pytest.approx(ratio, rel=1e-9)


@FEW
@given(shapes, st.integers(0, 2**31), st.sampled_from([0.0, 0.01, 0.5]))
def test_without_trust_and_with_bias_correction_it_is_torchs_adamw(shapes, seed, weight_decay):
    torch.manual_seed(seed)
    ours = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    theirs = [w.detach().clone().requires_grad_() for w in ours]
    a = Lamb(ours, lr=0.01, weight_decay=weight_decay, trust=False, bias_correction=True)
    b = torch.optim.AdamW(theirs, lr=0.01, weight_decay=weight_decay, eps=1e-6)
    for _ in range(4):
        for w, x in zip(ours, theirs, strict=True):
            w.grad = torch.randn_like(w)
            x.grad = w.grad.clone()
        a.step(), b.step()
        for w, x in zip(ours, theirs, strict=True):
            torch.testing.assert_close(w, x, rtol=1e-12, atol=1e-14)


# ---- what the trust ratio is for ----


def one(value, gradient, dtype=torch.float64, **options) -> tuple[torch.Tensor, Lamb]:
    w = torch.tensor(value, dtype=dtype, requires_grad=True)
    w.grad = torch.tensor(gradient, dtype=dtype)
    return w, Lamb([w], **({"lr": 0.1} | options))


@FEW
@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.integers(0, 2**31))
def test_a_step_is_as_long_as_the_rate_times_the_weights_whatever_the_gradient(size, gradient, seed):
    torch.manual_seed(seed)
    w = (torch.randn(4, 3, dtype=torch.float64) * size).requires_grad_()
    before, w.grad = w.detach().clone(), torch.randn(4, 3, dtype=torch.float64) * gradient
    Lamb([w], lr=0.01).step()
    assert (w - before).norm().item() == pytest.approx(0.01 * before.norm().item(), rel=1e-9)


def test_decay_is_beside_the_update_and_not_in_the_gradient():
    w, optimizer = one([2.0, -2.0], [0.0, 0.0], trust=False, weight_decay=0.5)
    optimizer.step()
    assert w.tolist() == [1.9, -1.9]
    assert optimizer.state[w]["m"].tolist() == [0.0, 0.0] and optimizer.state[w]["v"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "value, gradient, decay", [([0.0, 0.0], [1.0, 2.0], 0.01), ([1.0, 2.0], [0.0, 0.0], 0.0), ([0.0], [0.0], 0.01)]
)
def test_the_ratio_is_1_where_the_weights_or_the_update_are_zero(value, gradient, decay):
    _, optimizer = one(value, gradient, weight_decay=decay)
    optimizer.step()
    assert optimizer.trust_ratios() == {0: 1.0}


def test_a_parameter_of_zeros_leaves_zero():
    w, optimizer = one([[0.0, 0.0]], [[1.0, -1.0]])
    optimizer.step()
    assert w[0, 0] < 0 < w[0, 1]


def test_phi_bounds_the_length_of_the_weights_and_max_trust_the_ratio():
    for limits, expected in (
        ({"eps": 1e-12}, 5 / 1.0),
        ({"eps": 1e-12, "phi": (0.0, 2.0)}, 2.0),
        ({"eps": 1e-12, "phi": (8.0, 9.0)}, 8.0),
        ({"eps": 1e-12, "max_trust": 1.0}, 1.0),
    ):
        _, optimizer = one([5.0], [3.0], betas=(0.0, 0.0), weight_decay=0.0, **limits)
        optimizer.step()
        assert optimizer.trust_ratios()[0] == pytest.approx(expected)


# ---- which parameters ----


def heads(config):
    return minialbert.AlbertForPreTraining(config)


SPLITS = {"albert": tiny_config(), "bert": tiny_bert(), "no projection": tiny_config(embedding_size=12)}


@pytest.mark.parametrize("kind", SPLITS)
def test_the_split_is_googles_by_googles_names(kind):
    config = SPLITS[kind]
    model = heads(config)
    kept, excluded = parameter_groups(model, weight_decay=0.3)
    assert kept["weight_decay"] == 0.3 and excluded["weight_decay"] == 0 and excluded["trust"] is False
    split = {name: False for name, _ in kept["params"]} | {name: True for name, _ in excluded["params"]}
    assert len(split) == len(kept["params"]) + len(excluded["params"]) == len(list(model.named_parameters()))
    compared = 0
    for google, ours in expand(config, "google").items():
        for name in (ours, f"albert.{ours}"):
            if name in split:
                assert split[name] == bool(GOOGLE_EXCLUDES.search(google)), f"{name}, {google}"
                compared += 1
    assert compared == len(split)
    assert not split["albert.embeddings.word.weight"] and split["albert.embeddings.norm.weight"] and split["mlm.bias"]
    assert all(excluded == (p.ndim < 2) for (name, p) in model.named_parameters() for excluded in [split[name]])


def test_the_split_of_hugging_faces_model_is_googles_too():
    config = tiny_config()
    model = theirs_of(config, "ForPreTraining")
    kept, excluded = parameter_groups(model)
    names = re.compile("LayerNorm|layer_norm|bias")
    assert not any(names.search(name) for name, _ in kept["params"])
    assert all(names.search(name) for name, _ in excluded["params"])


def test_a_tied_parameter_is_there_once_and_a_group_without_parameters_is_not():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    (group,) = parameter_groups(model)
    assert [name for name, _ in group["params"]] == ["a.weight"]
    assert Lamb([group], lr=0.1).param_groups[0]["param_names"] == ["a.weight"]
    (group,) = parameter_groups(nn.LayerNorm(3))
    assert group["trust"] is False


def test_biases_and_layernorm_take_the_plain_adam_update_without_decay():
    model, torchs = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).double(), nn.Sequential()
    torchs = copy.deepcopy(model)
    a = Lamb(parameter_groups(model, weight_decay=0.5), lr=0.1, bias_correction=True)
    b = torch.optim.AdamW(torchs.parameters(), lr=0.1, eps=1e-6, weight_decay=0.0)
    for m in (model, torchs):
        m(torch.arange(6.0).view(2, 3).double()).pow(3).sum().backward()
    a.step(), b.step()
    for (name, x), y in zip(model.named_parameters(), torchs.parameters(), strict=True):
        assert torch.allclose(x, y, rtol=1e-12) == (name != "0.weight"), name
    assert list(a.trust_ratios()) == ["0.weight"]


def test_ratios_are_read_by_name_and_only_after_a_step():
    model = heads(tiny_config())
    optimizer = Lamb(parameter_groups(model), lr=0.01)
    assert optimizer.trust_ratios() == {}
    model.albert.pooler.weight.grad = torch.ones_like(model.albert.pooler.weight)
    model.mlm.bias.grad = torch.ones_like(model.mlm.bias)
    optimizer.step()
    ((name, ratio),) = optimizer.trust_ratios().items()
    assert name == "albert.pooler.weight" and type(ratio) is float and ratio > 0


def test_a_parameter_without_a_gradient_is_left_alone_and_gets_no_state():
    moved, still, optimizer = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), None
    optimizer = Lamb([moved, still], lr=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert still.tolist() == [1, 1] and still not in optimizer.state and (moved != 1).all()
    still.grad = torch.ones(2)
    optimizer.step()
    assert (optimizer.state[moved]["step"], optimizer.state[still]["step"]) == (2, 1)
    Lamb([torch.ones(2, requires_grad=True)], lr=0.1).step()


def test_parameters_of_two_dtypes_go_together():
    single, double = torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)
    single.grad, double.grad = torch.ones(3), torch.ones(3, dtype=torch.float64)
    optimizer = Lamb([single, double], lr=0.1)
    optimizer.step()
    assert torch.allclose(single.double(), double) and single.dtype == torch.float32
    assert optimizer.trust_ratios()[0] == pytest.approx(optimizer.trust_ratios()[1])


# ---- saving and going on ----


def trained(steps: range, model, optimizer):
    """Steps whose batch and rate depend on the number of the step alone."""
    config = model.config
    for step in steps:
        batch = random_batch(config, seed=step)
        loss = model(**batch, labels=batch["input_ids"], sentence_order_label=torch.tensor([0, 1, 1])).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_rate(optimizer, rate(step, peak=0.02, total=12, warmup=3))
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"trust": False}, {"bias_correction": True, "phi": (0.0, 10.0)}], ids=str)
def test_ten_steps_are_five_and_five_bit_for_bit(options):
    def new():
        torch.manual_seed(0)
        model = heads(tiny_config(hidden_dropout_prob=0.0))
        return model, Lamb(parameter_groups(model), lr=0.0, **options)

    model, optimizer = new()
    trained(range(10), model, optimizer)
    first, before = new()
    trained(range(5), first, before)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": before.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    second, after = new()
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    assert after.trust_ratios() == before.trust_ratios()
    trained(range(5, 10), second, after)
    for (name, x), y in zip(model.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(x, y), name
        for key, value in optimizer.state[x].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after.state[y][key])), f"{key} of {name}"
    assert str(optimizer) == str(after)


def test_a_copy_of_the_optimizer_still_knows_its_ratios():
    _, optimizer = one([1.0], [1.0])
    optimizer.step()
    assert copy.deepcopy(optimizer).trust_ratios() == optimizer.trust_ratios()
    assert "trust: True" in repr(optimizer)


def test_the_state_of_another_optimizer_or_another_model_is_refused():
    model, other = nn.Sequential(nn.Linear(2, 2)), nn.ModuleDict({"up": nn.Linear(2, 2)})
    optimizer = Lamb(parameter_groups(model), lr=0.1)
    with pytest.raises(InputError, match="of another optimizer, expected one that Lamb"):
        optimizer.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())
    with pytest.raises(InputError, match=r"parameter 0 of the state is up.weight, expected 0.weight; give Lamb"):
        optimizer.load_state_dict(Lamb(parameter_groups(other), lr=0.1).state_dict())
    optimizer.load_state_dict(Lamb(parameter_groups(model), lr=0.1).state_dict())


# ---- what cannot be trained ----

BAD = {
    "lr=-1": {"lr": -1},
    "lr=nan": {"lr": math.nan},
    r"betas=\(0.9, 1.0\), expected 0 <= beta < 1": {"betas": (0.9, 1.0)},
    r"betas=\(1.0, 0.9\), expected 0 <= beta < 1": {"betas": (1.0, 0.9)},
    "eps=0, expected 0 < eps": {"eps": 0},
    "weight_decay=-0.1": {"weight_decay": -0.1},
    r"phi=\(10.0, 1.0\), expected 0 <= low <= high": {"phi": (10.0, 1.0)},
    "max_trust=0": {"max_trust": 0},
}


@pytest.mark.parametrize("words", BAD)
def test_an_option_out_of_range_is_refused_in_one_line(words):
    for params in (
        [torch.zeros(2, requires_grad=True)],
        [{"params": [torch.zeros(2, requires_grad=True)], **BAD[words]}],
    ):
        with pytest.raises(InputError, match=words) as error:
            Lamb(params, **({"lr": 0.1} | BAD[words]))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_other_numbers_than_float32_are_refused_by_name(dtype):
    optimizer = Lamb([("first", torch.zeros(2, requires_grad=True))], lr=0.1)
    with pytest.raises(InputError, match=f"parameter second is {dtype}, expected float32") as error:
        optimizer.add_param_group({"params": [("second", torch.zeros(2, dtype=dtype, requires_grad=True))]})
    assert "\n" not in str(error.value) and len(optimizer.param_groups) == 1


def test_the_reason_to_refuse_bfloat16_is_true():
    torch.manual_seed(0)
    w, g = torch.randn(100, 100), torch.randn(100, 100)
    step = 0.00176 * w.norm() * g.sign() / g.sign().norm()  # as long as LAMB's at ALBERT's highest rate
    low = w.bfloat16()
    stuck = ((low - step.bfloat16()) == low).float().mean()
    assert 0.55 < stuck < 0.65
    assert ((w - step) != w).all()


def test_a_sparse_gradient_is_refused_before_anything_has_moved():
    dense, table = torch.ones(2, requires_grad=True), nn.Embedding(5, 2, sparse=True)
    optimizer = Lamb([{"params": [("dense", dense)]}, {"params": [("table", table.weight)]}], lr=0.1)
    (table(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(
        InputError, match=r"the gradient of table is torch.sparse_coo; make its embedding with sparse=F"
    ):
        optimizer.step()
    assert dense.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("trust", [True, False])
def test_a_gradient_that_is_not_finite_is_not_hidden(bad, trust):
    w, optimizer = one([1.0, 2.0], [bad, 1.0], trust=trust)
    optimizer.step()
    assert w.isnan()[0]
    assert w.isnan().all() == trust, "the ratio carries it to the whole tensor"
    assert all(math.isnan(ratio) for ratio in optimizer.trust_ratios().values())


# ---- the rate ----

curves = st.integers(1, 5000).flatmap(
    lambda total: st.fixed_dictionaries(
        {
            "total": st.just(total),
            "warmup": st.integers(0, total),
            "peak": st.floats(0, 10),
            "power": st.floats(0.1, 5),
        }
    )
)


@FEW
@given(curves, st.integers(0, 6000))
def test_a_rate_is_between_0_and_the_peak_rises_in_the_warm_up_and_falls_after(curve, step):
    now, then = rate(step, **curve), rate(step + 1, **curve)
    assert 0 <= now <= curve["peak"]
    assert now <= then if step + 1 < curve["warmup"] else step + 1 == curve["warmup"] or then <= now
    assert rate(curve["total"] + step, **curve) == 0
    if curve["warmup"]:
        assert rate(0, **curve) == 0


@FEW
@given(curves, st.data())
def test_a_start_moves_the_warm_up_and_nothing_else(curve, data):
    start = data.draw(st.integers(0, curve["total"] - curve["warmup"]))
    step = data.draw(st.integers(0, curve["total"]))
    moved = rate(step, start=start, **curve)
    if step >= start + curve["warmup"] or not curve["warmup"]:
        assert moved == rate(step, **(curve | {"warmup": 0}))
    else:
        assert moved == curve["peak"] * max(0, step - start) / curve["warmup"]


@pytest.mark.parametrize(
    "step, changes",
    [(-1, {}), (0, {"peak": -1.0}), (0, {"peak": math.inf}), (0, {"peak": math.nan}), (0, {"power": 0.0}),
     (0, {"total": 0}), (0, {"warmup": -1}), (0, {"warmup": 11}), (0, {"start": -1}), (0, {"start": 9})],
)  # fmt: skip
def test_numbers_that_describe_no_curve_are_refused_in_one_line(step, changes):
    with pytest.raises(InputError, match="expected") as error:
        rate(step, **({"peak": 1.0, "total": 10, "warmup": 2} | changes))
    assert "\n" not in str(error.value)


def test_the_rate_for_a_batch_follows_the_square_root():
    assert scaled_rate(4096) == 0.00176 and scaled_rate(1024) == 0.00088
    assert scaled_rate(4096, peak=0.005, reference=32768) == pytest.approx(0.00176, rel=0.005), (
        "the paper's is ALBERT's"
    )
    with pytest.raises(InputError, match="batch=0"):
        scaled_rate(0)


# ---- in use ----


def test_set_rate_reaches_every_group_and_a_rate_of_0_moves_nothing():
    model = nn.Linear(2, 2)
    optimizer = Lamb(parameter_groups(model), lr=0.1)
    set_rate(optimizer, 0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("trust", [True, False])
def test_a_small_regression_is_learnt_through_a_closure(trust):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]]) + 0.7
    optimizer = Lamb(parameter_groups(model, weight_decay=0.0), lr=0.0, trust=trust)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).pow(2).mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    for step in range(600):
        set_rate(optimizer, rate(step, peak=0.05, total=600, warmup=20))
        last = optimizer.step(closure)
    assert first > 1 and last < 1e-3
    assert optimizer.step() is None
