"""A short tailoring of toy town brings body and part closer to the references, and masks and DM-Deg are why."""

import dataclasses

import numpy as np
import pytest
import torch

from magictailor.config import TailorConfig
from magictailor.training import train
from toytown.analyser import analysed, load_analyser
from toytown.backgrounds import BACKGROUNDS
from toytown.looks import UNSEEN_COLOURS, Look
from toytown.measures import SMALLEST_REGION, colour_distance, wanted_colours
from toytown.pairs import ASKED, Pair
from toytown.settings import SETTINGS
from toytown.tailoring import drawn, references, trainable

PAIR = Pair("house", "tower", Look(UNSEEN_COLOURS["coral"]), Look(UNSEEN_COLOURS["lime"]), seed=21)
SHORT = {"phase1_train_steps": 30, "phase2_train_steps": 10}
SHORT |= {"phase1_learning_rate": 1e-3, "phase2_learning_rate": 1e-3}
SEEDS = (0, 1)
NEAR = 0.54  # of the distance that the class words leave


def distances(model, phrase):
    """Mean colour distance of body and part to the references' (0 ... 255), over backgrounds and seeds.

    The regions are those that the analyser sees; a picture without one counts as far away.
    """
    asked = [(f"{phrase} {BACKGROUNDS[place]}", seed) for place in ASKED for seed in SEEDS]
    pictures = drawn(model, [prompt for prompt, _ in asked], [seed for _, seed in asked])
    found = analysed(load_analyser(), pictures)
    return {
        region: float(np.mean([distance(p, getattr(f, region), colours) for p, f in zip(pictures, found, strict=True)]))
        for region, colours in zip(("body", "part"), wanted_colours(PAIR), strict=True)
    }


def distance(picture, mask, colours):
    return colour_distance(picture[mask].astype(np.float32), colours) if mask.sum() >= SMALLEST_REGION else 128


def tailored(learned, **changes):
    config = TailorConfig(**{**SETTINGS, **SHORT, **changes})
    model = trainable(PAIR.class_words, config)
    train(model, learned, config)
    return model


@pytest.fixture(scope="module")
def class_words():
    """Distances of what the class words alone draw."""
    return distances(trainable(PAIR.class_words, TailorConfig(**SETTINGS)), "a house with a roof")


def test_body_and_part_come_closer_to_the_references(class_words):
    """From 140 (body) and 127 (part) to 63 and 51."""
    found = distances(tailored(references(PAIR)), "<v0> with <v1>")
    assert all(found[region] < NEAR * class_words[region] for region in found), (found, class_words)


def test_without_masks_and_degradation_they_do_not(class_words):
    """To 103 and 81 only: the two looks and what is around them are mixed."""
    whole = [dataclasses.replace(r, masks=tuple(torch.ones_like(mask) for mask in r.masks)) for r in references(PAIR)]
    found = distances(tailored(whole, alpha=0.0, lambda_attention=0.0), "<v0> with <v1>")
    assert all(found[region] > NEAR * class_words[region] for region in found), (found, class_words)
