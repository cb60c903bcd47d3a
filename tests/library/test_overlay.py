"""Overlays show where the mask is, and every label is drawn inside the picture."""

import pytest
import torch

from magictailor.masks.overlay import OPACITY, TINT, overlay


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


def test_the_input_image_is_left_alone():
    image = torch.rand(3, 20, 20)
    before = image.clone()
    overlay(image, torch.ones(20, 20), torch.tensor([[2.0, 2.0, 9.0, 9.0]]), ["eye"])
    assert torch.equal(image, before)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        overlay(torch.zeros(3, 8, 8), torch.zeros(8, 9))
