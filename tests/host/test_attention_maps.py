"""Heat maps of the host's own U-Net: the library's attention, for tokens and words, on pictures of any shape."""

import importlib
import types
from functools import partial

import pytest
import torch
from PIL import Image

SIDE = 128
TIMESTEP = 400
PROMPT = "(<v0>:1.0) with <v1> on a sunlit beach"


@pytest.fixture(scope="module")
def trained(nodes, library, loaded_checkpoint, taesd, rendered_pair):
    """The library's model after two steps strong enough to be seen, and its tailoring."""
    config = library.config.TailorConfig(
        phase1_train_steps=2, phase2_train_steps=0, phase1_learning_rate=1e-2, resolution=64, lora_rank=4
    )
    references = [
        library.Reference(part.class_word, part.images[:1], part.masks[:1]) for part in library.load_pair(rendered_pair)
    ]
    weights = nodes.bridge.backbones.checkpoint_weights(*loaded_checkpoint[:2], taesd)
    model = library.backbones.build(weights, ["house", "roof"], config, torch.device("cpu"))
    result = library.train(model, references, config)
    return types.SimpleNamespace(model=model, tailoring=result.tailoring)


@pytest.fixture
def heat_maps_of(nodes, loaded_checkpoint, taesd, trained):
    def draw(model, image, prompt=PROMPT, words="", noise_level=TIMESTEP / 999, seed=3):
        with torch.inference_mode():
            return nodes.MagicTailorAttentionMaps.execute(
                model, loaded_checkpoint[1], taesd, trained.tailoring, image, prompt, words, noise_level, seed
            ).args[0]

    return draw


@pytest.fixture
def heat_maps(heat_maps_of, loaded_checkpoint):
    return partial(heat_maps_of, loaded_checkpoint[0])


@pytest.fixture(scope="module")
def picture(library, rendered_pair):
    (concept, *_) = library.load_pair(rendered_pair)
    image = library.pictures.prepare(concept.reference(), SIDE)[0][:1]
    return image.movedim(1, -1)


def test_the_maps_are_the_librarys(host, nodes, library, loaded_checkpoint, taesd, trained, picture):
    import comfy.sample

    words = ["<v0>", "<v1>", "sunlit beach"]
    module = importlib.import_module(f"{nodes.__name__}.bridge.attention")
    with torch.inference_mode():
        model, clip = nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], trained.tailoring, 1.0).args
        latents = taesd.encode(picture)
        columns = [module.positions(clip, PROMPT, word) for word in words]
        theirs = module.attention(model, clip, latents, PROMPT, columns, TIMESTEP / 999, 3)[0]
        scaled = loaded_checkpoint[0].model.process_latent_in(latents)
        noise = comfy.sample.prepare_noise(latents, 3)
    # weights of a prompt are the host's alone
    plain = PROMPT.replace("(", "").replace(":1.0)", "")
    ours = library.report.heatmaps.word_attention(
        trained.model, scaled.clone(), noise.clone(), TIMESTEP / 999, plain, words
    )
    difference = ((ours - theirs).abs().amax((1, 2)) / ours.amax((1, 2))).max().item()
    print("attention of the host's U-Net against the library's, largest relative difference:", difference)
    assert theirs.shape == ours.shape == (3, 4, 4)
    assert difference < 1e-4
    assert (ours[0] / ours[0].max() - ours[1] / ours[1].max()).abs().max() > 1e-3


def test_every_token_and_word_gets_a_picture_of_each_image(heat_maps, picture, tmp_path):
    images = torch.cat([picture, picture.flip(2)])
    shown = heat_maps(images, words=" beach,, sunlit ")
    assert shown.shape[0] == 8 and shown.shape[2:] == (SIDE, 3) and shown.shape[1] > SIDE
    assert 0.0 <= shown.min() and shown.max() <= 1.0
    one = heat_maps(picture, words="beach, sunlit")
    Image.fromarray((torch.cat(list(one), 1) * 255).byte().numpy()).save(tmp_path / "maps.png")
    # rounding may take a pixel to the next of the 256 colours
    assert (shown[:4] - one).abs().mean() < 1e-3 < (shown[4:] - one).abs().mean()
    assert len(heat_maps(picture, prompt="<v1>")) == 1


