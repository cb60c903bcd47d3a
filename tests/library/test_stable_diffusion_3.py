"""Stable Diffusion 3 as the library builds it: flow, joint attention, prompts, files; and a step written plainly."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from diffusers.models.attention_processor import Attention
from peft import LoraConfig
from tiny import END, START, tiny_reference
from tiny import tokenizer as clip_words
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from magictailor.backbones import recognise, stable_diffusion_3
from magictailor.backbones.attention_capture import AttentionCapture
from magictailor.backbones.clip_description import TextEncoderDescription
from magictailor.backbones.lora import add_lora
from magictailor.backbones.stable_diffusion_3 import attention as joint
from magictailor.backbones.stable_diffusion_3.backbone import assemble, lora_targets
from magictailor.backbones.stable_diffusion_3.family import SD35_MEDIUM
from magictailor.backbones.stable_diffusion_3.schedule import RectifiedFlow, noised, velocity
from magictailor.backbones.stable_diffusion_3.transformer import build_transformer
from magictailor.backbones.stable_diffusion_3.transformer_shape import transformer_config, watched_blocks
from magictailor.backbones.t5 import build_t5_encoder, t5_dtype
from magictailor.balancing import DS_BAL
from magictailor.config import TailorConfig
from magictailor.errors import InputError
from magictailor.formats.tailoring_file import load_tailoring, save_tailoring
from magictailor.memory import FASTEST, MemoryPlan
from magictailor.pictures import augment, shrink
from magictailor.sampling import sample
from magictailor.tailoring import put_into, tailoring_of
from magictailor.training import Training
from tools import sd3_checkpoint as small
from tools.random_weights import Weights

CPU = torch.device("cpu")
WIDTHS = {"clip_l": 32, "clip_g": 48, "t5xxl": 96}
ALL = tuple(WIDTHS)
SIZES = small.Transformer(normalised=True, dual=1, positions=8, prompt_width=96, vector_width=80)
TINY = dataclasses.replace(
    SD35_MEDIUM,
    clip_widths=(32, 48),
    prompt_width=96,
    text_encoders=(
        TextEncoderDescription("clip_l", "quick_gelu", 16, END, layer=-2, normalised=False),
        TextEncoderDescription("clip_g", "gelu", 16, 0, layer=-2, normalised=False, pooled=True),
    ),
)
TIMES = torch.tensor([250.0, 800.0])


def t5_words(text):
    return {"input_ids": [*(4 + sum(map(ord, word)) % 90 for word in text.split()), 1]}


def tiny_state(sizes=SIZES, seed=0):
    weights = Weights(seed)
    small.add_transformer(weights, "", sizes)
    return {key: tensor.float() for key, tensor in weights.tensors.items()}


def tiny_encoders(keys=ALL):
    """Text encoders with the same random weights at every call."""
    encoders = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for key, kind in (("clip_l", CLIPTextModel), ("clip_g", CLIPTextModelWithProjection)):
            config = CLIPTextConfig(
                vocab_size=100, hidden_size=WIDTHS[key], projection_dim=WIDTHS[key], intermediate_size=64,
                num_hidden_layers=3, num_attention_heads=WIDTHS[key] // 16, bos_token_id=START, eos_token_id=END,
            )  # fmt: skip
            encoders[key] = kind(config)
        encoders["t5xxl"] = T5EncoderModel(
            T5Config(
                vocab_size=100, d_model=WIDTHS["t5xxl"], d_kv=16, d_ff=32, num_layers=2, num_heads=2,
                feed_forward_proj="gated-gelu", dropout_rate=0.0,
            )
        )  # fmt: skip
    return {key: encoders[key].requires_grad_(False).eval() for key in keys}


def tiny_autoencoder():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        autoencoder = AutoencoderKL(
            block_out_channels=(16,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=8, latent_channels=16,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
    return autoencoder.requires_grad_(False).eval()


def tiny_model(config=None, keys=ALL, words=("tower", "roof"), sizes=SIZES):
    return assemble(
        family=TINY,
        transformer=build_transformer(tiny_state(sizes)),
        encoders=tiny_encoders(keys),
        autoencoder=tiny_autoencoder(),
        schedule=RectifiedFlow(),
        tokenizers={"clip_l": clip_words, "t5xxl": t5_words},
        class_words=words,
        config=config or TailorConfig(lora_rank=4),
        device=CPU,
    )


def latents(count=2, side=8, seed=0):
    return torch.randn(count, 16, side, side, generator=torch.Generator().manual_seed(seed))


# --- the forward process


def test_a_path_runs_straight_from_picture_to_noise():
    clean, noise = latents(), latents(seed=1)
    assert torch.equal(noised(clean, noise, torch.tensor([0.0, 1000.0])), torch.stack([clean[0], noise[1]]))
    quarter = noised(clean, noise, torch.tensor([250.0, 250.0]))
    assert torch.allclose(quarter, 0.75 * clean + 0.25 * noise)
    later = noised(clean, noise, torch.tensor([260.0, 260.0]))
    assert torch.allclose((later - quarter) / 0.01, velocity(clean, noise), atol=1e-3)


def test_timesteps_are_drawn_as_the_model_was_trained():
    flow = RectifiedFlow(3.0)
    # the logistic of 0 is 1/2, and 3 * 1/2 / (1 + 2 * 1/2) = 3/4
    assert flow.drawn_timesteps(torch.zeros(1)).item() == pytest.approx(750.0)
    assert flow.noise_levels(torch.tensor([0.0, 0.1, 1.0])).tolist() == pytest.approx([0.0, 0.25, 1.0])
    drawn = tiny_model().draw_timesteps(20000, torch.Generator().manual_seed(0))
    # undone, they are normal
    shares = drawn / 1000 / (3.0 - 2.0 * drawn / 1000)
    normal = torch.logit(shares)
    assert normal.mean().abs() < 0.02 and abs(normal.std() - 1) < 0.02
    assert torch.allclose(RectifiedFlow(1.0).drawn_timesteps(normal), 1000 * normal.sigmoid())


def test_the_draws_of_a_step_hold_noise_and_timesteps(references, config):
    training = Training(tiny_model(config), references, config)
    draws = training.draw(3)
    assert draws.timesteps.dtype == torch.float32 and draws.timesteps.shape == (5,)
    assert torch.equal(draws.timesteps, training.draw(3).timesteps)
    assert not torch.equal(draws.timesteps, training.draw(4).timesteps)


def test_latents_are_scaled_and_moved():
    model = tiny_model()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = tiny_autoencoder().encode(images).latent_dist
    found = model.encode(images, torch.zeros(1, 16, 8, 8))
    assert torch.allclose(found, (posterior.mean - 0.0609) * 1.5305, atol=1e-5)
    assert torch.allclose(model.unscaled(found), posterior.mean, atol=1e-5)
    noise = latents(1)
    assert torch.allclose(model.encode(images, noise) - found, 1.5305 * posterior.std * noise, atol=1e-5)


# --- joint attention


def plain_shares(query, key, columns):
    probabilities = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
    picked = [probabilities[number, :, :, place].sum(-1) for number, place in enumerate(columns.tolist())]
    return torch.stack(picked).mean(1)


def test_what_some_keys_get_is_their_column_of_the_softmax():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 16, generator=generator, dtype=torch.float64) for n in (20, 29, 29))
    columns = torch.tensor([[4, 11], [28, 0]])
    leaves = [[t.clone().requires_grad_() for t in (query, key, value)] for _ in range(2)]
    mixed, shares = joint.attend_and_share(*leaves[0], columns)
    expected, expected_shares = joint.attend(*leaves[1]), plain_shares(*leaves[1][:2], columns)
    assert torch.allclose(mixed, expected) and torch.allclose(shares.double(), expected_shares, atol=1e-7)
    weight = torch.randn(2, 20, generator=generator)
    for found in (
        (mixed.square().sum() + (shares * weight).sum()),
        (expected.square().sum() + (expected_shares * weight).sum()),
    ):
        found.backward()
    for mine, plain in zip(*leaves, strict=True):
        assert torch.allclose(mine.grad, plain.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_shares_keep_their_digits_in_half_precision(dtype):
    query, key = torch.randn(1, 2, 2000, 16), torch.randn(1, 2, 2000, 16)
    columns = torch.tensor([[7]])
    shares = joint.attend_and_share(query.to(dtype), key.to(dtype), key.to(dtype), columns)[1]
    expected = plain_shares(query.to(dtype).float(), key.to(dtype).float(), columns)
    assert (shares - expected).norm() < 2e-2 * expected.norm()


class LargestTensor(TorchDispatchMode):
    """Remembers how large a tensor was made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        answer = function(*arguments, **(options or {}))
        for tensor in answer if isinstance(answer, tuple | list) else (answer,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return answer


def test_no_whole_map_is_ever_made():
    positions = 1500
    query, key, value = (torch.randn(1, 2, positions, 16, requires_grad=True) for _ in range(3))
    with LargestTensor() as largest:
        mixed, shares = joint.attend_and_share(query, key, value, torch.tensor([[5, 9]]))
        (mixed.sum() + shares.square().sum()).backward()
    assert largest.numbers < positions**2 / 4


def hand_made_attention():
    """One head of width 8 whose projections pass on what they are given, apart from the prompt's queries and values."""
    attn = Attention(
        query_dim=8, added_kv_proj_dim=8, dim_head=8, heads=1, out_dim=8, context_pre_only=False, bias=True
    )
    with torch.no_grad():
        for linear in attn.modules():
            if isinstance(linear, torch.nn.Linear):
                linear.weight.copy_(torch.eye(8))
                linear.bias.zero_()
    return attn


def test_the_column_is_the_words_among_the_text_keys():
    """Image position 2 looks at the word at text position 3, all others look nowhere."""
    attn, capture = hand_made_attention(), AttentionCapture()
    attn.set_processor(joint.JointAttention(capture))
    image, text = torch.zeros(1, 6, 8), torch.zeros(1, 5, 8)
    image[0, 2, 0] = 4.0
    text[0, 3, 0] = 8.0**0.5
    for places, looked in (([[3]], True), ([[2]], False), ([[1, 3]], True)):
        capture.start(torch.tensor(places))
        with torch.no_grad():
            attn(hidden_states=image, encoder_hidden_states=text)
        shares = capture.mean_map((2, 3)).flatten()
        # its logit is 4, but its own key is at 16 / sqrt(8); the other nine are at 0
        denominator = math.exp(4.0) + math.exp(16 / 8**0.5) + 9
        expected = torch.full((6,), len(places[0]) / 11)
        expected[2] = (math.exp(4.0) + len(places[0]) - 1 if looked else 1.0) / denominator
        assert torch.allclose(shares, expected, atol=1e-5)


def test_the_middle_half_of_the_blocks_is_watched():
    assert [list(watched_blocks(count)) for count in (2, 3, 4)] == [[1], [1, 2], [1, 2]]
    assert (watched_blocks(24), watched_blocks(38)) == (range(6, 18), range(10, 29))
    transformer = build_transformer(tiny_state(dataclasses.replace(SIZES, depth=4, dual=2)))
    capture = joint.watch_attention(transformer)
    watched = [n for n, m in transformer.named_modules() if getattr(getattr(m, "processor", None), "capture", None)]
    assert watched == ["transformer_blocks.1.attn", "transformer_blocks.2.attn"]
    assert capture.columns is None


@pytest.mark.parametrize("sizes", [SIZES, dataclasses.replace(SIZES, normalised=False, dual=0)])
def test_watching_changes_nothing_and_agrees_with_diffusers(sizes):
    model = tiny_model(sizes=sizes)
    plain = build_transformer(tiny_state(sizes))
    prompts = model.reference_prompts()
    with torch.no_grad():
        watched = model.predict(latents(), TIMES, prompts, sizes=torch.zeros(2, 6), watch=model.token_columns())
        unwatched = model.predict(latents(), TIMES, prompts, sizes=torch.zeros(2, 6))
        expected = plain(latents(), timestep=TIMES, **prompts.conditions()).sample
    assert torch.allclose(watched.answer, expected, atol=1e-5) and torch.allclose(unwatched.answer, expected, atol=1e-5)
    assert watched.maps.shape == (2, 4, 4) and unwatched.maps is None


def test_pictures_that_share_a_prompt_are_told_the_same():
    model, owners = tiny_model(), torch.tensor([1, 0, 1])
    prompts, times = model.encode_prompts(["a tower", "a roof"]), torch.tensor([10.0, 500.0, 900.0])
    with torch.no_grad():
        together = model.predict(latents(3), times, prompts, sizes=torch.zeros(3, 6), owners=owners).answer
        alone = model.predict(latents(3), times, prompts[owners], sizes=torch.zeros(3, 6)).answer
        others = model.predict(latents(3), times, prompts[1 - owners], sizes=torch.zeros(3, 6)).answer
    assert torch.equal(together, alone)
    assert not torch.allclose(together, others, atol=1e-4)


# --- the transformer's weights


@pytest.mark.parametrize(
    "sizes", [SIZES, small.SD3_MEDIUM, small.SD35_MEDIUM, small.SD35_LARGE], ids=lambda s: repr(s)[12:50]
)
def test_weights_are_renamed_as_diffusers_does_and_shared(sizes):
    state = tiny_state(sizes)
    transformer = build_transformer(state)
    expected = convert_sd3_transformer_checkpoint_to_diffusers(dict(state))
    found = transformer.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    copied = [key for key, tensor in found.items() if tensor.untyped_storage().data_ptr() not in storages]
    # where diffusers has scale and shift the other way round
    assert {key.rpartition(".")[0].rpartition(".")[0] for key in copied} == {
        "norm_out",
        "transformer_blocks.1.norm1_context",
    }


def test_the_models_are_told_apart_and_others_refused():
    for sizes, family in zip(
        (small.SD3_MEDIUM, small.SD35_MEDIUM, small.SD35_LARGE), stable_diffusion_3.FAMILIES, strict=True
    ):
        assert recognise(tiny_state(sizes), "flow") is family
    with pytest.raises(
        InputError, match="^model: its transformer takes 16 channels, prompts 96 wide and vectors 80 wide"
    ):
        recognise(tiny_state(), "flow")
    state = tiny_state()
    for lacking in ("pos_embed", "final_layer.linear.weight"):
        with pytest.raises(InputError, match=f"^model: its transformer lacks parts .{lacking}"):
            transformer_config({key: tensor for key, tensor in state.items() if key != lacking})
    with pytest.raises(InputError, match=r"^model: .*1 missing, 1 unknown.*odd"):
        odd = {**state, "joint_blocks.0.x_block.odd.weight": torch.zeros(1)}
        build_transformer({k: t for k, t in odd.items() if k != "x_embedder.proj.bias"})


def test_text_encoders_may_be_missing_but_not_others_be_there():
    for found in ({"clip_l"}, {"t5xxl"}, {"clip_l", "clip_g"}, set(ALL)):
        SD35_MEDIUM.require_encoders(found)
    for found in (set(), {"clip_h"}, {"clip_l", "clip_h"}):
        with pytest.raises(
            InputError, match="^clip: has .*, but Stable Diffusion 3.5 medium reads one or more of clip_l"
        ):
            SD35_MEDIUM.require_encoders(found)


# --- prompts


@pytest.mark.parametrize("keys", [("clip_l",), ("clip_g",), ("t5xxl",), ("clip_l", "clip_g"), ("clip_g", "t5xxl"), ALL])
def test_prompts_are_joined_from_what_is_there(keys):
    model, plain = tiny_model(keys=keys), tiny_encoders(keys)
    assert {key: tuple(rows.shape) for key, rows in model.token_rows().items()} == {
        key: (2, WIDTHS[key]) for key in keys
    }
    with torch.no_grad():
        prompts = model.encode_prompts(["A photo of roof"])
    has_clip, has_t5 = keys != ("t5xxl",), "t5xxl" in keys
    words = clip_words("A photo of roof")["input_ids"]
    expected = torch.zeros(1, 77 * (has_clip + has_t5), 96)
    pooled = torch.zeros(1, 80)
    for key, start, pad in (("clip_l", 0, END), ("clip_g", 32, 0)):
        if key in keys:
            output = plain[key](torch.tensor([words + [pad] * (77 - len(words))]), output_hidden_states=True)
            place = slice(start, start + WIDTHS[key])
            expected[:, :77, place] = output.hidden_states[-2]
            pooled[:, place] = output.text_embeds if key == "clip_g" else output.pooler_output
    if has_t5:
        words = t5_words("A photo of roof")["input_ids"]
        output = plain["t5xxl"](torch.tensor([words + [0] * (77 - len(words))]))
        expected[:, -77:] = output.last_hidden_state
    assert torch.allclose(prompts.hidden, expected, atol=1e-5) and torch.allclose(prompts.pooled, pooled, atol=1e-5)


def test_a_token_starts_as_its_word_and_has_a_place_in_each_part():
    model = tiny_model()
    with torch.no_grad():
        tokens, words = model.reference_prompts(), model.encode_prompts(["A photo of tower", "A photo of roof"])
    assert torch.allclose(tokens.hidden, words.hidden, atol=1e-6)
    # CLIP has a start token, T5 has none
    assert model.token_columns().tolist() == [[4, 77 + 3]] * 2
    assert tiny_model(keys=("t5xxl",)).token_columns().tolist() == [[3]] * 2
    assert tiny_model(keys=("clip_g",)).token_columns().tolist() == [[4]] * 2
    assert model.positions("a <v1> on the red roof", "<v1>") == [2, 78]
    assert model.positions("a <v1> on the red roof", "red roof") == [5, 6, 81, 82]
    assert model.positions("a <v1>", "roof") == []


def test_prompts_that_are_too_long_or_hold_unknown_tokens_are_refused():
    model = tiny_model()
    with pytest.raises(InputError, match="^prompt: .*CLIP reads 75 at most"):
        model.require_readable("a " * 76)
    with pytest.raises(InputError, match="^prompt: .*T5 is given 76 at most"):
        tiny_model(keys=("t5xxl",)).require_readable("a " * 77)
    with pytest.raises(InputError, match="^prompt: holds <v2>, but what is learned is <v0>, <v1>"):
        model.require_readable("<v0> with <v2>")


def test_half_precision_of_t5_is_bfloat16():
    assert [t5_dtype(d) for d in (torch.float32, torch.bfloat16, torch.float16)] == [
        torch.float32, torch.bfloat16, torch.bfloat16,
    ]  # fmt: skip


def test_t5_is_read_off_its_weights():
    encoder = tiny_encoders(("t5xxl",))["t5xxl"]
    state = {key: t for key, t in encoder.state_dict().items() if key != "encoder.embed_tokens.weight"}
    built = build_t5_encoder(state | {"decoder.block.0.x": torch.zeros(1)})
    ids = torch.tensor([[5, 9, 1, 0, 0]])
    with torch.no_grad():
        assert torch.equal(built(ids).last_hidden_state, encoder(ids).last_hidden_state)
    with pytest.raises(InputError, match="^clip: has no T5 text encoder"):
        build_t5_encoder({"shared.weight": torch.zeros(3, 3)})


# --- training


@pytest.mark.parametrize("keys", [("clip_l",), ("t5xxl",), ALL])
def test_every_row_and_the_whole_lora_learn(references, config, keys):
    config = dataclasses.replace(config, phase1_learning_rate=1e-2, memory="balanced" if keys == ALL else "auto")
    training = Training(tiny_model(config, keys), references, config)
    before = {key: rows.detach().clone() for key, rows in training.tokens.items()}
    for _ in training:
        pass
    assert all((rows - before[key]).abs().amax(1).min() > 1e-3 for key, rows in training.tokens.items())
    lora_b = {name: t for name, t in training.lora.items() if ".lora_B." in name}
    assert all(tensor.any() for tensor in lora_b.values())


def test_how_memory_is_used_changes_nothing(references, config):
    outcomes = []
    for plan in (
        FASTEST,
        MemoryPlan("fast", 1),
        MemoryPlan("balanced", 2, checkpointing=True),
        MemoryPlan("smallest", 1, checkpointing=True, others_away=True, network_away=True),
    ):
        training = Training(tiny_model(config), references, config, plan=plan)
        outcomes.append([(r.loss, r.attention) for r in training])
    for other in outcomes[1:]:
        assert [value for pair in other for value in pair] == pytest.approx(
            [value for pair in outcomes[0] for value in pair], rel=1e-4
        )


class StoringAttention:
    """Joint attention that materialises its probabilities and keeps them."""

    def __init__(self, stored=None):
        self.stored = stored

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        def heads(states, norm=None):
            states = states.view(*states.shape[:2], attn.heads, -1).transpose(1, 2)
            return states if norm is None else norm(states)

        query = heads(attn.to_q(hidden_states), attn.norm_q)
        key, value = heads(attn.to_k(hidden_states), attn.norm_k), heads(attn.to_v(hidden_states))
        count = hidden_states.shape[1]
        if encoder_hidden_states is not None:
            query = torch.cat([query, heads(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)], 2)
            key = torch.cat([key, heads(attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)], 2)
            value = torch.cat([value, heads(attn.add_v_proj(encoder_hidden_states))], 2)
        probabilities = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        if self.stored is not None and encoder_hidden_states is not None:
            self.stored.append(probabilities[:, :, :count, count:])
        mixed = (probabilities @ value).transpose(1, 2).flatten(2)
        image = attn.to_out[0](mixed[:, :count])
        if encoder_hidden_states is None:
            return image
        return image, (None if attn.context_pre_only else attn.to_add_out(mixed[:, count:]))


def plain_transformer(state, config, stored):
    """Diffusers' own module by diffusers' own conversion, with peft's LoRA on every attention projection by name."""
    transformer = SD3Transformer2DModel(**transformer_config(state)).requires_grad_(False)
    transformer.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(state)))
    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    transformer.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=targets))
    for number, block in enumerate(transformer.transformer_blocks):
        # of two blocks the second is the middle half
        block.attn.set_processor(StoringAttention(stored if number == 1 else None))
        if block.attn2 is not None:
            block.attn2.set_processor(StoringAttention())
    return transformer


