"""The state of a training on disk: all that its next step depends on, in one .safetensors file.

Tensors: `lora.<name>`, `tokens.<key>`, `momentum.<name>` from DS-Bal on, `optimizer.<number>.<name>`, as in
`Training.state`. Metadata: one JSON object under `magictailor_run`, see `RunRecord`. The same state gives the same
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import TailorConfig
from ..errors import InputError
from ..training import StepReport
from .small_references import SmallReference, packed, unpacked
from .weights_file import write_tensors

RECORD = "magictailor_run"
RECORD_VERSION = 1
_NUMBERS = ("learning_rate", "degradation_weight", "loss", "preservation", "attention")


@dataclass(frozen=True)
class RunRecord:
    """What a run is of, and how far it has come.

    Attributes:
        family_name: of the checkpoint.
        class_words: the concept's first.
        config: it trains with.
        identity: fingerprints of all else that decides the result, by what a person calls it.
        steps_done: how far it is.
        text_layer: as in `Tailoring`.
        pictures: small ones of its references; none in states of earlier versions.
    """

    family_name: str
    class_words: tuple[str, ...]
    config: TailorConfig
    identity: Mapping[str, str]
    steps_done: int
    text_layer: int | None = None
    pictures: tuple[SmallReference, ...] = ()

    @property
    def finished(self) -> bool:
        return self.steps_done == self.config.total_steps


def write_state(path: Path, record: RunRecord, state: Mapping[str, Any]) -> None:
    """Write the state of a training to a new file.

    Args:
        state: from `Training.state`.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
        OSError: it cannot be written; nothing is left.
    """
    tensors = {f"lora.{name}": tensor for name, tensor in state["lora"].items()}
    tensors |= {f"tokens.{key}": rows for key, rows in state["tokens"].items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in (state["momentum"] or {}).items()}
    for number, moments in state["optimizer"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
    written = {
        "version": RECORD_VERSION,
        "family": record.family_name,
        "class_words": record.class_words,
        "config": record.config.to_dict(),
        "identity": dict(record.identity),
        "steps_done": record.steps_done,
        "scaler": state["scaler"],
        "history": [_packed(report) for report in state["history"]],
        "pictures": packed(record.pictures),
    }
    if record.text_layer is not None:
        written["text_layer"] = record.text_layer
    # under one key: safetensors writes several in any order
    write_tensors(path, tensors, {RECORD: json.dumps(written)})


def read_record(path: Path) -> RunRecord:
    """What a state file is of; its tensors stay on disk.

    Raises:
        InputError: it is missing, cut off or damaged, or of another version; names "run".
    """
    return _read(path, tensors=False)[0]


def read_state(path: Path) -> tuple[RunRecord, dict[str, Any]]:
    """A state file, as it was handed to `write_state`, on the CPU.

    Raises:
        InputError: as `read_record`, or what it holds contradicts itself.
    """
    return _read(path, tensors=True)


def _read(path: Path, tensors: bool) -> tuple[RunRecord, dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(RECORD)
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _refused(path, f"cannot be read ({error})") from error
    if text is None:
        raise _refused(path, "is not the state of a training")
    try:
        content = json.loads(text)
        if content["version"] != RECORD_VERSION:
            raise _refused(path, f"was written by another version of MagicTailor ({content['version']!r})")
        words = tuple(content["class_words"])
        record = RunRecord(
            content["family"],
            words,
            TailorConfig.from_dict(content["config"]),
            dict(content["identity"]),
            content["steps_done"],
            content.get("text_layer"),
            unpacked(content.get("pictures", []), len(words)),
        )
        history = [_unpacked(step, packed, len(words)) for step, packed in enumerate(content["history"], 1)]
        state = {"steps_done": record.steps_done, "history": history, "scaler": dict(content["scaler"])}
        whole = (
            isinstance(record.steps_done, int)
            and isinstance(record.text_layer, int | None)
            and len(history) == record.steps_done
            and 0 <= record.steps_done <= record.config.total_steps
            and all(isinstance(word, str) for word in (record.family_name, *words, *record.identity.values()))
            and 0 < len(words)
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, InputError) and error.field == "run":
            raise
        raise _refused(path, f"is damaged ({type(error).__name__})") from error
    if not whole:
        raise _refused(path, "is damaged (what it says of itself cannot be)")
    if tensors:
        state |= _unfolded(path, found)
    return record, state


def _unfolded(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    parts: dict[str, dict[str, Tensor]] = {"lora": {}, "tokens": {}, "momentum": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts or not rest:
            raise _refused(path, f"holds {name[:80]!r}, which is no part of a state")
        parts[part][rest] = tensor
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        number, _, moment = name.partition(".")
        if not (number.isascii() and number.isdigit()):
            raise _refused(path, f"holds {name[:80]!r}, which is no part of an optimizer")
        moments.setdefault(int(number), {})[moment] = tensor
    return {
        "lora": parts["lora"],
        "tokens": parts["tokens"],
        "momentum": parts["momentum"] or None,
        "optimizer": moments,
    }


def _packed(report: StepReport) -> list[Any]:
    return [
        report.total_steps,
        report.phase,
        *(getattr(report, name) for name in _NUMBERS),
        list(report.diffusion),
    ]


def _unpacked(step: int, packed: list[Any], references: int) -> StepReport:
    total, phase, *numbers, diffusion = packed
    if not (isinstance(total, int) and isinstance(phase, str) and len(diffusion) == references):
        raise ValueError("a step of the history is damaged")
    values = dict(zip(_NUMBERS, map(float, numbers), strict=True))
    return StepReport(step=step, total_steps=total, phase=phase, diffusion=tuple(map(float, diffusion)), **values)


def _refused(path: Path, reason: str) -> InputError:
    return InputError("run", f"{path.parent.name}/{path.name} {reason}")
