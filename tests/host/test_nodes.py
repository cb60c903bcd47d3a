"""The nodes in the real host: what they train, save, load and draw."""

import dataclasses
import gc
import importlib
import pathlib
import shutil
import types
import weakref

import pytest
import torch

SIDE = 64
# enough of an update to be seen in the latents
STRONG = {"phase1_learning_rate": 1e-2, "phase2_learning_rate": 1e-2}


@pytest.fixture(scope="module")
def pair(nodes, base_dir, rendered_pair):
    """Concept and component, one picture each."""
    shutil.copytree(rendered_pair, base_dir / "input" / rendered_pair.name, dirs_exist_ok=True)
    with torch.inference_mode():
        loaded = nodes.MagicTailorLoadPair.execute(rendered_pair.name, 1).args[:2]
    return [dataclasses.replace(part, images=part.images[:1], masks=part.masks[:1]) for part in loaded]


def same_bits(one, other):
    """Equal also where the host has left a weight uninitialised and it holds NaN."""
    return torch.equal(one.detach().flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def train_node(nodes, checkpoint, vae, pair, **settings):
    model, clip = checkpoint[:2]
    settings = {"phase1_train_steps": 2, "phase2_train_steps": 2, "resolution": SIDE, "lora_rank": 4} | settings
    settings = {"preview_every": 0, "resume": "start over"} | settings
    with torch.inference_mode():
        return nodes.MagicTailorTrainV2.execute(model, clip, vae, pair[0], {"component 1": pair[1]}, **settings).args


@pytest.fixture(scope="module")
def before(host, loaded_checkpoint):
    return stock_latents(host, loaded_checkpoint[0], loaded_checkpoint[1], "a tower with a roof")


@pytest.fixture(scope="module")
def trained(nodes, loaded_checkpoint, taesd, pair, before):
    tailoring, lora, loss_map, _ = train_node(nodes, loaded_checkpoint, taesd, pair, **STRONG)
    return types.SimpleNamespace(tailoring=tailoring, lora=lora, loss_map=loss_map)


def stock_latents(host, model, clip, prompt, seed=5, **options):
    stock = host.nodes
    options = {"steps": 4, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"} | options
    with torch.inference_mode():
        positive, negative = (stock.CLIPTextEncode().encode(clip, text)[0] for text in (prompt, "blurry"))
        latents = stock.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
        return stock.KSampler().sample(
            model, seed, positive=positive, negative=negative, latent_image=latents, denoise=1.0, **options
        )[0]["samples"]


def tailored_latents(host, nodes, checkpoint, tailoring, prompt, seed=5, **options):
    options = {"steps": 4, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"} | options
    with torch.inference_mode():
        latents = host.nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
        return nodes.MagicTailorSampler.execute(
            *checkpoint[:2], tailoring, latents, prompt, "blurry", seed, denoise=1.0, strength=1.0, **options
        ).args


def test_training_reports_a_loss_for_every_step_in_the_stock_types(trained):
    assert len(trained.loss_map["loss"]) == 4
    assert all(isinstance(value, float) for value in trained.loss_map["loss"])
    assert trained.tailoring.finished and trained.tailoring.family_name == "sd1"
    assert trained.lora.keys() == trained.tailoring.lora.keys()
    assert all(t.device.type == "cpu" and not t.requires_grad for t in trained.lora.values())


def test_the_caller_keeps_an_unchanged_checkpoint(host, loaded_checkpoint, before, trained):
    after = stock_latents(host, loaded_checkpoint[0], loaded_checkpoint[1], "a tower with a roof")
    assert torch.equal(before, after)


def test_the_same_seed_gives_the_same_tailoring_and_no_base_weight_moves(
    host, nodes, loaded_checkpoint, taesd, pair, trained
):
    model, clip, vae = loaded_checkpoint[0], loaded_checkpoint[1], taesd
    holders = (model.model, clip.cond_stage_model, vae.first_stage_model)
    copies = [{k: v.clone() for k, v in holder.state_dict().items()} for holder in holders]
    again = train_node(nodes, loaded_checkpoint, taesd, pair, **STRONG)[0]
    for holder, copied in zip(holders, copies, strict=True):
        state = holder.state_dict()
        assert state.keys() == copied.keys()
        assert all(same_bits(state[key], copied[key]) for key in copied)
    assert all(torch.equal(again.lora[key], trained.tailoring.lora[key]) for key in again.lora)


def test_the_checkpoints_own_autoencoder_trains_too(nodes, loaded_checkpoint, pair):
    tailoring, *_ = train_node(
        nodes, loaded_checkpoint, loaded_checkpoint[2], pair, phase1_train_steps=1, phase2_train_steps=0
    )
    assert tailoring.finished


def test_the_sampler_equals_the_stock_graph_on_the_saved_files(host, nodes, loaded_checkpoint, trained, before):
    with torch.inference_mode():
        lora_name, embeddings, stock_prompt = nodes.MagicTailorSave.execute(trained.tailoring, "equal/tailoring").args
        assert stock_prompt == f"embedding:{embeddings[0]} with embedding:{embeddings[1]}"
        model, clip = host.nodes.LoraLoader().load_lora(loaded_checkpoint[0], loaded_checkpoint[1], lora_name, 1.0, 1.0)
    stock = stock_latents(host, model, clip, f"a photo of {stock_prompt}")
    ours, *_ = tailored_latents(host, nodes, loaded_checkpoint, trained.tailoring, "a photo of <v0> with <v1>")
    difference = (ours["samples"] - stock).abs().max().item()
    print("Tailored Sampler against the stock graph, largest difference:", difference)
    assert difference == 0.0
    without_lora = stock_latents(host, loaded_checkpoint[0], clip, f"a photo of {stock_prompt}")
    untailored = stock_latents(host, loaded_checkpoint[0], loaded_checkpoint[1], "a photo of tower with roof")
    scale = stock.abs().max()
    assert (stock - without_lora).abs().max() > 1e-2 * scale
    assert (stock - untailored).abs().max() > 1e-2 * scale


def test_what_is_left_open_is_what_suits_the_family(host, nodes, loaded_checkpoint, trained):
    usual = trained.tailoring.family.sampler
    assert usual == (50, 7.5, "ddim", "ddim_uniform")
    left_open = {"cfg": 0.0, "sampler_name": "auto", "scheduler": "auto"}
    ours = tailored_latents(host, nodes, loaded_checkpoint, trained.tailoring, "<v0>", **left_open)[0]["samples"]
    given = tailored_latents(host, nodes, loaded_checkpoint, trained.tailoring, "<v0>")[0]["samples"]
    assert torch.equal(ours, given)
    chosen = importlib.import_module(f"{nodes.__name__}.bridge.sampling").chosen
    assert chosen(usual, 0, 0.0, "auto", "auto") == usual
    assert chosen(usual, 7, 3.0, "euler", "normal") == (7, 3.0, "euler", "normal")


def test_what_the_sampler_gives_on_serves_a_second_pass(host, nodes, loaded_checkpoint, trained):
    latent, model, positive, negative = tailored_latents(host, nodes, loaded_checkpoint, trained.tailoring, "<v0>")
    with torch.inference_mode():
        (again,) = host.nodes.KSampler().sample(
            model, 5, 4, 7.5, "ddim", "ddim_uniform", positive, negative,
            host.nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)[0], 1.0,
        )  # fmt: skip
    assert torch.equal(again["samples"], latent["samples"])


def test_conditioning_replaces_the_prompts(host, nodes, loaded_checkpoint, trained):
    with torch.inference_mode():
        model, clip = nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], trained.tailoring, 1.0).args
        positive, negative = (host.nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("<v1>", "blurry"))
    replaced, *_ = tailored_latents(
        host, nodes, loaded_checkpoint, trained.tailoring, "ignored", positive=positive, negative=negative
    )
    written, *_ = tailored_latents(host, nodes, loaded_checkpoint, trained.tailoring, "<v1>")
    assert torch.equal(replaced["samples"], written["samples"])


