"""What is trained is the host's own model: same weights and inputs give the same outputs, and nothing is copied."""

import pytest
import torch

LARGEST_RELATIVE_DIFFERENCE = 1e-4


@pytest.fixture(scope="module")
def weights(host, loaded_checkpoint):
    model, clip, vae = loaded_checkpoint[:3]
    return host.pack.nodes.bridge.backbones.checkpoint_weights(model, clip, vae)


@pytest.fixture(scope="module")
def built(host, weights):
    library = host.pack.magictailor
    config = library.config.TailorConfig()
    return library.backbones.build(weights, ["tower", "roof"], config, torch.device("cpu"))


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_unet_equals_the_hosts(loaded_checkpoint, built):
    host_unet = loaded_checkpoint[0].model.diffusion_model
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    prompt = torch.randn(2, 77, 768, generator=generator)
    timesteps = torch.tensor([7, 900])
    with torch.no_grad():
        theirs = host_unet(latents, timesteps, context=prompt)
        ours = built.unet(latents, timesteps, prompt).sample
    print("U-Net, largest relative difference:", relative(ours, theirs))
    assert relative(ours, theirs) < LARGEST_RELATIVE_DIFFERENCE


def test_text_encoder_equals_the_hosts(host, loaded_checkpoint, built):
    clip = loaded_checkpoint[1]
    with torch.inference_mode():
        theirs = clip.encode_from_tokens(clip.tokenize("A photo of tower"))
    with torch.no_grad():
        # a token that is not trained yet reads as its class word
        ours = built.reference_prompts().hidden[:1]
    print("text encoder, largest relative difference:", relative(ours, theirs))
    assert relative(ours, theirs) < LARGEST_RELATIVE_DIFFERENCE


def test_clip_skip_is_followed(host, loaded_checkpoint):
    model, clip, vae = loaded_checkpoint[:3]
    (skipped,) = host.nodes.CLIPSetLastLayer().set_last_layer(clip, -2)
    library, config = host.pack.magictailor, host.pack.magictailor.config.TailorConfig()
    weights = host.pack.nodes.bridge.backbones.checkpoint_weights(model, skipped, vae)
    prompts = library.backbones.build(weights, ["tower"], config, torch.device("cpu")).prompts
    with torch.inference_mode():
        theirs = skipped.encode_from_tokens(skipped.tokenize("A photo of tower"))
    with torch.no_grad():
        assert relative(prompts().hidden, theirs) < LARGEST_RELATIVE_DIFFERENCE


@pytest.mark.parametrize("autoencoder", ["the checkpoint's", "taesd"])
def test_latents_equal_the_hosts(host, loaded_checkpoint, taesd, weights, autoencoder):
    library = host.pack.magictailor
    vae = taesd if autoencoder == "taesd" else loaded_checkpoint[2]
    module = library.backbones.autoencoder.build_autoencoder(
        host.pack.nodes.bridge.backbones.baked(vae.patcher)
    ).float()
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = loaded_checkpoint[0].model.process_latent_in(vae.encode(image))
    # the host takes the posterior's middle
    ours = library.backbones.autoencoder.encode(module, image.movedim(-1, 1) * 2 - 1, torch.zeros(1, 4, 8, 8), 0.18215)
    print(f"{autoencoder} autoencoder, largest relative difference:", relative(ours, theirs))
    assert relative(ours, theirs) < LARGEST_RELATIVE_DIFFERENCE


def test_noise_levels_are_the_models(host, weights):
    ours = host.pack.magictailor.backbones.stable_diffusion.schedule.scaled_linear_schedule()
    assert torch.allclose(weights.schedule.alphas_cumprod, ours.alphas_cumprod, rtol=1e-4)
    assert weights.schedule.prediction_type == "epsilon"


def test_a_changed_sampling_is_followed_and_a_foreign_one_refused(host, loaded_checkpoint):
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete

    schedule_of, errors = host.pack.nodes.bridge.backbones.schedule_of, host.pack.magictailor.errors
    model = loaded_checkpoint[0]
    velocity = ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]
    assert schedule_of(velocity).prediction_type == "v_prediction"
    assert schedule_of(velocity).alphas_cumprod[-1] < 1e-6
    for foreign in (
        ModelSamplingDiscrete().patch(model, "lcm", False)[0],
        ModelSamplingContinuousEDM().patch(model, "edm", 120.0, 0.002)[0],
    ):
        with pytest.raises(errors.InputError, match="^model: its sampling"):
            schedule_of(foreign)


