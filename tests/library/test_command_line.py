"""`python -m magictailor` without ComfyUI, on a diffusers folder of a few thousand weights beside CLIP's table."""

import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from magictailor.__main__ import main
from magictailor.cli.parser import config_of, parser
from magictailor.config import TailorConfig, defaults, knobs
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring, save_with_embeddings
from magictailor.masks.detections import no_detections
from magictailor.masks.grounded_sam import ImageMask
from magictailor.training import Training
from tools.tiny_checkpoint import make_tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
SAVE_PAGE = ROOT / "web" / "docs" / "MagicTailorSave.md"
RELEASED_FLAGS = (
    "--phase1_train_steps 200 --phase2_train_steps 300 --phase1_learning_rate 1e-4 --phase2_learning_rate 1e-5 "
    "--lora_rank 32 --alpha 0.5 --gamma 32 --ema_decay 0.99 --lambda_preservation 0.2 --lambda_attention 1e-2 "
    "--resolution 512 --seed 0 --scale_lr"
).split()
TRAIN = ["train", "--pretrained_model_name_or_path", "x", "--instance_data_dir", "a+b", "--output_dir", "out"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder in diffusers' layout, in half precision as it is often kept."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def run_train(checkpoint, pair, output, *more):
    return main(
        ["train", "--pretrained_model_name_or_path", str(checkpoint), "--instance_data_dir", str(pair),
         "--output_dir", str(output), "--phase1_train_steps", "2", "--phase2_train_steps", "1", "--resolution", "64",
         "--lora_rank", "4", "--device", "cpu", *more]
    )  # fmt: skip


def run_sample(checkpoint, model, output, *more):
    return main(
        ["sample", "--pretrained_model_name_or_path", str(checkpoint), "--model_path", str(model),
         "--output_dir", str(output), "--steps", "2", "--width", "64", "--height", "64", "--device", "cpu", *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(checkpoint, rendered_pair, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    assert run_train(checkpoint, rendered_pair, output) == 0
    return output / "house_a+roof_a.safetensors"


def test_every_knob_is_a_flag_with_its_default():
    assert config_of(parser().parse_args(TRAIN)) == TailorConfig()
    for name, default in defaults().items():
        if isinstance(default, bool):
            assert getattr(parser().parse_args([*TRAIN, f"--{name}"]), name) is not default
        else:
            other = knobs()[name].choices[-1] if isinstance(default, str) else type(default)(default / 2)
            chosen = getattr(parser().parse_args([*TRAIN, f"--{name}", str(other)]), name)
            assert chosen == other and type(chosen) is type(default), name


def test_the_released_programs_flags_are_known():
    config = config_of(parser().parse_args([*TRAIN, *RELEASED_FLAGS]))
    assert config == TailorConfig(resolution=512, scale_lr=True)


def test_help_tells_every_knob_and_needs_no_torch():
    code = (
        "import sys\nfrom magictailor.__main__ import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    shown = "".join(done.stdout.split())
    assert done.stdout.split()[-1] == "False", done.stderr
    for name, knob in knobs().items():
        assert f"--{name}" in shown and "".join(knob.help.split()) in shown, name


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "magictailor", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "train | sample | masks" in done.stdout, done.stderr


def test_training_writes_the_tailoring_and_its_embeddings(trained):
    tailoring = load_tailoring(trained)
    assert tailoring.words == "<v0> = house, <v1> = roof" and tailoring.finished and tailoring.rank == 4
    assert any(t.any() for key, t in tailoring.lora.items() if key.endswith("lora_up.weight"))
    names = sorted(path.name for path in trained.parent.glob("*.*"))
    assert names == [f"house_a+roof_a{end}.safetensors" for end in ("", "_v0", "_v1")]
    row = load_file(trained.with_name("house_a+roof_a_v0.safetensors"))["clip_l"]
    assert torch.equal(row, tailoring.tokens[0].rows["clip_l"])


@pytest.mark.parametrize(
    ("resume", "said"), [("continue", "this run is finished and is taken from disk"), ("start over", "it starts over")]
)
def test_training_again_gives_the_same_and_overwrites_nothing(checkpoint, rendered_pair, trained, capsys, resume, said):
    before = trained.read_bytes()
    assert run_train(checkpoint, rendered_pair, trained.parent, "--resume", resume) == 0
    again = trained.with_name("house_a+roof_a_2.safetensors")
    shown = capsys.readouterr().out
    assert str(again) in shown and said in shown
    first, second = load_tailoring(trained), load_tailoring(again)
    assert trained.read_bytes() == before
    assert all(torch.equal(first.lora[key], second.lora[key]) for key in first.lora)
    for path in trained.parent.glob("*_2*"):
        path.unlink()


def test_pictures_carry_their_settings_and_are_never_overwritten(checkpoint, trained, tmp_path, capsys):
    assert (
        run_sample(
            checkpoint, trained, tmp_path, "--prompt", "<v0> with <v1>", "a <v1>", "--count", "2", "--height", "128"
        )
        == 0
    )
    assert run_sample(checkpoint, trained, tmp_path, "--negative_prompt", "blur", "--seed", "1") == 0
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"0000{n}.png" for n in range(5)]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    pictures = [Image.open(path) for path in paths]
    assert [picture.size for picture in pictures] == [(64, 128)] * 4 + [(64, 64)]
    assert len({picture.tobytes() for picture in pictures}) == 5
    prompt, *_, settings = pictures[3].text["parameters"].splitlines()
    assert prompt == "a <v1>" and settings.startswith("Steps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 1, Size: 64x128")
    assert pictures[4].text["parameters"].splitlines()[:2] == ["<v0> with <v1>", "Negative prompt: blur"]


def test_what_was_learned_is_what_is_drawn(checkpoint, trained, tmp_path):
    tailoring = load_tailoring(trained)
    rows = {"clip_l": torch.full((1, 768), 0.3)}
    other_word = replace(tailoring, tokens=(replace(tailoring.tokens[0], rows=rows), tailoring.tokens[1]))
    ups = {k: t + 0.05 if k.endswith("lora_up.weight") else t for k, t in tailoring.lora.items()}
    for name, changed in (("word", other_word), ("lora", replace(tailoring, lora=ups))):
        save_tailoring(changed, tmp_path / f"{name}.safetensors")
    pictures = []
    for model in (trained, trained, tmp_path / "word.safetensors", tmp_path / "lora.safetensors"):
        assert run_sample(checkpoint, model, tmp_path / "out") == 0
        pictures.append(Image.open(max((tmp_path / "out").iterdir())).tobytes())
    assert pictures[0] == pictures[1] and len(set(pictures)) == 3


def diffusers_pipeline(checkpoint):
    """What diffusers makes of the folder, with DDIM as Stable Diffusion's own configuration has it."""
    parts = {
        name: kind.from_pretrained(checkpoint / name, variant="fp16").float()
        for name, kind in (("vae", AutoencoderKL), ("text_encoder", CLIPTextModel), ("unet", UNet2DConditionModel))
    }
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(checkpoint / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(
            checkpoint / "scheduler", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_saved_files_draw_the_same_picture_in_diffusers(checkpoint, trained, tmp_path, monkeypatch):
    """Loaded as the help page of Save Tailoring says."""
    tailoring = load_tailoring(trained)
    # a few steps of training would hardly show
    ups = {key: t + 0.05 if key.endswith("lora_up.weight") else t for key, t in tailoring.lora.items()}
    tokens = tuple(
        replace(token, rows={"clip_l": token.rows["clip_l"] + shift})
        for token, shift in zip(tailoring.tokens, (0.3, -0.3), strict=True)
    )
    saved = save_with_embeddings(replace(tailoring, lora=ups, tokens=tokens), "my_tailoring", tmp_path, tmp_path)
    prompt, negative = "a <v1> with <v0>", "blur"
    more = ("--prompt", prompt, "--negative_prompt", negative, "--seed", "3", "--steps", "4")
    assert run_sample(checkpoint, saved.tailoring, tmp_path / "out", *more) == 0
    with Image.open(tmp_path / "out" / "00000.png") as picture:
        ours = np.asarray(picture, dtype=int)

    pipeline = diffusers_pipeline(checkpoint)

    def difference():
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        settings = {"num_inference_steps": 4, "guidance_scale": 7.5, "latents": noise, "width": 64, "height": 64}
        (theirs,) = pipeline(prompt, negative_prompt=negative, **settings).images
        return abs(np.asarray(theirs, dtype=int) - ours).max()

    untailored = difference()
    (recipe,) = re.findall(r"```python\n(.*?)```", SAVE_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(recipe)
    runpy.run_path("recipe.py", {"pipeline": pipeline})
    # in grey levels, to which both round
    assert difference() <= 1 < 10 < untailored


def error_of(capsys):
    """The one line on stderr that is no progress bar."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--lora_rank", "0"], "lora_rank: has to be from 1 to 512"),
        (["--resolution", "100"], "resolution: has to be a multiple of 64"),
        (["--instance_data_dir", "nowhere/a+b"], "instance_data_dir: there is no folder"),
        (["--pretrained_model_name_or_path", "nowhere.safetensors"], "there is no nowhere.safetensors"),
        (["--tokenizer", "nowhere"], "tokenizer: no CLIP vocabulary in nowhere; give "),
        (["--name", "../x"], "name: '../x' cannot be a file name"),
        (["--name", "aux.b"], "name: 'aux.b' cannot be a file name: Windows keeps aux for itself"),
        # with what is added to the name of a training that stops early
        (["--name", "x" * 236], "cannot be a file name: it is "),
        (["--device", "warp"], "device: 'warp' cannot be used"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(checkpoint, rendered_pair, tmp_path, capsys, more, reason):
    assert run_train(checkpoint, rendered_pair, tmp_path, *more) == 2
    assert reason in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--model_path", "nowhere.safetensors"], "tailoring: nowhere.safetensors does not exist"),
        (["--width", "100"], "width: is 100; it has to be a multiple of 8"),
        (["--steps", "0"], "steps: has to be 1 or more"),
        (["--prompt", "a, " * 60], "prompt: is "),
    ],
)
def test_a_drawing_that_cannot_be_made_is_told_in_one_line(checkpoint, trained, tmp_path, capsys, more, reason):
    assert run_sample(checkpoint, trained, tmp_path, *more) == 2
    assert reason in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_lacks_a_part_is_named(checkpoint, rendered_pair, tmp_path, capsys):
    broken = tmp_path / "broken"
    for part in ("unet", "tokenizer"):
        shutil.copytree(checkpoint / part, broken / part)
    assert run_train(broken, rendered_pair, tmp_path) == 2
    assert "broken is not a diffusers folder: scheduler/scheduler_config.json cannot be read" in error_of(capsys)


def test_a_single_file_asks_for_a_vocabulary(rendered_pair, tmp_path, capsys, monkeypatch):
    import magictailor.backbones.clip

    monkeypatch.setattr(magictailor.backbones.clip, "CLIP_VOCABULARY", str(tmp_path / "no cache"))
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert run_train(tmp_path / "x.safetensors", rendered_pair, tmp_path) == 2
    assert "tokenizer: a single file has no vocabulary, and none is cached; give the folder" in error_of(capsys)


def test_an_interrupt_while_files_are_written_leaves_no_half_ones(
    checkpoint, rendered_pair, tmp_path, capsys, monkeypatch
):
    written = []

    def interrupted(tensors, path, metadata):
        written.append(path)
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    assert run_train(checkpoint, rendered_pair, tmp_path) == 130
    assert error_of(capsys) == "error: interrupted"
    assert written and not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_stopped_goes_on_with_the_same_command(
    checkpoint, rendered_pair, trained, tmp_path, capsys, monkeypatch, asked
):
    step = Training.step

    def stopped(self, *draws):
        if self.steps_done == 1:
            os.kill(os.getpid(), asked)
        return step(self, *draws)

    monkeypatch.setattr(Training, "step", stopped)
    before = signal.getsignal(asked)
    assert run_train(checkpoint, rendered_pair, tmp_path) == 130
    assert signal.getsignal(asked) is before
    left = tmp_path / "magictailor_unfinished" / "house_with_roof_at_step_2.safetensors"
    assert str(left) in capsys.readouterr().out and load_tailoring(left).steps_done == 2
    monkeypatch.undo()
    assert run_train(checkpoint, rendered_pair, tmp_path) == 0
    assert "going on after step 2" in capsys.readouterr().out
    whole, resumed = (load_file(path) for path in (trained, tmp_path / trained.name))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_folder_that_cannot_be_written_is_told_before_the_training(checkpoint, rendered_pair, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert run_train(checkpoint, rendered_pair, tmp_path) == 2
    assert "runs: the folder " in error_of(capsys)


class Finder:
    """Stands for GroundedSAM: finds the left half of every picture, and nothing on a black one."""

    def __init__(self):
        self.asked = []

    def to(self, device):
        return self

    def masks(self, images, find, exclude, *thresholds, when_nothing_found):
        self.asked.append((find, exclude, *thresholds))
        mask = torch.zeros(images[0].shape[1:])
        mask[:, : mask.shape[1] // 2] = float(images[0].any())
        return [ImageMask(mask, no_detections(), no_detections())]


@pytest.fixture
def finder(monkeypatch):
    import magictailor.cli.run

    finder = Finder()
    monkeypatch.setattr(magictailor.cli.run, "load_grounded_sam", lambda *paths: finder)
    return finder


@pytest.fixture
def unmasked(rendered_pair, tmp_path):
    folder = tmp_path / rendered_pair.name
    shutil.copytree(rendered_pair, folder)
    for name in ("0_house_a1", "0_house_a2", "1_roof_a0"):
        (folder / "masks" / f"{name}.png").unlink()
    return folder


def run_masks(folder, *more):
    files = ["--grounding_dino", "d", "--sam", "s", "--bert", "b"]
    return main(["masks", "--instance_data_dir", str(folder), *files, "--device", "cpu", *more])


def test_what_was_decided_in_reading_is_told(unmasked, finder, capsys):
    (unmasked / "1_roof_a9.psd").write_bytes(b"8BPS")
    assert run_masks(unmasked) == 0
    note = "note: 1_roof_a9.psd is left out: it is not a picture of a format that is read"
    assert note in capsys.readouterr().err.splitlines()


def test_only_missing_masks_are_made(unmasked, finder, capsys):
    before = {path: path.read_bytes() for path in unmasked.rglob("*.*")}
    assert run_masks(unmasked, "--box_threshold", "0.3") == 0
    assert finder.asked == [("house", "roof", 0.3, 0.25, 0.8)] * 2 + [("roof", "", 0.3, 0.25, 0.8)]
    made = sorted(set(unmasked.rglob("*.*")) - set(before))
    assert [path.name for path in made] == ["0_house_a1.png", "0_house_a2.png", "1_roof_a0.png"]
    assert capsys.readouterr().out.split() == [str(path) for path in made]
    assert all(path.read_bytes() == contents for path, contents in before.items())
    with Image.open(made[0]) as mask, Image.open(unmasked / "0_house_a1.jpg") as picture:
        assert mask.mode == "L" and mask.size == picture.size
        assert (mask.getpixel((0, 0)), mask.getpixel((mask.width - 1, 0))) == (255, 0)
    assert run_masks(unmasked) == 0 and "has its mask already" in capsys.readouterr().out


def test_a_picture_on_which_nothing_is_found_is_named_and_the_others_are_done(unmasked, finder, capsys):
    Image.new("RGB", (96, 96)).save(unmasked / "0_house_a1.jpg")
    assert run_masks(unmasked) == 2
    assert "nothing was found on 0_house_a1.jpg for 'house' (best score " in error_of(capsys)
    assert not (unmasked / "masks" / "0_house_a1.png").exists()
    assert (unmasked / "masks" / "1_roof_a0.png").is_file()
