import dataclasses
import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from magictailor.errors import InputError
from magictailor.formats.file_name import LONGEST, checked_name, prompt_name
from magictailor.formats.new_file import replaced_file
from magictailor.formats.tailoring_file import load_tailoring, save_embedding, save_tailoring, save_with_embeddings
from magictailor.formats.weights_file import are_finite, in_full
from magictailor.training import train


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
    # the layer of the text encoder: the family's, another one, and none that can be
    assert back.text_layer == tailoring.text_layer == -1 and "ss_clip_skip" not in metadata_of_file(saved)
    skipping = saved.with_name("skipping.safetensors")
    save_tailoring(dataclasses.replace(tailoring, text_layer=-2), skipping)
    assert load_tailoring(skipping).text_layer == -2 and metadata_of_file(skipping)["ss_clip_skip"] == "2"
    rewritten(skipping, change_metadata=change_record(text_layer="-2"))
    with pytest.raises(InputError, match="text_layer is '-2'"):
        load_tailoring(skipping)


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


def metadata_of_file(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_training_record_is_in_kohyas_keys(saved):
    metadata = metadata_of_file(saved)
    expected = {
        "ss_steps": "2", "ss_max_train_steps": "7", "ss_seed": "0", "ss_resolution": "(64, 64)",
        "ss_learning_rate": "0.0001", "ss_unet_lr": "0.0001", "ss_lr_scheduler": "constant",
        "ss_optimizer": "torch.optim.adamw.AdamW(betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)",
        "ss_training_comment": "MagicTailor: 3 warm-up steps at 0.0001, 4 DS-Bal steps at 1e-05",
        "modelspec.tags": "magictailor, tower, roof", "modelspec.description": "MagicTailor: <v0> = tower, <v1> = roof",
    }  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected


def test_the_date_is_that_of_saving_in_utc(saved):
    from datetime import datetime, timedelta, timezone

    written = datetime.fromisoformat(metadata_of_file(saved)["modelspec.date"].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - written) < timedelta(hours=1)


def test_the_hash_is_that_of_the_tensors_in_the_file(saved):
    import hashlib

    contents, metadata = saved.read_bytes(), metadata_of_file(saved)
    tensors = contents[8 + int.from_bytes(contents[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(tensors).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]


def test_the_thumbnail_is_a_small_picture_of_the_given_one(tailoring, tmp_path):
    import base64
    import io

    from PIL import Image

    path, red = tmp_path / "shown.safetensors", torch.tensor([0.9, 0.1, 0.1])
    save_tailoring(tailoring, path, red[:, None, None].expand(3, 300, 600))
    metadata = metadata_of_file(path)
    kind, _, text = metadata["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64" and json.loads(metadata["ssmd_cover_images"]) == [text]
    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (picture.format, picture.size) == ("JPEG", (256, 128))
    assert all(abs(a - b) < 8 for a, b in zip(picture.getpixel((10, 10)), (230, 26, 26), strict=True))
    assert load_tailoring(path).words == tailoring.words


@pytest.mark.parametrize("image", [torch.zeros(1, 8, 8), torch.full((3, 8, 8), float("nan")), torch.zeros(3, 0, 8)])
def test_a_thumbnail_that_is_no_picture_writes_nothing(tailoring, tmp_path, image):
    with pytest.raises(InputError, match="^thumbnail: "):
        save_tailoring(tailoring, tmp_path / "x.safetensors", image)
    assert list(tmp_path.iterdir()) == []


def test_all_files_are_saved_under_one_free_name(tailoring, tmp_path):
    loras, embeddings = tmp_path / "loras", tmp_path / "embeddings"
    embeddings.mkdir()
    (embeddings / "x_v1.safetensors").write_bytes(b"somebody's work")
    saved = save_with_embeddings(tailoring, "x", loras, embeddings)
    assert saved.name == "x_2" and saved.tailoring == loras / "x_2.safetensors"
    assert [path.name for path in saved.embeddings] == ["x_2_v0.safetensors", "x_2_v1.safetensors"]
    assert (embeddings / "x_v1.safetensors").read_bytes() == b"somebody's work"
    assert len(list(tmp_path.rglob("*.*"))) == 4


def test_an_embedding_file_holds_one_row(tailoring, tmp_path):
    path = tmp_path / "tower_v0.safetensors"
    save_embedding(tailoring.tokens[0], path)
    assert torch.equal(load_file(path)["clip_l"], tailoring.tokens[0].rows["clip_l"])


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

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_tailoring(tailoring, tmp_path / "new" / "x.safetensors")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_mount_that_refuses_to_change_rights_can_be_saved_to(tailoring, tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "link"):
        monkeypatch.setattr(os, name, refuse)
    save_tailoring(tailoring, tmp_path / "x.safetensors")
    assert load_tailoring(tmp_path / "x.safetensors").words == tailoring.words
    with pytest.raises(FileExistsError):
        save_tailoring(tailoring, tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_file_gets_its_name_when_it_is_on_the_disk(tailoring, tmp_path, monkeypatch):
    path, order = tmp_path / "x.safetensors", []
    fsync = os.fsync

    def flushed(number):
        order.append(path.exists())
        fsync(number)

    monkeypatch.setattr(os, "fsync", flushed)
    save_tailoring(tailoring, path)
    assert order == [False, True]  # the file without its name, then the folder with it


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_a_saved_file_has_the_rights_of_the_users_other_files(tailoring, tmp_path):
    (tmp_path / "ordinary").touch()
    save_tailoring(tailoring, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_name_may_be_as_long_as_the_file_system_takes(tailoring, tmp_path):
    path = tmp_path / f"{'x' * 243}.safetensors"
    save_tailoring(tailoring, path)
    assert path.is_file()


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


def test_an_ordinary_lora_is_refused(saved):
    save_file({"lora_unet_x.alpha": torch.ones(())}, saved)
    with pytest.raises(InputError, match="holds no new word.* goes into Load LoRA"):
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
        (change_record(steps_done=None), "steps_done is None"),
        (change_record(config=None), "steps_done is 2"),
        (change_record(config={"lora_rank": -4}), "lora_rank"),
        (change_record(config={"command": "rm"}), "damaged"),
        (change_record(tokens=[]), "holds no token"),
        (change_record(tokens=[{"name": "../../x", "class_word": "tower"}]), "'../../x' cannot be a token's name"),
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


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_a_file_that_was_made_smaller_loads(saved, tailoring, kind):
    rewritten(saved, change_tensors=lambda t: t.update({key: tensor.to(kind) for key, tensor in t.items()}))
    for mine, whole in zip(load_tailoring(saved).tokens, tailoring.tokens, strict=True):
        assert torch.equal(mine.rows["clip_l"], whole.rows["clip_l"].to(kind).float())


def test_numbers_that_torch_cannot_convert_are_refused(saved):
    packed = torch.ones(1, 768, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert not are_finite(packed) and in_full(packed) is None
    assert not are_finite(torch.tensor([float("nan")]).to(torch.float8_e4m3fn))
    assert are_finite(torch.ones(2).to(torch.float8_e4m3fn)) and not are_finite(torch.ones(2, dtype=torch.long))


@pytest.mark.parametrize(
    "name",
    [
        "tower",
        "people/anna",
        "a b-c_d.1",
        " tower ",
        "tower.safetensors",
        "塔",
        "console",
        "com",
        "a.con",
        ".a",
        "نام\u200cها",
        "x" * 200,
    ],
)
def test_usable_names(name):
    assert checked_name(name) == name.strip().removesuffix(".safetensors")


FAULTS = {
    "left out": ["", " ", "..", "../x", "a/../b", "/etc/x", "a//b", ".", "a/", ".safetensors", "a\\..\\b"],
    "it holds ": ["C:\\x", "x<v0>", "a[b", 'say "a"', "a|b", "why?", "*"],
    "ends with": ["x./y", "x.", "x /y", "x/ y", "a.."],
    "Windows keeps": ["CON", "nul", "aux.b", "Com1", "lpt9.x.y", "people/PRN", "con/x", "nul .a", "COM²"],
    "cannot be seen": [f"a{hidden}b" for hidden in "\0\n\x7f\u202e\u2066\u200f\u2028\ud800"],
    "bytes too long": ["x" * 243, "塔" * 85, f"{'x' * 256}/y", "ü" * 120],
}


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for fault, names in FAULTS.items() for name in names])
def test_names_that_cannot_be_files_on_every_system(name, fault):
    with pytest.raises(InputError, match=f"^name: .* cannot be a file name: .*{fault}"):
        checked_name(name)


def test_the_longest_name_leaves_room_for_all_that_is_added(tailoring, tmp_path):
    name = "塔" * 78
    with pytest.raises(InputError, match="1 bytes too long"):
        checked_name(name + "xx")
    name = checked_name(name + "x")
    assert len(f"{name}_9999_v9.safetensors".encode()) == LONGEST
    saved = [save_with_embeddings(tailoring, name, tmp_path, tmp_path / "embeddings") for _ in range(2)]
    assert saved[1].name == f"{name}_2" and all(path.is_file() for path in (saved[1].tailoring, *saved[1].embeddings))


def test_one_name_however_its_accents_were_typed():
    assert checked_name("u\u0308ber") == checked_name("\u00fcber") == "\u00fcber"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("tower", "tower"),
        ("house_a+roof_a", "house_a+roof_a"),
        ("red house (v2)", "red_house_v2"),
        ("house(v2)", "house_v2"),
        ("ünïcode", "unicode"),
        ("a,b{c}'d", "a_b_c_d"),
        ("my people/anna é", "my_people/anna_e"),
        ("a\u3000b\u00a0c", "a_b_c"),
        ("塔 2", "塔_2"),
        ("한글", "한글"),
        ("(!)", "tailoring"),
    ],
)
def test_a_name_that_prompts_can_hold(name, written):
    assert prompt_name(checked_name(name)) == written


def test_the_tailoring_keeps_its_name_and_its_embeddings_get_one_for_prompts(tailoring, tmp_path):
    (tmp_path / "red_house_v0.safetensors").write_bytes(b"somebody's work")
    saved = save_with_embeddings(tailoring, "red house", tmp_path, tmp_path)
    assert saved.tailoring.name == "red house_2.safetensors"
    assert [path.name for path in saved.embeddings] == ["red_house_2_v0.safetensors", "red_house_2_v1.safetensors"]


def test_a_file_that_is_replaced_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("of yesterday")
    with pytest.raises(OSError, match="full"), replaced_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "of yesterday"
        raise OSError("full")
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text() == "of yesterday"
    with replaced_file(path) as temporary:
        temporary.write_text("of today")
        assert path.read_text() == "of yesterday"
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text() == "of today"