def test_the_next_seed_applies_and_encodes_nothing_anew(host, nodes, loaded_checkpoint, trained):
    given = (host, nodes, loaded_checkpoint, trained.tailoring)
    first, model, positive, negative = tailored_latents(*given, "<v0>", seed=5)
    other_seed, *again = tailored_latents(*given, "<v0>", seed=6)
    assert not torch.equal(first["samples"], other_seed["samples"])
    assert all(one is other for one, other in zip(again, (model, positive, negative), strict=True))
    other_prompt = tailored_latents(*given, "<v1>", seed=5)
    assert other_prompt[1] is model and other_prompt[2] is not positive and other_prompt[3] is negative
    assert not torch.equal(first["samples"], other_prompt[0]["samples"])
    copied = dataclasses.replace(trained.tailoring)
    assert tailored_latents(host, nodes, loaded_checkpoint, copied, "<v0>")[1] is not model


def test_another_strength_or_clip_is_heeded(host, nodes, loaded_checkpoint, trained):
    kept = nodes.bridge.sampler_cache.kept
    model, clip, _ = loaded_checkpoint
    with torch.inference_mode():
        whole = kept(model, clip, trained.tailoring, 1.0)
        assert kept(model, clip, trained.tailoring, 1.0) is whole
        assert kept(model, clip, trained.tailoring, 0.5) is not whole
        assert kept(model, clip.clone(), trained.tailoring, 0.5).given_clip is not clip


