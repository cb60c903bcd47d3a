"""Grounding DINO (Liu et al. 2023, arXiv 2303.05499): finds boxes for words, through the groundingdino-py package.

The package is used as it is, but for its text encoder: its BertModelWarper calls methods that transformers 5 no
longer has, and its tokenizer and BERT come from the hub. Both are replaced while the detector is built. Two modules of
it stay out, so that none of the packages is needed that it asks for beside torch, transformers and timm.
"""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import nn
from torch.nn import functional
from torchvision.ops import box_convert
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ..errors import InputError
from ..formats.weights_file import kind_of, read_weights
from .detections import Detections

log = logging.getLogger(__name__)

_FIRST_LAYER = "backbone.0.patch_embed.proj.weight"
_POSITION_TABLE = "backbone.0.layers.0.blocks.0.attn.relative_position_bias_table"
_WORDS = "bert.embeddings.word_embeddings.weight"
# (rows of the first layer, rows of the position table) -> module of groundingdino.config
_CONFIGS = {(96, 13 * 13): "GroundingDINO_SwinT_OGC", (128, 23 * 23): "GroundingDINO_SwinB_cfg"}
# module -> what others import of it
_UNUSED = {"groundingdino.util.visualizer": "COCOVisualizer", "groundingdino.util.slconfig": "SLConfig"}
_SHORT_SIDE, _LONG_SIDE = 800, 1333
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TextEncoder(nn.Module):
    """BERT with one attention mask per pair of tokens, so that the words of one class do not see another's.

    Same state dict as a BertModel. Going past BertModel.forward to its embeddings and encoder, with an additive
    4-D mask, is the one way that transformers 4 and 5 treat alike.
    """

    def __init__(self, bert_model: BertModel) -> None:
        super().__init__()
        self.config = bert_model.config
        self.embeddings = bert_model.embeddings
        self.encoder = bert_model.encoder
        self.pooler = bert_model.pooler

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """input_ids, position_ids, token_type_ids (B, T); attention_mask (B, T, T) bool, True = may attend.

        Returns {"last_hidden_state": (B, T, 768)}.
        """
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
        blocked = torch.zeros_like(attention_mask, dtype=hidden.dtype)
        blocked = blocked.masked_fill(~attention_mask, torch.finfo(hidden.dtype).min)
        return {"last_hidden_state": self.encoder(hidden, attention_mask=blocked[:, None])[0]}


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The bert-base-uncased tokenizer from `folder`'s tokenizer.json or vocab.txt. Nothing is downloaded.

    Raises:
        InputError: neither file is there or readable.
    """
    folder = Path(folder)
    whole, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    try:
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
        elif vocabulary.is_file():
            tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)._tokenizer
        else:
            raise InputError(
                "bert-base-uncased",
                f"the detector's vocabulary is missing; put vocab.txt or tokenizer.json of bert-base-uncased into "
                f"{folder}, nothing else of BERT is needed",
            )
    except InputError:
        raise
    except Exception as error:  # the tokenizers package raises bare Exception for a file it cannot parse
        raise InputError(
            "bert-base-uncased", f"the vocabulary in {folder} cannot be read; download vocab.txt again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def load_grounding_dino(path: str | Path, bert_folder: str | Path, field: str = "grounding_dino") -> nn.Module:
    """The detector in a checkpoint, SwinT or SwinB by the shapes of its weights, fp32 on the CPU, in eval mode.

    Raises:
        InputError: naming `field`, where the file is missing, damaged or another model's.
    """
    weights = read_weights(path, field)
    settings = _settings_for(weights, Path(path).name, field)
    tokenizer = load_tokenizer(bert_folder)
    rows = len(weights[_WORDS])
    if len(tokenizer) != rows:
        raise InputError(
            "bert-base-uncased",
            f"the vocabulary in {bert_folder} has {len(tokenizer)} words, the detector expects {rows}; "
            "use the one of bert-base-uncased",
        )
    with _package_warnings_ignored(), _own_text_encoder(tokenizer) as package:
        model = package.build_groundingdino(settings)
    _fill(model, weights, Path(path).name, field)
    return model.eval().requires_grad_(False)


def detect(model: Any, image: torch.Tensor, classes: tuple[str, ...], text_threshold: float, field: str) -> Detections:
    """Every box the detector proposes for each class.

    Each class has a caption of its own: in a common one the classes compete for the detector's queries and for every
    box, and what is found alone can be lost beside others.

    A box's score is that of its best-matching word. Words scoring above `text_threshold` make up its phrase;
    a box without any is left out.

    Args:
        model: from load_grounding_dino, on any device.
        image: (3, H, W) in [0, 1].
        classes: what to look for, at least one.
        field: the input named where the words cannot be used.

    Returns:
        Detections on the CPU, boxes clipped to the image, class after class.

    Raises:
        InputError: a class has too many words, or the vocabulary knows none of its letters.
    """
    words = [_tokens(model, name, field) for name in classes]
    prepared = _prepared(image.to(next(model.parameters()).device))
    found = [
        _detected(model, prepared, name, tokens, text_threshold) for name, tokens in zip(classes, words, strict=True)
    ]
    height, width = image.shape[-2:]
    boxes = box_convert(torch.cat([each.boxes for each in found]), "cxcywh", "xyxy").clamp(0, 1)
    return Detections(
        boxes=boxes * torch.tensor([width, height, width, height]),
        scores=torch.cat([each.scores for each in found]),
        classes=tuple(name for each in found for name in each.classes),
        phrases=tuple(phrase for each in found for phrase in each.phrases),
        best_score=max(each.best_score for each in found),
    )


def _detected(model: Any, image: torch.Tensor, name: str, tokens: list[int], text_threshold: float) -> Detections:
    """The boxes of one class, cxcywh in shares of the image's sides; image as `_prepared` gives it."""
    with torch.no_grad(), _package_warnings_ignored():
        output = model(image[None], captions=[f"{name} ."])
    # token 0 is [CLS]
    token_scores = output["pred_logits"][0, :, 1 : 1 + len(tokens)].sigmoid().float().cpu()
    scores = token_scores.max(dim=1).values
    rows = torch.nonzero(scores > text_threshold).flatten()
    phrases = (
        model.tokenizer.decode([token for token, score in zip(tokens, of_box, strict=True) if score > text_threshold])
        for of_box in token_scores[rows]
    )
    boxes = output["pred_boxes"][0].float().cpu()
    return Detections(boxes[rows], scores[rows], (name,) * len(rows), tuple(phrases), scores.max().item())


