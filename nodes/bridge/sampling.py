"""The widgets that say how to sample, and what they leave open."""

import comfy.samplers
from comfy_api.v0_0_2 import io

from ...magictailor.backbones.protocol import SamplerDefaults

AUTO = "auto"


def sampling_inputs(advanced: bool = False) -> list[io.WidgetInput]:
    """Steps, cfg, sampler and scheduler, each of which can be left to what suits the kind of model."""
    return [
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=10000,
            advanced=advanced,
            tooltip="Sampling steps. 0 takes what suits the kind of model, for U-Nets the paper's 50. The node "
            "shows what it took.",
        ),
        io.Float.Input(
            "cfg",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            advanced=advanced,
            tooltip="How closely to follow the prompt. 0 takes what suits the kind of model, for U-Nets the "
            "paper's 7.5.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=[AUTO, *comfy.samplers.KSampler.SAMPLERS],
            default=AUTO,
            advanced=advanced,
            tooltip="The sampler. auto takes what suits the kind of model, for U-Nets the paper's ddim.",
        ),
        io.Combo.Input(
            "scheduler",
            options=[AUTO, *comfy.samplers.KSampler.SCHEDULERS],
            default=AUTO,
            advanced=advanced,
            tooltip="How the noise levels are spaced. auto takes what suits the kind of model, for U-Nets "
            "ddim_uniform.",
        ),
    ]


def chosen(usual: SamplerDefaults, steps: int, cfg: float, sampler_name: str, scheduler: str) -> SamplerDefaults:
    """What the widgets say; where one leaves it open, what is usual for the kind of model."""
    return SamplerDefaults(
        steps or usual.steps,
        cfg or usual.cfg,
        usual.sampler_name if sampler_name == AUTO else sampler_name,
        usual.scheduler if scheduler == AUTO else scheduler,
    )


def described(sampling: SamplerDefaults) -> str:
    """What was taken, for the node's text."""
    return f"{sampling.steps} steps, cfg {sampling.cfg:g}, {sampling.sampler_name}, {sampling.scheduler}"
