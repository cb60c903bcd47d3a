"""What the command line does; see `parser` for what it is given."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event

import torch
from tqdm import tqdm

from ..backbones import Checkpoint, open_checkpoint
from ..backbones.precision import precision_for
from ..config import TailorConfig
from ..doubts import doubts
from ..drawing import draw
from ..errors import InputError
from ..fingerprints import of_checkpoint_files
from ..formats.drawn_picture import write_picture
from ..formats.file_name import checked_name
from ..formats.pair_folder import MASKS, PairPart, load_pair
from ..formats.tailoring_file import SavedTailoring, load_tailoring, save_with_embeddings
from ..masks.detections import Detections
from ..masks.grounded_sam import load_grounded_sam
from ..memory import FASTEST
from ..reference import Reference
from ..runs import Plan, Run, Runs, plan_of
from ..sampling import picture_size
from ..tailoring import put_into
from ..training import Training, TrainingResult
from .parser import config_of


def train_command(arguments: argparse.Namespace) -> None:
    """Train on a pair folder, save the tailoring and its embeddings, and print their paths.

    Raises:
        InputError: something that was given cannot be used.
        TrainingDiverged: after what was learned before has been saved and its path printed.
        KeyboardInterrupt: the same, after Ctrl-C or SIGTERM; the same command goes on.
    """
    config = config_of(arguments)
    references = [part.reference() for part in _pair(arguments.instance_data_dir)]
    # told now, not after the training
    name = checked_name(arguments.name or arguments.instance_data_dir.resolve().name)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    if arguments.snapshot_every < 0:
        raise InputError("snapshot_every", "has to be 0 or more")
    device = _device(arguments)
    plan = plan_of(
        references,
        config,
        device.type,
        str(precision_for(config.mixed_precision, device)),
        {
            "checkpoint": of_checkpoint_files(
                arguments.pretrained_model_name_or_path, arguments.tokenizer, arguments.prediction_type
            )
        },
    )
    run = Runs(arguments.output_dir / "runs").choose(plan, arguments.resume)
    if run.note:
        tqdm.write(run.note)
    record = run.record
    finished = record is not None and record.steps_done == config.total_steps
    result = run.result() if finished else _trained(arguments, references, config, device, run, plan)
    folder = arguments.output_dir
    carried = arguments.reference_pictures
    _print_paths(save_with_embeddings(result.tailoring, name, folder, folder, reference_pictures=carried))


def _trained(
    arguments: argparse.Namespace,
    references: Sequence[Reference],
    config: TailorConfig,
    device: torch.device,
    run: Run,
    plan: Plan,
) -> TrainingResult:
    model = _opened(arguments).model(plan.class_words, config, device)
    training = Training(model, references, config)
    for note in doubts(references, training.resolution):
        tqdm.write(f"note: {note}", file=sys.stderr)
    tqdm.write(str(training.memory))
    memory = training.memory
    run.restore(training)
    keeper = None
    try:
        with (
            _stop_asked_for() as stop,
            run.kept(training, plan, arguments.output_dir, arguments.snapshot_every) as keeper,
            tqdm(total=config.total_steps, initial=training.steps_done, unit="step") as bar,
        ):
            for report in training:
                keeper.after_step()
                if training.memory is not memory:
                    memory = training.memory
                    tqdm.write(str(memory))
                bar.set_description(report.phase)
                bar.set_postfix(loss=f"{report.loss:.4f}", refresh=False)
                bar.update()
                if stop.is_set():
                    raise KeyboardInterrupt
    finally:
        if keeper is not None and keeper.unfinished is not None:
            tqdm.write(str(keeper.unfinished))
    return training.result()


@contextmanager
def _stop_asked_for() -> Iterator[Event]:
    """An event that is set by the first Ctrl-C or SIGTERM, so that a step is never cut; a second Ctrl-C cuts it."""
    asked = Event()

    def stop(number: int, frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sample_command(arguments: argparse.Namespace) -> None:
    """Draw pictures, save them as PNG files with their settings inside, and print their paths.

    Raises:
        InputError: something that was given cannot be used.
    """
    _require(arguments, "steps", "count")
    tailoring = load_tailoring(arguments.model_path)
    prompts = arguments.prompt or [tailoring.prompt]
    config = TailorConfig(
        lora_rank=tailoring.rank,
        vectors_per_token=tailoring.vectors_per_token,
        mixed_precision=arguments.mixed_precision,
    )
    checkpoint, device = _opened(arguments), _device(arguments)
    model = checkpoint.model([token.class_word for token in tailoring.tokens], config, device)
    model.arrange(FASTEST)
    put_into(model, tailoring)
    if tailoring.text_layer not in (None, model.text_layer):
        tqdm.write(
            f"note: it was learned with layer {tailoring.text_layer} of the text encoders, and is drawn with "
            f"{model.text_layer or 'their usual ones'}",
            file=sys.stderr,
        )
    decode = checkpoint.decoder(device)
    size = picture_size(model, arguments.width, arguments.height)
    for prompt in (*prompts, arguments.negative_prompt):
        model.require_readable(prompt)

    drawings = [(prompt, arguments.seed + n) for prompt in prompts for n in range(arguments.count)]
    paths = _free_paths(arguments.output_dir)
    with tqdm(total=len(drawings) * arguments.steps, unit="step") as bar:
        for prompt, seed in drawings:
            path = next(paths)
            draw(
                model,
                decode,
                path,
                prompt,
                seed,
                size=size,
                steps=arguments.steps,
                cfg=arguments.cfg,
                negative_prompt=arguments.negative_prompt,
                checkpoint=arguments.pretrained_model_name_or_path.stem,
                tailoring=arguments.model_path.stem,
                after_step=bar.update,
            )
            bar.write(str(path))


def masks_command(arguments: argparse.Namespace) -> None:
    """Write the masks that a pair folder lacks, and print their paths.

    Raises:
        InputError: something that was given cannot be used; or, after all other masks have been written, pictures on
            which nothing was found.
    """
    concept, *components = _pair(arguments.instance_data_dir)
    missing = [(part, n) for part in (concept, *components) for n, mask in enumerate(part.masks) if mask is None]
    if not missing:
        print("Every picture has its mask already.")
        return
    models = load_grounded_sam(arguments.grounding_dino, arguments.sam, arguments.bert).to(_device(arguments))
    empty = []
    for part, n in tqdm(missing, unit="picture"):
        (found,) = models.masks(
            [part.images[n]],
            part.class_word,
            ", ".join(component.class_word for component in components) if part is concept else "",
            arguments.box_threshold,
            arguments.text_threshold,
            arguments.nms_threshold,
            when_nothing_found="empty mask",
        )
        if found.mask.any():
            path = arguments.instance_data_dir / MASKS / f"{Path(part.names[n]).stem}.png"
            write_picture(found.mask[None], path)
            tqdm.write(str(path))
        else:
            empty.append(_not_found(part, n, found.found))
    if empty:
        raise InputError(
            "box_threshold",
            f"nothing was found on {', '.join(empty)}; lower it and text_threshold below that, or paint these masks",
        )


def _not_found(part: PairPart, number: int, found: Detections) -> str:
    return f"{part.names[number]} for {part.class_word!r} (best score {found.best_score:.2f})"


def _pair(folder: Path) -> tuple[PairPart, ...]:
    folder = folder.resolve()
    if not folder.is_dir():
        raise InputError("instance_data_dir", f"there is no folder {folder}")
    parts = load_pair(folder)
    for note in (note for part in parts for note in part.notes):
        tqdm.write(f"note: {note}", file=sys.stderr)
    return parts


def _opened(arguments: argparse.Namespace) -> Checkpoint:
    return open_checkpoint(arguments.pretrained_model_name_or_path, arguments.tokenizer, arguments.prediction_type)


def _device(arguments: argparse.Namespace) -> torch.device:
    try:
        return torch.empty(0, device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        raise InputError("device", f"{arguments.device!r} cannot be used ({str(error).splitlines()[0]})") from error


def _require(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) < 1:
            raise InputError(name, "has to be 1 or more")


def _print_paths(saved: SavedTailoring) -> None:
    for path in (saved.tailoring, *saved.embeddings):
        tqdm.write(str(path))


def _free_paths(folder: Path) -> Iterator[Path]:
    """00000.png, 00001.png ... without those that are there already."""
    return (path for path in (folder / f"{number:05}.png" for number in count()) if not path.exists())
