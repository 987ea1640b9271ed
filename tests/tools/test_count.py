"""Counting a call: against figures done by hand, torch's own FLOP counter, and torch's own record of its allocator."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from minialbert import AlbertModel, Editor
from minialbert.tools.count import counted
from tests.conftest import tiny_bert, tiny_config

IDS = torch.ones(2, 9, dtype=torch.long)


def test_the_peak_is_what_was_alive_together():
    def work():
        x = torch.zeros(1000)  # 4000 bytes
        y = x + 1  # 8000
        del x  # 4000
        z = y.view(10, 100)[2:]  # a view is no new storage
        z += 1  # nor is work in place
        del y  # z still holds it
        (z * 2).sum()  # 3200 and 4 more

    assert counted(work) == (0, 8000, 0)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_peak_follows_any_order_of_making_and_dropping(steps):
    sizes, slots, highest = dict.fromkeys(range(6), 0), {}, 0
    for size, slot in steps:  # the old one is alive until the new one is there
        highest = max(highest, sum(sizes.values()) + 4 * size)
        sizes[slot] = 4 * size

    def work():
        for size, slot in steps:
            slots[slot] = torch.zeros(size)
        slots.clear()

    assert counted(work).peak_bytes == highest


def test_inputs_and_parameters_are_not_counted_and_a_shared_storage_once():
    linear, x = torch.nn.Linear(8, 8, bias=False), torch.zeros(4, 8)

    def work():
        first = linear(x)  # keeps x and the weight, that were there before
        return (first * first.view(4, 8)).exp()  # keeps `first` twice, and what exp gives

    assert counted(work).saved_bytes == 2 * 4 * 8 * 4


@pytest.mark.parametrize("config", [tiny_config(), tiny_bert(), tiny_config(num_hidden_groups=2, inner_group_num=3)])
def test_flops_are_those_of_the_counter_of_torch(config):
    """Torch's counter does not know the fused attention of a CPU, so for this test the attention is written out."""
    model, write_out = AlbertModel(config), Editor("attention.probs", fn=lambda probs: probs + 0)

    def step():
        out = model(IDS, tap=write_out)
        (out.last_hidden_state.sum() + out.pooler_output.sum()).backward()

    with FlopCounterMode(display=False) as theirs:
        step()
    assert counted(step).flops == theirs.get_total_flops()
    with torch.no_grad():
        assert counted(lambda: model(IDS)).flops == counted(lambda: model(IDS, tap=write_out)).flops  # fused = written


def test_modes_without_gradients_count_the_same():
    model = AlbertModel(tiny_config()).eval()

    def without(mode):
        def work():
            with mode():
                model(IDS)

        return counted(work)

    assert without(torch.inference_mode) == without(torch.no_grad)
    assert without(torch.no_grad).saved_bytes == 0 < counted(lambda: model(IDS)).saved_bytes


def test_counting_changes_no_number():
    model, seen = AlbertModel(tiny_config()).eval(), []
    counted(lambda: seen.append(model(IDS).last_hidden_state))
    assert torch.equal(seen[0], model(IDS).last_hidden_state)


def allocated(fn) -> int:
    """The highest sum of what torch's allocator gave and took, as the profiler recorded it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        fn()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


@pytest.mark.parametrize("changes", [{}, {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}])
def test_the_peak_is_that_of_the_allocator(changes):
    config = tiny_config(embedding_size=32, hidden_size=64, num_attention_heads=4, intermediate_size=256, **changes)
    model, ids = AlbertModel(config), torch.ones(8, 16, dtype=torch.long)

    def forward():
        with torch.inference_mode():
            model.eval()(ids)

    def step():
        out = model.train()(ids)
        (out.last_hidden_state.sum() + out.pooler_output.sum()).backward()

    for work in (forward, step):
        work()
        model.zero_grad(set_to_none=True)
        peak = counted(work).peak_bytes
        model.zero_grad(set_to_none=True)
        assert abs(allocated(work) - peak) <= 64  # [[0]], the token types that were not given, is made by no operation
        model.zero_grad(set_to_none=True)
