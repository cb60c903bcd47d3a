"""A custom node folder, for the demo only, that teaches ComfyUI the toy town checkpoint.

Put it into `custom_nodes` beside MagicTailor. The one node stands where a graph has *Load Checkpoint*: it takes no file
name, and its outputs are of the stock types, so that every stock node and MagicTailor's work after it.
"""

import importlib
import json
import pathlib
import tempfile

import comfy.clip_vision
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy import clip_model, latent_formats, sd1_clip, supported_models, supported_models_base
from comfy_api.v0_0_2 import ComfyExtension, io

import nodes

UNET_CONFIG = {"context_dim": 96, "model_channels": 64, "adm_in_channels": None}


def toytown(module: str):
    """A module of the pack's toytown folder, or the pack's library, under the name by which the host imported it."""
    train = nodes.NODE_CLASS_MAPPINGS.get("MagicTailorTrainV2")
    if train is None:
        raise RuntimeError("Load Toy Town: needs the MagicTailor nodes; put ComfyUI-MagicTailor into custom_nodes too.")
    package = train.__module__.rpartition(".nodes.")[0]
    return importlib.import_module(f"{package}.{module}")


class ToyTextModel(clip_model.CLIPTextModel):
    """The host's CLIP with a vocabulary of its own size."""

    def __init__(self, config, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        table = operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
        self.text_model.embeddings.token_embedding = table


class ToyClip(sd1_clip.SDClipModel):
    """The text encoder that the generator reads, unless another is described."""

    def __init__(self, device="cpu", dtype=None, model_options=None, described=None):
        model = toytown("toytown.model")
        described = described or model.TEXT_ENCODER
        vocabulary = model.load_vocabulary()
        start, end = vocabulary[model.START], vocabulary[model.END]
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config={
                **described,
                "vocab_size": len(vocabulary),
                "eos_token_id": end,
                "projection_dim": described["hidden_size"],
            },
            special_tokens={"start": start, "end": end, "pad": end},
            model_class=ToyTextModel,
            model_options=model_options or {},
        )


class ToyClipModel(sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None, **kwargs):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=ToyClip, **kwargs)


class ToyWords(sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        model = toytown("toytown.model")
        super().__init__(
            tokenizer_path=str(model.TOKENIZER),
            embedding_directory=embedding_directory,
            embedding_size=model.TEXT_ENCODER["hidden_size"],
            tokenizer_data=tokenizer_data or {},
        )


class ToyTokenizer(sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=ToyWords)


class ToyLatents(latent_formats.SD15):
    spacial_downscale_ratio = 4


class ToyTown(supported_models.SD15):
    """What the host needs to know of the model; it recognises it by `unet_config`."""

    unet_config = UNET_CONFIG
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = ToyLatents
    supported_inference_dtypes = [torch.float32]

    def clip_target(self, state_dict=None):
        return supported_models_base.ClipTarget(ToyTokenizer, ToyClipModel)


# the list in which the host looks for a model that fits
if not any(known.unet_config == UNET_CONFIG for known in supported_models.models):
    supported_models.models.append(ToyTown)


def load_autoencoder(weights, model) -> comfy.sd.VAE:
    """The host's own autoencoder in the toy town's sizes; a VAE can be told them, a checkpoint loader can not."""
    channels = model.AUTOENCODER["block_out_channels"]
    sizes = {
        "double_z": True,
        "z_channels": model.AUTOENCODER["latent_channels"],
        "resolution": model.RESOLUTION,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": model.AUTOENCODER["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    embed_dim = model.AUTOENCODER["latent_channels"]
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": sizes, "embed_dim": embed_dim}})
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(channels) - 1)
    return vae


class LoadToyTown(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyTownLoader",
            display_name="Load Toy Town",
            category="MagicTailor/demo",
            description="A small model of rendered houses, towers, people, cups, cars, lamps, bottles and cats, to try "
            "MagicTailor on without a download. Draws 64 x 64 pixels.",
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
            ],
        )

    @classmethod
    def execute(cls):
        model = toytown("toytown.model")
        model.family(toytown("magictailor.backbones"))
        weights = comfy.utils.load_torch_file(str(model.CHECKPOINT))
        autoencoder = {
            key.removeprefix(model.AUTOENCODER_PREFIX): weights.pop(key)
            for key in list(weights)
            if key.startswith(model.AUTOENCODER_PREFIX)
        }
        embeddings = folder_paths.get_folder_paths("embeddings")
        patcher, clip, *_ = comfy.sd.load_state_dict_guess_config(
            weights, output_vae=False, embedding_directory=embeddings
        )
        return io.NodeOutput(patcher, clip, load_autoencoder(autoencoder, model))


class JudgeClip(ToyClip):
    """The text encoder of the toy town's CLIP."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(device, dtype, model_options, toytown("toytown.vision").TEXT)


class JudgeClipModel(sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None, **kwargs):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=JudgeClip, **kwargs)


class LoadToyTownVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ToyTownVisionLoader",
            display_name="Load Toy Town Vision",
            category="MagicTailor/demo",
            description="A small CLIP trained on toy town pictures and captions, for MagicTailor Score. It stands "
            "where a graph has Load CLIP Vision and Load CLIP.",
            outputs=[io.ClipVision.Output(display_name="CLIP_VISION"), io.Clip.Output(display_name="CLIP")],
        )

    @classmethod
    def execute(cls):
        vision = toytown("toytown.vision")
        weights = comfy.utils.load_torch_file(str(vision.WEIGHTS))
        described = {
            **vision.VISION,
            "model_type": "clip_vision_model",
            "projection_dim": vision.WIDTH,
            "image_mean": vision.MEAN,
            "image_std": vision.DEVIATION,
        }
        # ComfyUI 0.18 takes it from a file alone
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "config.json"
            path.write_text(json.dumps(described))
            seeing = comfy.clip_vision.ClipVisionModel(str(path))
        seeing.load_sd({key: weight for key, weight in weights.items() if key.startswith("vis")})
        reading = comfy.sd.CLIP(supported_models_base.ClipTarget(ToyTokenizer, JudgeClipModel))
        reading.load_sd({key: weight for key, weight in weights.items() if key.startswith("text")})
        return io.NodeOutput(seeing, reading)


class ToyTownExtension(ComfyExtension):
    async def get_node_list(self):
        return [LoadToyTown, LoadToyTownVision]


async def comfy_entrypoint():
    return ToyTownExtension()
