"""Every family in the real host, on small checkpoints that its stock loader takes for real ones."""

import pytest
import torch

SIDE = 64
TEXT_LAYERS = 3
STEPS = 2  # of drawing
LARGEST_RELATIVE_DIFFERENCE = 1e-4
HOST_CLASSES = {"sd1": "SD15", "sd2": "SD20", "sd2_v": "SD20", "sdxl": "SDXL"}
PREDICTIONS = {"sd1": "epsilon", "sd2": "epsilon", "sd2_v": "v_prediction", "sdxl": "epsilon"}
RESOLUTIONS = {"sd1": 512, "sd2": 512, "sd2_v": 768, "sdxl": 1024}
ROW_WIDTHS = {
    "sd1": {"clip_l": 768},
    "sd2": {"clip_h": 1024},
    "sd2_v": {"clip_h": 1024},
    "sdxl": {"clip_l": 768, "clip_g": 1280},
}


@pytest.fixture(scope="module", params=HOST_CLASSES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(name, load_family):
    return load_family(name, TEXT_LAYERS)


@pytest.fixture(scope="module")
def references(library, rendered_pair):
    """A concept with two components, one picture each."""
    concept, component = library.load_pair(rendered_pair)
    first, second = (
        library.Reference(word, component.images[n : n + 1], component.masks[n : n + 1])
        for n, word in enumerate(("roof", "chimney"))
    )
    return [library.Reference("house", concept.images[:1], concept.masks[:1]), first, second]


def train(nodes, model, clip, vae, references, **settings):
    settings = {"phase1_train_steps": 1, "phase2_train_steps": 1, "resolution": SIDE, "lora_rank": 4} | settings
    settings = {"preview_every": 0, "resume": "start over"} | settings
    concept, *components = references
    components = {f"component {n}": component for n, component in enumerate(components, 1)}
    with torch.inference_mode():
        return nodes.MagicTailorTrainV2.execute(model, clip, vae, concept, components, **settings).args[0]


@pytest.fixture(scope="module")
def tailoring(nodes, checkpoint, taesd, references):
    """Strong enough an update to be seen in the latents."""
    return train(nodes, *checkpoint[:2], taesd, references, phase1_learning_rate=5e-3, phase2_learning_rate=5e-3)


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def close(what, ours, theirs):
    difference = relative(ours, theirs)
    print(f"{what}, largest relative difference: {difference:.1e}")
    return difference < LARGEST_RELATIVE_DIFFERENCE


def stock_latents(host, model, clip, prompt):
    stock = host.nodes
    with torch.inference_mode():
        positive, negative = (stock.CLIPTextEncode().encode(clip, text)[0] for text in (prompt, ""))
        latents = stock.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
        return stock.KSampler().sample(model, 5, STEPS, 7.5, "ddim", "ddim_uniform", positive, negative, latents)[0][
            "samples"
        ]


def tailored_latents(host, nodes, checkpoint, tailoring, prompt):
    with torch.inference_mode():
        latents = host.nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
        return nodes.MagicTailorSampler.execute(
            *checkpoint[:2], tailoring, latents, prompt, "", 5, STEPS, 7.5, "ddim", "ddim_uniform", 1.0, 1.0
        ).args[0]["samples"]


def test_what_the_stock_loader_gives_is_recognised_and_computes_the_same(name, load_family, library, nodes):
    model, clip, vae = load_family(name)
    assert type(model.model.model_config).__name__ == HOST_CLASSES[name]
    family = nodes.bridge.backbones.family_of_model(model)
    assert family.name == name and family.resolution == RESOLUTIONS[name]
    assert nodes.bridge.backbones.schedule_of(model).prediction_type == PREDICTIONS[name]
    assert model.model.latent_format.scale_factor == family.latent_scale

    weights = nodes.bridge.backbones.checkpoint_weights(model, clip, vae)
    built = library.backbones.build(weights, ["tower"], library.config.TailorConfig(), torch.device("cpu"))
    with torch.inference_mode():
        tokens = clip.tokenize("A photo of tower")
        hidden, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    with torch.no_grad():
        # a token that is not trained yet reads as its class word
        prompts = built.reference_prompts()
    widths = list(ROW_WIDTHS[name].values())
    for key, ours, theirs in zip(
        ROW_WIDTHS[name], prompts.hidden.split(widths, -1), hidden.split(widths, -1), strict=True
    ):
        assert close(f"{name}, hidden states of {key}", ours, theirs)

    generator = torch.Generator().manual_seed(0)
    latents, timesteps = torch.randn(1, 4, 16, 16, generator=generator), torch.tensor([700])
    sizes, vector = torch.tensor([[600.0, 800.0, 32.0, 64.0, 512.0, 512.0]]), {}
    if name == "sdxl":
        assert close(f"{name}, pooled", prompts.pooled, pooled)
        height, width, crop_h, crop_w, target_height, target_width = sizes[0].tolist()
        vector["y"] = model.model.encode_adm(
            pooled_output=pooled, height=height, width=width, crop_h=crop_h, crop_w=crop_w,
            target_height=target_height, target_width=target_width,
        )  # fmt: skip
    else:
        assert prompts.pooled is None
    with torch.no_grad():
        theirs = model.model.diffusion_model(latents, timesteps, context=hidden.clone(), **vector)
        ours = built.unet(latents, timesteps, **prompts.conditions(sizes)).sample
    assert close(f"{name}, U-Net", ours, theirs)


def test_clip_skip_is_followed_in_every_text_encoder(host, name, checkpoint, library, nodes):
    model, clip, vae = checkpoint
    family = nodes.bridge.backbones.family_of_model(model)
    states = nodes.bridge.backbones.checkpoint_weights(model, clip, vae).text_encoders
    encoders = {
        d.key: library.backbones.clip.build_text_encoder(states[d.key], d).float() for d in family.text_encoders
    }
    tokenizer, outputs = getattr(clip.tokenizer, min(ROW_WIDTHS[name])).tokenizer, []
    prompts = library.backbones.stable_diffusion.conditioning.PromptEncoder(encoders, family, tokenizer, ["tower"])
    # an encoder without the layer stays at its family's
    for layer in (-3, -20):
        (skipped,) = host.nodes.CLIPSetLastLayer().set_last_layer(clip, layer)
        prompts.layer = nodes.bridge.backbones.checkpoint_weights(model, skipped, vae).text_layer
        with torch.inference_mode():
            outputs.append(skipped.encode_from_tokens(skipped.tokenize("A photo of tower")))
        with torch.no_grad():
            assert close(f"{name}, layer {layer}", prompts().hidden, outputs[-1])
    assert relative(*outputs) > 1e-3


def test_latents_equal_the_hosts(host, name, checkpoint, library, nodes, taesd):
    model, _, vae = checkpoint
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    scale = nodes.bridge.backbones.family_of_model(model).latent_scale
    for title, autoencoder in (("own", vae), ("taesd", taesd)):
        module = library.backbones.autoencoder.build_autoencoder(
            nodes.bridge.backbones.baked(autoencoder.patcher)
        ).float()
        with torch.inference_mode():
            theirs = model.model.process_latent_in(autoencoder.encode(image))
        # the host takes the posterior's middle
        ours = library.backbones.autoencoder.encode(
            module, image.movedim(-1, 1) * 2 - 1, torch.zeros(1, 4, 8, 8), scale
        )
        assert close(f"{name}, {title} autoencoder", ours, theirs)


def test_a_concept_and_two_components_are_learned(name, checkpoint, tailoring, nodes):
    assert tailoring.finished and tailoring.family_name == name
    assert [token.class_word for token in tailoring.tokens] == ["house", "roof", "chimney"]
    assert tailoring.prompt == "<v0> with <v1> and <v2>"
    tables = dict(checkpoint[1].cond_stage_model.state_dict())
    tokenizer = getattr(checkpoint[1].tokenizer, min(ROW_WIDTHS[name])).tokenizer
    for token in tailoring.tokens:
        shapes = {key: (1, width) for key, width in ROW_WIDTHS[name].items()}
        assert {key: row.shape for key, row in token.rows.items()} == shapes
        for key, row in token.rows.items():
            table = tables[f"{key}.transformer.text_model.embeddings.token_embedding.weight"]
            start = table[tokenizer(token.class_word)["input_ids"][1]].float()
            assert (row - start).abs().max() > 1e-3, (token.name, key)
    assert all(t.any() for key, t in tailoring.lora.items() if key.endswith("lora_up.weight"))


def test_the_sampler_equals_the_stock_graph_on_the_saved_files(host, nodes, name, checkpoint, tailoring, caplog):
    with torch.inference_mode():
        lora_name, embeddings, stock_prompt = nodes.MagicTailorSave.execute(tailoring, f"families/{name}").args
        model, clip = host.nodes.LoraLoader().load_lora(*checkpoint[:2], lora_name, 1.0, 1.0)
    layers = {key.rpartition(".lora_")[0] for key in tailoring.lora if ".lora_" in key}
    assert len(model.patches) == len(layers)
    # the loader names whatever it leaves out; in our files that may be the bundled tokens only
    left_out = [r.getMessage() for r in caplog.records if "not loaded" in r.getMessage().lower()]
    assert all("bundle_emb" in message for message in left_out)
    stock = stock_latents(host, model, clip, stock_prompt)
    ours = tailored_latents(host, nodes, checkpoint, tailoring, tailoring.prompt)
    print(f"{name}, Tailored Sampler against the stock graph, largest difference: {(ours - stock).abs().max():.1e}")
    assert torch.equal(ours, stock)
    untailored = stock_latents(host, *checkpoint[:2], "house with roof and chimney")
    without_lora = stock_latents(host, checkpoint[0], clip, stock_prompt)
    alone = tailored_latents(host, nodes, checkpoint, tailoring, "<v1>")
    alone_in_stock = stock_latents(host, model, clip, f"embedding:{embeddings[1]}")
    assert torch.equal(alone, alone_in_stock)
    for other in (untailored, without_lora, alone):
        assert other.isfinite().all() and relative(other, stock) > 1e-2


def test_a_saved_tailoring_loads_as_the_same(nodes, name, tailoring):
    with torch.inference_mode():
        lora_name, *_ = nodes.MagicTailorSave.execute(tailoring, f"families/loaded_{name}").args
        loaded, _ = nodes.MagicTailorLoad.execute(lora_name).args
    assert loaded.family == tailoring.family and loaded.config == tailoring.config
    for mine, saved in zip(loaded.tokens, tailoring.tokens, strict=True):
        assert mine.rows.keys() == saved.rows.keys()
        assert all(torch.equal(mine.rows[key], saved.rows[key]) for key in mine.rows)


def test_diffusers_loads_the_lora_and_gives_the_same_output(name, checkpoint, library, nodes, tailoring):
    import comfy.sd
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    model = checkpoint[0]
    family = nodes.bridge.backbones.family_of_model(model)

    def unet_of(patcher):
        state = nodes.bridge.backbones.baked(patcher, nodes.bridge.backbones.NETWORK_PREFIX)
        state = {key.removeprefix(nodes.bridge.backbones.NETWORK_PREFIX): weight for key, weight in state.items()}
        return library.backbones.stable_diffusion.unet.build_unet(state, family).float()

    parts = {"vae": None, "text_encoder": None, "tokenizer": None, "unet": unet_of(model), "scheduler": DDIMScheduler()}
    if name == "sdxl":
        pipeline = StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
    else:
        checks = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **checks)
    pipeline.load_lora_weights(dict(tailoring.lora))
    loaded = [name for name, _ in pipeline.unet.named_parameters() if ".lora_A." in name]
    assert len(loaded) == sum(key.endswith(".lora_down.weight") for key in tailoring.lora)

    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tailoring.lora), 1.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    latents, hidden = (
        torch.randn(1, *shape, generator=generator) for shape in ((4, 8, 8), (77, family.cross_attention_width))
    )
    pooled = torch.randn(1, 1280, generator=generator) if family.vector_width else None
    conditions = library.backbones.stable_diffusion.conditioning.EncodedPrompts(hidden, pooled).conditions(
        torch.full((1, 6), 64.0)
    )
    with torch.no_grad():
        outputs = [
            unet(latents, 500, **conditions).sample for unet in (pipeline.unet, unet_of(patched), unet_of(model))
        ]
    in_diffusers, in_the_host, untailored = outputs
    assert close(f"{name}, LoRA in diffusers", in_diffusers, in_the_host)
    assert relative(untailored, in_the_host) > 1e-2