def put_lora(transformer, lora):
    named = dict(transformer.named_parameters())
    with torch.no_grad():
        for name, value in lora.items():
            named[name].copy_(value)
    return {name: named[name] for name in lora}


def textbook_losses(training, step, draws, stored):
    """The losses of a step of Stable Diffusion 3, and gradients of its LoRA, with nothing shared or fused."""
    config, model, pictures = training.config, training.model, training.pictures
    transformer = plain_transformer(tiny_state(), config, stored)
    lora = put_lora(transformer, training.lora)

    images, masks = augment(pictures, draws)
    degradation = config.alpha * (1 - (step / config.total_steps) ** config.gamma)
    images = torch.clamp(images + degradation * draws.pixel_noise * (1 - masks), -1, 1)
    posterior = model.autoencoder.encode(images).latent_dist
    clean = (posterior.mean + posterior.std * draws.latent_noise - 0.0609) * 1.5305
    sigmas = draws.timesteps[:, None, None, None] / 1000
    noisy, target = (1 - sigmas) * clean + sigmas * draws.noise, draws.noise - clean

    names = [f"A photo of {name}" for name in ("<v0>", "<v1>")]
    prompts = model.encode_prompts([names[owner] for owner in pictures.owners])
    told = {"encoder_hidden_states": prompts.hidden.detach(), "pooled_projections": prompts.pooled.detach()}
    answer = transformer(noisy, timestep=draws.timesteps, **told).sample
    (probabilities,) = stored
    attention = probabilities[..., [4, 80]].sum(-1).mean(1).view(-1, 4, 4)
    attention = attention / attention.amax((1, 2), keepdim=True)
    l_attn = (attention - shrink(masks, (4, 4))[:, 0]).square().mean()

    small_masks = shrink(masks, (8, 8))
    errors = ((answer - target) * small_masks).square().mean((1, 2, 3))
    references = [(pictures.owners == owner) for owner in (0, 1)]
    l_diff = torch.stack([errors[mine].mean() for mine in references])
    if step <= config.phase1_train_steps:
        loss = errors.mean() + config.lambda_attention * l_attn
        l_pres = torch.zeros(())
    else:
        momentum = plain_transformer(tiny_state(), config, [])
        put_lora(momentum, training.momentum or training.lora)
        with torch.no_grad():
            steady = momentum(noisy, timestep=draws.timesteps, **told).sample
        held = references[1 - int(l_diff.argmax())]
        l_pres = ((answer - steady) * small_masks).square().mean((1, 2, 3))[held].mean()
        loss = l_diff.max() + config.lambda_preservation * l_pres + config.lambda_attention * l_attn
    loss.backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in lora.values()]))
    clip = min(1.0, config.max_grad_norm / (norm.item() + 1e-6))
    return loss, l_diff, l_pres, l_attn, {name: clip * p.grad for name, p in lora.items()}


