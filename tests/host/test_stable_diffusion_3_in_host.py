"""Stable Diffusion 3 and 3.5 in the real host, on small checkpoints that its stock loaders take for real ones."""

import dataclasses
import json
import pathlib
import shutil

import pytest
import torch

from magictailor.backbones.stable_diffusion_3 import TransformerFamily
from tools import sd3_checkpoint as small
from tools.random_weights import save_torch

SIDE = 64
TEXT_LAYERS = 3
LARGEST_RELATIVE_DIFFERENCE = 1e-4
WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}
STOCK = "sd3.5_medium_small.ckpt"


@pytest.fixture(scope="module")
def bridge(nodes):
    """What takes MODEL, CLIP and VAE apart."""
    return nodes.bridge.backbones


@pytest.fixture(scope="module")
def sd3(host):
    """The library's room for the families."""
    import importlib

    return importlib.import_module(f"{host.pack.__name__}.magictailor.backbones.stable_diffusion_3")


@pytest.fixture(scope="module")
def taesd3(host, base_dir):
    small.make_taesd3(base_dir / "models")
    with torch.inference_mode():
        return host.nodes.VAELoader().load_vae("taesd3")[0]


@pytest.fixture(scope="module")
def stock(host, base_dir):
    """MODEL and CLIP of 3.5 medium with CLIP-L of full depth, from CheckpointLoaderSimple."""
    small.make_sd3_checkpoint(base_dir / "models" / "checkpoints" / STOCK, small.SD35_MEDIUM)
    return host.nodes.CheckpointLoaderSimple().load_checkpoint(STOCK)[:2]


@pytest.fixture(scope="module")
def weights():
    """All three text encoders and the transformer of Stable Diffusion 3, which the host takes out while loading."""
    tensors = small.sd3_state_dict(small.SD3_MEDIUM, small.ENCODERS, TEXT_LAYERS)
    return lambda: dict(tensors)


@pytest.fixture(scope="module")
def load(host, base_dir):
    """Loads MODEL and CLIP by the stock loader's own function, with its option for smaller text encoders."""
    import comfy.sd

    def loaded(tensors):
        return comfy.sd.load_state_dict_guess_config(
            tensors,
            output_vae=False,
            embedding_directory=[str(base_dir / "models" / "embeddings")],
            te_model_options=small.te_model_options(TEXT_LAYERS),
        )[:2]

    return loaded


@pytest.fixture(scope="module")
def whole(load, weights):
    """MODEL and CLIP of Stable Diffusion 3 with all three text encoders."""
    return load(weights())


@pytest.fixture(scope="module")
def build(library, bridge, taesd3):
    """The trainable copy of a MODEL and CLIP."""

    def built(model, clip, words=("tower", "roof"), **settings):
        config = library.config.TailorConfig(**{"resolution": SIDE, "lora_rank": 4} | settings)
        weights = bridge.checkpoint_weights(model, clip, taesd3)
        return bridge.family_of_model(model).build(weights, words, config, torch.device("cpu"))

    return built


@pytest.fixture(scope="module")
def references(library, rendered_pair):
    """A concept with two components, one picture each."""
    from importlib import import_module

    load_pair = import_module(f"{library.__name__}.formats.pair_folder").load_pair
    concept, component = load_pair(rendered_pair)
    first, second = (
        library.Reference(word, component.images[n : n + 1], component.masks[n : n + 1])
        for n, word in enumerate(("roof", "door"))
    )
    return [library.Reference("house", concept.images[:1], concept.masks[:1]), first, second]


def learned(library, build, model, clip, references, **settings):
    settings = {"phase1_train_steps": 2, "phase2_train_steps": 2} | settings
    rates = {"phase1_learning_rate": 5e-3, "phase2_learning_rate": 5e-3}
    config = library.TailorConfig(**{"resolution": SIDE, "lora_rank": 4} | rates | settings)
    built = build(model, clip, [reference.class_word for reference in references], **config.to_dict())
    return library.train(built, references, config).tailoring