def test_loras_applied_upstream_are_baked_in(name, checkpoint, nodes):
    import comfy.sd

    model, clip, vae = checkpoint
    text_stems = {"sdxl": {"clip_l": "lora_te1", "clip_g": "lora_te2"}}.get(name)
    text_stems = text_stems or {key: "lora_te" for key in ROW_WIDTHS[name]}
    generator, lora, expected = torch.Generator().manual_seed(0), {}, {}

    def add(key, width):
        down, up = (torch.randn(*size, generator=generator) for size in ((4, width), (width, 4)))
        lora.update({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up})
        return up @ down

    block = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    expected["unet"] = 0.5 * add(f"lora_unet_{block}", 320)
    for key, width in ROW_WIDTHS[name].items():
        expected[key] = 0.25 * add(f"{text_stems[key]}_text_model_encoder_layers_0_self_attn_q_proj", width)
    with torch.inference_mode():
        patched_model, patched_clip = comfy.sd.load_lora_for_models(model, clip, lora, 0.5, 0.25)
    plain = nodes.bridge.backbones.checkpoint_weights(model, clip, vae)
    baked = nodes.bridge.backbones.checkpoint_weights(patched_model, patched_clip, vae)
    for key, before, after in (
        ("unet", plain.network, baked.network),
        *((key, plain.text_encoders[key], baked.text_encoders[key]) for key in ROW_WIDTHS[name]),
    ):
        # all others are the host's own tensors still
        (changed,) = (name for name in before if before[name].data_ptr() != after[name].data_ptr())
        assert torch.allclose(after[changed].float() - before[changed].float(), expected[key], atol=1e-3), key


