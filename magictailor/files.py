"""Tailorings on disk: one .safetensors file that holds everything, and one embedding file per token.

The layout is the one other programs read: kohya's LoRA keys, embeddings bundled under `bundle_emb.<token>.<key>`
(AUTOMATIC1111, Forge, OneTrainer), metadata of kohya's scripts and of the SAI model metadata standard.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import TailorConfig
from .errors import InputError
from .families import FAMILIES
from .tailoring import KOHYA_PREFIX, Tailoring, Token
from .tokens import TOKEN

RECORD = "magictailor"
RECORD_VERSION = 1
BUNDLE_PREFIX = "bundle_emb."
_LORA_PARTS = (".lora_down.weight", ".lora_up.weight", ".alpha")
_NAME = re.compile(r"[^<>:\"/\\|?*\[\]\x00-\x1f]+")


def save_tailoring(tailoring: Tailoring, path: Path) -> None:
    """Write a tailoring to a new file.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
    """
    tensors = dict(tailoring.lora)
    for token in tailoring.tokens:
        for key, row in token.rows.items():
            tensors[f"{BUNDLE_PREFIX}{token.name}.{key}"] = row[None]
    _write_new(path, tensors, metadata_of(tailoring, path.stem))


def save_embedding(token: Token, path: Path) -> None:
    """Write one token to a new embedding file, one row (1, width) under each embedding key.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
    """
    _write_new(path, {key: row[None].contiguous() for key, row in token.rows.items()}, {"class_word": token.class_word})


def metadata_of(tailoring: Tailoring, name: str) -> dict[str, str]:
    """What model managers and other programs read, and the record from which `load_tailoring` restores."""
    family, config = tailoring.family, tailoring.config
    resolution = config.resolution or family.resolution
    record = {
        "version": RECORD_VERSION,
        "family": family.name,
        "tokens": [{"name": token.name, "class_word": token.class_word} for token in tailoring.tokens],
        "config": config.to_dict(),
        "steps_done": tailoring.steps_done,
    }
    words = ", ".join(f"{token.name} = {token.class_word}" for token in tailoring.tokens)
    return {
        RECORD: json.dumps(record),
        "ss_base_model_version": family.base_model_version,
        # how A1111 tells Stable Diffusion 2.x from 1.x
        "ss_v2": str(family.base_model_version.startswith("sd_v2")),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.lora_rank),
        "ss_network_alpha": str(float(config.lora_rank)),
        "ss_output_name": name,
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_steps": str(tailoring.steps_done),
        "ss_seed": str(config.seed),
        "ss_tag_frequency": json.dumps(
            {"magictailor": {token.name: tailoring.steps_done for token in tailoring.tokens}}
        ),
        "trained_words": json.dumps([token.name for token in tailoring.tokens]),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": name,
        "modelspec.trigger_phrase": tailoring.prompt,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.description": f"MagicTailor: {words}",
    }


def load_tailoring(path: Path) -> Tailoring:
    """Read a file written by `save_tailoring`; the tensors come back identical.

    Raises:
        InputError: the file is missing, truncated, not a tailoring, or its contents contradict each other.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except FileNotFoundError as error:
        raise _refused(path, "does not exist") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise _refused(path, f"cannot be read as safetensors; it is cut off or not such a file ({error})") from error
    if RECORD not in metadata:
        raise _refused(path, "is not a MagicTailor tailoring; an ordinary LoRA goes into Load LoRA")
    return _restored(path, metadata[RECORD], tensors)


