"""What differs between the families: how they are told apart, what they show the U-Net, what they are trained for."""

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny import END, TINY, hidden_states, tiny_parts, tiny_reference, tokenizer, uniform
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from magictailor.backbones import recognise, stable_diffusion
from magictailor.backbones.clip import build_text_encoder
from magictailor.backbones.clip_description import TextEncoderDescription
from magictailor.backbones.stable_diffusion import SDXL
from magictailor.backbones.stable_diffusion.backbone import assemble
from magictailor.backbones.stable_diffusion.conditioning import EncodedPrompts, PromptEncoder
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.backbones.stable_diffusion.unet import unet_config
from magictailor.draws import draw_step
from magictailor.errors import InputError
from magictailor.pictures import Crop, picture_sizes, shown_sizes, training_pictures
from magictailor.reference import Reference
from magictailor.training import Training

FAMILIES = {family.name: family for family in stable_diffusion.FAMILIES}


def unet_shapes(context, vector=None, channels=4):
    state = {
        "input_blocks.0.0.weight": torch.empty(320, channels, 3, 3, device="meta"),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.empty(320, context, device="meta"),
    }
    return state if vector is None else state | {"label_emb.0.0.weight": torch.empty(1280, vector, device="meta")}


@pytest.mark.parametrize(
    ("name", "shapes", "prediction"),
    [
        ("sd1", unet_shapes(768), "epsilon"),
        ("sd1", unet_shapes(768), "v_prediction"),
        ("sd2", unet_shapes(1024), "epsilon"),
        ("sd2_v", unet_shapes(1024), "v_prediction"),
        ("sdxl", unet_shapes(2048, 2816), "epsilon"),
        ("sdxl", unet_shapes(2048, 2816), "v_prediction"),
    ],
)
def test_families_are_told_apart(name, shapes, prediction):
    assert recognise(shapes, prediction) is FAMILIES[name]


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        (unet_shapes(768, channels=9), "9 channels instead of 4, it is an inpainting"),
        (unet_shapes(2048, 2816, channels=8), "8 channels instead of 4, it is an editing"),
        (unet_shapes(1024, channels=7), "7 channels instead of 4, it is a checkpoint for another task"),
        (unet_shapes(1280, 2560), "prompts 1280 wide and vectors 2560 wide.* refiner"),
        (unet_shapes(1024, 2048), "prompts 1024 wide and vectors 2048 wide.* unCLIP"),
        (unet_shapes(4096), "prompts 4096 wide, which belongs to another family"),
        ({"double_blocks.0.img_attn.qkv.weight": torch.empty(1)}, "is no network of a kind known here"),
        ({}, "is no network of a kind known here"),
    ],
)
def test_what_is_no_family_is_named_with_those_that_are(shapes, found):
    with pytest.raises(InputError, match=f"^model: .*{found}") as caught:
        recognise(shapes, "epsilon")
    assert all(family.title in caught.value.message for family in FAMILIES.values())


def test_a_clip_has_exactly_the_familys_encoders():
    SDXL.require_encoders({"clip_g", "clip_l"})
    for found in ({"clip_l"}, {"clip_l", "clip_g", "t5xxl"}, set()):
        with pytest.raises(InputError, match="^clip: .*Stable Diffusion XL needs clip_g and clip_l"):
            SDXL.require_encoders(found)


def ldm_shapes(down, middle, up, width=64):
    """Keys of an ldm U-Net by the transformer depth of each layer; None stands for a change of resolution."""
    state = {
        "input_blocks.0.0.weight": torch.empty(width, 4, 3, 3, device="meta"),
        "out.2.weight": torch.empty(4, width, 3, 3, device="meta"),
    }

    def add(prefix, depth):
        state[f"{prefix}0.out_layers.3.weight"] = torch.empty(width, width, 3, 3, device="meta")
        for n in range(depth):
            state[f"{prefix}1.transformer_blocks.{n}.attn2.to_k.weight"] = torch.empty(width, 2048, device="meta")
            state[f"{prefix}1.proj_in.weight"] = torch.empty(width, width, device="meta")

    for n, depth in enumerate(down, 1):
        if depth is None:
            state[f"input_blocks.{n}.0.op.weight"] = torch.empty(width, width, 3, 3, device="meta")
        else:
            add(f"input_blocks.{n}.", depth)
    add("middle_block.", middle)
    for n, depth in enumerate(up):
        add(f"output_blocks.{n}.", depth)
    return state


def test_the_unet_of_sdxl_is_read_off_its_shapes():
    config = unet_config(ldm_shapes([0, 0, None, 2, 2, None, 10, 10], 10, [10] * 3 + [2] * 3 + [0] * 3), SDXL)
    assert config["layers_per_block"] == 2 and config["transformer_layers_per_block"] == (1, 2, 10)
    assert config["down_block_types"] == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    assert config["use_linear_projection"] and config["attention_head_dim"] == (1, 1, 1)
    assert config["projection_class_embeddings_input_dim"] == 1280 + 6 * config["addition_time_embed_dim"]


