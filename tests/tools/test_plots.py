"""Figures: each shows its array, says in words what it shows, and no text lies on another or outside."""

import itertools
import json
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minialbert import AlbertForPreTraining
from minialbert.errors import FileError, InputError
from minialbert.sharing import gradient_by_visit
from minialbert.tools import lens, plot_style, plots
from minialbert.tools.ask import load_with_head

SHORT = "The capital of France is [MASK], on the Seine."
LONG = (
    "The old bridge across the river was closed for three months while engineers looked at the damage that the flood "
    "of last spring had done, and at $5 for $6."
)
NAMES = ("attention_map", "attention_grid", "rollout", "importance", "lens_table", "paths", "distances", "similarity",
         "visits", "probe")  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    """What lens.py and sharing.py tell of the shipped model, for a short text and one of more than 30 tokens."""
    model, tokenizer = load_with_head(AlbertForPreTraining, None)
    everything = {}
    for name, text in (("short", SHORT), ("long", LONG)):
        batch, texts = tokenizer([text]), tokenizer([text, "She put the money in the bank."])
        loss = lambda m, texts=texts: m(**texts, labels=torch.as_tensor(texts.input_ids)).loss  # noqa: E731
        found = lens.logit_lens(model, batch)
        everything[name] = {
            "drawn": {},
            "tokens": batch.tokens[0],
            "maps": lens.attention_maps(model, batch),
            "importance": lens.head_importance(model, batch).divergence,
            "pieces": [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in found.ids[:, 0, :, 0]],
            "chances": found.probabilities[:, 0, :, 0],
            "path": lens.token_path(model, batch),
            "distances": lens.layer_distances(model, texts),
            "deeper": lens.layer_distances(model, texts, depth=30),
            "similarity": lens.position_similarity(model, texts),
            "gradients": gradient_by_visit(model, loss),
        }
    assert len(everything["short"]["tokens"]) < 18 and len(everything["long"]["tokens"]) >= 30
    return everything


def draw(name, seen):
    """A figure of what was seen, the same one each time."""
    if name not in seen["drawn"]:
        seen["drawn"][name] = new(name, seen)
    return seen["drawn"][name]


def new(name, seen):
    tokens, maps = seen["tokens"], seen["maps"]
    scores = {"mean": [0.5, 0.6, 0.63, 0.7, 0.72, 0.71, 0.69], "cls": [0.1, 0.4, 0.5, 0.55, 0.6, 0.62, 0.6]}
    return {
        "attention_map": lambda: plots.attention_map(maps[2][0, 1], tokens, layer=3, head=1),
        "attention_grid": lambda: plots.attention_grid(maps),
        "rollout": lambda: plots.rollout(lens.attention_rollout(maps)[-1, 0], tokens),
        "importance": lambda: plots.importance(seen["importance"], "divergence of the words (nats)"),
        "lens_table": lambda: plots.lens_table(seen["pieces"], seen["chances"], tokens),
        "paths": lambda: plots.paths(seen["path"].points, tokens, seen["path"].share),
        "distances": lambda: plots.distances({"the shipped model": seen["distances"], "30 visits": seen["deeper"]}),
        "similarity": lambda: plots.similarity(seen["similarity"]._asdict()),
        "visits": lambda: plots.visits(seen["gradients"]),
        "probe": lambda: plots.probe(scores, list(range(7)), "accuracy", {"majority": 0.05, "bag of words": 0.66}),
    }[name]()


def texts_of(figure):
    """Every text that is drawn, with its box: labels of ticks outside the axes are not."""
    if not getattr(figure, "laid_out", False):
        figure.draw_without_rendering()
    figure.laid_out = True
    found = []
    for axes in [*figure.axes, *(child for a in figure.axes for child in a.child_axes)]:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted((low, high))
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            found += [(text, axes) for place, text in ticks if low <= place <= high and axis.get_visible()]
            found += [(axis.label, axes)]
        found += [(text, axes) for text in (*axes.texts, axes.title, axes._left_title)]
    found += [(text, None) for text in figure.texts] + [(text, None) for box in figure.legends for text in box.texts]
    titles = (figure._suptitle, figure._supxlabel, figure._supylabel)
    found += [(text, None) for text in titles if text is not None and text not in figure.texts]
    unique = {id(text): (text, axes) for text, axes in found if text.get_text() and text.get_visible()}
    return [(text.get_text(), text.get_window_extent(), axes) for text, axes in unique.values()]


def overlap(a, b):
    """By more than a third of a point, the blank margin of a box."""
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5