def test_what_the_sampler_keeps_goes_with_the_model(host, nodes, loaded_checkpoint, trained):
    import comfy.model_management

    model = loaded_checkpoint[0].clone()
    tailored_latents(host, nodes, (model, *loaded_checkpoint[1:]), trained.tailoring, "<v0>")
    with torch.inference_mode():
        kept = nodes.bridge.sampler_cache.kept
        held = weakref.ref(kept(model, loaded_checkpoint[1], trained.tailoring, 1.0))
    assert held() is not None
    del model
    comfy.model_management.unload_all_models()
    gc.collect()
    assert held() is None


def test_no_key_of_the_lora_is_left_out_by_the_stock_loader(host, loaded_checkpoint, trained, caplog):
    import comfy.sd

    with torch.inference_mode():
        model, _ = comfy.sd.load_lora_for_models(loaded_checkpoint[0], None, trained.lora, 1.0, 0.0)
    assert "not loaded" not in caplog.text.lower()
    assert len(model.patches) == len(trained.lora) // 3


def test_the_stock_lora_nodes_take_the_lora(host, nodes, loaded_checkpoint, trained):
    from comfy_extras.nodes_train import LoraModelLoader

    with torch.inference_mode():
        model = LoraModelLoader.execute(loaded_checkpoint[0], trained.lora, 1.0).args[0]
        clip = nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], trained.tailoring, 1.0).args[1]
    stock = stock_latents(host, model, clip, "<v0> with <v1>")
    ours, *_ = tailored_latents(host, nodes, loaded_checkpoint, trained.tailoring, "<v0> with <v1>")
    assert torch.equal(stock, ours["samples"])


@pytest.fixture
def files(base_dir):
    def existing():
        folders = (base_dir / "models" / "loras", base_dir / "models" / "embeddings")
        return {path.relative_to(base_dir) for folder in folders for path in folder.rglob("*") if path.is_file()}

    return existing


