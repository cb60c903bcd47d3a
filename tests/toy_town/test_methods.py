"""The other ways to learn that MagicTailor is compared with train what their papers say, on the same masks."""

import dataclasses

import pytest
import torch

from magictailor.config import TailorConfig
from toytown.methods import METHODS, Ablation, Rival, gray_outside, learn, prompt_of
from toytown.pairs import SHOWN
from toytown.settings import SETTINGS
from toytown.tailoring import references, trainable

SHORT = TailorConfig(**{**SETTINGS, "phase1_train_steps": 2, "phase2_train_steps": 0})


def learned(rival):
    """All weights of the U-Net and the tokens after two steps."""
    model = trainable(SHOWN.class_words, SHORT)
    learn(model, references(SHOWN), SHORT, rival, rival.named(SHOWN))
    return {name: p.detach() for name, p in [*model.unet.named_parameters(), *model.prompts.trained().items()]}


def kind(name):
    if name == "clip_l":
        return "tokens"
    if ".lora_" in name:
        return "lora"
    return "keys and values" if ".attn2.to_k." in name or ".attn2.to_v." in name else "other"


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("Textual Inversion", {"tokens"}),
        ("DreamBooth-LoRA", {"lora"}),
        ("Custom Diffusion", {"tokens", "keys and values"}),
        ("Break-A-Scene", {"tokens", "lora"}),
    ],
)
def test_each_rival_trains_what_it_is_known_for(name, moved):
    rival = METHODS[name]
    still = dataclasses.replace(rival, learning_rate=0.0, token_learning_rate=0.0)
    before, after = learned(still), learned(rival)
    assert {kind(weight) for weight in after if not torch.equal(after[weight], before[weight])} == moved


def test_break_a_scene_trains_only_tokens_at_first():
    rival = dataclasses.replace(METHODS["Break-A-Scene"], tokens_first=1.0)
    weights = learned(rival)
    assert all(not weights[name].any() for name in weights if ".lora_B." in name)


def test_dreambooth_and_custom_diffusion_name_the_class():
    asked = {name: prompt_of(method, SHOWN, "on the beach") for name, method in METHODS.items()}
    with_noun = {"DreamBooth-LoRA", "Custom Diffusion"}
    assert {asked[name] for name in with_noun} == {"<v0> house with <v1> roof on the beach"}
    assert {asked[name] for name in asked.keys() - with_noun} == {"<v0> with <v1> on the beach"}


def test_all_methods_get_as_many_steps():
    budgets = {name: m.config_of(0).total_steps for name, m in METHODS.items()}
    assert set(budgets.values()) == {250}
    assert {type(m) for m in METHODS.values()} == {Ablation, Rival}


def test_outside_the_masks_everything_is_gray():
    for reference in references(SHOWN):
        for image, gray, mask in zip(reference.images, gray_outside(reference).images, reference.masks, strict=True):
            inside = mask.bool().expand_as(image)
            assert torch.equal(gray[inside], image[inside])
            assert (gray[~inside] == 0.5).all()