def misplaced(figure):
    """What lies on something else, or sticks out of the figure."""
    boxes = texts_of(figure)
    wrong = [(a, b) for (a, box, _), (b, other, _) in itertools.combinations(boxes, 2) if overlap(box, other)]
    page = figure.bbox
    for said, box, own in boxes:
        wrong += [(said, "axes") for axes in figure.axes if axes is not own and overlap(box, axes.get_window_extent())]
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1:
            wrong.append((said, "the edge"))
    return wrong


WITH_TOKENS = ("attention_map", "rollout", "lens_table", "paths")


@pytest.mark.parametrize("name, text", [(n, "short") for n in NAMES] + [(n, "long") for n in WITH_TOKENS])
def test_no_text_lies_on_another_on_other_axes_or_outside_the_figure(seen, name, text):
    figure = draw(name, seen[text])
    assert misplaced(figure) == [] and len(texts_of(figure)) >= 6


def test_the_check_notices_a_text_that_is_misplaced(seen):
    figure = draw("distances", seen["short"])
    left, right = figure.axes
    for x, y, what in (
        (0.5, 0.5, right),
        (1.2, 0.5, left),
        (-0.1, 0.0, left),
    ):  # fine; on other axes; on a tick's label
        what.text(x, y, "misplaced", transform=what.transAxes)
    assert {b for a, b in misplaced(figure) if a == "misplaced"} == {"axes"}
    assert any(b == "misplaced" for a, b in misplaced(figure))


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_title_named_axes_and_its_story_in_words(seen, name):
    figure = draw(name, seen["short"])
    alt = plots.alt_text(figure)
    assert len(alt) > 60 and alt.endswith(".") and any(c.isdigit() for c in alt)
    titles = [axes.get_title(loc="left") for axes in figure.axes] + [figure.get_suptitle()]
    assert any(titles)
    named = [axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes]
    assert any(named) or (figure.get_supxlabel() and figure.get_supylabel())
    width, height = figure.get_size_inches()
    assert 2.5 < width < 6.6 and 2 < height < 5


def images(figure):
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def test_heat_maps_hold_the_arrays_they_were_given(seen):
    short = seen["short"]
    maps, (A, L) = short["maps"], (4, 6)
    assert np.array_equal(images(draw("attention_map", short))[0], maps[2][0, 1].double())
    grid = images(draw("attention_grid", short))
    for head, layer in np.ndindex(A, L):
        assert np.array_equal(grid[head * L + layer], maps[layer][0, head].double())
    assert np.array_equal(images(draw("rollout", short))[0], lens.attention_rollout(maps)[-1, 0])
    assert np.array_equal(images(draw("importance", short))[0], short["importance"].T)
    table = draw("lens_table", short)
    assert np.array_equal(images(table)[0], short["chances"].double().T)
    cells = {(*map(int, text.get_position()),): text.get_text() for text in table.axes[0].texts}
    for layer, position in np.ndindex(7, len(short["tokens"])):
        assert cells[layer, position] == short["pieces"][layer][position].replace("▁", "_")[:11]


def test_padding_is_left_out_by_its_mask_on_whichever_side(seen):
    maps, tokens = seen["short"]["maps"][2][0, 1], seen["short"]["tokens"]
    T = len(tokens)
    for left, right in ((0, 3), (2, 0)):
        padded = torch.nn.functional.pad(maps, (left, right, left, right), value=0.9)
        mask = torch.tensor([0] * left + [1] * T + [0] * right)
        names = ["[PAD]"] * left + list(tokens) + ["[PAD]"] * right
        for figure, axes in (
            (plots.attention_map(padded, names, mask=mask), "key"),
            (plots.rollout(padded, names, mask), "input"),
        ):
            assert np.array_equal(images(figure)[0], maps.double()) and "[PAD]" not in plots.alt_text(figure)
            assert len(figure.axes[0].get_xticks()) == T and axes in figure.axes[0].get_xlabel()
    assert plots.alt_text(plots.attention_map(maps, tokens, 3, 1)) == plots.alt_text(
        draw("attention_map", seen["short"])
    )