def test_saving_twice_overwrites_nothing(nodes, base_dir, trained, files):
    with torch.inference_mode():
        first = nodes.MagicTailorSave.execute(trained.tailoring, "twice").args
        kept = {path: (base_dir / path).read_bytes() for path in files()}
        second = nodes.MagicTailorSave.execute(trained.tailoring, "twice").args
    assert (first[0], second[0]) == ("twice.safetensors", "twice_2.safetensors")
    assert second[1] == ["twice_2_v0", "twice_2_v1"]
    assert all((base_dir / path).read_bytes() == contents for path, contents in kept.items())


def test_a_name_taken_by_one_embedding_is_taken_for_all(nodes, base_dir, trained, files):
    taken = base_dir / "models" / "embeddings" / "half_v1.safetensors"
    taken.parent.mkdir(exist_ok=True)
    taken.write_bytes(b"somebody else's")
    with torch.inference_mode():
        lora_name, embeddings, _ = nodes.MagicTailorSave.execute(trained.tailoring, "half").args
    assert lora_name == "half_2.safetensors" and embeddings == ["half_2_v0", "half_2_v1"]
    assert taken.read_bytes() == b"somebody else's"
    assert pathlib.Path("models/embeddings/half_v0.safetensors") not in files()


def test_loading_gives_the_saved_tailoring(nodes, trained):
    with torch.inference_mode():
        lora_name, *_ = nodes.MagicTailorSave.execute(trained.tailoring, "loaded").args
        tailoring, words = nodes.MagicTailorLoad.execute(lora_name).args
    assert words == "<v0> = house, <v1> = roof"
    assert all(torch.equal(tailoring.lora[key], trained.tailoring.lora[key]) for key in trained.tailoring.lora)


@pytest.mark.parametrize("name", ["../out", "/absolute", "", "a/../../b"])
def test_a_name_that_leads_out_writes_nothing(nodes, trained, files, name):
    existing = files()
    with pytest.raises(ValueError, match="^Save Tailoring, name: "):
        nodes.MagicTailorSave.execute(trained.tailoring, name)
    assert files() == existing


def encoded(clip, text):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(text))


@pytest.fixture(scope="module")
def tailored_clip(nodes, loaded_checkpoint, trained):
    with torch.inference_mode():
        return nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], trained.tailoring, 1.0).args[1]


@pytest.fixture(scope="module")
def embedding_names(nodes, trained):
    with torch.inference_mode():
        return nodes.MagicTailorSave.execute(trained.tailoring, "prompts").args[1]


@pytest.mark.parametrize(
    ("tailored", "stock"),
    [
        ("<v0>", "embedding:{0}"),
        ("<v0> with <v1> and <v0>", "embedding:{0} with embedding:{1} and embedding:{0}"),
        ("(<v0>:1.3) and ((<v1>))", "(embedding:{0}:1.3) and ((embedding:{1}))"),
        ("a photo, <v0>, with: (<v1>).", "a photo, embedding:{0} , with: ( embedding:{1} )."),
        ("cat <v0>" + " and a very long line of words" * 20 + " <v1>", None),
    ],
)
def test_tokens_work_like_embeddings(loaded_checkpoint, tailored_clip, embedding_names, tailored, stock):
    if stock is None:
        stock = tailored.replace("<v0>", "embedding:{0}").replace("<v1>", "embedding:{1}")
    clip = loaded_checkpoint[1]
    ours, theirs = encoded(tailored_clip, tailored), encoded(clip, stock.format(*embedding_names))
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, encoded(clip, tailored), atol=1e-2)


def test_words_beside_the_tokens_read_as_ever(loaded_checkpoint, tailored_clip):
    for text in ("a tower (with:1.2) a roof", "", "v0 and <v>, <lora:x:1>"):
        assert torch.equal(encoded(tailored_clip, text), encoded(loaded_checkpoint[1], text))


