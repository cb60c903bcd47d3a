"""Tailorings on disk: one .safetensors file that holds everything, and one embedding file per token.

The layout is the one other programs read: kohya's LoRA keys, embeddings bundled under `bundle_emb.<token>.<key>`
(AUTOMATIC1111, Forge, OneTrainer), metadata of kohya's scripts and of the SAI model metadata standard.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..backbones import Family, family_named
from ..backbones.lora_layout import LoraLayout
from ..config import TailorConfig
from ..errors import InputError
from ..report.thumbnail import thumbnail_jpeg
from ..tailoring import Tailoring, Token
from ..tokens import checked_names, file_form
from .file_name import checked_name, prompt_name
from .new_file import file_words, free_names
from .other_trainers import BUNDLE_PREFIX, TEXT_LORA, load_foreign
from .released_program import LORA_FILE, is_released, load_released
from .small_references import MOST_CHARACTERS, SmallReference, packed, unpacked
from .weights_file import are_finite, read_weights, write_tensors

RECORD = "magictailor"
PICTURES = "magictailor_references"
RECORD_VERSION = 1
UNFINISHED = "magictailor_unfinished"
NOTHING_LEARNED = (
    "holds no new word, neither of MagicTailor nor of another trainer; an ordinary LoRA goes into Load LoRA"
)


def save_tailoring(
    tailoring: Tailoring, path: Path, thumbnail: Tensor | None = None, reference_pictures: bool = False
) -> None:
    """Write a tailoring to a new file.

    Args:
        thumbnail: (3, H, W) in [0, 1], shown by model managers; stored with at most 256 pixels a side.
        reference_pictures: whether the file carries the tailoring's small pictures of what it was learned from; whoever
            has the file sees them.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
        InputError: the thumbnail is not a picture.
    """
    tensors = dict(tailoring.lora)
    for token in tailoring.tokens:
        for key, rows in token.rows.items():
            tensors[f"{BUNDLE_PREFIX}{token.name}.{key}"] = rows
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    jpeg = None if thumbnail is None else thumbnail_jpeg(thumbnail)
    carried = {PICTURES: json.dumps(packed(tailoring.pictures))} if reference_pictures and tailoring.pictures else {}
    metadata = metadata_of(tailoring, path.stem) | carried | _hashes(tensors) | _picture(jpeg) | _date()
    write_tensors(path, tensors, metadata)


def save_embedding(token: Token, path: Path) -> None:
    """Write one token to a new embedding file, its vectors (V, width) under each embedding key.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
    """
    write_tensors(path, {key: rows.contiguous() for key, rows in token.rows.items()}, {"class_word": token.class_word})


@dataclass(frozen=True)
class SavedTailoring:
    """Where `save_with_embeddings` has put a tailoring.

    Attributes:
        name: of the files, without ending; `people/anna` lies in a subfolder.
        tailoring: the one file with everything.
        embeddings: one file per token, the concept's first.
    """

    name: str
    tailoring: Path
    embeddings: tuple[Path, ...]


def save_with_embeddings(
    tailoring: Tailoring,
    wanted: str,
    loras: Path,
    embeddings: Path,
    thumbnail: Tensor | None = None,
    reference_pictures: bool = False,
) -> SavedTailoring:
    """Save under the first of wanted, wanted_2, wanted_3 ... of which no file is there: all files, or none.

    Args:
        wanted: name, see `checked_name`.
        loras: folder of the tailoring.
        embeddings: folder of the embeddings, called as `embedding_name` says.
        thumbnail, reference_pictures: as in `save_tailoring`.

    Raises:
        InputError: the name or the thumbnail cannot be used.
    """
    forms = [file_form(token.name) for token in tailoring.tokens]
    for name in free_names(checked_name(wanted, max(forms, key=lambda form: len(form.encode())))):
        path = loras / f"{name}.safetensors"
        _require_inside(loras, path)
        _require_inside(embeddings, embeddings / prompt_name(name))
        written: list[Path] = []
        try:
            for token in tailoring.tokens:
                embedding = embeddings / f"{embedding_name(name, token)}.safetensors"
                save_embedding(token, embedding)
                written.append(embedding)
            save_tailoring(tailoring, path, thumbnail, reference_pictures)
            return SavedTailoring(name, path, tuple(written))
        except BaseException as error:
            for embedding in written:
                embedding.unlink()
            if not isinstance(error, FileExistsError):
                raise
    raise AssertionError("there is always a free name")


def _require_inside(folder: Path, path: Path) -> None:
    """Refuse a subfolder that is a link to somewhere else."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError("name", f"the folder {path.parent} is a link that leads out of {folder}; choose another name")