@pytest.fixture(scope="module")
def tailoring(library, build, stock, references):
    """Strong enough an update to be seen in the latents."""
    return learned(library, build, *stock, references)


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def close(what, ours, theirs):
    difference = relative(ours, theirs)
    print(f"{what}, largest relative difference: {difference:.1e}")
    return difference < LARGEST_RELATIVE_DIFFERENCE


def encoded(clip, text="A photo of tower"):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)


# --- the same model


@pytest.mark.parametrize(
    ("sizes", "name", "side"),
    [
        (small.SD3_MEDIUM, "sd3_medium", (16, 16)),
        (small.SD35_MEDIUM, "sd3.5_medium", (16, 24)),
        (small.SD35_LARGE, "sd3.5_large", (9, 13)),
    ],
)
def test_the_transformer_equals_the_hosts(load, weights, bridge, build, sizes, name, side):
    encoders = {key: t for key, t in weights().items() if key.startswith("text_encoders.clip_l")}
    model, clip = load(small.sd3_state_dict(sizes, ()) | encoders)
    assert type(model.model.model_config).__name__ == "SD3"
    family = bridge.family_of_model(model)
    assert family.name == name and family.resolution == 1024
    latent_format = model.model.latent_format
    assert (family.latent_scale, family.latent_shift) == (latent_format.scale_factor, latent_format.shift_factor)
    built = build(model, clip)
    generator = torch.Generator().manual_seed(0)
    latents, timesteps = torch.randn(2, 16, *side, generator=generator), torch.tensor([31.25, 910.5])
    prompts = built.reference_prompts()
    with torch.no_grad():
        theirs = model.model.diffusion_model(latents, timesteps, context=prompts.hidden, y=prompts.pooled)
        ours = built.predict(latents, timesteps, prompts, sizes=torch.zeros(2, 6)).answer
        watched = built.predict(latents, timesteps, prompts, sizes=torch.zeros(2, 6), watch=built.token_columns())
    assert close(f"{name}, transformer", ours, theirs)
    assert close(f"{name}, transformer while watched", watched.answer, theirs)
    assert watched.maps.shape == (2, -(-side[0] // 2), -(-side[1] // 2))


@pytest.mark.parametrize("number", range(1, 8), ids=lambda n: "+".join(k for i, k in enumerate(WIDTHS) if n >> i & 1))
def test_any_text_encoders_say_what_they_say_in_the_host(load, weights, bridge, build, number):
    connected = [key for place, key in enumerate(WIDTHS) if number >> place & 1]
    left_out = tuple(f"text_encoders.{key}." for key in WIDTHS if key not in connected)
    model, clip = load({key: tensor for key, tensor in weights().items() if not key.startswith(left_out)})
    assert bridge.text_encoders_of(clip) == set(connected)
    built = build(model, clip, ["tower"])
    assert {key: tuple(rows.shape) for key, rows in built.token_rows().items()} == {
        key: (1, WIDTHS[key]) for key in connected
    }
    hidden, pooled = encoded(clip)
    with torch.no_grad():
        # a token that is not trained yet reads as its class word
        prompts = built.reference_prompts()
        written = built.encode_prompts(["A photo of tower"])
    assert prompts.hidden.shape == hidden.shape and prompts.pooled.shape == pooled.shape
    for ours in (prompts, written):
        assert close(f"{'+'.join(connected)}, hidden", ours.hidden, hidden)
        assert (ours.pooled - pooled).abs().max() <= LARGEST_RELATIVE_DIFFERENCE * pooled.abs().max()


def test_clip_skip_is_followed_in_every_text_encoder(host, whole, build, bridge, taesd3):
    outputs = []
    for layer in (-1, -2, -30):
        (skipped,) = host.nodes.CLIPSetLastLayer().set_last_layer(whole[1], layer)
        outputs.append(encoded(skipped)[0])
        with torch.no_grad():
            assert close(f"layer {layer}", build(whole[0], skipped, ["tower"]).reference_prompts().hidden, outputs[-1])
    assert relative(*outputs[:2]) > 1e-3


@pytest.mark.parametrize("keys", [("clip_l", "t5xxl"), ("t5xxl", "clip_l", "clip_g")], ids=len)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=["fp16", "fp8"])
def test_separate_text_encoders_are_taken(tmp_path, whole, build, keys, dtype):
    import comfy.sd

    paths = []
    for key in keys:
        state = small.text_encoder_state(key, TEXT_LAYERS)
        if key == "t5xxl":
            state = {name: tensor.to(dtype) if tensor.ndim > 1 else tensor for name, tensor in state.items()}
        paths.append(str(save_torch(state, tmp_path / f"{key}.ckpt")))
    # what DualCLIPLoader and TripleCLIPLoader call, with the host's option for smaller encoders
    clip = comfy.sd.load_clip(paths, clip_type=comfy.sd.CLIPType.SD3, model_options=small.te_model_options(TEXT_LAYERS))
    built = build(whole[0], clip, ["tower"])
    assert set(built.token_rows()) == set(keys)
    with torch.no_grad():
        assert close(f"{len(keys)} files, {dtype}", built.reference_prompts().hidden, encoded(clip)[0])


def test_latents_equal_the_hosts(whole, library, bridge, sd3, taesd3):
    from importlib import import_module

    import comfy.sd

    autoencoders = import_module(f"{library.__name__}.backbones.autoencoder")
    own = small.Weights(0)
    small.add_autoencoder(own, "", 128)
    family = sd3.SD3_MEDIUM
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    for title, vae in (("own", comfy.sd.VAE(sd=own.tensors)), ("taesd3", taesd3)):
        module = autoencoders.build_autoencoder(bridge.baked(vae.patcher), channels=16).float()
        with torch.inference_mode():
            theirs = whole[0].model.process_latent_in(vae.encode(image))
        ours = autoencoders.encode(
            module, image.movedim(-1, 1) * 2 - 1, torch.zeros(1, 16, 8, 8), family.latent_scale, family.latent_shift
        )
        assert close(f"{title} autoencoder", ours, theirs)


def test_the_shift_is_the_loaded_models_and_a_foreign_sampling_is_refused(whole, bridge):
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow, ModelSamplingDiscrete, ModelSamplingSD3

    model = whole[0]
    assert bridge.schedule_of(model).shift == 3.0
    shifted = ModelSamplingSD3().patch(model, 1.7)[0]
    schedule = bridge.schedule_of(shifted)
    assert schedule.shift == 1.7
    sampling, shares = shifted.get_model_object("model_sampling"), torch.linspace(0, 1, 11)
    assert torch.allclose(schedule.noise_levels(shares), sampling.sigma(1000 * shares))
    assert torch.allclose(1000 * schedule.noise_levels(shares), sampling.timestep(sampling.sigma(1000 * shares)))
    for foreign in (
        ModelSamplingDiscrete().patch(model, "lcm", False)[0],
        ModelSamplingAuraFlow().patch_aura(model, 1.7)[0],
    ):
        with pytest.raises(ValueError, match="^model: its sampling"):
            bridge.schedule_of(foreign)


def test_the_defaults_are_those_of_the_hosts_template(sd3):
    templates = pytest.importorskip("comfyui_workflow_templates_json")
    path = pathlib.Path(templates.__file__).parent / "templates" / "sd3.5_simple_example.json"
    graph = json.loads(path.read_text(encoding="utf-8"))
    (values,) = (node["widgets_values"] for node in graph["nodes"] if node["type"] == "KSampler")
    for family in sd3.FAMILIES:
        assert list(family.sampler) == values[2:6]


# --- learning and drawing


def sampled(host, model, positive, negative):
    latents = host.nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
    latents["samples"] = torch.zeros(1, 16, SIDE // 8, SIDE // 8)
    return host.nodes.KSampler().sample(model, 5, 3, 4.0, "euler", "sgm_uniform", positive, negative, latents)[0][
        "samples"
    ]


def stock_latents(host, model, clip, prompt):
    with torch.inference_mode():
        return sampled(host, model, *(host.nodes.CLIPTextEncode().encode(clip, text)[0] for text in (prompt, "")))


def tailored_latents(nodes, model, clip, tailoring, prompt):
    with torch.inference_mode():
        latents = {"samples": torch.zeros(1, 16, SIDE // 8, SIDE // 8)}
        return nodes.MagicTailorSampler.execute(
            model, clip, tailoring, latents, prompt, "", 5, 3, 4.0, "euler", "sgm_uniform", 1.0, 1.0
        ).args[0]["samples"]


def compared(host, nodes, model, clip, tailoring, name):
    """The largest difference of Tailored Sampler and the stock graph, both by the tailoring's own prompt and `<v1>`."""
    with torch.inference_mode():
        lora_name, embeddings, stock_prompt = nodes.MagicTailorSave.execute(tailoring, name).args
        patched, plain_clip = host.nodes.LoraLoader().load_lora(model, clip, lora_name, 1.0, 1.0)
    assert sum(map(len, patched.patches.values())) == sum(key.endswith(".lora_A.weight") for key in tailoring.lora)
    drawn = {
        "stock": stock_latents(host, patched, plain_clip, stock_prompt),
        "ours": tailored_latents(nodes, model, clip, tailoring, tailoring.prompt),
        "<v1>": tailored_latents(nodes, model, clip, tailoring, "<v1>"),
        "<v1> in stock": stock_latents(host, patched, plain_clip, f"embedding:{embeddings[1]}"),
        "without LoRA": stock_latents(host, model, plain_clip, stock_prompt),
        "untailored": stock_latents(host, model, clip, "house with roof and door"),
    }
    print(f"{name}: Tailored Sampler against the stock graph, {(drawn['ours'] - drawn['stock']).abs().max():.1e}")
    assert torch.equal(drawn["ours"], drawn["stock"])
    assert torch.equal(drawn["<v1>"], drawn["<v1> in stock"])
    for other in ("<v1>", "without LoRA", "untailored"):
        assert drawn[other].isfinite().all() and relative(drawn[other], drawn["stock"]) > 1e-3, other


def test_two_components_are_learned_and_drawn_as_by_the_stock_graph(host, nodes, stock, tailoring, caplog):
    assert [token.class_word for token in tailoring.tokens] == ["house", "roof", "door"]
    compared(host, nodes, *stock, tailoring, "families/sd35")
    # the loader names whatever it leaves out; in our files that may be the bundled tokens only
    left_out = [r.getMessage() for r in caplog.records if "not loaded" in r.getMessage().lower()]
    assert all("bundle_emb" in message for message in left_out)


def test_with_all_text_encoders_too(host, nodes, library, build, whole, references):
    compared(host, nodes, *whole, learned(library, build, *whole, references), "families/sd3")


def test_a_saved_tailoring_loads_as_the_same(nodes, tailoring):
    with torch.inference_mode():
        lora_name, *_ = nodes.MagicTailorSave.execute(tailoring, "families/loaded_sd35").args
        loaded, _ = nodes.MagicTailorLoad.execute(lora_name).args
    assert loaded.family == tailoring.family and loaded.config == tailoring.config
    assert loaded.lora.keys() == tailoring.lora.keys()
    assert all(torch.equal(loaded.lora[key], tensor) for key, tensor in tailoring.lora.items())
    for mine, saved in zip(loaded.tokens, tailoring.tokens, strict=True):
        assert mine.rows.keys() == saved.rows.keys() == {"clip_l"}
        assert torch.equal(mine.rows["clip_l"], saved.rows["clip_l"])


def test_the_node_trains(nodes, stock, taesd3, references):
    concept, *components = references
    components = {f"component{n}": component for n, component in enumerate(components)}
    settings = {"phase1_train_steps": 1, "phase2_train_steps": 1, "resolution": SIDE, "lora_rank": 4}
    with torch.inference_mode():
        outcome = nodes.MagicTailorTrain.execute(
            *stock, taesd3, concept, components, preview_every=1, preview_steps=2, **settings
        )
    assert outcome.args[0].finished and outcome.args[0].family_name == "sd3.5_medium"


def test_diffusers_loads_the_lora_and_gives_the_same_output(bridge, stock, build, tailoring):
    import comfy.sd
    from diffusers import StableDiffusion3Pipeline

    model, clip = stock
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tailoring.lora), 1.0, 0.0)
    transformer = build(model, clip, ["house"]).transformer
    transformer.delete_adapters("default")
    for layer in transformer.modules():
        vars(layer).pop("forward", None)  # that of training knows its own adapter alone
    nothing = dict.fromkeys(
        (
            "scheduler",
            "vae",
            "text_encoder",
            "tokenizer",
            "text_encoder_2",
            "tokenizer_2",
            "text_encoder_3",
            "tokenizer_3",
        )
    )
    pipeline = StableDiffusion3Pipeline(transformer=transformer, **nothing)
    pipeline.load_lora_weights(dict(tailoring.lora))
    loaded = [name for name, _ in transformer.named_parameters() if ".lora_A." in name]
    assert len(loaded) == sum(key.endswith(".lora_A.weight") for key in tailoring.lora)
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 16, 8, 8), (1, 77, 4096), (1, 2048)
    latents, hidden, pooled = (torch.randn(*shape, generator=generator) for shape in shapes)
    inputs = {"encoder_hidden_states": hidden, "pooled_projections": pooled, "timestep": torch.tensor([500.0])}
    baked = bridge.baked(patched, bridge.NETWORK_PREFIX)
    with torch.no_grad():
        in_diffusers = transformer(latents, **inputs).sample
        network = model.model.diffusion_model
        plain = network(latents, inputs["timestep"], context=hidden, y=pooled)
        state = {key.removeprefix(bridge.NETWORK_PREFIX): weight for key, weight in baked.items()}
        in_the_host = torch.func.functional_call(
            network, state, (latents, inputs["timestep"]), {"context": hidden, "y": pooled}
        )
    assert close("LoRA in diffusers", in_diffusers, in_the_host)
    assert relative(plain, in_the_host) > 1e-2


def test_the_masked_loss_falls_and_attention_moves_onto_the_masks(library, build, stock, references):
    from importlib import import_module

    shrink = import_module(f"{library.__name__}.pictures").shrink
    settings = {
        "phase1_train_steps": 24, "phase2_train_steps": 8, "resolution": 128, "lora_rank": 8,
        "phase1_learning_rate": 3e-3, "phase2_learning_rate": 1e-3,
        # the paper's 0.01 works over hundreds of steps
        "lambda_attention": 2.0, "flip_probability": 0.0,
    }  # fmt: skip
    pair = references[:2]
    config = library.TailorConfig(**settings)
    model = build(*stock, [reference.class_word for reference in pair], **settings)
    training = library.Training(model, pair, config)

    def measured():
        losses, shares = [], []
        predict = model.predict

        def watched(*arguments, **options):
            prediction = predict(*arguments, **options)
            if prediction.maps is not None:
                masks = shrink(training.pictures.masks, prediction.maps.shape[-2:])[:, 0]
                inside = (prediction.maps * masks).sum((1, 2)) / prediction.maps.sum((1, 2))
                shares.append(inside.mean().item())
            return prediction

        objective = training.objective
        objective.model = _Watched(model, watched)
        with torch.no_grad():
            for step in (1001, 1002, 1003):
                found = objective.losses(training.draw(step), 0.0, None, lambda loss: None)
                losses.append(found.diffusion.mean().item())
        objective.model = model
        return sum(losses) / len(losses), sum(shares) / len(shares)

    loss, share = measured()
    for _ in training:
        pass
    loss_after, share_after = measured()
    print(f"masked loss {loss:.4f} -> {loss_after:.4f}, attention inside the masks {share:.3f} -> {share_after:.3f}")
    assert loss_after < 0.9 * loss
    assert share_after > share + 0.02


class _Watched:
    """A backbone whose predictions are looked at."""

    def __init__(self, model, predict):
        self.model, self.predict = model, predict

    def __getattr__(self, name):
        return getattr(self.model, name)


@pytest.mark.parametrize("which", ["stock", "whole"])
def test_heat_maps_are_the_librarys(request, nodes, library, build, references, taesd3, which):
    """3.5 medium with CLIP-L, and Stable Diffusion 3 with all text encoders."""
    from importlib import import_module

    import comfy.sample

    model, clip = request.getfixturevalue(which)
    pair, prompt, words = references[:2], "<v0> with <v1> on a sunlit beach", ["<v0>", "<v1>", "sunlit beach"]
    config = library.TailorConfig(phase1_train_steps=1, phase2_train_steps=0, resolution=SIDE, lora_rank=4)
    trained = build(model, clip, ["house", "roof"])
    result = library.train(trained, pair, config)
    bridge = import_module(f"{nodes.__name__}.bridge.attention")
    word_attention = import_module(f"{library.__name__}.report.heatmaps").word_attention
    latents = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tailored_model, tailored_clip = nodes.MagicTailorApply.execute(model, clip, result.tailoring, 1.0).args
        columns = [bridge.positions(tailored_clip, prompt, word) for word in words]
        assert columns == [trained.positions(prompt, word) for word in words]
        theirs = bridge.attention(tailored_model, tailored_clip, latents, prompt, columns, 400 / 999, 3)[0]
        noise = comfy.sample.prepare_noise(latents, 3)
        ours = word_attention(trained, model.model.process_latent_in(latents), noise, 400 / 1000, prompt, words)
    assert close(f"{which}, heat maps", ours, theirs)
    assert theirs.shape == (3, 4, 6) and (theirs.amax((1, 2)) > 1.05 * theirs.amin((1, 2))).all()


# --- without the host


@pytest.fixture(scope="module")
def checkpoints(comfy_root, tmp_path_factory):
    """The same weights as a single file, and as a folder in diffusers' layout."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from magictailor.backbones import autoencoder, clip, t5
    from magictailor.backbones.module_weights import below
    from magictailor.backbones.stable_diffusion_3.transformer import build_transformer

    tensors = small.sd3_state_dict(small.SD35_MEDIUM, ("clip_l", "t5xxl"), TEXT_LAYERS, autoencoder=32)
    file = save_torch(tensors, tmp_path_factory.mktemp("file") / "sd35.ckpt")
    folder = tmp_path_factory.mktemp("folder")
    build_transformer(below(tensors, "model.diffusion_model.")).float().save_pretrained(folder / "transformer")
    clip_l = below(tensors, "text_encoders.clip_l.transformer.") | {"text_projection.weight": torch.eye(768)}
    description = dataclasses.replace(TransformerFamily.text_encoders[0], pooled=True)
    clip.build_text_encoder(clip_l, description).float().save_pretrained(folder / "text_encoder")
    t5.build_t5_encoder(below(tensors, "text_encoders.t5xxl.transformer.")).float().save_pretrained(
        folder / "text_encoder_3"
    )
    vae = below(tensors, "first_stage_model.")
    whole = autoencoder.build_autoencoder(vae, channels=16).float()
    whole.decoder = autoencoder.build_decoder(vae).float().decoder
    whole.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    shutil.copytree(comfy_root / "comfy" / "sd1_tokenizer", folder / "tokenizer")
    shutil.copytree(comfy_root / "comfy" / "text_encoders" / "t5_tokenizer", folder / "tokenizer_3")
    return {"file": [str(file), "--tokenizer", str(comfy_root / "comfy" / "sd1_tokenizer")], "folder": [str(folder)]}


def test_the_command_line_takes_a_file_and_a_folder(checkpoints, rendered_pair, tmp_path):
    from magictailor.__main__ import main
    from magictailor.formats.tailoring_file import load_tailoring

    found = {}
    for kind, checkpoint in checkpoints.items():
        common = [
            "--pretrained_model_name_or_path",
            *checkpoint,
            "--device",
            "cpu",
            "--output_dir",
            str(tmp_path / kind),
        ]
        steps = ["--phase1_train_steps", "1", "--phase2_train_steps", "1", "--phase1_learning_rate", "5e-3"]
        sizes = ["--resolution", str(SIDE), "--lora_rank", "4"]
        assert main(["train", "--instance_data_dir", str(rendered_pair), *common, *steps, *sizes]) == 0
        (saved,) = (tmp_path / kind).glob("*roof_a.safetensors")
        drawing = ["--steps", "2", "--width", str(SIDE), "--height", str(SIDE)]
        assert main(["sample", "--model_path", str(saved), *common, *drawing]) == 0
        assert len(list((tmp_path / kind).glob("*.png"))) == 1
        found[kind] = load_tailoring(saved)
    file, folder = found["file"], found["folder"]
    assert file.family_name == "sd3.5_medium" and set(file.tokens[0].rows) == {"clip_l", "t5xxl"}
    for key, tensor in file.lora.items():
        assert torch.allclose(tensor, folder.lora[key], atol=1e-4), key
    assert all(tensor.any() for key, tensor in file.lora.items() if key.endswith(".lora_B.weight"))
    for mine, other in zip(file.tokens, folder.tokens, strict=True):
        assert all(torch.allclose(mine.rows[key], other.rows[key], atol=1e-4) for key in mine.rows)


# --- what does not fit


def test_parts_of_another_family_are_refused_both_ways(
    nodes, library, stock, loaded_checkpoint, taesd, taesd3, tailoring, references
):
    (model, clip), (other_model, other_clip) = stock, loaded_checkpoint[:2]
    train = nodes.MagicTailorTrain.execute
    components = {"component0": references[1]}
    with pytest.raises(ValueError, match=r"Apply Tailoring, tailoring: was trained on .* 3.5 medium, but .* 1.x"):
        nodes.MagicTailorApply.execute(other_model, other_clip, tailoring, 1.0)
    others = dataclasses.replace(tailoring, family_name="sd1")
    with pytest.raises(ValueError, match=r"Apply Tailoring, tailoring: was trained on .* 1.x, but .* 3.5 medium"):
        nodes.MagicTailorApply.execute(model, clip, others, 1.0)
    with pytest.raises(
        ValueError, match=r"Apply Tailoring, clip: is loaded for another kind of model than .* 3.5 medium"
    ):
        nodes.MagicTailorApply.execute(model, other_clip, tailoring, 1.0)
    for parts, found in (
        ((model, other_clip, taesd3), "clip: is loaded for another kind of model than .* 3.5 medium"),
        ((other_model, clip, taesd), "clip: is loaded for another kind of model than .* 1.x"),
        ((model, clip, taesd), "vae: its latents have 4 channels, those of this family 16"),
        ((other_model, other_clip, taesd3), "vae: its latents have 16 channels, those of this family 4"),
    ):
        with pytest.raises(ValueError, match=f"MagicTailor Train.*, {found}"), torch.inference_mode():
            train(*parts, references[0], components, resolution=SIDE, preview_every=0)


def test_a_text_encoder_that_was_not_there_in_training_is_refused(nodes, stock, whole, tailoring):
    with pytest.raises(
        ValueError, match="Apply Tailoring, tailoring: was trained with clip_l, and has no words for clip_g, t5xxl"
    ):
        nodes.MagicTailorApply.execute(stock[0], whole[1], tailoring, 1.0)


def test_models_of_the_same_width_are_told_apart(nodes, whole, tailoring):
    with pytest.raises(
        ValueError, match="was trained on Stable Diffusion 3.5 medium, but .* Stable Diffusion 3 medium"
    ):
        nodes.MagicTailorApply.execute(*whole, tailoring, 1.0)