def test_seeds_with_the_same_numbers_are_one_line_that_says_so_and_none_hides_another():
    curves = [(0.3, 0.5), (0.3, 0.8), (0.3, 0.8), (0.2, 0.2), (0.2, 0.2), (0.3, 0.7)]
    seeds = [{"seed": n, "history": [{"goal": goal} for goal in curve]} for n, curve in enumerate(curves)]
    figure = plots.tuning({"goal": "macro_f1", "best_seed": 1, "floor": 0.1, "seeds": seeds})
    found = {tuple(line.get_ydata()): line for line in figure.axes[0].lines[:-1]}
    assert list(found) == list(dict.fromkeys(curves)) and len(figure.axes[0].lines) == 5
    kept = found[curves[1]]
    for values, line in found.items():
        assert line is kept or (line.get_linewidth() < kept.get_linewidth() and line.get_zorder() > kept.get_zorder())
        assert line is kept or line.get_markersize() < kept.get_markersize(), values
    told = [text.get_text() for text in figure.legends[0].texts]
    assert told == ["seed 1, kept (seeds 1, 2: the same)", "seeds 3, 4: the same", "without looking"]
    assert "seed 2 ends at 0.8" in plots.alt_text(figure) and misplaced(figure) == []


def test_lines_and_bars_hold_the_numbers_they_were_given(seen):
    short = seen["short"]
    l2, degrees, *_ = draw("distances", short).axes
    assert np.array_equal(l2.lines[0].get_ydata(), short["distances"].l2) and l2.lines[0].get_xdata()[0] == 1
    assert np.array_equal(degrees.lines[1].get_ydata(), short["deeper"].degrees)
    curves = draw("similarity", short).axes[0].lines
    for curve, values in zip(curves[:3], short["similarity"], strict=True):
        assert np.array_equal(curve.get_ydata(), values)
    assert curves[3].get_ydata()[0] == lens.ALIKE
    bars = draw("visits", short).axes[0].containers
    for part, container in zip(("attention", "ffn"), bars, strict=True):
        mine = [x for name, x in short["gradients"].items() if name.startswith(part)]
        norms = [torch.cat([x[layer].double().flatten() for x in mine]).norm().item() for layer in range(6)]
        assert [bar.get_height() for bar in container] == pytest.approx(norms)
    paths = draw("paths", short).axes[0].lines
    for t in range(len(short["tokens"])):
        assert np.array_equal(np.array(paths[t].get_data()).T, short["path"].points[:, t])


def test_what_the_alternative_text_claims_is_so(seen):
    short = seen["short"]
    values, tokens = short["maps"][2][0, 1], short["tokens"]
    t, k = divmod(values.argmax().item(), len(tokens))
    assert plots.alt_text(draw("attention_map", short)).endswith(
        f"Largest: {tokens[t]!r} looks at {tokens[k]!r} with probability {values.max():.2f}."
    )
    assert f"itself, but for {short['pieces'][-1][0]!r} for '[CLS]'" in plots.alt_text(draw("lens_table", short))
    assert "Best: mean at layer 4, 0.72. Baselines: majority 0.05" in plots.alt_text(draw("probe", short))


# ---- writing ----


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_saving_writes_the_alternative_text_into_the_file_and_the_same_bytes_twice(seen, tmp_path, ending):
    figure = new("similarity", seen["short"])
    plots.save(figure, tmp_path / f"a{ending}")
    plots.save(new("similarity", seen["short"]), tmp_path / f"b{ending}")
    content = (tmp_path / f"a{ending}").read_bytes()
    assert content == (tmp_path / f"b{ending}").read_bytes() and len(list(tmp_path.iterdir())) == 2
    if ending == ".png":
        assert Image.open(tmp_path / "a.png").text["Description"] == plots.alt_text(figure)
    elif ending == ".svg":
        tree = ElementTree.fromstring(content)
        said = [element.text for element in tree.iter() if element.tag.endswith("description")]
        assert said == [plots.alt_text(figure)]
    else:
        assert plots.alt_text(figure).encode() in content


def test_a_figure_that_cannot_be_written_leaves_nothing(seen, tmp_path):
    figure = new("probe", seen["short"])
    with pytest.raises(InputError, match=r"a\.jpg: a figure is written as \.png, \.svg, \.pdf, by its ending"):
        plots.save(figure, tmp_path / "a.jpg")
    with pytest.raises(FileError, match="cannot be written"):
        plots.save(figure, tmp_path / "nowhere" / "a.png")
    figure.savefig = lambda *_, **__: (tmp_path / ".a.png.half").touch() or (_ for _ in ()).throw(KeyboardInterrupt)
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old"


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FileError) as error:
        plots.attention_map([[1.0]], ["a"])
    assert str(error.value) == 'matplotlib is not installed, and figures need it: pip install "minialbert[plots]"'
    with pytest.raises(FileError, match="matplotlib is not installed"):
        plots.check_target("before the work.png")