def test_pictures_need_not_be_square(heat_maps, picture):
    wide = picture[:, :64]
    assert heat_maps(wide).shape[2] == SIDE
    odd = torch.nn.functional.pad(picture, (0, 0, 0, 20))
    assert heat_maps(odd).shape[2] == SIDE + 20


def test_noise_and_seed_count(heat_maps, picture):
    plain = heat_maps(picture)
    assert torch.equal(plain, heat_maps(picture))
    assert not torch.equal(plain, heat_maps(picture, seed=4))
    assert not torch.equal(plain, heat_maps(picture, noise_level=0.9))


def test_the_given_model_is_not_patched(heat_maps, loaded_checkpoint, picture):
    heat_maps(picture)
    assert "patches_replace" not in loaded_checkpoint[0].model_options["transformer_options"]
    assert loaded_checkpoint[0].patches == {}


def test_what_is_put_on_otherwise_than_it_was_learned_is_told(
    nodes, library, heat_maps, heat_maps_of, loaded_checkpoint, trained, picture, monkeypatch
):
    fonts = importlib.import_module(f"{library.__name__}.report.fonts")
    monkeypatch.setattr(fonts, "missing_note", lambda text: "no font has it" if "é" in text else "")
    told = []
    monkeypatch.setattr(nodes.bridge.host, "show_text", told.append)
    heat_maps(picture)
    assert told == []
    with torch.inference_mode():
        tailored, _ = nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], trained.tailoring, 0.5).args
    heat_maps_of(tailored, picture, prompt="<v0> by a café", words="café")
    (text,) = told
    assert text.startswith("This MODEL has this tailoring's LoRA already, at strength 0.5")
    assert text.endswith("\nno font has it")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"words": "beech"}, "words: beech does not stand in the prompt"),
        ({"prompt": "a beach"}, "prompt: holds no token"),
    ],
)
def test_what_cannot_be_drawn_is_said(heat_maps, picture, inputs, message):
    with pytest.raises(ValueError, match=f"^MagicTailor Attention Maps, {message}"):
        heat_maps(picture, **inputs)


def test_a_model_with_guidance_of_its_own_is_looked_at_once(heat_maps_of, loaded_checkpoint, picture):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    with torch.inference_mode():
        guided = SelfAttentionGuidance.execute(loaded_checkpoint[0], 0.5, 2.0).args[0]
        guided = PerturbedAttentionGuidance.execute(guided, 3.0).args[0]
    assert torch.equal(heat_maps_of(guided, picture), heat_maps_of(loaded_checkpoint[0], picture))


@pytest.mark.parametrize("whole", [True, False], ids=["of blocks", "of their transformers"])
def test_patches_of_the_attention_stay_and_are_looked_past(heat_maps_of, loaded_checkpoint, picture, whole):
    """As adapters that look at pictures have them: each layer's attention on the prompt, and something more."""
    from comfy.ldm.modules.attention import optimized_attention

    called = []

    def adapter(query, key, value, options):
        called.append(options["block"])
        return optimized_attention(query, key, value, options["n_heads"]) + strength * query

    patched = loaded_checkpoint[0].clone()
    for block in (("input", 4), ("input", 5), ("output", 3), ("output", 7), ("output", 8), ("middle", 0), ("input", 8)):
        patched.set_model_attn2_replace(adapter, *block, *([] if whole else [0]))
    strength = 0.0
    plain = heat_maps_of(loaded_checkpoint[0], picture)
    assert torch.equal(heat_maps_of(patched, picture), plain) and called
    strength = 0.5
    assert not torch.equal(heat_maps_of(patched, picture), plain)
