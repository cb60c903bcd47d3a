"""Overlays show where the mask is, and every label is drawn inside the picture."""

import pytest
import torch
from PIL import ImageFont

from magictailor.masks import large_pictures
from magictailor.masks.overlay import OPACITY, TINT, overlay
from magictailor.report.fitting import shortened
from magictailor.report.fonts import missing_letters


def test_the_mask_is_tinted_and_the_rest_untouched():
    image = torch.full((3, 4, 6), 0.2)
    mask = torch.zeros(4, 6)
    mask[:, :3] = 1
    shown = overlay(image, mask)
    assert torch.equal(shown[:, :, 3:], image[:, :, 3:])
    expected = 0.2 * (1 - OPACITY) + OPACITY * torch.tensor(TINT)
    torch.testing.assert_close(shown[:, 0, 0], expected)


def test_a_box_is_framed_where_it_is():
    image = torch.zeros(3, 100, 100)
    shown = overlay(image, torch.zeros(100, 100), torch.tensor([[20.0, 30.0, 70.0, 80.0]]))
    assert shown[:, 30:81, 20].amax(0).min() > 0.2
    assert shown[:, 50, 50].sum() == 0
    assert shown[:, :29].sum() == 0


def test_a_large_picture_is_shown_smaller_with_its_box_in_place(monkeypatch):
    monkeypatch.setattr(large_pictures, "LONGEST", 50)
    mask = torch.zeros(100, 100)
    mask[:, 80:] = 1
    shown = overlay(torch.zeros(3, 100, 100), mask, torch.tensor([[20.0, 40.0, 60.0, 80.0]]))
    assert shown.shape == (3, 50, 50)
    assert shown[:, 20:41, 10].amax(0).min() > 0.2 and shown[:, 30, 20].sum() == 0 and shown[:, 5, 45].sum() > 0.5


@pytest.mark.parametrize("box", [(0.0, 0.0, 90.0, 90.0), (380.0, 280.0, 400.0, 300.0), (150.0, 100.0, 250.0, 200.0)])
def test_a_label_is_drawn_whole_inside_the_picture(box):
    image, mask, boxes = torch.zeros(3, 300, 400), torch.zeros(300, 400), torch.tensor([box])
    with_label = overlay(image, mask, boxes, ["roof 0.87"])
    plate = (with_label != overlay(image, mask, boxes)).any(0)
    rows, columns = torch.nonzero(plate, as_tuple=True)
    height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
    assert 10 <= height <= 60
    assert width > 2 * height


def test_labels_grow_with_the_picture():
    def label_height(side):
        image, mask = torch.zeros(3, side, side), torch.zeros(side, side)
        box = torch.tensor([[side * 0.3, side * 0.3, side * 0.6, side * 0.6]])
        changed = (overlay(image, mask, box, ["roof"]) != overlay(image, mask, box)).any(0).any(1)
        return int(changed.sum())

    assert label_height(1200) > 2 * label_height(400)


LABELS = ["\u0440\u0430\u0431\u043e\u0442\u0430", "\u5854\U0001f3f0", "roof " * 60, "x" * 300, "a\nb"]


@pytest.mark.parametrize("label", LABELS, ids=["Cyrillic", "other scripts", "words", "long", "lines"])
def test_any_label_is_drawn_inside_the_picture_or_its_letters_are_named(label, caplog):
    def letters(text):
        boxes = torch.tensor([[20.0, 40.0, 90.0, 90.0]])
        return overlay(torch.ones(3, 120, 160), torch.zeros(120, 160), boxes, [text]).amax(0) < 0.2

    drawn = letters(label)
    assert drawn.sum() > 5 and not drawn[:, :2].any() and not drawn[:, -2:].any()
    missing = missing_letters(label)
    assert (f"no font here has {missing};" in caplog.text) == bool(missing)
    assert missing or not torch.equal(drawn, letters(f"y{label}"))


def test_of_a_label_that_is_too_long_both_ends_are_kept():
    font = ImageFont.load_default(size=12)
    short = shortened("a very long word " * 20 + "0.87", font, 120)
    assert short.startswith("a very") and short.endswith("0.87") and 80 < font.getlength(short) <= 120
    assert shortened("roof 0.87", font, 120) == "roof 0.87" and shortened("roof", font, 1) == "..."


def test_the_input_image_is_left_alone():
    image = torch.rand(3, 20, 20)
    before = image.clone()
    overlay(image, torch.ones(20, 20), torch.tensor([[2.0, 2.0, 9.0, 9.0]]), ["eye"])
    assert torch.equal(image, before)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        overlay(torch.zeros(3, 8, 8), torch.zeros(8, 9))
