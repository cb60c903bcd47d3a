"""What nodes write below themselves while they run."""

import importlib

import pytest
import torch


@pytest.fixture
def module(nodes):
    return importlib.import_module(f"{nodes.__name__}.bridge.host")


@pytest.mark.parametrize(("client", "sent"), [("mine", [("half way", "7", "mine")]), (None, [])])
def test_text_goes_to_the_client_that_queued_alone(module, monkeypatch, client, sent):
    from comfy_execution.utils import CurrentNodeContext

    class Server:
        client_id = client
        told = []

        def send_progress_text(self, *arguments):
            self.told.append(arguments)

    Server.told = []
    monkeypatch.setattr(module.PromptServer, "instance", Server(), raising=False)
    with CurrentNodeContext("prompt", "7"):
        module.show_text("half way")
    assert Server.told == sent


def test_train_says_what_it_learns(nodes, library):
    training = importlib.import_module(f"{nodes.__name__}.bridge.training")
    picture, mask = torch.rand(3, 32, 32), torch.ones(32, 32)
    references = [library.Reference(word, (picture,), (mask,)) for word in ("house", "roof", "door")]
    assert training.learned(references) == "2 components: <v0> = house, <v1> = roof, <v2> = door"
    assert training.learned(references[:2]) == "1 component: <v0> = house, <v1> = roof"


def test_train_says_which_changes_of_the_model_it_cannot_see(nodes, loaded_checkpoint):
    from comfy.patcher_extension import WrappersMP
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    class Adapter:
        def __call__(self, query, key, value, options): ...

    class Cache(Adapter):
        pass

    training = importlib.import_module(f"{nodes.__name__}.bridge.training")
    (sampled,) = ModelSamplingDiscrete().patch(loaded_checkpoint[0], "eps", False)
    sampled.add_patches({"diffusion_model.out.2.weight": (torch.zeros(4, 320, 3, 3),)})
    clip = loaded_checkpoint[1]
    assert training.left_out(sampled, clip) == ""
    (model,) = FreeU_V2.execute(sampled, 1.1, 1.2, 0.9, 0.2).args
    (model,) = PatchModelAddDownscale.execute(model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic").args
    model.set_model_attn2_replace(Adapter(), "input", 4)
    model.set_model_unet_function_wrapper(lambda *_: None)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "cache", Cache())
    model.set_injections("animation", [])
    said = training.left_out(model, clip)
    assert said.startswith("What Adapter, Cache, FreeU_V2, PatchModelAddDownscale, animation, test_train_says_")
    assert training.left_out(loaded_checkpoint[0], clip) == ""


def test_train_says_that_an_autoencoder_is_of_another_family(nodes, library, loaded_checkpoint, taesd):
    training = importlib.import_module(f"{nodes.__name__}.bridge.training")
    families = library.backbones.stable_diffusion
    assert training.wrong_vae(taesd, families.SD1) == training.wrong_vae(loaded_checkpoint[2], families.SDXL) == ""
    assert training.wrong_vae(taesd, families.SDXL).startswith("This VAE was made for another family than")


def test_train_says_that_it_cannot_see_hooks(host, nodes, loaded_checkpoint):
    from comfy_extras.nodes_hooks import SetClipHooks

    training = importlib.import_module(f"{nodes.__name__}.bridge.training")
    import comfy.hooks

    model, clip, _ = loaded_checkpoint
    hooks = comfy.hooks.create_hook_lora(lora={}, strength_model=1.0, strength_clip=1.0)
    (hooked,) = SetClipHooks().apply_hooks(clip, False, True, hooks)
    assert training.left_out(model, hooked).startswith("What Set CLIP Hooks put on this MODEL or CLIP acts while")


def test_train_says_what_to_do_about_black_samples(nodes, library):
    live_view = importlib.import_module(f"{nodes.__name__}.bridge.live_view")
    view = object.__new__(live_view.LiveView)

    def black():
        library.sampling.require_numbers(torch.full((3, 8, 8), float("nan")), torch.zeros(1, 4, 1, 1))

    assert view._unless_it_fails(black) is None and view.every == 0
    assert view.failed.startswith("no more samples are drawn: vae: what it computes is not finite")
    assert view.failed.endswith("start ComfyUI with --fp32-vae, or take another VAE")
