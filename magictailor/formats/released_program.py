"""Reading what the released MagicTailor program writes: a LoRA in diffusers keys, a whole token table, a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..backbones import Family, stable_diffusion
from ..backbones.clip_description import END_OF_TEXT
from ..errors import InputError
from ..tailoring import Tailoring, Token
from ..tokens import token_name
from .weights_file import are_finite, read_weights

LORA_FILE = "pytorch_lora_weights.safetensors"
TABLE_FILE = "token_embedding.pth"
TOKENIZER_FOLDER = "tokenizer"
VOCABULARY = END_OF_TEXT + 1
MOST_WORDS = 10_000  # that a table may add to CLIP's: a small file can claim any number

_UNET = "unet."
# what is drawn with decides whether a U-Net predicts velocities; the program was released for those that predict noise
_FAMILIES = {
    family.cross_attention_width: family
    for family in stable_diffusion.FAMILIES
    if len(family.embedding_keys) == 1 and family.prediction_type in (None, "epsilon")
}


def is_released(folder: Path) -> bool:
    """Whether a folder holds the two files of weights that the released program writes."""
    return (folder / LORA_FILE).is_file() and (folder / TABLE_FILE).is_file()


def load_released(folder: Path) -> Tailoring:
    """Read a folder the released program wrote; every tensor of its LoRA is kept.

    The new words are called `<v0>`, `<v1>` ... in the order of their rows, whatever they were called there. Class words
    and settings of the training are not in the folder. Nothing but tensors is unpickled.

    Raises:
        InputError: a file is missing or damaged, or holds what is not known here; names "tailoring".
    """
    lora, alpha = _lora(folder / LORA_FILE)
    table = _table(folder / TABLE_FILE)
    family = _family(folder, table, lora)
    if not are_finite(table[VOCABULARY:]):
        raise _refused(folder / TABLE_FILE, "holds new words that are not finite numbers")
    (key,) = family.embedding_keys
    ids = _new_ids(folder / TOKENIZER_FOLDER, len(table))
    tokens = tuple(Token(token_name(n), "", {key: table[i : i + 1].float().clone()}) for n, i in enumerate(ids))
    return Tailoring(family.name, family.lora_layout.stored(lora, alpha), tokens, config=None, steps_done=None)


def _lora(path: Path) -> tuple[dict[str, Tensor], float]:
    """The LoRA by peft's names, and its alpha: the rank, unless the file's metadata says otherwise."""
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    try:
        with safe_open(path, framework="pt") as file:
            adapter = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
            stored = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _refused(path, f"cannot be read; it is cut off or not a safetensors file ({error})") from error
    foreign = sorted(key for key in stored if not key.startswith(_UNET))
    if foreign:
        raise _refused(path, f"holds {_some(foreign)}, which is not of the U-Net's LoRA and would be lost")
    lora = convert_unet_state_dict_to_peft({key.removeprefix(_UNET): tensor for key, tensor in stored.items()})
    strange = sorted(key for key in lora if not key.endswith((".lora_A.weight", ".lora_B.weight")))
    strange += sorted(key for key in lora if key not in strange and _counterpart(key) not in lora)
    if strange or not lora or len(lora) != len(stored):
        raise _refused(path, f"holds {_some(strange) or 'no LoRA'}, which is not a layer of a LoRA as it knows them")
    if not all(tensor.ndim in (2, 4) and are_finite(tensor) for tensor in lora.values()):
        raise _refused(path, "holds tensors that are no layers of a LoRA, or are not finite numbers")
    ranks = {len(tensor) for key, tensor in lora.items() if key.endswith(".lora_A.weight")}
    if len(ranks) != 1:
        raise _refused(path, f"its layers have different ranks ({', '.join(map(str, sorted(ranks)))})")
    alpha = adapter.get("unet.lora_alpha", ranks.pop()) if isinstance(adapter, dict) else None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0.0 <= alpha < 1e6:
        raise _refused(path, f"says of itself that its alpha is {alpha!r}"[:200])
    return lora, float(alpha)


def _counterpart(key: str) -> str:
    return key.replace(".lora_A.", ".lora_B.") if ".lora_A." in key else key.replace(".lora_B.", ".lora_A.")


def _table(path: Path) -> Tensor:
    weights = read_weights(path, "tailoring")
    table = weights.get("weight")
    if table is None or table.ndim != 2 or not table.is_floating_point():
        raise _refused(path, "does not hold the table of token embeddings")
    if len(table) <= VOCABULARY:
        raise _refused(path, f"has {len(table)} rows, so no new word was added to the {VOCABULARY} of CLIP")
    if len(table) > VOCABULARY + MOST_WORDS:
        raise _refused(path, f"has {len(table)} rows, which are more than {MOST_WORDS} new words")
    return table


def _family(folder: Path, table: Tensor, lora: Mapping[str, Tensor]) -> Family:
    width = table.shape[1]
    family = _FAMILIES.get(width)
    contexts = {tensor.shape[1] for key, tensor in lora.items() if ".attn2.to_k.lora_A." in key}
    if family is None or contexts - {width}:
        found = ", ".join(map(str, sorted(contexts)))
        raise _refused(
            folder, f"has words {width} wide and a LoRA for prompts {found} wide; they are of no family known here"
        )
    return family


def _new_ids(tokenizer: Path, rows: int) -> list[int]:
    """Ids of the added words in the tokenizer's files; without these, all rows after CLIP's own."""
    added = _added(tokenizer)
    ids = sorted(i for i in added if i >= VOCABULARY) or list(range(VOCABULARY, rows))
    if ids[-1] >= rows:
        raise _refused(tokenizer, f"names a word in row {ids[-1]} of a table of {rows} rows")
    return ids


def _added(tokenizer: Path) -> set[int]:
    # the same list, as the slow and the fast tokenizers of transformers write it
    readers = {
        "added_tokens.json": lambda content: content.values(),
        "tokenizer.json": lambda content: (entry["id"] for entry in content["added_tokens"]),
        "tokenizer_config.json": lambda content: content.get("added_tokens_decoder", {}),
    }
    found: set[int] = set()
    for name, ids in readers.items():
        path = tokenizer / name
        if path.is_file():
            try:
                found.update(int(i) for i in ids(json.loads(path.read_text(encoding="utf-8"))))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise _refused(path, f"cannot be read ({type(error).__name__}: {error})") from error
    return found


def _some(keys: list[str]) -> str:
    return ", ".join(key[:80] for key in keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _refused(path: Path, reason: str) -> InputError:
    return InputError("tailoring", f"{path.parent.name}/{path.name} {reason}")
