"""GroundedSAM: words to boxes (Grounding DINO), boxes to masks (Segment Anything, Kirillov et al. 2023, 2304.02643)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from segment_anything import SamPredictor, sam_model_registry
from torch import nn

from ..errors import InputError
from ..formats.weights_file import kind_of, read_weights
from .detections import Detections, no_detections, select, split_classes
from .grounding_dino import detect, load_grounding_dino
from .large_pictures import smaller_copy

WHEN_NOTHING_FOUND = ("stop", "empty mask")
AUTO, CPU = "auto", "cpu"
DEVICES = (AUTO, CPU)
"""Where masks are made: on the device there is, or on the CPU in any case."""

_SAM_TYPES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


@dataclass(frozen=True)
class ImageMask:
    """What was found on one image.

    Attributes:
        mask: (H, W) float {0, 1} on the CPU, at the image's own size.
        found: the boxes whose masks were united.
        excluded: the boxes whose masks were taken away.
    """

    mask: torch.Tensor
    found: Detections
    excluded: Detections

    def boxes(self) -> torch.Tensor:
        """(N, 4) xyxy pixels: the found boxes, then the excluded ones."""
        return torch.cat([self.found.boxes, self.excluded.boxes])

    def labels(self) -> list[str]:
        """A label for each of boxes()."""
        return self.found.labels() + [f"not {label}" for label in self.excluded.labels()]


def load_sam(path: str | Path, field: str = "sam") -> nn.Module:
    """The SAM in a checkpoint, its size taken from the weights' shapes, fp32 on the CPU, in eval mode.

    Raises:
        InputError: naming `field`: the file is missing, damaged or another model's.
    """
    weights, name = read_weights(path, field), Path(path).name
    position = weights.get("image_encoder.pos_embed")
    kind = kind_of(weights)
    if position is None or kind != "a Segment Anything file" or position.shape[-1] not in _SAM_TYPES:
        raise InputError(
            field,
            f"{name} looks like {kind}, not like the original Segment Anything. "
            "choose sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth",
        )
    model = sam_model_registry[_SAM_TYPES[position.shape[-1]]]()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            field, f"{name} does not hold all of Segment Anything's weights; it may be half a download, get it again"
        ) from error
    return model.eval().requires_grad_(False)


def device_for(choice: str, device: torch.device) -> torch.device:
    """Where the two models compute.

    Args:
        choice: one of DEVICES.
        device: the one there is. On Apple's GPUs (mps) both models are known to find other things than elsewhere, so
            the CPU takes their place.
    """
    return torch.device("cpu") if choice == CPU or device.type == "mps" else device


def load_grounded_sam(
    dino_path: str | Path, sam_path: str | Path, bert_path: str | Path, device: str = AUTO
) -> "GroundedSAM":
    """Detector and segmenter from local files, on the CPU. Nothing is downloaded.

    Args:
        dino_path: groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth, or the same as .safetensors.
        sam_path: sam_vit_h/l/b checkpoint, .pth or .safetensors.
        bert_path: folder with bert-base-uncased's vocab.txt or tokenizer.json.
        device: one of DEVICES, for `GroundedSAM.to`.

    Raises:
        InputError: a file is missing, damaged or of another model; names "grounding_dino", "sam" or
            "bert-base-uncased".
    """
    return GroundedSAM(load_grounding_dino(dino_path, bert_path), load_sam(sam_path), device)


class GroundedSAM:
    """Finds things by their names and masks them. Stays on the CPU until moved with `to`.

    Args:
        device: one of DEVICES.
    """

    def __init__(self, detector: nn.Module, segmenter: nn.Module, device: str = AUTO) -> None:
        self.detector = detector
        self.segmenter = segmenter
        self.device = device

    def to(self, device: torch.device | str) -> "GroundedSAM":
        """Move both models, in place, see `device_for`."""
        device = device_for(self.device, torch.device(device))
        self.detector.to(device)
        self.segmenter.to(device)
        return self

    @torch.no_grad()
    def masks(
        self,
        images: Sequence[torch.Tensor],
        find: str | Sequence[str],
        exclude: str | Sequence[str] = "",
        box_threshold: float = 0.25,
        text_threshold: float = 0.25,
        nms_threshold: float = 0.8,
        when_nothing_found: str = "stop",
        on_image: Callable[[int], None] = lambda done: None,
    ) -> list[ImageMask]:
        """Exactly one mask per image: everything in `find`, without what `exclude` names.

        Args:
            images: each (3, H, W) in [0, 1], of any sizes.
            find: one or more classes, separated by commas or periods: one text for all images, or one for each.
            exclude: the same for what must not be in the mask; not finding it is no error.
            box_threshold: [0, 1], boxes scoring less are dropped.
            text_threshold: [0, 1], words scoring less are not counted as recognised in a box.
            nms_threshold: [0, 1], of two boxes of one class that overlap by more the better stays.
            when_nothing_found: "stop" raises, "empty mask" gives an all-zero mask for that image.
            on_image: called with the number of images done, at the start and after each one.

        Raises:
            InputError: an unusable image or word; or, with "stop", an image on which nothing was found or of which
                nothing is left.
        """
        classes, unwanted = _of_each("find", find, len(images)), _of_each("exclude", exclude, len(images))
        if not all(classes):
            raise InputError("find", 'there is nothing to look for; write a word, such as "house"')
        if when_nothing_found not in WHEN_NOTHING_FOUND:
            raise InputError("when_nothing_found", "has to be " + " or ".join(WHEN_NOTHING_FOUND))
        for number, image in enumerate(images, start=1):
            _check_image(image, number)
        thresholds = _Thresholds(box_threshold, text_threshold, nms_threshold)
        results = []
        for number, image in enumerate(images, start=1):
            on_image(number - 1)
            wanted, others = classes[number - 1], unwanted[number - 1]
            result = self._mask(image, wanted, others, thresholds)
            if when_nothing_found == "stop" and not result.mask.any():
                raise _nothing_found(number, result, wanted, others, thresholds)
            results.append(result)
        on_image(len(results))
        return results

    def _mask(
        self, image: torch.Tensor, classes: tuple[str, ...], unwanted: tuple[str, ...], thresholds: "_Thresholds"
    ) -> ImageMask:
        height, width = image.shape[-2:]
        small = smaller_copy(image)
        found = self._find(small, classes, thresholds, "find")
        if not len(found):
            return ImageMask(torch.zeros(height, width), found, no_detections())
        removed = self._find(small, unwanted, thresholds, "exclude") if unwanted else no_detections()
        mask = torch.zeros(height, width, dtype=torch.bool)
        boxes = torch.cat([found.boxes, removed.boxes])
        for number, outlined in enumerate(segment(self.segmenter, small, boxes, (height, width))):
            # what is excluded comes last
            mask = mask | outlined if number < len(found) else mask & ~outlined
        scale = (width / small.shape[-1], height / small.shape[-2])
        return ImageMask(mask.float(), found.scaled(*scale), removed.scaled(*scale))

    def _find(self, image: torch.Tensor, classes: tuple[str, ...], thresholds: "_Thresholds", field: str) -> Detections:
        return select(detect(self.detector, image, classes, thresholds.text, field), thresholds.box, thresholds.nms)


def segment(
    model: nn.Module, image: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]
) -> Iterator[torch.Tensor]:
    """One mask per box: of the three SAM proposes, the one it scores best. There is never more than one at a time.

    Args:
        model: from load_sam, on any device.
        image: (3, h, w) in [0, 1].
        boxes: (N, 4) xyxy in pixels of the image, N at least 1.
        size: (H, W) of the masks, for a larger picture of which the image is a copy.

    Yields:
        (H, W) bool on the CPU.
    """
    predictor = SamPredictor(model)
    predictor.set_image((image.permute(1, 2, 0).cpu() * 255).round().byte().numpy())
    prompts = predictor.transform.apply_boxes_torch(boxes, image.shape[-2:]).to(predictor.device)
    for prompt in prompts:
        _, scores, coarse = predictor.predict_torch(None, None, boxes=prompt[None], multimask_output=True)
        best = coarse[:, scores[0].argmax()][:, None]
        whole = predictor.model.postprocess_masks(best, predictor.input_size, size)
        yield (whole[0, 0] > predictor.model.mask_threshold).cpu()


@dataclass(frozen=True)
class _Thresholds:
    """Detection thresholds, each in [0, 1]; checked when made."""

    box: float
    text: float
    nms: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}_threshold", f"has to be from 0 to 1, not {value}")


def _of_each(field: str, texts: str | Sequence[str], count: int) -> list[tuple[str, ...]]:
    """The classes in the text of each image."""
    if isinstance(texts, str):
        return [split_classes(texts, field)] * max(count, 1)
    if len(texts) != count:
        raise InputError(field, f"there are {len(texts)} texts for {count} images")
    return [split_classes(text, field) for text in texts]


def _check_image(image: torch.Tensor, number: int) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(
            "images",
            f"picture {number} has shape {tuple(image.shape)}; three colour channels and a height and width are needed",
        )
    # of a large picture, a sum is less to hold than an answer for each pixel
    if not torch.isfinite(image.sum()):
        raise InputError("images", f"picture {number} holds NaN or infinite values; load or make it again")


def _nothing_found(
    number: int, result: ImageMask, classes: tuple[str, ...], unwanted: tuple[str, ...], thresholds: _Thresholds
) -> InputError:
    """The error for an image whose mask is empty, in words for the person who chose the words."""
    looked_for = " or ".join(f'"{name}"' for name in classes)
    otherwise = 'or set when_nothing_found to "empty mask" and paint the mask yourself'
    if not len(result.found):
        return InputError(
            "find",
            f"nothing was found on image {number} for {looked_for}. The best score was {result.found.best_score:.2f}, "
            f"box_threshold is {thresholds.box:.2f} and text_threshold {thresholds.text:.2f}. "
            f"lower them below that score, try another word, {otherwise}",
        )
    if len(result.excluded):
        removed = " or ".join(f'"{name}"' for name in unwanted)
        return InputError(
            "exclude",
            f"on image {number} nothing is left of {looked_for} once {removed} is excluded (best score "
            f"{result.found.best_score:.2f}, excluded {result.excluded.best_score:.2f}); try other words, raise "
            f"box_threshold so that less is excluded, {otherwise}",
        )
    return InputError(
        "find",
        f"on image {number} a box was found for {looked_for} (score {result.found.best_score:.2f}), but nothing "
        f"inside it could be outlined; try another word, {otherwise}",
    )