def test_the_prediction_type_is_the_loaded_models(host, name, checkpoint, nodes, tailoring):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    model, clip, _ = checkpoint
    sampling, prediction = {"epsilon": ("v_prediction", "v_prediction"), "v_prediction": ("eps", "epsilon")}[
        PREDICTIONS[name]
    ]
    changed = ModelSamplingDiscrete().patch(model, sampling, False)[0]
    assert nodes.bridge.backbones.schedule_of(changed).prediction_type == prediction
    other = {"sd2": "sd2_v", "sd2_v": "sd2"}.get(name, name)
    assert nodes.bridge.backbones.family_of_model(changed).name == other
    few_steps = ModelSamplingDiscrete().patch(model, "lcm", False)[0]
    with pytest.raises(ValueError, match="^model: its sampling"):
        nodes.bridge.backbones.schedule_of(few_steps)
    if other == name:
        nodes.MagicTailorApply.execute(few_steps, clip, tailoring, 1.0)
    else:
        with pytest.raises(ValueError, match="^Apply Tailoring, tailoring: was trained on Stable Diffusion 2.x"):
            nodes.MagicTailorApply.execute(changed, clip, tailoring, 1.0)


def test_parts_of_another_family_are_refused(
    name, checkpoint, load_family, library, nodes, tailoring, taesd, references
):
    other = "sd2" if name == "sd1" else "sd1"
    (model, clip), (other_model, other_clip) = checkpoint[:2], load_family(other, TEXT_LAYERS)[:2]
    title = library.backbones.family_named(other).title.partition(" (")[0]
    with pytest.raises(ValueError, match=rf"^Apply Tailoring, tailoring: was trained on .* is {title}"):
        nodes.MagicTailorApply.execute(other_model, other_clip, tailoring, 1.0)
    keys, other_keys = (" and ".join(sorted(ROW_WIDTHS[family])) for family in (name, other))
    with pytest.raises(ValueError, match=rf"^Apply Tailoring, clip: has {other_keys}, but .* needs {keys}; connect"):
        nodes.MagicTailorApply.execute(model, other_clip, tailoring, 1.0)
    with pytest.raises(ValueError, match=rf"^MagicTailor Train, clip: has {other_keys}, but .* needs {keys}; connect"):
        train(nodes, model, other_clip, taesd, references)
    with pytest.raises(ValueError, match=rf"^MagicTailor Train, clip: has {keys}, but .* needs {other_keys}; connect"):
        train(nodes, other_model, clip, taesd, references)