@pytest.mark.parametrize(
    "shapes",
    [
        ldm_shapes([0, 0, None, 2, 2, None, 4, 4], 0, [4, 4, 10, 2, 1, 1, 0, 0, 0]),
        ldm_shapes([0, None, 2, None, 5], 0, [5, 5, 2, 2, 0, 0]),
        ldm_shapes([0, 0, None, 2, 2, None, 10, 10], 10, [10, 10, 2, 2, 0, 0]),
        ldm_shapes([0, 0, None, 2, 2, None, 10, 10], 10, [10] * 3 + [2] * 3 + [0] * 4),
        ldm_shapes([0, 0, None, 2, 2, None, 10, 4], 10, [10] * 3 + [2] * 3 + [0] * 3),
    ],
    ids=["no middle", "no middle, one layer", "short way up", "long way up", "uneven"],
)
def test_pruned_unets_are_refused(shapes):
    with pytest.raises(InputError, match="^model: its U-Net lacks blocks"):
        unet_config(shapes, SDXL)


# --- what SDXL is told of a picture


@pytest.mark.parametrize(
    ("size", "crop", "resolution", "plain", "mirrored"),
    [
        # the whole height, 30 pixels off the left and 70 off the right, twice as large after resizing
        ((100, 200), Crop(0, 30, 100), 200, [100, 200, 0, 60, 200, 200], [100, 200, 0, 140, 200, 200]),
        ((300, 100), Crop(120, 0, 100), 50, [300, 100, 60, 0, 50, 50], [300, 100, 60, 0, 50, 50]),
        # a window past the picture's edges cuts nothing off
        ((100, 200), Crop(-50, 0, 200), 100, [100, 200, 0, 0, 100, 100], [100, 200, 0, 0, 100, 100]),
    ],
)
def test_sizes_are_counted_as_sdxl_was_trained(size, crop, resolution, plain, mirrored):
    assert picture_sizes(size, crop, resolution) == (plain, mirrored)


def test_each_picture_brings_its_own_sizes_and_a_mirrored_one_the_other_margin(config):
    mask = torch.zeros(64, 96)
    mask[20:40, 10:30] = 1.0
    first = Reference("tower", (torch.rand(3, 64, 96),), (mask,))
    pictures = training_pictures([first, tiny_reference("roof", 1, 2)], 64)
    assert pictures.sizes[0].tolist() == [64, 96, 0, 0, 64, 64]
    assert pictures.mirrored_sizes[0].tolist() == [64, 96, 0, 32, 64, 64]
    draws = draw_step(config, 1, batch=2, resolution=64, latent_shape=(4, 8, 8), draw_timesteps=uniform(1000))
    draws = dataclasses.replace(draws, flip=torch.tensor([True, False]))
    assert torch.equal(shown_sizes(pictures, draws), torch.stack([pictures.mirrored_sizes[0], pictures.sizes[1]]))


def test_conditions_go_by_picture_and_pooled_prompts_bring_the_sizes():
    prompts = EncodedPrompts(torch.randn(3, 77, 8), torch.randn(3, 5))
    sizes = torch.randn(2, 6)
    chosen = prompts[torch.tensor([1, 2])].conditions(sizes)
    assert torch.equal(chosen["encoder_hidden_states"], prompts.hidden[1:])
    assert torch.equal(chosen["added_cond_kwargs"]["text_embeds"], prompts.pooled[1:])
    assert chosen["added_cond_kwargs"]["time_ids"] is sizes
    assert EncodedPrompts(prompts.hidden, None)[torch.tensor([0])].conditions(sizes).keys() == {"encoder_hidden_states"}


# --- several text encoders