def save_unfinished(tailoring: Tailoring, loras: Path) -> Path:
    """Save what a training had learned when it stopped, under a name of its own in the folder `UNFINISHED` of loras.

    Returns:
        the new file: house_with_roof_at_step_312.safetensors, or with _2, _3 ... before the ending.

    Raises:
        OSError: it cannot be written.
    """
    words = file_words(token.class_word for token in tailoring.tokens)
    for name in free_names(f"{words}_at_step_{tailoring.steps_done}"):
        path = loras / UNFINISHED / f"{name}.safetensors"
        with suppress(FileExistsError):
            save_tailoring(tailoring, path)
            return path
    raise AssertionError("there is always a free name")


def embedding_name(saved: str, token: Token) -> str:
    """What the embedding of a token is called beside a tailoring saved under that name: people/anna_v0.

    Prompts can hold it, so it is not always the tailoring's own name, see `prompt_name`.
    """
    return f"{prompt_name(saved)}_{file_form(token.name)}"


def metadata_of(tailoring: Tailoring, name: str) -> dict[str, str]:
    """What model managers and other programs read, and the record from which `load_tailoring` restores."""
    family, config = tailoring.family, tailoring.config
    record = {
        "version": RECORD_VERSION,
        "family": family.name,
        "tokens": [{"name": token.name, "class_word": token.class_word} for token in tailoring.tokens],
        "config": None if config is None else config.to_dict(),
        "steps_done": tailoring.steps_done,
    }
    if tailoring.text_layer is not None:
        record["text_layer"] = tailoring.text_layer
    names = [token.name for token in tailoring.tokens]
    resolution = (config and config.resolution) or family.resolution
    metadata = {
        RECORD: json.dumps(record),
        **family.metadata(),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(tailoring.rank),
        "ss_network_alpha": str(tailoring.alpha),
        "ss_output_name": name,
        "ss_tag_frequency": json.dumps({"magictailor": dict.fromkeys(names, tailoring.steps_done or 1)}),
        "trained_words": json.dumps(names),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.trigger_phrase": tailoring.prompt,
        "modelspec.usage_hint": f"Write {tailoring.prompt} in the prompt.",
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.description": f"MagicTailor: {tailoring.words}",
        "modelspec.tags": ", ".join(["magictailor", *filter(None, (token.class_word for token in tailoring.tokens))]),
    }
    if tailoring.text_layer not in (None, family.text_layer):
        # kohya's counts the last layer as 1
        metadata["ss_clip_skip"] = str(-(tailoring.text_layer or 0))
    if config is None or tailoring.steps_done is None:
        return metadata
    return metadata | _training_record(tailoring.steps_done, config, resolution)