def _restored(path: Path, record_text: str, tensors: Mapping[str, Tensor]) -> Tailoring:
    try:
        record = json.loads(record_text)
        version, family_name, steps = record["version"], record["family"], record["steps_done"]
        named = [(str(t["name"]), str(t["class_word"])) for t in record["tokens"]]
        values = dict(record["config"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(path, f"its MagicTailor record is damaged ({type(error).__name__}: {error})") from error
    if version != RECORD_VERSION:
        raise _refused(path, f"was written by another version of MagicTailor (record {version!r}); update the pack")
    if family_name not in FAMILIES:
        raise _refused(path, f"is for a model family this version does not know: {family_name!r}")
    try:
        config = TailorConfig(**values)
    except (TypeError, InputError) as error:
        raise _refused(path, f"its MagicTailor record is damaged ({error})") from error
    if not isinstance(steps, int) or not 0 <= steps <= config.total_steps:
        raise _refused(path, f"its MagicTailor record is damaged (steps_done is {steps!r})")
    keys = [d.key for d in FAMILIES[family_name].text_encoders]
    tokens = tuple(_token(path, name, word, n, keys, tensors) for n, (name, word) in enumerate(named))
    if not tokens:
        raise _refused(path, "holds no token")
    lora = {key: tensor for key, tensor in tensors.items() if not key.startswith(BUNDLE_PREFIX)}
    bundled = len(tensors) - len(lora)
    if bundled != len(tokens) * len(keys):
        raise _refused(path, f"holds {bundled} embeddings where its record names {len(tokens) * len(keys)}")
    _check_lora(path, lora)
    return Tailoring(family_name, lora, tokens, config, steps)


def _token(path: Path, name: str, word: str, number: int, keys: list[str], tensors: Mapping[str, Tensor]) -> Token:
    match = TOKEN.fullmatch(name)
    if match is None or int(match[1]) != number:
        raise _refused(path, f"its token {number} is called {name[:40]!r}")
    rows = {}
    for key in keys:
        row = tensors.get(f"{BUNDLE_PREFIX}{name}.{key}")
        if row is None or row.ndim != 2 or row.shape[0] != 1 or not _usable(row):
            raise _refused(path, f"the embedding {name} for {key} is missing or damaged")
        rows[key] = row[0]
    return Token(name, word, rows)


def _check_lora(path: Path, lora: Mapping[str, Tensor]) -> None:
    stems = {key[: -len(part)] for key in lora for part in _LORA_PARTS if key.endswith(part)}
    expected = {stem + part for stem in stems for part in _LORA_PARTS}
    if not stems or set(lora) != expected or not all(stem.startswith(KOHYA_PREFIX) for stem in stems):
        strange = next(iter(sorted(set(lora) ^ expected)), "no layer")
        raise _refused(path, f"its LoRA is not complete (first: {strange[:80]})")
    for stem in stems:
        down, up, alpha = (lora[stem + part] for part in _LORA_PARTS)
        if down.ndim not in (2, 4) or up.ndim != down.ndim or down.shape[0] != up.shape[1] or alpha.numel() != 1:
            raise _refused(path, f"the LoRA of {stem} has shapes that do not fit together")
        if not all(_usable(tensor) for tensor in (down, up, alpha)):
            raise _refused(path, f"the LoRA of {stem} holds values that are not finite numbers")


def _usable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(torch.isfinite(tensor).all())


def _refused(path: Path, reason: str) -> InputError:
    return InputError("tailoring", f"{path.name} {reason}")


def checked_name(name: str) -> str:
    """A name for the files of a tailoring: may hold `/` for subfolders, may not lead out of the folder.

    Raises:
        InputError: it is empty, absolute, climbs with `..`, or holds characters that file names cannot have.
    """
    parts = name.strip().replace("\\", "/").removesuffix(".safetensors").split("/")
    for part in parts:
        if not part.strip(". ") or part != part.strip() or not _NAME.fullmatch(part):
            raise InputError(
                "name",
                f"{name!r} cannot be a file name; use letters, digits, - and _, and / for a subfolder: people/anna",
            )
    return "/".join(parts)


@contextmanager
def _reserved(path: Path):
    """Create the file exclusively, so that nobody else's is ever replaced, and remove it again on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_new(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    with _reserved(path):
        with NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as temporary:
            pass
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary.name, metadata)
            os.replace(temporary.name, path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise
        # NamedTemporaryFile makes files only their owner can read
        path.chmod(0o644)