# --- how weights are stored, on the smallest family


@pytest.fixture(scope="module")
def stored(base_dir, checkpoint_name):
    """The small SD 1.x checkpoint's tensors, read anew at every call: the host takes them out while loading."""
    from safetensors.torch import load_file

    return lambda: load_file(base_dir / "models" / "checkpoints" / checkpoint_name)


def in_fp8(tensors):
    return {key: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for key, t in tensors.items()}


def in_scaled_fp8(tensors):
    """The U-Net's linear layers as 8-bit numbers with one factor each, as `scaled_fp8` checkpoints keep them."""
    prefix, stored = "model.diffusion_model.", dict(tensors)
    for key, tensor in tensors.items():
        if key.startswith(prefix) and ".transformer_blocks." in key and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            stored[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            stored[key.removesuffix("weight") + "scale_weight"] = scale
    return stored | {prefix + "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}


@pytest.mark.parametrize(
    ("store", "dtype"),
    [(in_fp8, None), (dict, torch.float8_e4m3fn), (dict, torch.float16), (in_scaled_fp8, None)],
    ids=["fp8 file", "fp8 in memory", "fp16 in memory", "scaled fp8 file"],
)
def test_small_numbers_train_and_sample(host, nodes, base_dir, stored, taesd, references, library, store, dtype):
    import comfy.sd

    options = {} if dtype is None else {"dtype": dtype}
    model, clip, *_ = comfy.sd.load_state_dict_guess_config(
        store(stored()), output_vae=False, model_options=options, te_model_options=options,
        embedding_directory=[str(base_dir / "models" / "embeddings")],
    )  # fmt: skip
    if dtype is not None:
        assert dtype in {weight.dtype for weight in model.model.diffusion_model.state_dict().values()}
    short = {"phase1_learning_rate": 5e-3, "phase2_train_steps": 0}
    tailoring = train(nodes, model, clip, taesd, references[:2], **short)
    assert all(torch.isfinite(weight).all() for weight in tailoring.lora.values())

    # what was trained is the host's model, whichever way it is stored
    weights = nodes.bridge.backbones.checkpoint_weights(model, clip, taesd)
    unet = library.backbones.stable_diffusion.unet.build_unet(weights.network, tailoring.family).float()
    generator = torch.Generator().manual_seed(0)
    latents, hidden = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 768, generator=generator)
    with torch.no_grad():
        theirs = model.model.diffusion_model(latents, torch.tensor([500]), context=hidden)
        assert relative(unet(latents, 500, hidden).sample, theirs) < (1e-4 if dtype != torch.float16 else 1e-2)
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tailoring.lora), 1.0, 0.0)
    stem, key = (
        "down_blocks_1_attentions_0_transformer_blocks_0",
        "input_blocks.3.1.transformer_blocks.0.attn1.to_q.weight",
    )
    up, down = (tailoring.lora[f"lora_unet_{stem}_attn1_to_q.lora_{part}.weight"] for part in ("up", "down"))
    baked = nodes.bridge.backbones.checkpoint_weights(patched, clip, taesd)
    added = baked.network[key].float() - weights.network[key].float()
    assert torch.allclose(added, up @ down, atol=1e-5)
    if dtype is not None:
        sampled = tailored_latents(host, nodes, (model, clip), tailoring, "<v0>")
        assert sampled.isfinite().all()


