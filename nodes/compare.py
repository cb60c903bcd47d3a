"""Draw the same with several strengths, seeds, prompts and tailorings, side by side."""

from math import isnan

import torch
from comfy_api.v0_0_2 import io

from nodes import common_ksampler

from ..magictailor.errors import InputError
from ..magictailor.formats.csv_table import as_csv
from ..magictailor.scores.table import USUAL_WEIGHTS, scored
from ..magictailor.tokens import require_tokens
from .bridge import host
from .bridge.convert import image_from_pil, image_to_library
from .bridge.encoders import encoders_of
from .bridge.errors import SAME_CHECKPOINT, artist_errors
from .bridge.inputs import STRENGTHS, TAILORINGS, encoders_input, numbered_inputs, reference_inputs
from .bridge.letters import letter_notes
from .bridge.lists import different_numbers
from .bridge.packages import needed_packages
from .bridge.references import compared_with
from .bridge.sampler_cache import kept
from .bridge.sampling import chosen, described, sampling_inputs
from .bridge.socket_types import CATEGORY, Tailoring
from .bridge.tailored_model import odd

NAME = "MagicTailor Compare"
AXES = ("strength", "seed", "prompt", "tailoring")
MOST = 400  # pictures on a sheet
SEEDS = (0, 2**64 - 1)


class MagicTailorCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorCompare",
            display_name=NAME,
            category=CATEGORY,
            description="Draws every combination of strengths, seeds, prompts and tailorings, and puts them on one "
            "sheet with labels, and with scores if it is given CLIP_VISIONs.",
            search_aliases=["magictailor compare", "xy plot", "xyz plot", "grid", "strength test"],
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint's MODEL, without the tailoring."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP, without the tailoring."),
                io.Vae.Input("vae", tooltip="The VAE that pictures are decoded with."),
                numbered_inputs(
                    "tailorings",
                    Tailoring.Input(
                        "tailoring", tooltip="From Train, Load Tailoring or, for snapshots, MagicTailor Runs."
                    ),
                    TAILORINGS,
                    "What is compared: one tailoring, or several snapshots or trainings.",
                ),
                io.Latent.Input("latent_image", tooltip="The latents every picture starts from, usually an empty one."),
                io.String.Input(
                    "strengths",
                    default="0.6, 0.8, 1.0",
                    tooltip="Strengths of the LoRA, with commas between them; 1 is as trained, 0 without.",
                ),
                io.String.Input("seeds", default="0, 1", tooltip="Seeds of the noise, with commas between them."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="<v0> with <v1>",
                    tooltip="What to draw, one prompt on each line.",
                ),
                io.String.Input("negative_prompt", multiline=True, default="", tooltip="What not to draw."),
                io.Combo.Input(
                    "columns",
                    options=list(AXES),
                    default=AXES[0],
                    tooltip="What changes from left to right; everything else that changes goes from top to bottom.",
                ),
                io.Int.Input(
                    "tile",
                    default=256,
                    min=64,
                    max=2048,
                    tooltip="Side of each picture's place on the sheet, in pixels.",
                ),
                *sampling_inputs(advanced=True),
                *reference_inputs(),
                encoders_input(least=0),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet", tooltip="All pictures with their labels and scores, for Save Image."
                ),
                io.Image.Output(display_name="images", tooltip="The pictures alone, in the order of the csv."),
                io.String.Output(
                    display_name="csv",
                    tooltip="A line for each picture with what it was drawn with and its scores, for Save Text.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, tailorings, latent_image, strengths, seeds, prompts, negative_prompt, columns, tile,
        steps, cfg, sampler_name, scheduler, concept=None, components=None, encoders=None,
    ):  # fmt: skip
        with needed_packages(NAME), artist_errors(NAME, SAME_CHECKPOINT):
            from ..magictailor.report.comparison import combinations, comparison_sheet

            given = {name: tailoring for name, tailoring in tailorings.items() if tailoring is not None}
            axes = {
                "tailoring": [name.removeprefix("tailoring ") for name in given],
                "strength": different_numbers("strengths", strengths, float, STRENGTHS),
                "prompt": list(dict.fromkeys(line.strip() for line in prompts.splitlines() if line.strip())),
                "seed": different_numbers("seeds", seeds, int, SEEDS),
            }
            places = combinations(axes)
            require_possible(places, latent_image)
            for tailoring in given.values():
                names = [token.name for token in tailoring.tokens]
                for text in axes["prompt"]:
                    require_tokens(text, names, "prompts")
                require_tokens(negative_prompt, names, "negative_prompt")
            score = scorer(concept, components or {}, encoders or {}, list(given.values()))
            pictures: list[torch.Tensor] = []
            for place in places:
                tailoring = given[f"tailoring {place['tailoring']}"]
                tailored = kept(model, clip, tailoring, place["strength"])
                sampling = chosen(tailoring.family.sampler, steps, cfg, sampler_name, scheduler)
                host.show_text(f"picture {len(pictures) + 1} of {len(places)}\n{described(sampling)}")
                conditioning = tailored.conditioning(place["prompt"], negative_prompt)
                (latent,) = common_ksampler(tailored.model, place["seed"], *sampling, *conditioning, latent_image)
                pictures.append(vae.decode(latent["samples"])[:1])
            shown = [image_to_library(picture)[0] for picture in pictures]
            table = score(shown)
            rows = [{"picture": n, **place} for n, place in enumerate(places, 1)]
            captions = None
            text = described(sampling)
            if table is not None:
                (best,) = table.best(1, USUAL_WEIGHTS)
                rows = [row | found for row, found in zip(rows, table.rows(), strict=True)]
                captions = [caption(found, n == best) for n, found in enumerate(table.rows())]
                text = f"best: {', '.join(f'{k} {v}' for k, v in places[best].items() if len(axes[k]) > 1)}\n{text}"
            sheet = comparison_sheet(axes, columns, shown, captions, tile)
        notes = dict.fromkeys(note for tailoring in given.values() for note in odd(model, clip, tailoring))
        host.show_text("\n".join([text, *notes, *letter_notes("".join(axes["prompt"]))]))
        return io.NodeOutput(image_from_pil(sheet), torch.cat(pictures), as_csv(rows))


def require_possible(places, latent_image) -> None:
    """Refuse what cannot be put on a sheet.

    Raises:
        InputError: names "prompts", "seeds" or "latent_image".
    """
    if not places:
        raise InputError("prompts", "is empty; write what to draw, one prompt on each line")
    if len(places) > MOST:
        raise InputError("seeds", f"give {len(places)} pictures with all else, and a sheet holds {MOST}; take fewer")
    count = len(latent_image["samples"])
    if count > 1:
        raise InputError("latent_image", f"has {count} latents; every place of the sheet is one picture, so give one")


def scorer(concept, components, encoders, tailorings):
    """Scores pictures, or gives None where no CLIP_VISION is there.

    Raises:
        InputError: references are given without a CLIP_VISION, or it is and nothing is there to compare with.
    """
    seeing = {name: given for name, given in encoders.items() if given is not None}
    if not seeing:
        if concept is not None:
            raise InputError("encoders", "is not connected, but concept is; scores need both")
        return lambda pictures: None
    references = compared_with(concept, components, tailorings)
    asked = encoders_of(seeing)
    return lambda pictures: scored(pictures, references, asked)


def caption(found, is_best: bool) -> str:
    """Scores below a picture, one on each line: `CLIP house 0.81`, `CLIP roof 0.74`, `best`."""
    if any(map(isnan, found.values())):
        return "not finite, so black"
    return "\n".join([*(f"{name} {value:.2f}" for name, value in found.items()), *["best"] * is_best])