def test_weights_that_fit_are_shared_not_copied(loaded_checkpoint, built):
    model, _, vae = loaded_checkpoint[:3]
    mine = {p.data_ptr() for module in (built.unet, built.autoencoder) for p in module.parameters()}
    theirs = dict(model.model.diffusion_model.named_parameters())
    # training never decodes
    encoding = ("encoder.", "quant_conv.")
    theirs |= {name: p for name, p in vae.first_stage_model.named_parameters() if name.startswith(encoding)}
    copied = [name for name, parameter in theirs.items() if parameter.data_ptr() not in mine]
    assert copied == []


UNET_KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT_KEY = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture
def lora(loaded_checkpoint):
    """Of one layer of the U-Net and one of the text encoder."""
    generator = torch.Generator().manual_seed(0)
    width = loaded_checkpoint[0].model.diffusion_model.state_dict()["input_blocks.1.1.proj_in.weight"].shape[0]
    matrices = {}
    for key, size in ((UNET_KEY, width), (TEXT_KEY, 768)):
        matrices[f"{key}.lora_down.weight"] = torch.randn(4, size, generator=generator)
        matrices[f"{key}.lora_up.weight"] = torch.randn(size, 4, generator=generator)
    return matrices


@pytest.fixture
def patched(loaded_checkpoint, lora):
    """MODEL and CLIP with the LoRA put on by the host, at 0.5 and 0.25."""
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.load_lora_for_models(*loaded_checkpoint[:2], lora, 0.5, 0.25)


def test_loras_applied_upstream_are_baked_in(host, loaded_checkpoint, lora, patched):
    model, clip, vae = loaded_checkpoint[:3]
    with torch.inference_mode(False):
        plain = host.pack.nodes.bridge.backbones.checkpoint_weights(model, clip, vae)
        baked = host.pack.nodes.bridge.backbones.checkpoint_weights(*patched, vae)
    for weights, changed, key, strength in (
        ((plain.network, baked.network), "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", UNET_KEY, 0.5),
        (
            (plain.text_encoders["clip_l"], baked.text_encoders["clip_l"]),
            "text_model.encoder.layers.0.self_attn.q_proj.weight",
            TEXT_KEY,
            0.25,
        ),
    ):
        before, after = weights
        expected = strength * lora[f"{key}.lora_up.weight"] @ lora[f"{key}.lora_down.weight"]
        assert torch.allclose(after[changed] - before[changed], expected, atol=1e-4)
        # shared, not equal: what the host leaves uninitialised may hold NaN
        assert [name for name in before if before[name].data_ptr() != after[name].data_ptr()] == [changed]


@pytest.mark.parametrize("room", [0, 0.5, 1e-9], ids=["whole", "half", "as little as can be"])
def test_a_model_that_the_host_has_on_the_device_only_in_part_is_read_whole(host, patched, room):
    """As --lowvram and --novram keep it, and any host without enough memory."""
    backbones, (model, _) = host.pack.nodes.bridge.backbones, patched
    before = backbones.baked(model, backbones.NETWORK_PREFIX)
    before = {name: weight.clone() for name, weight in before.items()}
    try:
        with torch.inference_mode():
            model.patch_model(torch.device("cpu"), lowvram_model_memory=room * model.model_size())
        assert model.model.model_lowvram is (room != 0)
        # a layer that is not there gets its LoRA when it is computed, one that is has it in its weight
        assert (model.model.lowvram_patch_counter == 1) is (room == 1e-9)
        now = backbones.baked(model, backbones.NETWORK_PREFIX)
        assert now.keys() == before.keys()
        assert all(torch.equal(now[name].nan_to_num(), weight.nan_to_num()) for name, weight in before.items())
    finally:
        model.unpatch_model(torch.device("cpu"))


@pytest.mark.parametrize(
    ("field", "told"),
    [("model", "quantized .Parameter, torch.uint8."), ("clip", "quantized"), ("model", "compiled in place")],
)
def test_weights_that_only_another_pack_can_read_are_refused_in_a_sentence(
    host, loaded_checkpoint, monkeypatch, field, told
):
    model, clip, vae = loaded_checkpoint[:3]
    network = model.model.diffusion_model if field == "model" else clip.cond_stage_model
    layer = next(module for module in network.modules() if isinstance(module, torch.nn.Linear))
    if "compiled" in told:
        monkeypatch.setitem(model.model._modules, "diffusion_model", torch.compile(network))
    else:
        # as GGUF and NF4 have them
        packed = torch.nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
        monkeypatch.setitem(layer._parameters, "weight", packed)
    with pytest.raises(host.pack.magictailor.InputError, match=f"^{field}: .*{told}.*; connect"):
        host.pack.nodes.bridge.backbones.checkpoint_weights(model, clip, vae)