def unet_only(tensors):
    return {key: tensor for key, tensor in tensors.items() if key.startswith("model.diffusion_model.")}


@pytest.mark.parametrize(
    ("channels", "host_class", "kind"),
    [(9, "SD15", "an inpainting checkpoint"), (8, "SD15_instructpix2pix", "editing")],
)
def test_checkpoints_for_other_tasks_are_refused(
    nodes, stored, loaded_checkpoint, taesd, references, channels, host_class, kind
):
    import comfy.sd

    tensors, first = unet_only(stored()), "model.diffusion_model.input_blocks.0.0.weight"
    tensors[first] = torch.cat([tensors[first]] * 3, 1)[:, :channels]
    model = comfy.sd.load_state_dict_guess_config(tensors, output_vae=False, output_clip=False)[0]
    expected = rf"^MagicTailor Train, model: its U-Net takes {channels} .*{kind}.*trains Stable.* as {host_class}\)"
    with pytest.raises(ValueError, match=expected):
        train(nodes, model, loaded_checkpoint[1], taesd, references)


def test_another_architecture_is_refused_by_name(nodes, loaded_checkpoint, taesd, references):
    import comfy.model_patcher
    import comfy.supported_models

    sizes = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 8,
        "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "patch_size": 2,
        "axes_dim": [16, 8, 8], "theta": 10000, "qkv_bias": True, "guidance_embed": False,
        "txt_ids_dims": [],
    }  # fmt: skip
    flux = comfy.supported_models.Flux(sizes).get_model({})
    model = comfy.model_patcher.ModelPatcher(flux, torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"model: is no network .* \(ComfyUI loaded .* as Flux\)"):
        train(nodes, model, loaded_checkpoint[1], taesd, references)