def _prepared(image: torch.Tensor) -> torch.Tensor:
    """(3, H, W) in [0, 1] -> the shorter side 800, the longer 1333 at most, normalised as for ImageNet."""
    height, width = image.shape[-2:]
    scale = min(_SHORT_SIDE / min(height, width), _LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    mean, std = image.new_tensor(_IMAGENET_MEAN), image.new_tensor(_IMAGENET_STD)
    return (image - mean[:, None, None]) / std[:, None, None]


def _tokens(model: Any, name: str, field: str) -> list[int]:
    """Token ids of a class."""
    tokens: list[int] = model.tokenizer(name, add_special_tokens=False)["input_ids"]
    if all(token == model.tokenizer.unk_token_id for token in tokens):
        raise InputError(field, f'the detector does not know any letter of "{name}"; use English words')
    if len(tokens) + 3 > model.max_text_len:
        raise InputError(field, f"is too long for the detector, which reads {model.max_text_len} pieces at most")
    return tokens


def _settings_for(weights: dict[str, torch.Tensor], file_name: str, field: str) -> SimpleNamespace:
    """The package's own configuration for these weights."""
    if not weights.keys() >= {_FIRST_LAYER, _POSITION_TABLE, _WORDS, "transformer.level_embed"}:
        raise InputError(
            field,
            f"{file_name} looks like {kind_of(weights)}, not like Grounding DINO; "
            "choose groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth",
        )
    shape = (len(weights[_FIRST_LAYER]), len(weights[_POSITION_TABLE]))
    if shape not in _CONFIGS:
        raise InputError(
            field,
            f"{file_name} is a Grounding DINO of a size that is not known here; "
            "choose groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth",
        )
    config = vars(detector_package(f"config.{_CONFIGS[shape]}"))
    settings = {name: value for name, value in config.items() if not name.startswith("__")}
    # Checkpointing saves memory in training only.
    return SimpleNamespace(**settings | {"use_checkpoint": False, "use_transformer_ckpt": False})


def detector_package(module: str) -> Any:
    """A module of groundingdino-py, imported when first needed: it is slow to import.

    Args:
        module: its name below `groundingdino`.

    Raises:
        InputError: the package, or one that it needs, is not there.
    """
    try:
        with _unused_modules_left_out():
            return importlib.import_module(f"groundingdino.{module}")
    except ImportError as error:
        raise InputError(
            "grounding_dino",
            f"the package groundingdino-py cannot be imported ({error}); install requirements.txt, then run install.py",
        ) from error


@contextmanager
def _unused_modules_left_out() -> Iterator[None]:
    """Drawing and configuration files, which the detector imports and boxes never use, bring OpenCV and four more."""
    unused = {name: ModuleType(name) for name in _UNUSED if name not in sys.modules}
    for name, module in unused.items():
        setattr(module, _UNUSED[name], None)
    sys.modules.update(unused)
    try:
        yield
    finally:
        for name in unused:
            del sys.modules[name]


@contextmanager
def _own_text_encoder(tokenizer: PreTrainedTokenizerFast) -> Iterator[Any]:
    """The package's model file, with our tokenizer, an unfilled BERT and our TextEncoder for as long as it lasts."""
    package = detector_package("models.GroundingDINO.groundingdino")
    original = package.get_tokenlizer, package.BertModelWarper
    package.get_tokenlizer = SimpleNamespace(
        get_tokenlizer=lambda _: tokenizer,
        get_pretrained_language_model=lambda _: BertModel(BertConfig()),  # the defaults are bert-base-uncased
    )
    package.BertModelWarper = TextEncoder
    try:
        yield package
    finally:
        package.get_tokenlizer, package.BertModelWarper = original


@contextmanager
def _package_warnings_ignored() -> Iterator[None]:
    """Old spellings inside the package (timm.models.layers, meshgrid, autocast) are nothing a user can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _fill(model: nn.Module, weights: dict[str, torch.Tensor], file_name: str, field: str) -> None:
    """Load the weights; every parameter must be covered, under any of the names it goes by in the model."""
    try:
        unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:
        raise InputError(field, f"{file_name} has weights of other shapes than Grounding DINO's.") from error
    parameters = list(model.named_parameters(remove_duplicate=False))
    covered = {id(parameter) for name, parameter in parameters if name in weights}
    missing = [name for name, parameter in parameters if id(parameter) not in covered]
    if missing:
        raise InputError(
            field,
            f"{file_name} lacks {len(missing)} weights of Grounding DINO, the first {missing[0]}; "
            "it may be half a download, get it again",
        )
    if unexpected:
        log.debug("%s: %d weights are not used by the detector: %s", file_name, len(unexpected), unexpected[:5])
