"""Heat maps, curves and the report sheet show what they say."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_reference

from magictailor.errors import InputError
from magictailor.report.comparison import combinations, comparison_sheet
from magictailor.report.curves import DOTS_PER_INCH, trailing_mean, wrapped
from magictailor.report.fonts import missing_letters
from magictailor.report.grid import labelled_grid
from magictailor.report.heatmaps import COLOURS, OPACITY, captioned, heat_map, word_attention
from magictailor.report.sheet import (
    CURVES,
    LINE,
    WIDTH,
    Row,
    learned_from,
    lines_of,
    live_picture,
    reference_names,
    training_report,
)
from magictailor.sampling import Sketcher
from magictailor.training import StepReport, Training


def attention_of(model, prompt, words, noise_level=400 / 999):
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    return word_attention(model, latents, noise, noise_level, prompt, words)


def test_attention_of_a_training_prompt_is_what_the_loss_reads(make_model, config):
    model = make_model(config)
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    timestep = torch.tensor([400])
    model.capture.start(model.token_columns()[:1])
    with torch.no_grad():
        noisy = model.schedule.add_noise(latents, noise, timestep)
        model.unet(noisy, timestep, model.prompts().hidden[:1])
    expected = model.capture.mean_map((8, 8))
    assert torch.allclose(attention_of(model, "A photo of <v0>", ["<v0>"]), expected, rtol=1e-4)


def test_all_words_together_get_all_attention_but_that_of_start_and_padding(make_model, config):
    model = make_model(config)
    each = attention_of(model, "red roof on <v0>", ["red", "roof", "on", "<v0>"])
    together = attention_of(model, "red roof on <v0>", ["red roof on <v0>"])
    assert torch.allclose(each.sum(0, keepdim=True), together, rtol=1e-4)
    assert 0.0 < together.min() and together.max() < 1.0


def test_a_word_that_is_not_in_the_prompt_is_refused(make_model, config):
    with pytest.raises(InputError, match="^words: beach does not stand in the prompt"):
        attention_of(make_model(config), "<v0>", ["<v0>", "beach"])


def test_a_heat_map_is_bright_where_attention_is():
    picture = torch.rand(3, 64, 96)
    attention = torch.zeros(4, 6)
    attention[1, 4] = 0.02
    shown = heat_map(picture, attention)
    brightness = shown.mean(0)
    assert brightness[24, 72] > brightness[40:, :40].max()
    darkest = (1 - OPACITY) * (picture[:, 60, 5] * torch.tensor([0.299, 0.587, 0.114])).sum()
    assert torch.allclose(
        shown[:, 60, 5], darkest + OPACITY * torch.tensor(COLOURS(0.0)[:3], dtype=torch.float32), atol=1e-5
    )


@pytest.mark.parametrize("width", [128, 1024])
def test_a_caption_stands_above_the_picture_whole(width):
    picture = torch.full((3, 40, width), 0.5)
    shown = captioned(picture, "<v1> = roof tiles, peak 0.12")
    strip = shown[:, : shown.shape[1] - 40]
    assert torch.equal(shown[:, -40:], picture)
    written = (strip.amax(0) > 0.5).nonzero()
    assert len(written)
    assert written[:, 1].min() >= 1 and written[:, 1].max() < width - 1
    assert written[:, 0].min() >= 1 and written[:, 0].max() < len(strip[0]) - 1


def test_a_trailing_mean_looks_back_only():
    assert trailing_mean([4.0, 2.0, 0.0, 8.0], longest=2) == [4.0, 3.0, 1.0, 4.0]
    assert math.isclose(trailing_mean([1.0, 2.0, 6.0])[2], 3.0)


def test_short_rows_share_a_line_and_long_ones_go_on_in_the_next():
    pictures = torch.rand(2 * WIDTH, 3, 8, 8)
    short, long = (Row(title, pictures[:n], [title] * n) for title, n in (("short", WIDTH // 2), ("long", WIDTH + 1)))
    lines = lines_of([short, short, long, short])
    assert [[(row.title, len(row.pictures)) for row in line] for line in lines] == [
        [("short", WIDTH // 2), ("short", WIDTH // 2)],
        [("long", WIDTH)],
        [("", 1), ("short", WIDTH // 2)],
    ]


def test_more_pictures_than_a_line_holds_are_counted_not_shown():
    row = learned_from("<v0> = tower", tiny_reference("tower", WIDTH + 2, 1), 64)
    assert len(row.pictures) == WIDTH and "the first 6 of 8 pictures" in row.title


@pytest.mark.parametrize(("components", "lines", "bare_lines"), [(1, 3, 2), (3, 4, 2)])
def test_the_sheet_of_a_training_holds_every_reference(make_model, config, components, lines, bare_lines, tmp_path):
    references = [tiny_reference(word, 1, 1) for word in ("tower", "roof", "door $5", "window")[: components + 1]]
    model = make_model(config, [reference.class_word for reference in references])
    training = Training(model, references, config)
    history = [training.step(), training.step()]
    sketcher = Sketcher(model, lambda latents: latents[:, :3].sigmoid(), 64, steps=1)
    bare = training_report(model, references, 64, history, None, "<v0>")
    # the prompt twice, each token alone, and the attention on the prompt's two tokens
    sheet = training_report(model, references, 64, history, sketcher, "<v0> with <v1>, $1")
    sheet.save(tmp_path / "sheet.png")
    assert sheet.height == round(DOTS_PER_INCH * (CURVES + lines * LINE))
    assert bare.height == round(DOTS_PER_INCH * (CURVES + bare_lines * LINE))
    live = live_picture(torch.rand(3, 64, 64), "<v0> with <v1>", history, reference_names(references))
    live.save(tmp_path / "live.png")
    left, right = np.array_split(np.asarray(live), 2, axis=1)
    assert left.std() > 20 and right.std() > 20


WORDS = ["tower $x$ {a} 100% $", "roof \\frac_^", "\u5854 \U0001f3f0", "a very long word " * 20]


@pytest.mark.parametrize("word", WORDS, ids=["signs", "commands", "other scripts", "long"])
def test_words_are_drawn_as_they_are_written(make_model, config, word, caplog):
    """Neither as formulas nor with an error, and letters no font has are named."""
    references = [tiny_reference(word, 1, 1), tiny_reference(f"{word} too", 1, 1)]
    training = Training(make_model(config), references, config)
    history = [training.step()]
    sketcher = Sketcher(training.model, lambda latents: latents[:, :3].sigmoid(), 64, steps=1)
    prompt = f"<v0> with <v1>, {word}"[:80]
    sheet = training_report(training.model, references, 64, history, sketcher, prompt)
    live = live_picture(torch.rand(3, 64, 64), prompt, history, reference_names(references))
    assert all(np.asarray(picture).std() > 20 for picture in (sheet, live))
    missing = missing_letters(word)
    assert missing in ("", "\u5854", "\U0001f3f0", "\u5854\U0001f3f0")
    assert (f"no font here has {missing}" in caplog.text) == bool(missing)


def test_letters_change_what_is_drawn():
    def drawn(word):
        report = StepReport(1, 1, "warm-up", 1e-4, 0.5, 0.1, (0.1,), 0.0, 0.1)
        return live_picture(torch.zeros(3, 64, 64), word, [report], [word]).tobytes()

    assert len({drawn(word) for word in ("$a$", "a", "$b$", "{a}", "%a")}) == 5
    assert missing_letters("tower \u0440\u0430\u0431\u043e\u0442\u0430 \u200d\ufe0f") == ""
    assert missing_letters("\U000f0000a\U000f0000") == "\U000f0000"


def test_a_text_is_cut_off_after_some_lines_and_says_so():
    assert wrapped("one two three", 8) == "one two\nthree"
    long = wrapped("x" * 300, 10)
    assert long.count("\n") == 2 and long.endswith("x\N{HORIZONTAL ELLIPSIS}") and max(map(len, long.split())) <= 10


def test_each_line_below_a_picture_is_written_whole_below_the_one_before():
    one, two = (
        np.asarray(labelled_grid([[torch.zeros(3, 40, 40)]], [""], [""], [[text]], tile=40)) for text in ("5", "5\n5")
    )
    line = len(two) - len(one)
    written = len(one) - line
    assert line > 14 and np.array_equal(two[:written], one[:written])
    assert one[written:-4].min() < 128 and np.array_equal(two[written + line : -4], one[written:-4])


@pytest.mark.parametrize("columns", ["seed", "strength"])
def test_every_combination_has_its_place_on_a_sheet(columns):
    axes = {"tailoring": ["1"], "strength": [0.5, 1.0], "prompt": ["a", "b"], "seed": [0, 1, 2]}
    places = combinations(axes)
    pictures = [torch.tensor([n / 255, 0.0, 1.0])[:, None, None].expand(3, 8, 8) for n in range(len(places))]
    sheet = np.asarray(comparison_sheet(axes, columns, pictures, tile=8))
    corners = {}
    for n, place in enumerate(places):
        found = np.argwhere((sheet == (n, 0, 255)).all(axis=-1))
        assert len(found) == 64
        corners[tuple(place.items())] = tuple(found[0])
    lines = sorted({top for top, _ in corners.values()})
    heads = sorted({left for _, left in corners.values()})
    down = combinations({name: values for name, values in axes.items() if name != columns})
    for place, (top, left) in corners.items():
        assert heads.index(left) == axes[columns].index(dict(place)[columns])
        assert lines.index(top) == down.index({k: v for k, v in place if k != columns})