def test_losses_and_gradients_agree_with_a_step_written_plainly(config):
    config = dataclasses.replace(
        config, phase1_learning_rate=0.02, phase2_learning_rate=0.02, ema_decay=0.5, lambda_preservation=20.0,
        lambda_attention=0.5,
    )  # fmt: skip
    references = [tiny_reference("tower", 2, 1), tiny_reference("roof", 1, 2)]
    training = Training(tiny_model(config), references, config)
    for step in range(1, config.total_steps + 1):
        draws = training.draw(step)
        loss, l_diff, l_pres, l_attn, gradients = textbook_losses(training, step, draws, [])
        report = training.step(draws)
        assert report.loss == pytest.approx(loss.item(), rel=1e-4)
        assert report.diffusion == pytest.approx(l_diff.tolist(), rel=1e-4)
        assert report.attention == pytest.approx(l_attn.item(), rel=1e-4)
        # at the first step of DS-Bal both networks are the same, and what is left is rounding
        if report.phase == DS_BAL and step > config.phase1_train_steps + 1:
            assert report.preservation == pytest.approx(l_pres.item(), rel=1e-3)
            assert config.lambda_preservation * report.preservation > 1e-2 * report.loss
        for name, parameter in training.lora.items():
            scale = gradients[name].abs().max()
            assert (parameter.grad - gradients[name]).abs().max() <= 1e-3 * scale + 1e-8, name


