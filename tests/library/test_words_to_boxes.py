"""Several classes at once, on a detector whose answers are crafted."""

import pytest
import torch
from torch import nn

from magictailor.masks.detections import select, split_classes
from magictailor.masks.grounding_dino import detect

WORDS = {word: number for number, word in enumerate("front door window windows house tree 房 子 门".split(), 1)}
# what is there: one box for each word that is found, and how sure the detector is of it
THERE = {"front": 0.5, "door": 0.6, "window": 0.4, "windows": 0.7, "house": 0.9, "房": 0.3, "门": 0.35}


class Vocabulary:
    unk_token_id = 0

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [WORDS.get(word, self.unk_token_id) for word in pieces(text)]}

    def decode(self, ids):
        return " ".join(word for i in ids for word, number in WORDS.items() if number == i)


def pieces(text):
    """Words; Chinese letters each, as in the real vocabulary."""
    return [piece for word in text.split() for piece in ([word] if word.isascii() else word)]


class Competing(nn.Module):
    """As real detectors do, it spends its few queries on what it is surest of in the whole caption."""

    max_text_len, queries = 256, 2

    def __init__(self):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(()))
        self.captions = []
        self.tokenizer = Vocabulary()

    def forward(self, images, captions):
        (caption,) = captions
        self.captions.append(caption)
        words = pieces(caption)
        logits = torch.full((1, self.queries, self.max_text_len), -torch.inf)
        surest = sorted((n for n, word in enumerate(words) if word in THERE), key=lambda n: -THERE[words[n]])
        for query, place in enumerate(surest[: self.queries]):
            logits[0, query, 1 + place] = torch.logit(torch.tensor(THERE[words[place]]))
        boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])
        return {"pred_logits": logits, "pred_boxes": boxes}


def found(model, text):
    detections = select(detect(model, torch.rand(3, 40, 80), split_classes(text, "find"), 0.25, "find"), 0.25, 0.8)
    boxes = [tuple(box) for box in detections.boxes.tolist()]
    return set(zip(detections.classes, detections.phrases, boxes, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "house, front door, window",
        "House, Front  Door, WINDOW",
        "windows, house, door, front",
        "房子，门，house",
        "house, door, tree",
    ],
)
def test_several_classes_find_what_each_finds_alone(text):
    together = found(Competing(), text)
    assert together == set().union(*(found(Competing(), name) for name in split_classes(text, "find")))
    assert len({name for name, _, _ in together}) == len([n for n in split_classes(text, "find") if n != "tree"])


def test_a_caption_is_of_one_class_and_boxes_are_in_pixels():
    model = Competing()
    assert found(model, "Front Door") == {("front door", "door", (32.0, 12.0, 48.0, 28.0))}
    assert model.captions == ["front door ."]
