"""The rendered world: masks, looks that are kept out, captions, and the vocabulary that is made from them."""

import dataclasses
import random

import numpy as np
import pytest

from toytown import vocabulary
from toytown.backgrounds import BACKGROUNDS
from toytown.captions import caption, random_caption, words
from toytown.looks import COLOURS, UNSEEN_COLOURS, UNSEEN_PATTERNS, Look, nearest_colour
from toytown.model import load_tokenizer, load_vocabulary
from toytown.pairs import MEASURED, SHOWN, TUNING, masked_pictures
from toytown.things import PARTS
from toytown.world import Scene, random_scene, render

BLACK, WHITE = Look((0, 0, 0)), Look((255, 255, 255))


def scenes(count):
    rng = random.Random(7)
    return [random_scene(rng) for _ in range(count)]


@pytest.mark.parametrize("kind", PARTS)
def test_masks_are_what_is_painted_over_more_than_half(kind):
    """Between a black and a white part only the part's pixels change, and each by the share the part has in it."""
    for layout, background in enumerate(BACKGROUNDS):
        for region in ("body", "part"):
            dark = Scene(kind, BLACK, BLACK, background, layout)
            light = dataclasses.replace(dark, **{region: WHITE})
            dark_picture, light_picture = render(dark), render(light)
            share = (light_picture.pixels.astype(int) - dark_picture.pixels)[..., 0] / 255
            mask = getattr(dark_picture, region)
            assert mask.sum() > 40
            assert not (mask ^ getattr(light_picture, region)).any()
            if region == "part":
                np.testing.assert_array_equal(mask, share > 0.5)
            else:
                # doors, windows and faces belong to the body but have colours of their own
                assert mask[share > 0.5].all()
                assert (share[mask] > 0.5).mean() > 0.6
            assert not (dark_picture.body & dark_picture.part).any()


def test_a_picture_follows_from_its_scene():
    for scene in scenes(8):
        np.testing.assert_array_equal(render(scene).pixels, render(scene).pixels)
        other = dataclasses.replace(scene, layout=scene.layout + 1)
        assert (render(scene).pixels != render(other).pixels).any()


def test_unseen_looks_never_occur_in_what_the_model_is_trained_on():
    looks = [look for scene in scenes(3000) for look in (scene.body, scene.part)]
    assert not {look.pattern for look in looks} & set(UNSEEN_PATTERNS)
    for name, colour in UNSEEN_COLOURS.items():
        nearest = min(np.linalg.norm(np.subtract(colour, look.colour)) for look in looks)
        assert nearest > 18, f"{name} is {nearest:.0f} from a colour of the training"
    assert {nearest_colour(look.colour) for look in looks} == set(COLOURS)


def test_pairs_have_looks_no_word_names_and_tuning_is_apart():
    for pair in (SHOWN, *MEASURED, *TUNING):
        for look in (pair.body, pair.part):
            assert look.colour in UNSEEN_COLOURS.values()
        assert all(mask.any() for pictures in masked_pictures(pair) for _, mask in pictures)
    assert {pair.seed for pair in TUNING}.isdisjoint(pair.seed for pair in MEASURED)
    assert not {(p.concept, p.body, p.part) for p in TUNING} & {(p.concept, p.body, p.part) for p in MEASURED}


def test_captions_are_true_and_in_the_vocabulary():
    rng, known = random.Random(3), set(words())
    for scene in scenes(300):
        whole = caption(scene)
        assert BACKGROUNDS[scene.background] in whole
        for _ in range(5):
            text = random_caption(scene, rng)
            assert set(text.split()) <= known
            said = set(text.split())
            # a word about something that is not in the picture would teach the model nonsense
            assert said & set(COLOURS) <= {nearest_colour(scene.body.colour), nearest_colour(scene.part.colour)}
            assert said & (set(PARTS) | set(PARTS.values())) <= {scene.kind, PARTS[scene.kind]}


def test_every_word_of_a_caption_is_one_token_and_the_tokenizer_is_the_one_in_the_folder(tmp_path):
    tokenizer, ids = load_tokenizer(), load_vocabulary()
    for word in words():
        assert tokenizer(word)["input_ids"] == [
            ids[vocabulary.START],
            ids[word + "</w>"],
            ids[vocabulary.END],
        ]
    vocabulary.write_tokenizer(tmp_path)
    assert ids == vocabulary.vocabulary()
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (vocabulary.pathlib.Path(load_tokenizer().name_or_path) / path.name).read_bytes()
