"""Thresholds, non-maximum suppression, best boxes per class, union and exclusion on crafted detections."""

import pytest
import torch

from magictailor.errors import InputError
from magictailor.masks.detections import (
    Detections,
    above_threshold,
    best_per_class,
    boxes_wanted,
    no_detections,
    select,
    split_classes,
    suppress_overlaps,
)


def detections(*rows):
    """From (box, score, class) rows."""
    boxes, scores, classes = zip(*rows, strict=True)
    return Detections(torch.tensor(boxes, dtype=torch.float), torch.tensor(scores), classes, classes, max(scores))


SPOTS = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)]


def test_threshold_keeps_only_what_scores_more():
    found = detections((SPOTS[0], 0.24, "house"), (SPOTS[1], 0.25, "house"), (SPOTS[2], 0.26, "house"))
    kept = above_threshold(found, 0.25)
    assert kept.boxes.tolist() == [list(SPOTS[2])]
    assert kept.classes == ("house",)


def test_the_best_score_survives_when_no_box_does():
    kept = above_threshold(detections((SPOTS[0], 0.1, "house"), (SPOTS[1], 0.2, "house")), 0.25)
    assert len(kept) == 0
    assert kept.boxes.shape == (0, 4)
    assert kept.best_score == pytest.approx(0.2)


def test_suppression_drops_the_weaker_of_two_boxes_that_overlap_more_than_the_threshold():
    # IoU 9/10 with the first, 7/10 for the third
    found = detections(((0, 0, 10, 9), 0.5, "roof"), ((0, 0, 10, 10), 0.9, "roof"), ((0, 0, 10, 7), 0.8, "roof"))
    kept = suppress_overlaps(found, 0.8)
    assert kept.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 7]]
    assert len(suppress_overlaps(found, 0.95)) == 3


def test_suppression_leaves_the_same_box_to_two_classes():
    found = detections((SPOTS[0], 0.9, "face"), (SPOTS[0], 0.8, "head"))
    assert suppress_overlaps(found, 0.8).classes == ("face", "head")


def test_one_box_per_class_and_it_is_the_best():
    found = detections(
        (SPOTS[0], 0.4, "house"), (SPOTS[1], 0.7, "door"), (SPOTS[2], 0.9, "house"), (SPOTS[3], 0.3, "door")
    )
    kept = best_per_class(found)
    assert [(name, round(score, 1)) for name, score in zip(kept.classes, kept.scores.tolist(), strict=True)] == [
        ("house", 0.9), ("door", 0.7)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("house", 1), ("brow", 2), ("eyebrow", 2), ("eye", 2), ("ear", 2), ("wheel", 2), ("window", 3),
        ("eyes", 2), ("Windows", 3), ("left eye", 2), ("red front wheels", 2), ("eye shadow", 1), ("bear", 1),
        ("glass", 1), ("window frame", 1),
    ],
)  # fmt: skip
def test_things_in_pairs_and_rows_keep_several_boxes(name, count):
    found = detections(*((spot, 0.9 - number / 10, name) for number, spot in enumerate(SPOTS)))
    assert boxes_wanted(name) == count
    kept = best_per_class(found)
    assert kept.boxes.tolist() == [list(spot) for spot in SPOTS[:count]]


def test_selection_applies_threshold_then_suppression_then_counts():
    found = detections(
        (SPOTS[0], 0.9, "eye"), ((0, 0, 10, 9), 0.8, "eye"), (SPOTS[1], 0.7, "eye"), (SPOTS[2], 0.6, "eye"),
        (SPOTS[3], 0.2, "nose"),
    )  # fmt: skip
    kept = select(found, box_threshold=0.25, nms_threshold=0.8)
    assert kept.boxes.tolist() == [list(SPOTS[0]), list(SPOTS[1])]
    assert len(select(found, box_threshold=0.95, nms_threshold=0.8)) == 0


def test_labels_quote_phrase_and_score():
    assert detections((SPOTS[0], 0.876, "red roof")).labels() == ["red roof 0.88"]
    assert no_detections().labels() == []


def test_boxes_follow_an_image_to_another_size():
    found = detections(((1, 2, 3, 4), 0.9, "eye"))
    assert found.scaled(10, 100).boxes.tolist() == [[10, 200, 30, 400]]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("house", ("house",)),
        (" House ,  Front   Door. window\n", ("house", "front door", "window")),
        ("roof, roof", ("roof",)),
        ("", ()),
        ("  \n", ()),
        ("Front  Door|WINDOWS", ("front door", "windows")),
        ("房子，门、窗户。", ("房子", "门", "窗户")),
        ("Ｒｏｏｆ；door", ("roof", "door")),
        ("left_eye, front_door", ("left eye", "front door")),
        (r"(roof:1.2), ((door)), [big window:0.5], \(t-shirt\)", ("roof", "door", "big window", "t-shirt")),
    ],
)
def test_words_are_split_at_commas_and_periods(text, classes):
    assert split_classes(text, "find") == classes


def test_separators_without_a_word_are_refused():
    with pytest.raises(InputError, match="^exclude: .*no word"):
        split_classes(" ,.", "exclude")
