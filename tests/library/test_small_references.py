"""Small pictures that a tailoring carries: few bytes, in files only when asked for, and read with care."""

import base64
import dataclasses
import json
import struct
from io import BytesIO

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_model, tiny_reference

from magictailor.config import TailorConfig
from magictailor.errors import InputError
from magictailor.formats.run_state import read_record, write_state
from magictailor.formats.small_references import (
    MOST_CHARACTERS,
    MOST_PICTURES,
    SIDES,
    SmallReference,
    packed,
    small_references,
    unpacked,
)
from magictailor.formats.tailoring_file import PICTURES, load_tailoring, save_tailoring
from magictailor.pictures import prepare
from magictailor.reference import Reference
from magictailor.runs import Runs, plan_of
from magictailor.training import Training

CONFIG = TailorConfig(phase1_train_steps=1, phase2_train_steps=0, lora_rank=2, resolution=64)
REFERENCES = [tiny_reference("tower", 3, 1), tiny_reference("roof", 2, 2)]


def smooth(word, count, height, width):
    """Pictures with as much in them as photos have: noise of all scales."""
    generator = torch.Generator().manual_seed(len(word))
    images = tuple(
        sum(
            torch.nn.functional.interpolate(torch.rand(1, 3, 2**n, 2**n, generator=generator), (height, width))[0]
            for n in range(2, 8)
        )
        / 6
        for _ in range(count)
    )
    mask = torch.zeros(height, width)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    return Reference(word, images, (mask,) * count)


@pytest.fixture(scope="module")
def training():
    training = Training(tiny_model(CONFIG), REFERENCES, CONFIG)
    training.step()
    return training


@pytest.fixture
def tailoring(training):
    return training.result().tailoring


def test_small_pictures_are_what_training_sees():
    reference = smooth("tower", 2, 100, 140)
    small = small_references([reference])[0].opened("tower")
    images, masks = prepare(reference, 100)
    assert (small.class_word, len(small)) == ("tower", 2)
    for picture, wanted in zip((*small.images, *small.masks), (*images, *masks[:, 0]), strict=True):
        assert picture.shape == wanted.shape and (picture - wanted).abs().mean() < 0.06
    assert all(torch.equal(a > 0.5, b[0] > 0.5) for a, b in zip(small.masks, masks, strict=True))


@pytest.mark.parametrize(("count", "components"), [(1, 1), (9, 1), (4, 8)])
def test_however_many_there_are_they_take_few_bytes(count, components):
    given = [smooth("x" * n, count, 160, 200) for n in range(1, components + 2)]
    small = small_references(given)
    assert sum(len(text) for one in packed(small) for pair in one for text in pair) <= MOST_CHARACTERS
    sides = {Image.open(BytesIO(image)).size for one in small for image in one.images}
    assert len(small) == components + 1
    assert {len(one.images) for one in small} == {2 if components > 1 else min(count, MOST_PICTURES)}
    assert len(sides) == 1 and sides <= {(side, side) for side in SIDES}
    assert (count, components) != (1, 1) or sides == {(160, 160)}


def test_nothing_is_carried_where_a_mask_would_vanish():
    mask = torch.zeros(1000, 1000)
    mask[10, 10] = 1
    assert small_references([Reference("hair", (torch.zeros(3, 1000, 1000),), (mask,))]) == ()


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_file_carries_them_only_when_it_is_asked_to(tailoring, tmp_path):
    plain, with_them = tmp_path / "plain.safetensors", tmp_path / "with.safetensors"
    save_tailoring(tailoring, plain)
    save_tailoring(tailoring, with_them, reference_pictures=True)
    back = load_tailoring(with_them)
    assert back.pictures == tailoring.pictures and back.labelled("anna").references()[1].class_word == "roof"
    assert load_tailoring(plain).pictures == ()
    with pytest.raises(InputError, match="^tailoring: carries no pictures"):
        load_tailoring(plain).references()
    first = base64.b64encode(tailoring.pictures[0].images[0])
    assert first in with_them.read_bytes() and first not in plain.read_bytes()
    # what other programs load is the same to the last bit
    before, after = metadata_of(plain), metadata_of(with_them)
    assert set(after) - set(before) == {PICTURES} and after["sshs_model_hash"] == before["sshs_model_hash"]
    assert load_file(plain).keys() == load_file(with_them).keys()
    # saved again without, nothing of them is left
    save_tailoring(back, tmp_path / "again.safetensors")
    assert first not in (tmp_path / "again.safetensors").read_bytes()


def with_pictures(value):
    def change(path, tailoring):
        save_tailoring(tailoring, path)
        contents = path.read_bytes()
        end = 8 + int.from_bytes(contents[:8], "little")
        header = json.loads(contents[8:end])
        header["__metadata__"][PICTURES] = value if isinstance(value, str) else json.dumps(value)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + contents[end:])

    return change


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "[" * 3000,
        "[" + " " * 2 * MOST_CHARACTERS + "]",
        3,
        [[["", ""]]],
        [[], []],
        [[["", ""]] * (MOST_PICTURES + 1)] * 2,
        [[[""]], [[""]]],
        [[["", 3]], [["", ""]]],
        [[["é", ""]], [["", ""]]],
        [[["A" * (MOST_CHARACTERS + 4), ""]], [["", ""]]],
    ],
)
def test_what_is_no_picture_is_refused_in_words(tailoring, tmp_path, value):
    path = tmp_path / "x.safetensors"
    with_pictures(value)(path, tailoring)
    with pytest.raises(InputError, match="^tailoring: x.safetensors the pictures of its references are damaged"):
        load_tailoring(path)


def png(size, mode="L"):
    file = BytesIO()
    Image.new(mode, size, 255).save(file, "PNG")
    return file.getvalue()


def jpeg(size):
    file = BytesIO()
    Image.new("RGB", size).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (jpeg((64, 64)), b""),
        (jpeg((64, 64))[:-300], png((64, 64))),
        (jpeg((64, 64)), png((48, 64))),
        (png((64, 64), "RGB"), png((64, 64))),
        (jpeg((SIDES[0] + 1, 64)), png((SIDES[0] + 1, 64))),
        # a kilobyte that would be half a gigabyte
        (jpeg((64, 64)), png((20_000, 20_000), "1")),
    ],
    ids=["no mask", "cut", "other size", "other kind", "large", "huge"],
)
def test_a_damaged_picture_is_told_when_it_is_looked_at(image, mask):
    with pytest.raises(InputError, match="^tailoring: the pictures of roof that it carries are damaged"):
        SmallReference((image,), (mask,)).opened("roof")


def test_a_run_keeps_them_and_states_of_before_have_none(training, tmp_path):
    plan = plan_of(REFERENCES, CONFIG, "cpu", "torch.float32", {})
    run = Runs(tmp_path).choose(plan)
    with run.kept(training, plan, tmp_path, snapshot_every=1) as keeper:
        keeper.after_step()
    assert run.result().tailoring.pictures == training.result().tailoring.pictures != ()
    assert load_tailoring(run.snapshots[0]).pictures == ()
    record = read_record(run.state)
    write_state(tmp_path / "old.safetensors", dataclasses.replace(record, pictures=()), training.state())
    assert read_record(tmp_path / "old.safetensors").pictures == ()


def test_no_pictures_are_of_any_number_of_references():
    assert unpacked([], 3) == ()