# --- LoRA and files


def test_the_lora_is_on_both_streams_and_on_nothing_without_effect():
    transformer = build_transformer(tiny_state())
    image, text = ["to_q", "to_k", "to_v", "to_out.0"], ["add_k_proj", "add_v_proj", "add_q_proj", "to_add_out"]
    first = [f"attn.{name}" for name in image + text] + [f"attn2.{name}" for name in image]
    last = [f"attn.{name}" for name in (*image, "add_k_proj", "add_v_proj")]
    expected = {f"transformer_blocks.0.{name}" for name in first} | {f"transformer_blocks.1.{name}" for name in last}
    assert set(lora_targets(transformer)) == expected
    add_lora(transformer, lora_targets(transformer), 2, seed=0)
    assert {name.partition(".lora_")[0] for name, _ in transformer.named_parameters() if ".lora_" in name} == expected


def test_a_tailoring_is_saved_under_diffusers_keys_and_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr("magictailor.tailoring.family_named", lambda name: TINY)
    monkeypatch.setattr("magictailor.formats.tailoring_file.family_named", lambda name: TINY)
    config = TailorConfig(lora_rank=4)
    model = tiny_model(config)
    with torch.no_grad():
        for tensor in (*model.lora().values(), *model.token_rows().values()):
            tensor.normal_(std=0.1)
    tailoring = tailoring_of(model, ["tower", "roof"], config, 0)
    assert "transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight" in tailoring.lora
    assert len(tailoring.lora) == len(model.lora())
    save_tailoring(tailoring, tmp_path / "saved.safetensors")
    loaded, other = load_tailoring(tmp_path / "saved.safetensors"), tiny_model(config)
    put_into(other, loaded)
    noise = latents(1)
    drawn, again = (sample(m, ["<v0> with <v1>"], noise, steps=2, guidance=3.0) for m in (model, other))
    assert torch.equal(drawn, again) and drawn.isfinite().all()
    assert not torch.allclose(drawn, sample(tiny_model(config), ["<v0> with <v1>"], noise, steps=2, guidance=3.0))

    few = tailoring_of(tiny_model(config, ("clip_l",)), ["tower", "roof"], config, 0)
    with pytest.raises(InputError, match="^tailoring: was trained with clip_l, and has no words for clip_g, t5xxl"):
        put_into(tiny_model(config), few)
    # more than are needed do no harm
    put_into(tiny_model(config, ("clip_g",)), loaded)


def test_drawing_follows_the_flow_as_diffusers_does():
    model, noise = tiny_model(), latents(1)
    drawn = sample(model, ["<v0>"], noise, steps=3, guidance=1.0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(3)
    position, prompts = noise, model.encode_prompts(["<v0>"])
    with torch.no_grad():
        for sigma, following in zip(scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True):
            answer = model.transformer(position, timestep=1000 * sigma[None], **prompts.conditions()).sample
            position = position + (following - sigma) * answer
    assert torch.allclose(drawn, position, atol=1e-4)


def test_the_plain_gradient_is_that_of_the_flow():
    """What is minimised is the velocity's error: a network that answers noise - picture has none."""
    model, clean, noise = tiny_model(), latents(), latents(seed=3)
    noisy, target = model.noised(clean, noise, TIMES)
    sigma = TIMES.view(-1, 1, 1, 1) / 1000
    assert torch.allclose(noisy - sigma * target, clean, atol=1e-5)
    assert torch.allclose(noisy + (1 - sigma) * target, noise, atol=1e-5)
    assert F.mse_loss(target, noise - clean) == 0
