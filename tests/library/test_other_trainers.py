"""Files as other trainers leave them, written here after the public descriptions of their formats."""

import pytest
import torch
from safetensors.torch import save_file

from magictailor.errors import InputError
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def lora(*stems, alpha=True):
    tensors = {}
    for stem in stems:
        tensors |= {f"{stem}.lora_down.weight": torch.rand(4, 8), f"{stem}.lora_up.weight": torch.rand(8, 4)}
        if alpha:
            tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    return tensors


def words(tailoring):
    return [(token.name, {key: tuple(rows.shape) for key, rows in token.rows.items()}) for token in tailoring.tokens]


CLIP_L, CLIP_H, CLIP_G = torch.rand(2, 768), torch.rand(2, 1024), torch.rand(2, 1280)
SDXL = {"clip_l": (2, 768), "clip_g": (2, 1280)}


@pytest.mark.parametrize(
    ("tensors", "metadata", "family", "expected"),
    [
        # A1111's bundle, SD 1.x
        (
            {**lora(UNET), "bundle_emb.my style.string_to_param.*": CLIP_L},
            {},
            "sd1",
            [("my_style", {"clip_l": (2, 768)})],
        ),
        # OneTrainer, SD 1.x and XL, with a LoRA of the text encoder
        (
            {**lora(UNET, TEXT), "bundle_emb.<sks>.emb_params": CLIP_L, "bundle_emb.<tok>.emb_params": CLIP_L[:1]},
            {},
            "sd1",
            [("<sks>", {"clip_l": (2, 768)}), ("<tok>", {"clip_l": (1, 768)})],
        ),
        (
            {**lora(UNET, alpha=False), "bundle_emb.sks.clip_l": CLIP_L, "bundle_emb.sks.clip_g": CLIP_G.half()},
            {},
            "sdxl",
            [("sks", SDXL)],
        ),
        # which of two families with the same text encoder, by kohya's metadata
        (
            {**lora(UNET), "bundle_emb.sks.clip_h": CLIP_H},
            {"ss_base_model_version": "sd_v2_v"},
            "sd2_v",
            [("sks", {"clip_h": (2, 1024)})],
        ),
        # kohya's embeddings, and diffusers'
        ({"emb_params": CLIP_L}, {}, "sd1", [("file", {"clip_l": (2, 768)})]),
        ({"clip_l": CLIP_L, "clip_g": CLIP_G}, {}, "sdxl", [("file", SDXL)]),
        ({"<cat-toy>": CLIP_L[0]}, {}, "sd1", [("file", {"clip_l": (1, 768)})]),
        # names that no prompt can hold
        (
            {**lora(UNET), "bundle_emb.???.emb_params": CLIP_L, "bundle_emb.7.emb_params": CLIP_L},
            {},
            "sd1",
            [("<v0>", {"clip_l": (2, 768)}), ("<v1>", {"clip_l": (2, 768)})],
        ),
    ],
)
def test_words_and_lora_are_loaded_and_saved_as_ours(tmp_path, tensors, metadata, family, expected):
    # as each of these is its own tensor in a real file
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "file.safetensors", metadata)
    loaded = load_tailoring(tmp_path / "file.safetensors")
    assert (loaded.family_name, words(loaded)) == (family, expected)
    stems = {key.split(".")[0] for key in tensors if key.startswith("lora")}
    assert {key.split(".")[0] for key in loaded.lora} == stems
    assert all(torch.equal(loaded.lora[key], tensor) for key, tensor in tensors.items() if key in loaded.lora)
    assert all(f"{stem}.alpha" in loaded.lora for stem in stems)
    save_tailoring(loaded, tmp_path / "ours.safetensors")
    again = load_tailoring(tmp_path / "ours.safetensors")
    assert words(again) == words(loaded) and again.lora.keys() == loaded.lora.keys()


def test_words_beside_a_lora_are_its_own(tmp_path):
    save_file(lora(UNET), tmp_path / "y2k.safetensors")
    with pytest.raises(InputError, match="^tailoring: y2k.safetensors holds no new word.* goes into Load LoRA"):
        load_tailoring(tmp_path / "y2k.safetensors")
    save_file({"clip_l": CLIP_L, "clip_g": CLIP_G}, tmp_path / "y2k_emb.safetensors")
    loaded = load_tailoring(tmp_path / "y2k.safetensors")
    assert words(loaded) == [("y2k", SDXL)] and loaded.rank == 4 and loaded.alpha == 2.0


def test_an_old_embedding_of_a1111_is_read_without_its_program(tmp_path):
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": CLIP_L}, "name": "old", "step": 500}
    torch.save(content, tmp_path / "old.pt")
    assert words(load_tailoring(tmp_path / "old.pt")) == [("old", {"clip_l": (2, 768)})]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"bundle_emb.a.emb_params": torch.rand(1, 5)}, "words for text encoders \\(its encoder 5\\)"),
        ({"bundle_emb.ab.emb_params": CLIP_L, "bundle_emb.cd.clip_g": CLIP_G}, "a word cd that is not for"),
        ({"bundle_emb.ab.emb_params": CLIP_L * torch.nan}, "not of finite numbers"),
        ({"bundle_emb.ab.emb_params": CLIP_L, f"{UNET}.hada_w1_a": torch.rand(2, 2)}, "not of an ordinary LoRA"),
        ({"bundle_emb.ab.emb_params": CLIP_L, f"{UNET}.lora_up.weight": torch.rand(2, 2)}, "half a LoRA"),
        ({"bundle_emb.ab.emb_params": CLIP_L, "lycoris_x.weight": torch.rand(2, 2)}, "would be lost"),
        ({"first": CLIP_L, "second": CLIP_L}, "holds no new word"),
    ],
)
def test_what_cannot_be_loaded_whole_is_refused(tmp_path, tensors, reason):
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "file.safetensors")
    with pytest.raises(InputError, match=f"^tailoring: file.safetensors .*{reason}"):
        load_tailoring(tmp_path / "file.safetensors")
