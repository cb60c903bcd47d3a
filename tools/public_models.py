"""Model files that the shipped workflows name: where they are to be had, and where they go.

The canvases' notes and the workflows' `models` properties are made from this; a test holds README and help page to it.
"""

from __future__ import annotations

from dataclasses import dataclass

HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True)
class PublicModel:
    """A model file with a public address; `size` is as its page tells it, or empty."""

    name: str
    folder: str
    url: str
    size: str

    def offered(self) -> dict[str, str]:
        """What the frontend reads in a node's `models` property."""
        return {"name": self.name, "url": self.url, "directory": self.folder}

    def listed(self) -> str:
        """A link with the size and the folder, for notes."""
        size = f" ({self.size})" if self.size else ""
        return f"[{self.name}]({self.url}){size} in `models/{self.folder}`"


MODELS = {
    model.name: model
    for model in (
        PublicModel(
            "v1-5-pruned-emaonly-fp16.safetensors",
            "checkpoints",
            f"{HUGGING_FACE}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
            "2.1 GB",
        ),
        PublicModel(
            "groundingdino_swint_ogc.pth",
            "grounding-dino",
            f"{HUGGING_FACE}/ShilongLiu/GroundingDINO/resolve/main/groundingdino_swint_ogc.pth",
            "694 MB",
        ),
        PublicModel(
            "groundingdino_swinb_cogcoor.pth",
            "grounding-dino",
            f"{HUGGING_FACE}/ShilongLiu/GroundingDINO/resolve/main/groundingdino_swinb_cogcoor.pth",
            "938 MB",
        ),
        PublicModel(
            "sam_vit_h_4b8939.pth",
            "sams",
            f"{HUGGING_FACE}/ybelkada/segment-anything/resolve/main/checkpoints/sam_vit_h_4b8939.pth",
            "2.6 GB",
        ),
        PublicModel(
            "sam_vit_l_0b3195.pth",
            "sams",
            f"{HUGGING_FACE}/ybelkada/segment-anything/resolve/main/checkpoints/sam_vit_l_0b3195.pth",
            "1.2 GB",
        ),
        PublicModel(
            "sam_vit_b_01ec64.pth",
            "sams",
            f"{HUGGING_FACE}/ybelkada/segment-anything/resolve/main/checkpoints/sam_vit_b_01ec64.pth",
            "375 MB",
        ),
        PublicModel(
            "vocab.txt",
            "bert-base-uncased",
            f"{HUGGING_FACE}/google-bert/bert-base-uncased/resolve/main/vocab.txt",
            "232 kB",
        ),
        PublicModel(
            "sam3.1_multiplex_fp16.safetensors",
            "checkpoints",
            f"{HUGGING_FACE}/Comfy-Org/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors",
            "",
        ),
        PublicModel(
            "control_v11p_sd15_canny.pth",
            "controlnet",
            f"{HUGGING_FACE}/lllyasviel/ControlNet-v1-1/resolve/main/control_v11p_sd15_canny.pth",
            "1.4 GB",
        ),
        PublicModel(
            "clip_vision_h.safetensors",
            "clip_vision",
            f"{HUGGING_FACE}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/clip_vision/clip_vision_h.safetensors",
            "",
        ),
        PublicModel(
            "RealESRGAN_x4plus.pth",
            "upscale_models",
            "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth",
            "64 MB",
        ),
    )
}
