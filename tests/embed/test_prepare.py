"""Windows over long texts: every token once, from the window where it stands farthest from an edge."""

from hypothesis import given
from hypothesis import strategies as st

from minialbert.embed.prepare import chunks, windows_of


@given(st.integers(5, 300), st.integers(4, 40))
def test_every_token_is_taken_once_and_in_order(length, limit):
    ids = list(range(1000, 1000 + length))
    if length <= limit:
        return
    windows, rows = windows_of(ids, limit)
    flat = [number for window in windows for number in window]
    assert [flat[row] for row in rows] == ids
    assert all(len(window) <= limit and window[0] == ids[0] and window[-1] == ids[-1] for window in windows)


@given(st.integers(20, 300), st.integers(12, 40))
def test_a_token_comes_from_the_window_where_it_is_farther_from_an_edge(length, limit):
    ids = list(range(1000, 1000 + length))
    if length <= limit:
        return
    windows, rows = windows_of(ids, limit)
    starts = [sum(map(len, windows[:n])) for n in range(len(windows))]
    for row, number in list(zip(rows, ids, strict=True))[1:-1]:
        places = [(n, window.index(number)) for n, window in enumerate(windows) if number in window[1:-1]]
        # distance to the edges inside the text; the first and the last window have no edge on the outside
        distance = {
            n: min(
                place if n else length,
                len(windows[n]) - 1 - place if n < len(windows) - 1 else length,
            )
            for n, place in places
        }
        chosen = max(n for n in range(len(windows)) if starts[n] <= row)
        assert distance[chosen] >= max(distance.values()) - 1


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 20))
def test_chunks_keep_order_and_stay_below_the_budget(lengths, most):
    parts = list(chunks(list(range(len(lengths))), lengths, most))
    assert [n for part in parts for n in part] == list(range(len(lengths)))
    assert all(len(part) == 1 or sum(lengths[n] for n in part) <= most for part in parts)