@pytest.fixture
def two_encoders():
    """A family with two encoders, of which the second gives the pooled prompt."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=100,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=2,
                projection_dim=32,
                eos_token_id=END,
            )
        )
    descriptions = (
        TextEncoderDescription("clip_l", "quick_gelu", 32, END, layer=-2, normalised=False),
        TextEncoderDescription("clip_g", "quick_gelu", 16, 0, layer=-2, normalised=False, pooled=True),
    )
    family = dataclasses.replace(TINY, text_encoders=descriptions, cross_attention_width=96)
    return {"clip_l": tiny_parts()[1], "clip_g": second.requires_grad_(False).eval()}, family


def test_a_token_has_a_row_in_every_encoder_and_both_are_trained(two_encoders):
    encoders, family = two_encoders
    prompts = PromptEncoder(encoders, family, tokenizer, ["tower", "roof"])
    assert {key: tuple(rows.shape) for key, rows in prompts.trained().items()} == {"clip_l": (2, 64), "clip_g": (2, 32)}
    encoded = prompts()
    assert encoded.hidden.shape == (2, 77, 96) and encoded.pooled.shape == (2, 32)
    encoded.pooled.sum().backward()
    assert prompts.rows("clip_g").grad.any() and prompts.rows("clip_l").grad is None


def test_the_pooled_prompt_is_the_projected_end_token(two_encoders):
    encoders, family = two_encoders
    encoder = encoders["clip_g"]
    prompts = PromptEncoder(encoders, family, tokenizer, ["tower"])
    ids = prompts.ids_clip_g
    end = ids[0].tolist().index(END)
    last = hidden_states(encoder, ids, -1, normalised=True)[0, end]
    assert torch.allclose(prompts().pooled[0], encoder.text_projection(last), atol=1e-6)
    assert ids[0, end + 1 :].unique().tolist() == [0] and prompts.ids_clip_l[0, end + 1 :].unique().tolist() == [END]


def test_clip_skip_holds_where_an_encoder_has_the_layer(two_encoders):
    encoders, family = two_encoders
    plain = PromptEncoder(dict(encoders), family, tokenizer, ["tower"])
    hidden = plain().hidden
    plain.layer = -3
    # the first encoder has two layers only and stays at its family's
    first, second = plain().hidden.split([64, 32], -1)
    assert torch.equal(first, hidden[..., :64]) and not torch.allclose(second, hidden[..., 64:])
    assert torch.equal(second, hidden_states(encoders["clip_g"], plain.ids_clip_g, -3, normalised=False))


def test_an_encoder_is_built_with_its_projection_only_where_the_family_shows_it(two_encoders):
    encoders, family = two_encoders
    state = encoders["clip_g"].state_dict()
    pooled = family.text_encoders[1]
    built = build_text_encoder(state, pooled)
    assert torch.equal(built.text_projection.weight, encoders["clip_g"].text_projection.weight)
    plain = build_text_encoder(state, dataclasses.replace(pooled, pooled=False))
    assert not hasattr(plain, "text_projection")
    del state["text_projection.weight"]
    with pytest.raises(InputError, match="^clip: .*missing text_projection.weight"):
        build_text_encoder(state, pooled)


def test_every_picture_is_shown_with_its_pooled_prompt_and_sizes(two_encoders, config, references):
    encoders, family = two_encoders
    config = dataclasses.replace(config, phase1_train_steps=0)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=96,
            attention_head_dim=4,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        )
    model = assemble(
        family=family,
        unet=unet.requires_grad_(False),
        encoders=encoders,
        autoencoder=tiny_parts()[2],
        schedule=scaled_linear_schedule(),
        tokenizer=tokenizer,
        class_words=["tower", "roof"],
        config=config,
        device=torch.device("cpu"),
    )
    training = Training(model, references, config)
    calls = []
    model.unet.register_forward_pre_hook(
        lambda module, inputs, named: calls.append(named["added_cond_kwargs"]), with_kwargs=True
    )
    before = {key: rows.detach().clone() for key, rows in training.tokens.items()}
    draws = training.draw(1)
    report = training.step(draws)
    sizes, others = shown_sizes(training.pictures, draws), training.pictures.owners != report.worst
    online, momentum = calls
    assert torch.equal(online["time_ids"], sizes) and online["text_embeds"].shape == (len(sizes), 32)
    assert torch.equal(momentum["time_ids"], sizes[others])
    assert torch.equal(momentum["text_embeds"], online["text_embeds"][others])
    assert all((rows != before[key]).any() for key, rows in training.tokens.items())


# --- v-prediction


def test_a_velocity_model_is_trained_for_the_velocity(make_model, config, references):
    """L_diff by hand: v = sqrt(a) eps - sqrt(1 - a) x0, on latents taken from the noisy ones the U-Net sees."""
    training = Training(make_model(config, prediction_type="v_prediction"), references, config)
    draws, model, seen = training.draw(1), training.model, {}
    model.unet.register_forward_hook(
        lambda module, inputs, output: seen.update(noisy=inputs[0].detach(), answer=output.sample.detach())
    )
    diffusion = training.losses(1, draws).diffusion

    a = model.schedule.alphas_cumprod[draws.timesteps].view(-1, 1, 1, 1)
    latents = (seen["noisy"] - (1 - a).sqrt() * draws.noise) / a.sqrt()
    velocity = a.sqrt() * draws.noise - (1 - a).sqrt() * latents
    flip = draws.flip.view(-1, 1, 1, 1)
    masks = torch.where(flip, training.pictures.masks.flip(-1), training.pictures.masks)
    cells = torch.nn.functional.avg_pool2d(masks, 8)
    errors = ((seen["answer"] - velocity) * cells).square().mean(dim=(1, 2, 3))
    by_hand = torch.stack([errors[training.pictures.owners == n].mean() for n in range(2)])
    assert torch.allclose(diffusion, by_hand, rtol=1e-3)
    noise_errors = ((seen["answer"] - draws.noise) * cells).square().mean(dim=(1, 2, 3))
    assert not torch.allclose(diffusion[0], noise_errors[training.pictures.owners == 0].mean(), rtol=1e-2)


def test_a_torchao_that_peft_finds_too_old_is_left_alone(make_model, config, monkeypatch):
    def too_old():
        raise ImportError("Found an incompatible version of torchao")

    torchao = pytest.importorskip("peft.tuners.lora.torchao", reason="this peft asks for no torchao")
    monkeypatch.setattr(torchao, "is_torchao_available", too_old)
    assert make_model(config).lora()
    assert torchao.is_torchao_available is too_old