def _training_record(steps_done: int, config: TailorConfig, resolution: int) -> dict[str, str]:
    """How it was trained, in the keys of kohya's scripts."""
    times = " times the number of pictures" if config.scale_lr else ""
    comment = (
        f"MagicTailor: {config.phase1_train_steps} warm-up steps at {config.phase1_learning_rate:g}{times}, "
        f"{config.phase2_train_steps} DS-Bal steps at {config.phase2_learning_rate:g}{times}"
    )
    optimizer = (
        f"torch.optim.adamw.AdamW(betas=({config.adam_beta1:g}, {config.adam_beta2:g}), eps={config.adam_epsilon:g}, "
        f"weight_decay={config.adam_weight_decay:g})"
    )
    # kohya's keys hold one rate: the warm-up's; the comment has both
    rate = config.phase1_learning_rate if config.phase1_train_steps else config.phase2_learning_rate
    return {
        "ss_steps": str(steps_done),
        "ss_max_train_steps": str(config.total_steps),
        "ss_learning_rate": str(rate),
        "ss_unet_lr": str(rate),
        "ss_text_encoder_lr": str(rate * config.token_lr_scale),
        "ss_lr_scheduler": "constant",
        "ss_optimizer": optimizer,
        "ss_max_grad_norm": str(config.max_grad_norm),
        "ss_mixed_precision": config.mixed_precision,
        "ss_gradient_checkpointing": str(config.memory in ("balanced", "small", "smallest")),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_seed": str(config.seed),
        "ss_training_comment": comment,
    }


