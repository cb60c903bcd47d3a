"""What many trainings are made of: pair folders, a grid of settings, and what is drawn with each of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from ..config import TailorConfig, knobs, with_memory
from ..errors import InputError
from ..formats.pair_folder import files_of_pair, pair_folders
from ..runs import OF_MEMORY
from ..scores.encoders import require_encoder
from .jobs import Job


@dataclass(frozen=True)
class Drawing:
    """What is drawn with every tailoring: each prompt with each seed, by DDIM.

    Attributes:
        prompts: "" stands for the tailoring's own, `<v0> with <v1>`.
        seeds: of the noise.
        steps, cfg, negative_prompt: of sampling.
        width, height: in pixels; 0 takes the checkpoint's own.
    """

    prompts: tuple[str, ...] = ("",)
    seeds: tuple[int, ...] = (0,)
    steps: int = 50
    cfg: float = 7.5
    negative_prompt: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint is.

    Attributes:
        path, tokenizer, prediction_type: as `backbones.open_checkpoint` takes them.
        fingerprint: of the files.
        imports: modules that register families which are not the library's own.
    """

    path: str
    tokenizer: str | None
    prediction_type: str | None
    fingerprint: str
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asha:
    """How early, and how sharply.

    Attributes:
        grace_period: steps before a training is judged for the first time, 1 or more.
        reduction_factor: above 1; 4 lets a quarter go on.

    Raises:
        InputError: a value is out of its range; names it.
    """

    grace_period: int
    reduction_factor: float = 4.0

    def __post_init__(self) -> None:
        if self.grace_period < 1:
            raise InputError("asha_grace_period", f"is {self.grace_period}; it has to be 1 or more")
        if not 1.0 < self.reduction_factor < math.inf:
            raise InputError("asha_reduction_factor", f"is {self.reduction_factor:g}; it has to be more than 1")

    def rungs(self, total_steps: int) -> tuple[int, ...]:
        """The steps after which a training of so many is judged; never after its last."""
        found: list[int] = []
        step = float(self.grace_period)
        while (rung := math.ceil(step)) < total_steps:
            if rung not in found:
                found.append(rung)
            step *= self.reduction_factor
        return tuple(found)


@dataclass(frozen=True)
class TailorTask:
    """One training and what is drawn with it.

    Attributes:
        pair: its folder.
        pictures: fingerprint of the folder's files.
        varied: the settings that differ within the study, for people.
        encoders: folders of networks that score the pictures.
    """

    pair: str
    pictures: str
    config: TailorConfig
    varied: Mapping[str, Any]
    checkpoint: CheckpointSource
    drawing: Drawing
    encoders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder; the same whatever is drawn and scored, so that more can be without a training."""
        fixed = {name: value for name, value in self.config.to_dict().items() if name not in OF_MEMORY}
        text = json.dumps([self.pictures, fixed, self.checkpoint.fingerprint])
        return f"{Path(self.pair).name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True)
class JudgedTask(TailorTask):
    """The same, which may be ended early.

    Attributes:
        asha: what ends it.
    """

    asha: Asha = field(kw_only=True)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The steps after which it is judged."""
        return self.asha.rungs(self.config.total_steps)


