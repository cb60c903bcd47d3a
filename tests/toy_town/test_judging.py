"""The toy town's CLIP judges renderings as they were made; drawings take minutes and are a benchmark's."""

import numpy as np
import pytest
import torch

from benchmarks.judging import as_tensor, found_copies, masks_of, spearman
from magictailor.scores.table import scored
from toytown.looks import COLOURS, Look
from toytown.pairs import ASKED, SHOWN
from toytown.scoring import load_encoder
from toytown.tailoring import references
from toytown.world import Scene, render


def rendered(body, part):
    return [render(Scene(SHOWN.concept, body, part, place, 50 + n)) for n, place in enumerate(ASKED)]


def test_the_right_looks_have_the_higher_scores():
    plain = Look(COLOURS["red"])
    shown = [*rendered(SHOWN.body, SHOWN.part), *rendered(plain, SHOWN.part), *rendered(SHOWN.body, plain)]
    pictures = [as_tensor(picture.pixels) for picture in shown]
    table = scored(pictures, references(SHOWN), [load_encoder()], masks_of(shown))
    concept, component, _ = (np.array(column.values).reshape(3, -1) for column in table.columns)
    assert concept[[0, 2]].min() > concept[1].max()
    assert component[[0, 1]].min() > component[2].max()


def test_copied_backgrounds_are_found():
    assert found_copies(SHOWN, count=8) > 0.9


def test_ranks_are_compared_and_equal_values_share_theirs():
    assert spearman(np.array([1.0, 2.0, 9.0]), np.array([5.0, 6.0, 7.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 1.0, 1.0])) == pytest.approx(-np.sqrt(3) / 2)


def test_a_text_is_near_the_picture_it_tells_of():
    encoder = load_encoder()
    red, teal = (rendered(Look(COLOURS[name]), Look(COLOURS["gray"]))[0] for name in ("red", "teal"))
    drawn = encoder.pictures([as_tensor(picture.pixels) for picture in (red, teal)])
    told = encoder.texts([f"a {name} house with a gray roof on the beach" for name in ("red", "teal")])
    near = torch.nn.functional.normalize(drawn, dim=1) @ torch.nn.functional.normalize(told, dim=1).T
    assert near.argmax(dim=1).tolist() == [0, 1]
