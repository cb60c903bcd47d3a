"""Reading what other trainers leave: a LoRA with its words bundled into the file, beside it, or words alone.

Known are the bundles of A1111's format (`bundle_emb.<name>.<key>`), which OneTrainer and trainers of pivotal tuning
write, an embedding file `<name>_emb.safetensors` beside a LoRA (diffusers' advanced script), and embedding files of
A1111, kohya's scripts and OneTrainer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..backbones import Family, registered
from ..errors import InputError
from ..tailoring import Tailoring, Token
from ..tokens import LONGEST_NAME, checked_names
from .weights_file import in_full, read_weights

BUNDLE_PREFIX = "bundle_emb."
BESIDE = "_emb"

TEXT_LORA = "lora_te"  # lora_te_, lora_te1_, lora_te2_
_ENCODERS = {"clip_l": "clip_l", "clip_g": "clip_g", "clip_h": "clip_h", "t5": "t5xxl", "t5xxl": "t5xxl"}
_WIDTHS = {"clip_l": 768, "clip_g": 1280, "clip_h": 1024, "t5xxl": 4096}
# of the one encoder that a checkpoint has
_ONLY = ("emb_params", "string_to_param.*", "string_to_param", "*")


def load_foreign(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Tailoring | None:
    """A tailoring of another trainer's LoRA with its words, whose names they keep as far as prompts can hold them.

    Args:
        path: of the file; the words may be beside it.
        tensors: of the file.

    Returns:
        None if there is no word in or beside the file.

    Raises:
        InputError: the words or the LoRA are of no family here, or damaged; names "tailoring".
    """
    words = _bundled(tensors)
    prefixes = (TEXT_LORA, *(family.lora_layout.prefix for family in registered()))
    lora = {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)}
    beside = next((file for file in _beside(path) if file.is_file()), None)
    if not words and lora and beside is not None:
        words = {path.stem: read_weights(beside, "tailoring")}
    elif not words and not lora:
        words = {path.stem: dict(tensors)}
    else:
        strange = sorted(key for key in tensors if key not in lora and not key.startswith(BUNDLE_PREFIX))
        if words and strange:
            raise _refused(path, f"holds {strange[0]}, which is not known here and would be lost")
    rows = {name: _rows(of_word) for name, of_word in words.items()}
    rows = {name: of_word for name, of_word in rows.items() if of_word}
    if not rows:
        return None
    family = _family(path, rows, metadata)
    tokens = tuple(Token(name, "", _named(path, name, rows[given], family)) for given, name in _names(rows).items())
    return Tailoring(family.name, _complete(path, lora, family), tokens, config=None, steps_done=None)


def _beside(path: Path) -> list[Path]:
    return [path.with_name(f"{path.stem}{BESIDE}{path.suffix}"), path.with_name("embeddings.safetensors")]


def _bundled(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    words: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLE_PREFIX) and key.count(".") >= 2:
            _, name, encoder = key.split(".", 2)
            words.setdefault(name, {})[encoder] = tensor
    return words


def _rows(word: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vectors (V, width) of a word by embedding key; "" if the file does not name its only encoder."""
    rows = {_ENCODERS[key]: tensor for key, tensor in word.items() if key in _ENCODERS}
    if not rows:
        # a word alone is called by itself in diffusers' files
        only = [word[key] for key in _ONLY if key in word] or (list(word.values()) if len(word) == 1 else [])
        rows = dict(zip([""], only, strict=False))
    full = {key: in_full(t) for key, t in rows.items() if t.is_floating_point() and t.ndim in (1, 2) and t.numel()}
    usable = {key: t.reshape(-1, t.shape[-1]) for key, t in full.items() if t is not None}
    return usable if len(usable) == len(rows) else {}


def _family(path: Path, rows: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]) -> Family:
    """By what the file says, else the first whose text encoders have these widths."""
    first = next(iter(rows.values()))
    fitting = [family for family in registered() if _fits(family, first)]
    said = metadata.get("ss_base_model_version")
    family = next((family for family in fitting if family.base_model_version == said), None)
    family = family or next(iter(fitting), None)
    if family is None:
        widths = ", ".join(f"{key or 'its encoder'} {len(t[0])}" for key, t in first.items())
        raise _refused(path, f"has words for text encoders ({widths}) of no family known here")
    return family


def _fits(family: Family, rows: Mapping[str, Tensor]) -> bool:
    keys = set(family.embedding_keys)
    if "" in rows:
        return len(keys) == 1 and _WIDTHS[family.embedding_keys[0]] == rows[""].shape[1]
    try:
        family.require_encoders(set(rows))
    except InputError:
        return False
    return all(key in keys and _WIDTHS[key] == tensor.shape[1] for key, tensor in rows.items())


def _named(path: Path, name: str, rows: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    if not _fits(family, rows):
        raise _refused(path, f"has a word {name} that is not for {family.title} as its first one is")
    if not all(torch.isfinite(tensor).all() for tensor in rows.values()):
        raise _refused(path, f"has a word {name} that is not of finite numbers")
    return {key or family.embedding_keys[0]: tensor.clone() for key, tensor in rows.items()}


def _names(given: Mapping[str, object]) -> dict[str, str]:
    """Names that prompts can hold, by the given ones."""
    names: dict[str, str] = {}
    for number, name in enumerate(given):
        bracketed = name.startswith("<") and name.endswith(">")
        bare = re.sub(r"[^\w-]+", "_", name.strip("<>")).strip("_")[: LONGEST_NAME - 2]
        possible = f"<{bare}>" if bracketed else bare
        try:
            checked_names([*names.values(), possible])
        except InputError:
            possible = f"<v{number}>"
        names[name] = possible
    return names


def _complete(path: Path, lora: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The LoRA in float32, with an alpha for each layer: the rank, where the file names none."""
    layout = family.lora_layout
    stems = layout.stems(lora)
    strange = sorted(
        key for key in lora if not any(key == stem + ending for stem in stems for ending in layout.endings)
    )
    if strange:
        raise _refused(path, f"holds {strange[0]}, which is not of an ordinary LoRA; Load LoRA may know it")
    converted = {key: in_full(tensor) for key, tensor in lora.items()}
    complete = {key: tensor for key, tensor in converted.items() if tensor is not None and tensor.isfinite().all()}
    if len(complete) != len(lora):
        raise _refused(path, "its LoRA holds values that are not finite numbers")
    for stem in stems:
        if stem + layout.down not in lora or stem + layout.up not in lora:
            raise _refused(path, f"has half a LoRA for {stem}")
        if layout.alpha:
            complete.setdefault(stem + layout.alpha, torch.tensor(float(len(lora[stem + layout.down]))))
    return complete


def _refused(path: Path, reason: str) -> InputError:
    return InputError("tailoring", f"{path.name} {reason}")
