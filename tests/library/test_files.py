import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from magictailor.errors import InputError
from magictailor.files import checked_name, load_tailoring, save_embedding, save_tailoring
from magictailor.trainer import train


@pytest.fixture
def tailoring(make_model, references, config):
    return train(make_model(config), references, config, lambda report: report.step == 2).tailoring


@pytest.fixture
def saved(tailoring, tmp_path):
    path = tmp_path / "tower_roof.safetensors"
    save_tailoring(tailoring, path)
    return path


def rewritten(path, change_tensors=lambda t: None, change_metadata=lambda m: None):
    """The same file with its tensors or metadata changed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change_tensors(tensors)
    change_metadata(metadata)
    save_file(tensors, path, metadata)


def change_record(**changes):
    def change(metadata):
        metadata["magictailor"] = json.dumps(json.loads(metadata["magictailor"]) | changes)

    return change


def test_what_is_read_is_what_was_written(tailoring, saved):
    back = load_tailoring(saved)
    assert back.config == tailoring.config
    assert (back.family_name, back.steps_done, back.finished) == ("sd1", 2, False)
    assert back.lora.keys() == tailoring.lora.keys()
    assert all(torch.equal(back.lora[key], tailoring.lora[key]) for key in back.lora)
    assert [(t.name, t.class_word) for t in back.tokens] == [("<v0>", "tower"), ("<v1>", "roof")]
    for mine, other in zip(back.tokens, tailoring.tokens, strict=True):
        assert torch.equal(mine.rows["clip_l"], other.rows["clip_l"])


def test_the_file_has_what_other_programs_read(saved, tailoring):
    from safetensors import safe_open

    tensors = load_file(saved)
    assert tensors["bundle_emb.<v0>.clip_l"].shape == (1, 64)
    others = {key for key in tensors if not key.startswith(("lora_unet_", "bundle_emb."))}
    assert not others
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_v2"] == "False"
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4.0")
    assert metadata["ss_output_name"] == metadata["modelspec.title"] == "tower_roof"
    assert json.loads(metadata["trained_words"]) == ["<v0>", "<v1>"]
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.trigger_phrase"] == "<v0> with <v1>"
    assert "<v0>" in json.loads(metadata["ss_tag_frequency"])["magictailor"]


def test_an_embedding_file_holds_one_row(tailoring, tmp_path):
    path = tmp_path / "tower_v0.safetensors"
    save_embedding(tailoring.tokens[0], path)
    assert torch.equal(load_file(path)["clip_l"][0], tailoring.tokens[0].rows["clip_l"])


def test_nothing_is_ever_overwritten(tailoring, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"somebody's work")
    for save in (lambda: save_tailoring(tailoring, path), lambda: save_embedding(tailoring.tokens[0], path)):
        with pytest.raises(FileExistsError):
            save()
    assert path.read_bytes() == b"somebody's work"
    assert os.listdir(tmp_path) == ["mine.safetensors"]


def test_a_failed_write_leaves_nothing_behind(tailoring, tmp_path, monkeypatch):
    def full_disk(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("magictailor.files.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_tailoring(tailoring, tmp_path / "new" / "x.safetensors")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="gone.safetensors does not exist"):
        load_tailoring(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 8, 500, -100])
def test_a_truncated_file_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(InputError, match="tower_roof.safetensors cannot be read as safetensors"):
        load_tailoring(saved)


@pytest.mark.parametrize(
    "contents",
    [b"PK\x03\x04 a zip, as a pickle would be", struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 2) + b"[]"],
)
def test_what_is_no_safetensors_file_is_refused(saved, contents):
    saved.write_bytes(contents)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_tailoring(saved)


def test_an_ordinary_lora_is_refused_with_advice(saved):
    save_file({"lora_unet_x.alpha": torch.ones(())}, saved)
    with pytest.raises(InputError, match="not a MagicTailor tailoring.*Load LoRA"):
        load_tailoring(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(magictailor="{"), "damaged"),
        (lambda m: m.update(magictailor="[" * 100_000), "damaged"),
        (lambda m: m.update(magictailor="[]"), "damaged"),
        (change_record(version=2), "another version"),
        (change_record(family="sd9"), "does not know: 'sd9'"),
        (change_record(steps_done=1000), "steps_done is 1000"),
        (change_record(config={"lora_rank": -4}), "lora_rank"),
        (change_record(config={"command": "rm"}), "damaged"),
        (change_record(tokens=[]), "holds no token"),
        (change_record(tokens=[{"name": "../../x", "class_word": "tower"}]), "is called '../../x'"),
        (change_record(tokens=[{"name": "<v0>", "class_word": "tower"}]), "2 embeddings where its record names 1"),
        (
            change_record(tokens=[{"name": f"<v{n}>", "class_word": "x"} for n in range(3)]),
            "<v2> for clip_l is missing",
        ),
    ],
)
def test_a_record_that_lies_is_refused(saved, change, reason):
    rewritten(saved, change_metadata=change)
    with pytest.raises(InputError, match=reason):
        load_tailoring(saved)


def first(tensors, part):
    return next(key for key in sorted(tensors) if key.endswith(part))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop(first(t, ".alpha")), "LoRA is not complete"),
        (lambda t: t.update(stranger=torch.zeros(1)), "LoRA is not complete"),
        (lambda t: t[first(t, "lora_up.weight")].fill_(float("nan")), "not finite"),
        (lambda t: t.update({first(t, "lora_up.weight"): torch.zeros(3, 3)}), "do not fit together"),
        (lambda t: t.pop("bundle_emb.<v1>.clip_l"), "<v1> for clip_l is missing"),
        (lambda t: t["bundle_emb.<v0>.clip_l"].fill_(float("inf")), "<v0> for clip_l is missing or damaged"),
    ],
)
def test_tensors_that_contradict_the_record_are_refused(saved, change, reason):
    rewritten(saved, change_tensors=change)
    with pytest.raises(InputError, match=reason):
        load_tailoring(saved)


@pytest.mark.parametrize("name", ["tower", "people/anna", "a b-c_d.1", " tower ", "tower.safetensors", "塔"])
def test_usable_names(name):
    assert checked_name(name) == name.strip().removesuffix(".safetensors")


@pytest.mark.parametrize(
    "name", ["", " ", "..", "../x", "a/../b", "/etc/x", "a//b", "C:\\x", "a\\..\\b", "x<v0>", "a\0b", "a[b", "."]
)
def test_names_that_lead_out_of_the_folder_or_cannot_be_files(name):
    with pytest.raises(InputError, match="^name: "):
        checked_name(name)
