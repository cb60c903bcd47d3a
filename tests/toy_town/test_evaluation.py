"""What is counted as right, on which prompts."""

import dataclasses

import numpy as np

from toytown.analyser import Finding
from toytown.captions import caption
from toytown.evaluate import held_out_scenes, right_answers
from toytown.looks import COLOURS, Look
from toytown.train_model import training_scenes
from toytown.world import Scene

RED, BLUE = Look(COLOURS["red"]), Look(COLOURS["blue"], "striped")
SCENE = Scene("house", RED, BLUE, "beach", 0)
SEEN = Finding("house", "beach", RED, BLUE, np.zeros((64, 64), bool), np.zeros((64, 64), bool))


def test_prompts_are_held_out_and_differ():
    known = training_scenes(2000)
    # the seed of the held-out scenes could meet these
    first = held_out_scenes(5, [])
    found = held_out_scenes(50, [*known, first[0], first[3]])
    captions = [caption(scene) for scene in found]
    assert len(set(captions)) == 50
    assert not set(captions) & {caption(scene) for scene in [*known, first[0], first[3]]}
    assert caption(first[1]) in captions


def test_a_picture_is_right_where_it_says_what_was_asked():
    assert all(right_answers(SCENE, SEEN).values())
    wrong = {
        "kind": {"kind": "tower"},
        "background": {"background": "snow"},
        "colour of the body": {"body_look": BLUE},
        "colour of the part": {"part_look": dataclasses.replace(BLUE, colour=COLOURS["green"])},
    }
    for name, change in wrong.items():
        answers = right_answers(SCENE, dataclasses.replace(SEEN, **change))
        assert not answers[name]
        whole = "background and kind" if name in ("kind", "background") else "both colours on the right parts"
        assert not answers[whole]
        assert answers["background and kind"] or answers["both colours on the right parts"]