@dataclass(frozen=True)
class Study:
    """All that a batch does.

    Attributes:
        pairs: folders as *Load MagicTailor Pair* reads them.
        checkpoint: to train on.
        settings: hyper-parameters that all trainings share, where they are not the paper's.
        grid: values to try of each hyper-parameter; all combinations are trained.
        drawing: with each tailoring.
        encoders: folders of CLIPs and DINOv2s in transformers' layout, which score the pictures.
        asha: ends trainings early; None trains all to the end.

    Raises:
        InputError: there is nothing to train, or a setting cannot be used; names it.
    """

    pairs: tuple[Path, ...]
    checkpoint: CheckpointSource
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    drawing: Drawing = Drawing()
    encoders: tuple[Path, ...] = ()
    asha: Asha | None = None

    def __post_init__(self) -> None:
        for folder in self.encoders:
            require_encoder(folder)
        if self.asha and not self.encoders:
            raise InputError("encoders", "there are none, and ASHA ends trainings by their scores")
        for name in (*self.settings, *self.grid):
            if name not in knobs():
                raise InputError("grid" if name in self.grid else "settings", f"there is no setting {name!r}")
        for name, values in self.grid.items():
            if not values or len(set(values)) < len(values):
                raise InputError("grid", f"{name} has no values, or one of them twice: {list(values)}")

    def jobs(self) -> list[Job]:
        """One for each pair and each combination of settings."""
        jobs = []
        for pair in self.pairs:
            pictures = _of_pair(pair)
            for values in product(*self.grid.values()):
                varied = dict(zip(self.grid, values, strict=True))
                config = TailorConfig(**{**self.settings, **varied})
                encoders = tuple(map(str, self.encoders))
                task = TailorTask(str(pair), pictures, config, varied, self.checkpoint, self.drawing, encoders)
                if self.asha:
                    task = JudgedTask(**vars(task), asha=self.asha)
                jobs.append(Job(task.name, task))
        if len({job.name for job in jobs}) < len(jobs):
            raise InputError("pairs", "one of them is there twice, or two combinations of settings are the same")
        return jobs


def read_study(path: Path) -> dict[str, Any]:
    """What a YAML file says, or a folder of pair folders, as the command line's flags would; paths are made absolute.

    Raises:
        InputError: it is missing, or says what is not known; names "study".
    """
    if path.is_dir():
        return {"pairs": found_pairs(path)}
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("study", f"there is no {path}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("study", f"{path.name} cannot be read ({' '.join(str(error).split())})") from error
    known = (
        "pairs",
        "checkpoint",
        "tokenizer",
        "prediction_type",
        "imports",
        "settings",
        "grid",
        "drawing",
        "encoders",
    )
    if not isinstance(content, dict) or not content.keys() <= set(known):
        strange = sorted(content.keys() - set(known)) if isinstance(content, dict) else [type(content).__name__]
        raise InputError("study", f"{path.name} holds {', '.join(map(str, strange))}; known are {', '.join(known)}")
    root = path.resolve().parent
    content["pairs"] = [pair for path in _paths("pairs", content.get("pairs", []), root) for pair in _pairs_at(path)]
    for name in ("checkpoint", "tokenizer"):
        if name in content:
            (content[name],) = _paths(name, [content[name]], root)
    if "encoders" in content:
        content["encoders"] = _paths("encoders", content["encoders"], root)
    if "drawing" in content:
        content["drawing"] = drawing_of(content["drawing"])
    if isinstance(content.get("settings"), dict):
        content["settings"] = with_memory(content["settings"])
    return content


def drawing_of(values: Any) -> Drawing:
    """What a YAML file or the command line says of drawing.

    Raises:
        InputError: it is not understood; names "drawing".
    """
    known = {f.name: f.default for f in fields(Drawing)}
    if not isinstance(values, dict) or not values.keys() <= known.keys():
        raise InputError("drawing", f"is {values!r}; known are {', '.join(known)}")
    lists = {name: tuple(value) for name, value in values.items() if name in ("prompts", "seeds")}
    drawing = Drawing(**{**values, **lists})
    if drawing.steps < 1 or min(drawing.seeds, default=0) < 0:
        raise InputError("drawing", "steps have to be 1 or more, and seeds 0 or more")
    return drawing


def found_pairs(root: Path) -> list[Path]:
    """The pair folders below a folder.

    Raises:
        InputError: there is none; names "study".
    """
    found = [root / name for name in pair_folders(root)]
    if not found:
        raise InputError("study", f"no folder in {root} is named like a pair, such as tower_a+roof_a")
    return found


def _paths(name: str, given: Any, root: Path) -> list[Path]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise InputError(
            "study", f"{name} has to be a path, or where there may be several a list of them, not {given!r}"
        )
    return [root / one for one in listed]


def _pairs_at(path: Path) -> list[Path]:
    return [path] if "+" in path.name else found_pairs(path)


def _of_pair(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for file in files_of_pair(folder):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
