import dataclasses

import pytest
import torch
from tiny import uniform

from magictailor.config import TailorConfig
from magictailor.doubts import doubts
from magictailor.draws import draw_step
from magictailor.errors import InputError
from magictailor.pictures import Crop, augment, crop_around, cut, prepare, shrink, training_pictures
from magictailor.reference import Reference, fitted


def picture(height=60, width=80, channels=3):
    return torch.rand(channels, height, width)


def box(height, width, top, bottom, left, right):
    mask = torch.zeros(height, width)
    mask[top:bottom, left:right] = 1.0
    return mask


def good_mask():
    return box(60, 80, 10, 30, 10, 30)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_rgb_become_rgb(channels):
    image = picture(channels=channels)
    reference = Reference("tower", (image,), (good_mask(),))
    assert reference.images[0].shape == (3, 60, 80)
    assert torch.equal(reference.images[0][0], image[0])


def test_what_lies_under_transparent_pixels_is_neither_seen_nor_learned():
    image = picture(channels=4)
    image[3] = 1.0
    image[3, :, 20:] = 0.0
    reference = Reference("tower", (image,), (good_mask(),))
    assert torch.equal(reference.images[0][:, :, :20], image[:3, :, :20])
    assert (reference.images[0][:, :, 20:] == 1.0).all()
    assert torch.equal(reference.masks[0], good_mask() * image[3])
    image[3] = 0.0
    with pytest.raises(InputError, match="masks: mask 1 is empty"):
        Reference("tower", (image,), (good_mask(),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": ()}, "masks: there are 0 masks for 1 pictures"),
        ({"images": (), "masks": ()}, "images: there is no picture"),
        ({"masks": (torch.zeros(60, 80),)}, "masks: mask 1 is empty"),
        ({"masks": (torch.full((60, 80), 1 / 255),)}, "masks: mask 1 holds nothing brighter than 0.0039 of 1"),
        ({"masks": (torch.ones(80, 60),)}, "masks: mask 1 has 60x80 pixels and its picture 80x60"),
        ({"images": (torch.rand(3, 8, 8),), "masks": (torch.ones(8, 8),)}, "images: picture 1 has 8x8 pixels"),
        ({"images": (torch.full((3, 60, 80), float("nan")),)}, "images: picture 1 holds NaN"),
        ({"masks": (torch.full((60, 80), float("nan")),)}, "masks: mask 1 holds NaN"),
        ({"images": (torch.rand(2, 60, 80),)}, "images: picture 1 has shape"),
        ({"class_word": " "}, "class_word: is empty"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Reference(**({"class_word": "tower", "images": (picture(),), "masks": (good_mask(),)} | change))


def test_a_class_of_several_words_works():
    assert Reference("  red  roof ", (picture(),), (good_mask(),)).class_word == "red roof"


@pytest.mark.parametrize(
    ("mask", "crop"),
    [
        (box(60, 100, 10, 30, 40, 60), Crop(0, 20, 60)),  # centred on the mask
        (box(60, 100, 10, 30, 95, 100), Crop(0, 40, 60)),  # as far as the picture goes
        (box(60, 100, 10, 30, 0, 5), Crop(0, 0, 60)),
        (box(100, 60, 0, 90, 10, 20), Crop(0, 15 - 45, 90)),  # taller than the picture is wide: past its edges
        (box(60, 60, 0, 60, 0, 60), Crop(0, 0, 60)),
    ],
)
def test_the_crop_keeps_the_mask_in_view(mask, crop):
    found = crop_around(mask)
    if crop.left < 0:
        crop = dataclasses.replace(crop, left=(60 - 90) // 2)
    assert found == crop
    whole = mask.sum()
    kept = cut(mask[None], found, found.side, outside="zero").sum()
    assert kept == pytest.approx(whole.item(), rel=1e-3)


def test_past_the_edge_there_is_picture_but_nothing_to_learn():
    image, mask = torch.full((3, 100, 60), 0.7), box(100, 60, 5, 95, 10, 20)
    images, masks = prepare(Reference("tower", (image,), (mask,)), 64)
    assert images.shape == (1, 3, 64, 64) and masks.shape == (1, 1, 64, 64)
    assert images.min() > 0.69
    assert masks[0, 0, :, 0].max() == 0.0 and masks[0, 0, :, -1].max() == 0.0


def test_all_references_become_one_batch():
    one = Reference("tower", (picture(), picture(200, 90)), (good_mask(), box(200, 90, 10, 50, 10, 50)))
    two = Reference("roof", (picture(),), (good_mask(),))
    batch = training_pictures([one, two], 64)
    assert batch.images.shape == (3, 3, 64, 64)
    assert -1.0 <= batch.images.min() < 0.0 < batch.images.max() <= 1.0
    assert batch.owners.tolist() == [0, 0, 1]


def draws(**changes):
    made = draw_step(TailorConfig(), 1, batch=2, resolution=64, latent_shape=(4, 8, 8), draw_timesteps=uniform(1000))
    still = {"brightness": torch.ones(2), "contrast": torch.ones(2), "saturation": torch.ones(2)}
    return dataclasses.replace(made, **(still | {"flip": torch.tensor([False, False])} | changes))


def two_pictures():
    reference = Reference("tower", (picture(64, 64), picture(64, 64)), (box(64, 64, 0, 32, 0, 32),) * 2)
    return training_pictures([reference], 64)


def test_a_mirrored_picture_has_a_mirrored_mask():
    batch = two_pictures()
    images, masks = augment(batch, draws(flip=torch.tensor([True, False])))
    assert torch.allclose(images[0], batch.images[0].flip(-1), atol=1e-5)
    assert torch.equal(masks[0], batch.masks[0].flip(-1))
    assert torch.allclose(images[1], batch.images[1], atol=1e-5)
    assert torch.equal(masks[1], batch.masks[1])


def test_jitter_changes_the_picture_as_drawn():
    batch = two_pictures()
    images, masks = augment(batch, draws(brightness=torch.tensor([0.9, 1.0])))
    # in [0, 1] brightness is a factor
    assert torch.allclose((images[0] + 1) / 2, (batch.images[0] + 1) / 2 * 0.9, atol=1e-5)
    assert torch.allclose(images[1], batch.images[1], atol=1e-5)
    assert torch.equal(masks, batch.masks)


def test_draws_keep_to_their_ranges_and_follow_seed_and_step():
    config = TailorConfig(color_jitter=0.1, flip_probability=1.0)
    sizes = {"batch": 64, "resolution": 64, "latent_shape": (4, 8, 8), "draw_timesteps": uniform(10)}
    one = draw_step(config, 1, **sizes)
    for factor in (one.brightness, one.contrast, one.saturation):
        assert 0.9 <= factor.min() < 0.95 and 1.05 < factor.max() <= 1.1
    assert one.flip.all()
    assert set(one.timesteps.tolist()) == set(range(10))
    assert torch.equal(one.noise, draw_step(config, 1, **sizes).noise)
    assert not torch.equal(one.noise, draw_step(config, 2, **sizes).noise)
    assert not torch.equal(one.noise, draw_step(dataclasses.replace(config, seed=1), 1, **sizes).noise)


def test_a_small_mask_is_the_share_of_each_cell():
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 0, 0] = 1.0
    mask[0, 0, 2:, 2:] = 1.0
    assert shrink(mask, (2, 2))[0, 0].tolist() == [[0.25, 0.0], [0.0, 1.0]]


def test_a_mask_of_the_same_proportions_is_fitted_and_another_refused():
    assert fitted(torch.ones(30, 40), (60, 80)).shape == (60, 80)
    with pytest.raises(InputError, match="64x64 pixels and its picture 80x60"):
        fitted(torch.zeros(64, 64), (60, 80))


def test_what_can_be_learned_from_but_badly_is_told():
    good = Reference("house", (picture(64, 64),) * 2, (box(64, 64, 10, 40, 10, 40), torch.ones(64, 64)))
    inverted, small = 1.0 - box(64, 64, 20, 30, 20, 30), box(64, 64, 10, 13, 10, 13)
    odd = Reference(
        "roof", (picture(64, 64), picture(64, 64), picture(200, 200)), (inverted, small, box(200, 200, 0, 50, 0, 50))
    )
    assert doubts([good], 64) == doubts([good]) == []
    at_any_size = [
        "roof, picture 2: has a mask too small for anything to be learned well; crop the picture nearer to it",
        "roof, picture 1: has a mask that covers the picture's edge and leaves a part inside out; if that was not "
        "meant, invert it",
    ]
    assert doubts([odd]) == doubts([odd], 64) == at_any_size
    enlarged = "is enlarged to 128 pixels, and its blur is learned; take larger pictures or a lower resolution"
    assert doubts([good, odd], 128) == [
        f"house, picture 1, 2: {enlarged}",
        f"roof, picture 1, 2: {enlarged}",
        *at_any_size,
    ]
