"""From a detector's boxes to those that are outlined: thresholds, non-maximum suppression, best boxes per class.

Pure functions on tensors; none of them knows which detector or segmenter is in use. A class is one thing to look
for, written as the user wrote it ("roof", "left eye").
"""

import re
import unicodedata
from dataclasses import dataclass, replace

import torch
from torchvision.ops import batched_nms

from ..errors import InputError

# Things in pairs or rows keep more than their best box (MagicTailor, arXiv 2410.13370, and its released program).
BOXES_OF_NOUN = {"brow": 2, "eyebrow": 2, "eye": 2, "ear": 2, "wheel": 2, "window": 3}

# Chinese and Japanese ones that are not full-width forms of the usual
_SEPARATORS = str.maketrans("\u3001\u3002", ",.")
_OF_PROMPTS = re.compile(r":\s*[\d.]+\s*(?=[)\]])|[()\[\]{}_\\]")


@dataclass(frozen=True)
class Detections:
    """Boxes found on one image, in any order.

    Attributes:
        boxes: (N, 4) float, xyxy in pixels of the image.
        scores: (N,) float in [0, 1].
        classes: the class each box belongs to, N of them.
        phrases: the words of that class the detector recognised in the box, N of them.
        best_score: the highest score of any box the detector proposed, also of one that was dropped since.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: tuple[str, ...]
    phrases: tuple[str, ...]
    best_score: float

    def __len__(self) -> int:
        return len(self.classes)

    def pick(self, rows: torch.Tensor) -> "Detections":
        """The detections at the given row numbers, in that order; `best_score` stays. rows: (M,) integers."""
        chosen = rows.tolist()
        return Detections(
            self.boxes[rows],
            self.scores[rows],
            tuple(self.classes[row] for row in chosen),
            tuple(self.phrases[row] for row in chosen),
            self.best_score,
        )

    def scaled(self, x: float, y: float) -> "Detections":
        """The same on an image that is x times as wide and y times as high."""
        return replace(self, boxes=self.boxes * self.boxes.new_tensor([x, y, x, y]))

    def labels(self) -> list[str]:
        """One "phrase 0.87" for each box."""
        return [f"{phrase} {score:.2f}" for phrase, score in zip(self.phrases, self.scores.tolist(), strict=True)]


def no_detections(best_score: float = 0.0) -> Detections:
    """Detections of length 0."""
    return Detections(torch.zeros(0, 4), torch.zeros(0), (), (), best_score)


def split_classes(text: str, field: str) -> tuple[str, ...]:
    """The classes in "house, front door. window": lower case, in order, without repeats; () for a blank text.

    Full-width letters and separators count as the usual ones, underscores as spaces. Brackets and weights, such as
    "(roof:1.2)" in prompts, say nothing to a detector and are left out.

    Raises:
        InputError: there is text, but not one letter or digit between its separators.
    """
    usual = _OF_PROMPTS.sub(" ", unicodedata.normalize("NFKC", text).translate(_SEPARATORS))
    parts = (" ".join(part.lower().split()) for part in re.split(r"[,.;?|\n]", usual))
    classes = tuple(dict.fromkeys(part for part in parts if re.search(r"\w", part)))
    if text.strip() and not classes:
        raise InputError(field, f'"{text.strip()}" holds no word; write what to look for, such as "house, door"')
    return classes


def boxes_wanted(class_name: str) -> int:
    """How many boxes a class keeps: 1, or more where its last noun, singular or plural, is in BOXES_OF_NOUN."""
    noun = class_name.lower().split()[-1]
    return BOXES_OF_NOUN.get(noun, BOXES_OF_NOUN.get(noun.removesuffix("s"), 1))


def above_threshold(detections: Detections, threshold: float) -> Detections:
    """The detections that score more than `threshold`."""
    return detections.pick(torch.nonzero(detections.scores > threshold).flatten())


def suppress_overlaps(detections: Detections, threshold: float) -> Detections:
    """Non-maximum suppression: of boxes of one class whose IoU exceeds `threshold` the best stays. Best first."""
    index = {name: number for number, name in enumerate(dict.fromkeys(detections.classes))}
    class_numbers = torch.tensor([index[name] for name in detections.classes], dtype=torch.long)
    return detections.pick(batched_nms(detections.boxes, detections.scores, class_numbers, threshold))


def best_per_class(detections: Detections) -> Detections:
    """The best-scoring box of each class, or its best few for things that come in pairs or rows. Best first."""
    left = {name: boxes_wanted(name) for name in detections.classes}
    rows = []
    for row in detections.scores.argsort(descending=True, stable=True).tolist():
        name = detections.classes[row]
        if left[name] > 0:
            left[name] -= 1
            rows.append(row)
    return detections.pick(torch.tensor(rows, dtype=torch.long))


def select(detections: Detections, box_threshold: float, nms_threshold: float) -> Detections:
    """The boxes to segment: above the threshold, without duplicates, the best of each class."""
    return best_per_class(suppress_overlaps(above_threshold(detections, box_threshold), nms_threshold))