@pytest.mark.parametrize("token", ["<V0>", "< v0>", "<v5>"])
def test_a_name_that_is_not_quite_a_tokens_is_told_before_sampling(
    nodes, host, loaded_checkpoint, taesd, trained, tailored_clip, token, monkeypatch
):
    def sampled(*arguments, **options):
        raise AssertionError("it has begun to sample")

    monkeypatch.setattr("comfy.sample.sample", sampled)
    monkeypatch.setattr("comfy.sample.sample_custom", sampled)
    model, clip = loaded_checkpoint[:2]
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    picture, odd = torch.rand(1, SIDE, SIDE, 3), f"a photo of ({token}:1.2) with <v1>"

    def sampler(prompt, negative):
        settings = (5, 2, 7.5, "ddim", "ddim_uniform", 1.0, 1.0)
        nodes.MagicTailorSampler.execute(model, clip, trained.tailoring, latent, prompt, negative, *settings)

    def maps(prompt, words):
        nodes.MagicTailorAttentionMaps.execute(model, clip, taesd, trained.tailoring, picture, prompt, words, 0.4, 0)

    for where, use in {
        "Tailored Sampler, prompt": lambda: sampler(odd, ""),
        "Tailored Sampler, negative_prompt": lambda: sampler("<v0>", odd),
        "MagicTailor Attention Maps, prompt": lambda: maps(odd, ""),
        "MagicTailor Attention Maps, words": lambda: maps("<v0>", token),
        "text": lambda: host.nodes.CLIPTextEncode().encode(tailored_clip, odd),
    }.items():
        with torch.inference_mode(), pytest.raises(ValueError, match=f"^{where}: holds {token}, but what is learned"):
            use()


def test_tokens_of_a_tailoring_put_on_before_are_still_known(nodes, loaded_checkpoint, trained, tailored_clip):
    concept_alone = dataclasses.replace(trained.tailoring, tokens=trained.tailoring.tokens[:1])
    with torch.inference_mode():
        both = nodes.MagicTailorApply.execute(loaded_checkpoint[0], tailored_clip, concept_alone, 1.0).args[1]
        assert torch.equal(encoded(both, "<v0> with <v1>"), encoded(tailored_clip, "<v0> with <v1>"))
        with pytest.raises(ValueError, match="^text: holds <v2>, but what is learned is <v0>, <v1>,"):
            both.tokenize("<v2>")


@pytest.mark.parametrize("name", ["red house (v2)", "house(v2)", "ünïcode", "a,b {c} it's"])
def test_the_stock_prompt_works_whatever_the_tailoring_is_called(
    nodes, loaded_checkpoint, trained, tailored_clip, name
):
    with torch.inference_mode():
        lora_name, _, stock_prompt = nodes.MagicTailorSave.execute(trained.tailoring, name).args
    assert lora_name.startswith(name)
    for frame in ("{}", "a photo of {}, sunlit", "(a photo of {}:1.2)"):
        theirs = encoded(loaded_checkpoint[1], frame.format(stock_prompt))
        assert torch.allclose(encoded(tailored_clip, frame.format("<v0> with <v1>")), theirs, atol=1e-5)


def test_an_unusable_name_is_told_when_the_graph_is_queued(nodes):
    save = nodes.MagicTailorSave
    assert save.validate_inputs("people/anna") is True and save.validate_inputs(None) is True
    assert save.validate_inputs("people/CON").startswith("Save Tailoring, name: 'people/CON' cannot be a file name")


def test_the_given_clip_does_not_learn_the_tokens(loaded_checkpoint, tailored_clip):
    tokens = loaded_checkpoint[1].tokenize("<v0>")["l"][0]
    assert all(isinstance(token, int) for token, _ in tokens)


def test_strength_0_leaves_the_model_as_it_is(host, nodes, loaded_checkpoint, trained):
    with torch.inference_mode():
        model, clip = nodes.MagicTailorApply.execute(*loaded_checkpoint[:2], trained.tailoring, 0.0).args
    assert torch.equal(
        stock_latents(host, model, clip, "<v0>"), stock_latents(host, loaded_checkpoint[0], clip, "<v0>")
    )
