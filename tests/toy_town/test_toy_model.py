"""The shipped weights: they are the ones recorded, and they draw what a prompt says."""

import hashlib
import json

import numpy as np
import pytest

from toytown import analyser as analyser_module
from toytown.analyser import analysed, load_analyser
from toytown.looks import Look
from toytown.model import CHECKPOINT, FOLDER, load_checkpoint
from toytown.sampling import encoded_prompts, sample
from toytown.world import Scene, render

RECORD = json.loads((FOLDER / "record.json").read_text())


@pytest.fixture(scope="module")
def town():
    return load_checkpoint()


@pytest.fixture(scope="module")
def analyser():
    return load_analyser()


def test_the_shipped_files_are_the_recorded_ones():
    for path in (CHECKPOINT, analyser_module.WEIGHTS):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == RECORD["sha256"][path.name]
    assert CHECKPOINT.stat().st_size <= 20_000_000


def test_the_analyser_reads_renderings(analyser):
    red, blue = Look((212, 40, 42)), Look((44, 84, 212), "striped")
    scene = Scene("house", red, blue, "beach", 5)
    picture = render(scene)
    (found,) = analysed(analyser, picture.pixels[None])
    assert (found.kind, found.background, found.body_colour, found.part_colour) == ("house", "beach", "red", "blue")
    assert (found.body_look.pattern, found.part_look.pattern) == ("solid", "striped")
    for mine, exact in ((found.body, picture.body), (found.part, picture.part)):
        assert (mine & exact).sum() / (mine | exact).sum() > 0.85


def test_it_draws_a_red_house_with_a_blue_roof(town, analyser):
    prompt = "a red house with a blue roof on the beach"
    found = analysed(analyser, sample(town, encoded_prompts(town, [prompt] * 4), seeds=range(4)))
    right = [(f.kind, f.background, f.body_colour, f.part_colour) == ("house", "beach", "red", "blue") for f in found]
    assert sum(right) >= 3, [(f.kind, f.background, f.body_colour, f.part_colour) for f in found]


def test_other_words_draw_another_picture(town, analyser):
    prompts = ["a green cup with a yellow handle at night", "a white car with black wheels in the snow"]
    found = analysed(analyser, sample(town, encoded_prompts(town, prompts), seeds=[0, 0]))
    assert [(f.kind, f.background) for f in found] == [("cup", "night"), ("car", "snow")]


def test_a_picture_does_not_depend_on_what_is_drawn_with_it(town):
    prompts = ["a red house", "a blue cat"]
    together = sample(town, encoded_prompts(town, prompts), seeds=[3, 4], steps=3)
    alone = sample(town, encoded_prompts(town, prompts[1:]), seeds=[4], steps=3)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