def _hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of all that follows the header in the file, which does not depend on the metadata."""
    contents = save(dict(tensors))
    header = 8 + int.from_bytes(contents[:8], "little")
    digest = hashlib.sha256(memoryview(contents)[header:]).hexdigest()
    return {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}


def _picture(jpeg: bytes | None) -> dict[str, str]:
    if jpeg is None:
        return {}
    text = base64.b64encode(jpeg).decode()
    # the first is the standard's; the second is what ComfyUI's own model list shows
    return {"modelspec.thumbnail": f"data:image/jpeg;base64,{text}", "ssmd_cover_images": json.dumps([text])}


def _date() -> dict[str, str]:
    return {"modelspec.date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}


def load_tailoring(path: Path) -> Tailoring:
    """Read a file written by `save_tailoring`, whose tensors come back identical, or what other programs wrote.

    These are the released program, and trainers that leave words with a LoRA or alone, see `other_trainers`.

    Args:
        path: the file; for the released program its folder, or `pytorch_lora_weights.safetensors` in it.

    Raises:
        InputError: it is missing, truncated, not a tailoring, or its contents contradict each other.
    """
    if is_released(path):
        return load_released(path)
    if path.is_file() and path.suffix.lower() not in (".safetensors", ".sft"):
        tailoring = load_foreign(path, read_weights(path, "tailoring"), {})
        if tailoring is None:
            raise _refused(path, NOTHING_LEARNED)
        return tailoring
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError as error:
        raise _refused(path, "does not exist") from error
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _refused(path, f"cannot be read as safetensors; it is cut off or not such a file ({error})") from error
    if RECORD in metadata:
        tailoring = _restored(path, metadata[RECORD], tensors)
        return replace(tailoring, pictures=_pictures(path, metadata.get(PICTURES), len(tailoring.tokens)))
    if path.name == LORA_FILE and is_released(path.parent):
        return load_released(path.parent)
    tailoring = load_foreign(path, tensors, metadata)
    if tailoring is None:
        raise _refused(path, NOTHING_LEARNED)
    return tailoring


def _restored(path: Path, record_text: str, tensors: Mapping[str, Tensor]) -> Tailoring:
    try:
        record = json.loads(record_text)
        version, family_name, steps = record["version"], record["family"], record["steps_done"]
        named = [(str(t["name"]), str(t["class_word"])) for t in record["tokens"]]
        values = None if record["config"] is None else dict(record["config"])
        layer = record.get("text_layer")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(path, f"its MagicTailor record is damaged ({type(error).__name__}: {error})") from error
    if version != RECORD_VERSION:
        raise _refused(path, f"was written by another version of MagicTailor (record {version!r}); update the pack")
    try:
        family = family_named(family_name)
    except (KeyError, TypeError) as error:
        raise _refused(path, f"is for a model family this version does not know: {family_name!r}") from error
    try:
        config = None if values is None else TailorConfig.from_dict(values)
    except (TypeError, InputError) as error:
        raise _refused(path, f"its MagicTailor record is damaged ({error})") from error
    possible = steps is None if config is None else isinstance(steps, int) and 0 <= steps <= config.total_steps
    if not possible:
        raise _refused(path, f"its MagicTailor record is damaged (steps_done is {steps!r})")
    if not isinstance(layer, int | None):
        raise _refused(path, f"its MagicTailor record is damaged (text_layer is {layer!r})")
    keys = _embedding_keys(path, family, tensors)
    try:
        checked_names([name for name, _ in named])
    except InputError as error:
        raise _refused(path, f"its MagicTailor record is damaged ({error.message})") from error
    tokens = tuple(_token(path, name, word, keys, tensors) for name, word in named)
    if not tokens:
        raise _refused(path, "holds no token")
    lora = {key: tensor for key, tensor in tensors.items() if not key.startswith(BUNDLE_PREFIX)}
    bundled = len(tensors) - len(lora)
    if bundled != len(tokens) * len(keys):
        raise _refused(path, f"holds {bundled} embeddings where its record names {len(tokens) * len(keys)}")
    _check_lora(path, lora, family.lora_layout, foreign=config is None)
    return Tailoring(family_name, lora, tokens, config, steps, text_layer=layer)


def _pictures(path: Path, text: str | None, count: int) -> tuple[SmallReference, ...]:
    if text is None:
        return ()
    try:
        # brackets, quotes and commas are few beside the pictures
        if len(text) > 2 * MOST_CHARACTERS:
            raise ValueError(f"they have {len(text)} characters")
        return unpacked(json.loads(text), count)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"the pictures of its references are damaged ({error})") from error


def _embedding_keys(path: Path, family: Family, tensors: Mapping[str, Tensor]) -> list[str]:
    """Of the text encoders it was trained with; there are families that do without some of theirs."""
    bundled = [key for key in tensors if key.startswith(BUNDLE_PREFIX)]
    keys = [key for key in family.embedding_keys if any(name.endswith(f".{key}") for name in bundled)]
    try:
        family.require_encoders(set(keys))
    except InputError as error:
        missing = ", ".join(key for key in family.embedding_keys if key not in keys)
        raise _refused(path, f"the embedding for {missing} is missing or damaged") from error
    return keys


def _token(path: Path, name: str, word: str, keys: list[str], tensors: Mapping[str, Tensor]) -> Token:
    rows = {}
    for key in keys:
        vectors = tensors.get(f"{BUNDLE_PREFIX}{name}.{key}")
        if vectors is None or vectors.ndim != 2 or not len(vectors) or not are_finite(vectors):
            raise _refused(path, f"the embedding {name} for {key} is missing or damaged")
        rows[key] = vectors.float()
    return Token(name, word, rows)


def _check_lora(path: Path, lora: Mapping[str, Tensor], layout: LoraLayout, foreign: bool) -> None:
    """Refuse a LoRA that is not whole; one from another trainer may be none, or have layers of text encoders."""
    stems = layout.stems(lora)
    expected = {stem + ending for stem in stems for ending in layout.endings}
    prefixes = (layout.prefix, TEXT_LORA) if foreign else (layout.prefix,)
    if not (stems or foreign) or set(lora) != expected or not all(stem.startswith(prefixes) for stem in stems):
        strange = next(iter(sorted(set(lora) ^ expected)), "no layer")
        raise _refused(path, f"its LoRA is not complete (first: {strange[:80]})")
    for stem in stems:
        down, up, *alphas = (lora[stem + ending] for ending in layout.endings)
        fits = down.ndim in (2, 4) and up.ndim == down.ndim and down.shape[0] == up.shape[1]
        if not fits or any(alpha.numel() != 1 for alpha in alphas):
            raise _refused(path, f"the LoRA of {stem} has shapes that do not fit together")
        if not all(are_finite(tensor) for tensor in (down, up, *alphas)):
            raise _refused(path, f"the LoRA of {stem} holds values that are not finite numbers")


def _refused(path: Path, reason: str) -> InputError:
    return InputError("tailoring", f"{path.name} {reason}")
