"""The canvases of the workflows that come with the pack: only this pack's nodes and ComfyUI's own."""

from __future__ import annotations

from .canvas import BLUE, GREEN, GREY, ORANGE, Canvas
from .public_models import MODELS

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
SAM3_CHECKPOINT = "sam3.1_multiplex_fp16.safetensors"
TAILORING = "my_tailoring.safetensors"
STYLE_LORA = "my_style.safetensors"
CONTROLNET = "control_v11p_sd15_canny.pth"
UPSCALER = "RealESRGAN_x4plus.pth"
CLIP_VISION = "clip_vision_h.safetensors"

# the paper's
SAMPLING = {
    "seed": 0,
    "control_after_generate": "fixed",
    "steps": 50,
    "cfg": 7.5,
    "sampler_name": "ddim",
    "scheduler": "ddim_uniform",
}


def tailor_concept_and_component() -> Canvas:
    canvas = Canvas("tailor_concept_and_component")
    canvas.group("Checkpoint and pictures", GREY)
    canvas.note(
        "start",
        "Start here",
        "1. **Checkpoint**: Stable Diffusion 1.x, 2.x, XL or 3, such as "
        f"{MODELS[CHECKPOINT].listed()}. Choose it in *Load Checkpoint*; for SDXL set the size of *Empty Latent Image* "
        "to 1024.\n\n"
        "2. Press **Run**. The example comes with its masks, so nothing else is needed.\n\n"
        "3. **Your own pictures**: a folder `input/tower_a+roof_a` with about three pictures of the concept, named "
        "`0_...`, and three of the component, named `1_...`. The words before `_a` say what is in them. Press R and "
        "choose it in *Load MagicTailor Pair*. Masks go into its folder `masks`, or are made from words on the right.",
        width=400,
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", 400, ckpt_name=CHECKPOINT)
    canvas.node("pair", "MagicTailorLoadPair", 400, folder="example: house_a+roof_a")

    canvas.group(
        "Masks from words: off. Right-click here, Set Group Nodes to Always, to switch on", BLUE, bypassed=True
    )
    canvas.note(
        "masks",
        "Masks from words",
        "Needs three files:\n\n"
        f"- {MODELS['vocab.txt'].listed()}\n"
        f"- {MODELS['groundingdino_swint_ogc.pth'].listed()}\n"
        f"- {MODELS['sam_vit_h_4b8939.pth'].listed()}, or the smaller {MODELS['sam_vit_b_01ec64.pth'].listed()}\n\n"
        "While this group is off, the masks in the folder are learned. Switched on, these are. Magenta in the previews "
        "is what will be learned. Wrong? Change **find** or the **box_threshold**, or connect your own masks to "
        "*MagicTailor Reference*. The concept leaves the component's place out (**exclude**).",
        width=400,
    )
    canvas.node(
        "sam",
        "MagicTailorGroundedSAMLoader",
        400,
        grounding_dino="groundingdino_swint_ogc.pth",
        sam="sam_vit_h_4b8939.pth",
    )
    canvas.column()
    for name in ("concept", "component"):
        canvas.node(f"{name}_masks", "MagicTailorGroundedSAM", 400, title=f"Masks of the {name}")
        canvas.node(f"{name}_shown", "PreviewImage", 400, 280, f"Masks of the {name}")
    canvas.column()
    for name in ("concept", "component"):
        canvas.node(f"{name}_reference", "MagicTailorReference", 380, title=name.capitalize())
        canvas.node(f"{name}_crops", "PreviewImage", 380, 370, f"{name.capitalize()}: what is learned")
        canvas.link("sam.grounded_sam", f"{name}_masks.grounded_sam")
        canvas.link(f"pair.{name}_images", f"{name}_masks.images", f"{name}_reference.images")
        canvas.link(f"pair.{name}_word", f"{name}_masks.find", f"{name}_reference.class_word")
        canvas.link(f"{name}_masks.overlay", f"{name}_shown.images")
        canvas.link(f"{name}_masks.masks", f"{name}_reference.masks")
        canvas.link(f"{name}_reference.overlay", f"{name}_crops.images")
        canvas.link(f"pair.{name}", f"{name}_reference.otherwise")
    canvas.link("pair.component_word", "concept_masks.exclude")

    _train_and_draw(
        canvas,
        ("concept_reference.reference", "component_reference.reference"),
        "500 steps: 200 of warm-up, 300 of DS-Bal. The defaults are the paper's. The **seed** stays fixed, so pressing "
        "Run again does not train again unless something here changes.",
    )
    return canvas


def tailor_two_components() -> Canvas:
    canvas = Canvas("tailor_two_components")
    canvas.group("One concept, two components", GREY)
    canvas.note(
        "start",
        "A concept that wears two components",
        "The folder `input/tower_a+roof_a+door_a` holds pictures named `0_...` (the concept), `1_...` (the first "
        "component) and `2_...` (the second), and `masks/<same name>.png` for each, white where to learn. The "
        "concept's masks leave the places of both components out.\n\n"
        "Both nodes below read the same folder; **component_number** says which component, and *MagicTailor Train* "
        "has an input of the same number for it.\n\n"
        "No masks yet? Make them as in *tailor_concept_and_component* or *tailor_with_painted_masks*: a component is "
        "one more *MagicTailor Reference* on *MagicTailor Train*, which grows an input for each, up to eight.",
        width=400,
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", 400, ckpt_name=CHECKPOINT)
    for number, name in ((1, "first"), (2, "second")):
        canvas.node(
            name,
            "MagicTailorLoadPair",
            400,
            title=f"Concept and {name} component" if number == 1 else f"The {name} component",
            folder="tower_a+roof_a+door_a",
            component_number=number,
        )
    _train_and_draw(
        canvas,
        ("first.concept", "first.component", "second.component"),
        "**component 1** becomes `<v1>`, **component 2** becomes `<v2>`.",
        prompt="<v0> with <v1> and <v2>",
        name="my_tailoring_of_three",
    )
    return canvas


def tailor_with_painted_masks() -> Canvas:
    canvas = Canvas("tailor_with_painted_masks")
    canvas.group("Paint what to learn", GREY)
    canvas.note(
        "start",
        "Masks painted by hand",
        "Choose your pictures. Right-click each and *Open in MaskEditor*: paint what is to be learned, then save. "
        "On the concept's pictures leave out the place of the component (the house without its roof).\n\n"
        "One to three pictures of each are enough. For one more, copy a *Load Image* and connect its IMAGE and its "
        "MASK to the next free inputs of the two lists. Sizes may differ. The order has to be the same in both.",
        width=360,
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", 360, ckpt_name=CHECKPOINT)
    for name in ("concept", "component"):
        canvas.column()
        for number in (0, 1):
            canvas.node(
                f"{name}{number}",
                "LoadImage",
                320,
                400,
                f"{name.capitalize()} {number + 1}",
                image=f"{name}_{number + 1}.png",
            )

    canvas.group("Look at the masks", BLUE)
    for name, word in (("concept", "house"), ("component", "roof")):
        if name == "component":
            canvas.column()
        canvas.node(f"{name}_images", "CreateList", 300, title=f"{name.capitalize()}: pictures")
        canvas.node(f"{name}_masks", "CreateList", 300, title=f"{name.capitalize()}: masks")
        canvas.node(f"{name}_reference", "MagicTailorReference", 300, title=name.capitalize(), class_word=word)
        canvas.node(f"{name}_crops", "PreviewImage", 300, 300, f"{name.capitalize()}: what is learned")
        _listed(canvas, name)
        canvas.link(f"{name}_masks.list", f"{name}_reference.masks")
        canvas.link(f"{name}_reference.overlay", f"{name}_crops.images")

    _train_and_draw(
        canvas,
        ("concept_reference.reference", "component_reference.reference"),
        "Write in **class_word** what each of them is. Magenta in the previews is what will be learned.",
    )
    return canvas


def tailor_with_sam3_masks() -> Canvas:
    canvas = Canvas("tailor_with_sam3_masks")
    canvas.group("Checkpoint and SAM 3", GREY)
    canvas.note(
        "start",
        "Masks from ComfyUI's own SAM 3, corrected by hand",
        f"SAM 3 finds what a word names. Its file: {MODELS[SAM3_CHECKPOINT].listed()}.\n\n"
        "Write the concept into *The concept* and the component into *The component*, and the same words into "
        "**class_word** of the references. The concept's masks leave out what SAM 3 takes for the component.\n\n"
        "Press Run and look at the previews: magenta is learned. Something is wrong? Right-click that picture's "
        "*Load Image*, *Open in MaskEditor*, paint over the wrong places, save, and Run again: **what is painted is "
        "swapped**, learned instead of left out and the other way round. The same works with masks from *GroundedSAM "
        "Masks*.",
        width=400,
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", 400, ckpt_name=CHECKPOINT)
    canvas.node("sam3", "CheckpointLoaderSimple", 400, title="Load SAM 3", ckpt_name=SAM3_CHECKPOINT)
    for name, word in (("concept", "house"), ("component", "roof")):
        canvas.node(f"{name}_word", "CLIPTextEncode", 400, 90, f"The {name}", text=word)
        canvas.link("sam3.CLIP", f"{name}_word.clip")

    canvas.group("Pictures, painted only where SAM 3 is wrong", GREY)
    for name in ("concept", "component"):
        if name == "component":
            canvas.column()
        for number in (0, 1):
            canvas.node(
                f"{name}{number}",
                "LoadImage",
                300,
                360,
                f"{name.capitalize()} {number + 1}",
                image=f"{name}_{number + 1}.png",
            )
        canvas.node(f"{name}_images", "CreateList", 300, title=f"{name.capitalize()}: pictures")
        canvas.node(f"{name}_masks", "CreateList", 300, title=f"{name.capitalize()}: painted")
        _listed(canvas, name)

    canvas.group("Look at the masks", BLUE)
    canvas.node("concept_found", "SAM3_Detect", 300, title="Find the concept")
    canvas.node("concept_part", "SAM3_Detect", 300, title="Find the component on it")
    canvas.node("concept_without", "MaskComposite", 300, title="Leave the component out", operation="subtract")
    canvas.link("concept_found.masks", "concept_without.destination")
    canvas.link("concept_part.masks", "concept_without.source")
    canvas.node("component_found", "SAM3_Detect", 300, title="Find the component")
    for node, name, word in (
        ("concept_found", "concept", "concept"),
        ("concept_part", "concept", "component"),
        ("component_found", "component", "component"),
    ):
        canvas.link("sam3.MODEL", f"{node}.model")
        canvas.link(f"{name}_images.list", f"{node}.image")
        canvas.link(f"{word}_word.CONDITIONING", f"{node}.conditioning")
    canvas.column()
    for name, word, found in (
        ("concept", "house", "concept_without.MASK"),
        ("component", "roof", "component_found.masks"),
    ):
        canvas.node(f"{name}_swapped", "MaskComposite", 300, title="Swap what is painted", operation="xor")
        canvas.node(f"{name}_reference", "MagicTailorReference", 300, title=name.capitalize(), class_word=word)
        canvas.node(f"{name}_crops", "PreviewImage", 300, 240, f"{name.capitalize()}: what is learned")
        canvas.link(found, f"{name}_swapped.destination")
        canvas.link(f"{name}_masks.list", f"{name}_swapped.source")
        canvas.link(f"{name}_swapped.MASK", f"{name}_reference.masks")
        canvas.link(f"{name}_reference.overlay", f"{name}_crops.images")

    _train_and_draw(
        canvas,
        ("concept_reference.reference", "component_reference.reference"),
        "Training starts in the same Run. To look at the masks first, mute *MagicTailor Train* (Ctrl+M).",
    )
    return canvas


def use_saved_tailoring() -> Canvas:
    canvas = Canvas("use_saved_tailoring")
    canvas.group("Saved files", GREY)
    canvas.note(
        "start",
        "A saved tailoring with stock nodes only",
        "*Save Tailoring* wrote `loras/my_tailoring.safetensors` and one embedding per token: "
        "`embeddings/my_tailoring_v0.safetensors` (the concept), `..._v1.safetensors` (the component).\n\n"
        "1. Choose the file in **Load LoRA**.\n"
        "2. In the prompt write `embedding:my_tailoring_v0` where you would write `<v0>`, with a space before "
        "`embedding:`. Weights work: `(embedding:my_tailoring_v1:1.2)`.\n\n"
        "This draws exactly what *Tailored Sampler* draws with `<v0> with <v1>`, the same seed and settings.",
        width=420,
    )
    canvas.node("checkpoint", "CheckpointLoaderSimple", 420, ckpt_name=CHECKPOINT)
    canvas.node("lora", "LoraLoader", 420, lora_name=TAILORING)
    canvas.group("Draw", ORANGE)
    canvas.node(
        "positive",
        "CLIPTextEncode",
        420,
        180,
        "Prompt",
        text="embedding:my_tailoring_v0 with embedding:my_tailoring_v1",
    )
    canvas.node("negative", "CLIPTextEncode", 420, 140, "Negative prompt", text="")
    canvas.node("latents", "EmptyLatentImage", 420, width=512, height=512, batch_size=1)
    canvas.node("sampler", "KSampler", 420, **SAMPLING)
    canvas.column()
    canvas.link("checkpoint.MODEL", "lora.model")
    canvas.link("checkpoint.CLIP", "lora.clip")
    canvas.link("lora.CLIP", "positive.clip", "negative.clip")
    canvas.link("positive.CONDITIONING", "sampler.positive")
    canvas.link("negative.CONDITIONING", "sampler.negative")
    canvas.link("lora.MODEL", "sampler.model")
    canvas.link("latents.LATENT", "sampler.latent_image")
    _saved_picture(canvas, "sampler.LATENT", "saved_tailoring")
    return canvas


def draw_component_alone() -> Canvas:
    canvas = Canvas("draw_component_alone")
    _checkpoint_and_tailoring(
        canvas,
        "The component alone",
        "`<v1>` works without `<v0>`: by itself, or on something that was never in a picture, such as `a castle with "
        "<v1>`. In the same way `<v0>` draws the concept alone.\n\n"
        "Choose the file that *Save Tailoring* wrote; nothing is trained here.",
    )
    _tailored_sampler(canvas, "A photo of <v1>")
    _saved_picture(canvas, "sampler.latent", "component_alone")
    return canvas


def draw_with_style_lora() -> Canvas:
    canvas = Canvas("draw_with_style_lora")
    _checkpoint_and_tailoring(
        canvas,
        "A tailoring and a style LoRA",
        "*Load LoRA* changes MODEL and CLIP before the tailoring is put on them. Choose any LoRA of the same model "
        "family, and write its trigger words into the prompt.\n\n"
        "Is the style too strong? Lower **strength_model** of *Load LoRA*. Is the likeness too weak? Raise "
        "**strength** of *Tailored Sampler*, under its advanced inputs.",
        direct=False,
    )
    canvas.node("style", "LoraLoader", 400, lora_name=STYLE_LORA, strength_model=0.8, strength_clip=0.8)
    canvas.link("checkpoint.MODEL", "style.model")
    canvas.link("checkpoint.CLIP", "style.clip")
    canvas.link("style.MODEL", "sampler.model")
    canvas.link("style.CLIP", "sampler.clip")
    _tailored_sampler(canvas, "<v0> with <v1>, watercolor painting")
    _saved_picture(canvas, "sampler.latent", "with_style")
    return canvas


def draw_with_controlnet() -> Canvas:
    canvas = Canvas("draw_with_controlnet")
    _checkpoint_and_tailoring(
        canvas,
        "A shape from a picture, the looks from a tailoring",
        "*Apply Tailoring* gives a MODEL and CLIP that every stock node understands: `<v0>` and `<v1>` work in *CLIP "
        "Text Encode*, and ControlNet works as always.\n\n"
        f"The ControlNet has to be of the checkpoint's family: {MODELS[CONTROLNET].listed()} "
        "for Stable Diffusion 1.x. Others (depth, pose) need their own preprocessor instead of *Canny*.",
        direct=False,
    )
    canvas.node("apply", "MagicTailorApply", 400)
    canvas.link("checkpoint.MODEL", "apply.model")
    canvas.link("checkpoint.CLIP", "apply.clip")
    canvas.link("tailoring.tailoring", "apply.tailoring")

    canvas.group("Shape", BLUE)
    canvas.node("picture", "LoadImage", 320, 380, "A picture with the shape", image="example.png")
    canvas.node("edges", "Canny", 320)
    canvas.node("edges_shown", "PreviewImage", 320, 300, "Edges")
    canvas.link("picture.IMAGE", "edges.image")
    canvas.link("edges.IMAGE", "edges_shown.images")

    canvas.group("Draw", ORANGE)
    canvas.node("positive", "CLIPTextEncode", 400, 130, "Prompt", text="<v0> with <v1>, in a meadow")
    canvas.node("negative", "CLIPTextEncode", 400, 90, "Negative prompt", text="")
    canvas.node("control_net", "ControlNetLoader", 400, control_net_name=CONTROLNET)
    canvas.node("control", "ControlNetApplyAdvanced", 400, strength=0.8)
    canvas.node("latents", "EmptyLatentImage", 400, width=512, height=512, batch_size=1)
    canvas.column()
    canvas.node("sampler", "KSampler", 400, **SAMPLING)
    canvas.link("apply.clip", "positive.clip", "negative.clip")
    canvas.link("positive.CONDITIONING", "control.positive")
    canvas.link("negative.CONDITIONING", "control.negative")
    canvas.link("control_net.CONTROL_NET", "control.control_net")
    canvas.link("edges.IMAGE", "control.image")
    canvas.link("apply.model", "sampler.model")
    canvas.link("control.positive", "sampler.positive")
    canvas.link("control.negative", "sampler.negative")
    canvas.link("latents.LATENT", "sampler.latent_image")
    _saved_picture(canvas, "sampler.LATENT", "with_controlnet")
    return canvas


def draw_larger() -> Canvas:
    canvas = Canvas("draw_larger")
    _checkpoint_and_tailoring(
        canvas,
        "Larger pictures in two passes",
        "The first pass draws at the size that the checkpoint knows. The second one enlarges that and draws over it "
        "with a lower **denoise**: more adds detail, less keeps the picture.\n\n"
        "Two ways, side by side: enlarge the **latents** (quick, softer, needs a denoise of 0.5 or more), or enlarge "
        f"the **picture** with an upscale model such as {MODELS[UPSCALER].listed()} (sharper). "
        "Mute (Ctrl+M) what you do not need.\n\n"
        "*Tailored Sampler* hands its tailored MODEL and prompts on to the second pass.",
    )
    _tailored_sampler(canvas, "<v0> with <v1>, in a meadow", title="First pass")
    canvas.column()
    canvas.node("decode", "VAEDecode", 320)
    canvas.node("first", "PreviewImage", 320, 340, "First pass")
    canvas.link("sampler.latent", "decode.samples")
    canvas.link("checkpoint.VAE", "decode.vae")
    canvas.link("decode.IMAGE", "first.images")

    canvas.group("Second pass: larger latents", BLUE)
    canvas.node("larger", "LatentUpscaleBy", 400, upscale_method="bislerp", scale_by=1.5)
    _second_pass(canvas, "latent", "larger.LATENT", 0.55)
    canvas.link("sampler.latent", "larger.samples")

    canvas.group("Second pass: upscale model", GREEN)
    canvas.node("upscaler", "UpscaleModelLoader", 400, model_name=UPSCALER)
    canvas.node("upscaled", "ImageUpscaleWithModel", 400)
    # 4 times by the model, then to the size of the other way
    canvas.node("scaled", "ImageScaleBy", 400, upscale_method="lanczos", scale_by=0.375)
    canvas.node("encode", "VAEEncode", 400)
    canvas.link("upscaler.UPSCALE_MODEL", "upscaled.upscale_model")
    canvas.link("decode.IMAGE", "upscaled.image")
    canvas.link("upscaled.IMAGE", "scaled.image")
    canvas.link("scaled.IMAGE", "encode.pixels")
    canvas.link("checkpoint.VAE", "encode.vae")
    _second_pass(canvas, "model", "encode.LATENT", 0.35)
    return canvas


def redraw_picture() -> Canvas:
    canvas = Canvas("redraw_picture")
    _checkpoint_and_tailoring(
        canvas,
        "Draw over a picture",
        "The picture's composition and colours stay, its subject becomes the tailored one. **denoise** of *Tailored "
        "Sampler* says how much: 0.4 changes little, 0.8 almost everything.\n\n"
        "*Scale Image to Total Pixels* brings any picture to about 512 x 512 (0.25 megapixels); for SDXL write 1.0.",
    )
    canvas.group("Your picture", BLUE)
    canvas.node("picture", "LoadImage", 320, 400, "Your picture", image="example.png")
    canvas.node(
        "scaled", "ImageScaleToTotalPixels", 320, upscale_method="lanczos", megapixels=0.25, resolution_steps=64
    )
    canvas.node("encode", "VAEEncode", 320)
    canvas.link("picture.IMAGE", "scaled.image")
    canvas.link("scaled.IMAGE", "encode.pixels")
    canvas.link("checkpoint.VAE", "encode.vae")
    _tailored_sampler(canvas, "<v0> with <v1>", latents="encode.LATENT", denoise=0.6)
    _saved_picture(canvas, "sampler.latent", "redrawn")
    return canvas


def inpaint_component() -> Canvas:
    canvas = Canvas("inpaint_component")
    _checkpoint_and_tailoring(
        canvas,
        "Put the component on a picture",
        "1. Choose a picture. Right-click *Load Image*, *Open in MaskEditor*, paint where the component belongs, "
        "generously, and save.\n"
        "2. Write what the whole picture shows, with `<v1>` for the component: `a barn with <v1>`.\n"
        "3. Press Run. Nothing outside the painted place changes.\n\n"
        "**denoise** of 1 forgets what was there, 0.7 follows its shape.",
    )
    canvas.group("Your picture", BLUE)
    canvas.node("picture", "LoadImage", 320, 400, "Your picture, painted", image="example.png")
    canvas.node(
        "scaled", "ImageScaleToTotalPixels", 320, upscale_method="lanczos", megapixels=0.25, resolution_steps=64
    )
    canvas.node("encode", "VAEEncode", 320)
    canvas.node("masked", "SetLatentNoiseMask", 320)
    canvas.link("picture.IMAGE", "scaled.image")
    canvas.link("scaled.IMAGE", "encode.pixels")
    canvas.link("checkpoint.VAE", "encode.vae")
    canvas.link("encode.LATENT", "masked.samples")
    _tailored_sampler(canvas, "a house with <v1>", latents="masked.LATENT", denoise=0.85)
    # the autoencoder would change the rest a little
    canvas.node("decode", "VAEDecode", 420)
    canvas.column()
    canvas.node("pasted", "ImageCompositeMasked", 460, title="Keep the rest as it was")
    canvas.node("image", "SaveImage", 460, 540, filename_prefix="inpainted")
    canvas.link("picture.MASK", "masked.mask", "pasted.mask")
    canvas.link("sampler.latent", "decode.samples")
    canvas.link("checkpoint.VAE", "decode.vae")
    canvas.link("scaled.IMAGE", "pasted.destination")
    canvas.link("decode.IMAGE", "pasted.source")
    canvas.link("pasted.IMAGE", "image.images")
    return canvas


def compare_before_and_after() -> Canvas:
    canvas = Canvas("compare_before_and_after")
    _checkpoint_and_tailoring(
        canvas,
        "What the tailoring changes",
        "Both sides start from the same noise and take the same steps. *Before* is the checkpoint by itself, with the "
        "ordinary words; *after* has the tailoring and its tokens. Everything else being equal, the difference is "
        "what was learned.\n\n"
        "Write the same sentence on both sides, with the class words on the left and `<v0>`, `<v1>` on the right. "
        "One *Seed* serves both.",
        direct=False,
    )
    canvas.node("apply", "MagicTailorApply", 400)
    canvas.node("seed", "PrimitiveInt", 400, title="Seed", value=0)
    canvas.node("latents", "EmptyLatentImage", 400, width=512, height=512, batch_size=1)
    canvas.link("checkpoint.MODEL", "apply.model", "before_sampler.model")
    canvas.link("checkpoint.CLIP", "apply.clip", "before_positive.clip", "before_negative.clip")
    canvas.link("tailoring.tailoring", "apply.tailoring")
    canvas.link("apply.model", "after_sampler.model")
    canvas.link("apply.clip", "after_positive.clip", "after_negative.clip")

    for side, color, text in (("before", BLUE, "house with roof"), ("after", GREEN, "<v0> with <v1>")):
        canvas.group(side.capitalize(), color)
        canvas.node(f"{side}_positive", "CLIPTextEncode", 360, 110, "Prompt", text=text)
        canvas.node(f"{side}_negative", "CLIPTextEncode", 360, 90, "Negative prompt", text="")
        canvas.node(f"{side}_sampler", "KSampler", 360, **SAMPLING)
        canvas.node(f"{side}_decode", "VAEDecode", 360)
        canvas.node(f"{side}_image", "PreviewImage", 360, 360, side.capitalize())
        canvas.link(f"{side}_positive.CONDITIONING", f"{side}_sampler.positive")
        canvas.link(f"{side}_negative.CONDITIONING", f"{side}_sampler.negative")
        canvas.link("seed.INT", f"{side}_sampler.seed")
        canvas.link("latents.LATENT", f"{side}_sampler.latent_image")
        canvas.link(f"{side}_sampler.LATENT", f"{side}_decode.samples")
        canvas.link("checkpoint.VAE", f"{side}_decode.vae")

    canvas.group("Side by side", ORANGE)
    canvas.node("stitched", "ImageStitch", 640, title="Before and after", direction="right")
    canvas.node("image", "SaveImage", 640, 440, filename_prefix="before_and_after")
    canvas.link("before_decode.IMAGE", "before_image.images", "stitched.image1")
    canvas.link("after_decode.IMAGE", "after_image.images", "stitched.image2")
    canvas.link("stitched.IMAGE", "image.images")
    return canvas


def score_and_pick() -> Canvas:
    canvas = Canvas("score_and_pick")
    _checkpoint_and_tailoring(
        canvas,
        "Draw eight, keep the best two",
        "Eight pictures are drawn from one tailoring. *MagicTailor Score* compares each with the references it was "
        "learned from, *MagicTailor Pick* keeps the best.\n\n"
        "Choose the file that *Save Tailoring* wrote and the folder it was learned from, and a CLIP vision model such "
        f"as {MODELS[CLIP_VISION].listed()}.\n\n"
        "Below the table stand your references among themselves: a drawing can hardly be more alike than they are.",
    )
    canvas.node("pair", "MagicTailorLoadPair", 400, folder="example: house_a+roof_a")
    canvas.node("vision", "CLIPVisionLoader", 400, clip_name=CLIP_VISION)
    _tailored_sampler(canvas, "<v0> with <v1>", batch=8)
    canvas.node("decode", "VAEDecode", 420)
    canvas.link("sampler.latent", "decode.samples")
    canvas.link("checkpoint.VAE", "decode.vae")
    canvas.group("Score and pick", GREEN)
    canvas.node("all", "PreviewImage", 460, 320, "All eight")
    canvas.node("score", "MagicTailorScore", 460)
    canvas.column()
    canvas.node("table", "PreviewAny", 520, 280, "Scores")
    canvas.node("pick", "MagicTailorPick", 520, count=2)
    canvas.column()
    canvas.node("best", "SaveImage", 460, 520, "The best two", filename_prefix="best")
    canvas.link("decode.IMAGE", "all.images", "score.images", "pick.images")
    canvas.link("pair.concept", "score.concept")
    canvas.link("pair.component", "score.components.component 1")
    canvas.link("vision.CLIP_VISION", "score.encoders.clip_vision 1")
    canvas.link("score.text", "table.source")
    canvas.link("score.scores", "pick.scores")
    canvas.link("pick.images", "best.images")
    return canvas


def compare_strengths() -> Canvas:
    canvas = Canvas("compare_strengths")
    _checkpoint_and_tailoring(
        canvas,
        "Which strength?",
        "*MagicTailor Compare* draws every combination of **strengths**, **seeds** and **prompts** (one on each line) "
        "onto one sheet. **columns** says what goes from left to right.\n\n"
        "To compare snapshots of a training, connect *MagicTailor Runs* to the next free input of *tailorings*.\n\n"
        "The scores below the pictures come from the references and a CLIP vision model such as "
        f"{MODELS[CLIP_VISION].listed()}. Without one, delete *Load CLIP Vision* and the links of *Load MagicTailor "
        "Pair*: the sheet then has no scores.",
        direct=False,
    )
    canvas.node("pair", "MagicTailorLoadPair", 400, folder="example: house_a+roof_a")
    canvas.node("vision", "CLIPVisionLoader", 400, clip_name=CLIP_VISION)
    canvas.group("Compare", ORANGE)
    canvas.node("latents", "EmptyLatentImage", 460, width=512, height=512, batch_size=1)
    canvas.node("compare", "MagicTailorCompare", 460, strengths="0.4, 0.7, 1.0, 1.3", seeds="0, 1")
    canvas.column()
    canvas.node("sheet", "SaveImage", 760, 560, "Sheet", filename_prefix="compare_strengths")
    canvas.node("numbers", "SaveText", 760, 160, "Numbers", filename_prefix="compare_strengths", format="csv")
    for socket in ("MODEL", "CLIP", "VAE"):
        canvas.link(f"checkpoint.{socket}", f"compare.{socket.lower()}")
    canvas.link("tailoring.tailoring", "compare.tailorings.tailoring 1")
    canvas.link("latents.LATENT", "compare.latent_image")
    canvas.link("pair.concept", "compare.concept")
    canvas.link("pair.component", "compare.components.component 1")
    canvas.link("vision.CLIP_VISION", "compare.encoders.clip_vision 1")
    canvas.link("compare.sheet", "sheet.images")
    canvas.link("compare.csv", "numbers.text")
    return canvas


# numbered in the order in which a newcomer meets them: the host lists the files' names, sorted by them at most
CANVASES = {
    f"{number:02}_{function.__name__}": function
    for number, function in enumerate(
        (
            tailor_concept_and_component,
            use_saved_tailoring,
            tailor_two_components,
            tailor_with_painted_masks,
            tailor_with_sam3_masks,
            draw_component_alone,
            draw_with_style_lora,
            draw_with_controlnet,
            draw_larger,
            redraw_picture,
            inpaint_component,
            compare_before_and_after,
            score_and_pick,
            compare_strengths,
        ),
        1,
    )
}


# --- parts that several canvases share


def _checkpoint_and_tailoring(canvas: Canvas, title: str, text: str, direct: bool = True) -> None:
    """The first group; `direct` connects the checkpoint to the Tailored Sampler."""
    canvas.group("Checkpoint and tailoring", GREY)
    canvas.note("start", title, text, width=400)
    canvas.node("checkpoint", "CheckpointLoaderSimple", 400, ckpt_name=CHECKPOINT)
    canvas.node("tailoring", "MagicTailorLoad", 400, tailoring=TAILORING)
    if direct:
        canvas.link("checkpoint.MODEL", "sampler.model")
        canvas.link("checkpoint.CLIP", "sampler.clip")


def _tailored_sampler(
    canvas: Canvas, prompt: str, latents: str | None = None, denoise: float = 1.0, title: str = "", batch: int = 1
) -> None:
    """A group with the Tailored Sampler; without `latents` it starts from a batch of empty ones."""
    canvas.group("Draw", ORANGE)
    if latents is None:
        canvas.node("latents", "EmptyLatentImage", 420, width=512, height=512, batch_size=batch)
        latents = "latents.LATENT"
    canvas.node(
        "sampler", "MagicTailorSampler", 420, 540, title, prompt=prompt, negative_prompt="", seed=0, denoise=denoise
    )
    canvas.link("tailoring.tailoring", "sampler.tailoring")
    canvas.link(latents, "sampler.latent_image")


def _second_pass(canvas: Canvas, key: str, latents: str, denoise: float) -> None:
    canvas.node(f"{key}_sampler", "KSampler", 400, title="Second pass", denoise=denoise, **SAMPLING)
    canvas.node(f"{key}_decode", "VAEDecode", 400)
    canvas.node(f"{key}_image", "SaveImage", 400, 440, filename_prefix=f"larger_by_{key}")
    canvas.link("sampler.model", f"{key}_sampler.model")
    canvas.link("sampler.positive", f"{key}_sampler.positive")
    canvas.link("sampler.negative", f"{key}_sampler.negative")
    canvas.link(latents, f"{key}_sampler.latent_image")
    canvas.link(f"{key}_sampler.LATENT", f"{key}_decode.samples")
    canvas.link("checkpoint.VAE", f"{key}_decode.vae")
    canvas.link(f"{key}_decode.IMAGE", f"{key}_image.images")


def _saved_picture(canvas: Canvas, latent: str, prefix: str) -> None:
    canvas.node("decode", "VAEDecode", 420)
    canvas.column()
    canvas.node("image", "SaveImage", 520, 620, filename_prefix=prefix)
    canvas.link(latent, "decode.samples")
    canvas.link("checkpoint.VAE", "decode.vae")
    canvas.link("decode.IMAGE", "image.images")


def _listed(canvas: Canvas, name: str) -> None:
    """Two Load Image nodes into a list of pictures and a list of painted masks."""
    for number in (0, 1):
        canvas.link(f"{name}{number}.IMAGE", f"{name}_images.inputs.input{number}")
        canvas.link(f"{name}{number}.MASK", f"{name}_masks.inputs.input{number}")
    canvas.link(f"{name}_images.list", f"{name}_reference.images")


def _train_and_draw(
    canvas: Canvas,
    references: tuple[str, ...],
    text: str,
    prompt: str = "<v0> with <v1>",
    name: str = "my_tailoring",
) -> None:
    """The last two groups of a canvas that trains: references are the concept's socket, then the components'."""
    canvas.group("Train and save", GREEN)
    canvas.note("training", "Train", text, width=400)
    canvas.node("train", "MagicTailorTrainV2", 400)
    canvas.node("save", "MagicTailorSave", 400, name=name)
    canvas.node("loss", "LossGraphNode", 400, 220)
    canvas.column()
    canvas.node("report", "PreviewImage", 460, 640, "Report")
    canvas.link("train.report", "report.images")
    for socket in ("MODEL", "CLIP", "VAE"):
        canvas.link(f"checkpoint.{socket}", f"train.{socket.lower()}")
    concept, *components = references
    canvas.link(concept, "train.concept")
    for number, component in enumerate(components, 1):
        canvas.link(component, f"train.components.component {number}")
    canvas.link("train.tailoring", "save.tailoring")
    canvas.link("train.loss_map", "loss.loss")

    canvas.group("Draw", ORANGE)
    tokens = "`<v0>` is the concept, `<v1>` the component" + (", `<v2>` the next one" if len(components) > 1 else "")
    canvas.note(
        "drawing",
        "Draw",
        f"{tokens}: `{prompt}, at sunset`. What was saved also draws without training: see the workflows *draw_...* "
        "and, with stock nodes only, *use_saved_tailoring*.",
        width=420,
    )
    canvas.node("latents", "EmptyLatentImage", 420, width=512, height=512, batch_size=1)
    canvas.node("sampler", "MagicTailorSampler", 420, 560, prompt=prompt, negative_prompt="", seed=0)
    canvas.link("checkpoint.MODEL", "sampler.model")
    canvas.link("checkpoint.CLIP", "sampler.clip")
    canvas.link("train.tailoring", "sampler.tailoring")
    canvas.link("latents.LATENT", "sampler.latent_image")
    _saved_picture(canvas, "sampler.latent", "magictailor")