def test_a_notebook_gets_the_picture_with_its_alternative_text_without_pyplot(seen, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    figure = new("probe", seen["short"])
    data, about = figure._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR") and about["image/png"]["alt"] == plots.alt_text(figure)
    json.dumps(data)


def test_drawing_leaves_the_readers_settings_alone(seen):
    before = dict(matplotlib.rcParams)
    new("distances", seen["short"])
    assert dict(matplotlib.rcParams) == before


# ---- what it must bear ----


@pytest.mark.parametrize("tokens", [["a"], ["$x$", "a\nb", "\x00"], ["日本", "שלום", "🙂🙂", "▁" * 200]])
def test_hostile_tokens_stay_labels(tokens, recwarn):
    T = len(tokens)
    probs = torch.full((T, T), 1 / T)
    chances = torch.rand(2, T)
    points = torch.rand(3, T, 2)
    for figure in (
        plots.attention_map(probs, tokens), plots.rollout(probs, tokens), plots.attention_grid([probs[None, None]]),
        plots.lens_table([tokens, tokens], chances, tokens), plots.paths(points, tokens), plots.importance(probs),
        plots.importance(torch.zeros(1, 1)),
    ):  # fmt: skip
        assert all("\n" not in said and len(said) <= 60 for said, *_ in texts_of(figure))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_labels_at_the_sides_stay_inside_in_order_and_apart(wanted):
    heights = plots.spread(np.sort(wanted))
    gap = min(0.06, 1 / max(1, len(wanted) - 1))
    assert heights.min() >= -1e-9 and heights.max() <= 1 + 1e-9
    assert (np.diff(heights) >= gap - 1e-9).all()
    alone = np.array([0.1, 0.5, 0.9])
    assert np.allclose(plots.spread(alone), alone), "labels that are far apart stay where they belong"


def contrast(a, b):
    def light(color):
        parts = np.array(matplotlib.colors.to_rgb(color))
        parts = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return parts @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


def test_pieces_can_be_read_on_every_shade_and_shades_grow_darker_all_the_way():
    chances = torch.linspace(0, 1, 201)[None]
    figure = plots.lens_table([["x"] * 201], chances, ["x"] * 201)
    shades = matplotlib.colormaps[plot_style.MAP](chances[0].numpy())[:, :3]
    for text, shade in zip(figure.axes[0].texts, shades, strict=True):
        assert contrast(text.get_color(), shade) >= 4.5
    light = [contrast(shade, "black") for shade in shades]
    assert (np.diff(light) <= 0).all()
    assert min(contrast(color, "white") for color in plot_style.COLORS[:3]) > 3


def test_arrays_that_do_not_fit_are_refused_in_one_line():
    tokens, eye = ["a", "b"], torch.eye(2)
    for call, line in (
        (lambda: plots.attention_map(torch.eye(3), tokens), r"the map is \[3, 3\], and there are 2 tokens"),
        (lambda: plots.attention_map(eye[None], tokens), r"the map is \[1, 2, 2\], expected 2 axes"),
        (lambda: plots.rollout(torch.empty(0, 0), []), r"the rollout is \[0, 0\], expected 2 axes with something"),
        (lambda: plots.attention_map(eye, tokens, mask=[1]), "the mask has 1 real of 1 tokens, expected 2"),
        (lambda: plots.rollout(eye, tokens, [0, 0]), "the mask has 0 real of 2 tokens, expected 2, one of them real"),
        (lambda: plots.attention_grid([]), "no map"),
        (lambda: plots.attention_grid([eye]), r"a map is \[2, 2\], expected 4 axes"),
        (lambda: plots.importance(torch.ones(3)), r"importance is \[3\], expected 2 axes"),
        (lambda: plots.lens_table([tokens], eye, tokens), r"probabilities are \[2, 2\]: as many layers"),
        (lambda: plots.paths(torch.ones(3, 2, 3), tokens), r"points are \[3, 2, 3\], expected \[L \+ 1, 2, 2\]"),
        (lambda: plots.distances({}), "no model in the dictionary"),
        (lambda: plots.similarity({}), "none has a value"),
        (lambda: plots.similarity({"a": [0.1], "b": [0.1, 0.2]}), "different lengths"),
        (lambda: plots.visits({}), "gradients by visit are a dictionary"),
        (lambda: plots.probe({"mean": [0.1]}, [0, 1], "accuracy", {}), "scores are a dictionary of pooling: 2 numbers"),
    ):
        with pytest.raises(InputError, match=line):
            call()
