"""The training of MagicTailor (arXiv 2410.13370): one loop, two phases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from .attention import attention_loss
from .balancing import largest, masked_error, mean_per_reference, preserving, update_momentum
from .config import TailorConfig
from .degradation import degradation_weight, degrade
from .draws import StepDraws, draw_step
from .latents import encode, latent_shape
from .model import TailorModel
from .references import Reference, augment, shown_sizes, shrink, training_pictures
from .tailoring import Tailoring, tailoring_of
from .tokens import EncodedPrompts

WARM_UP, DS_BAL = "warm-up", "DS-Bal"


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        step: 1-based, over both phases.
        total_steps: of both phases.
        phase: "warm-up" or "DS-Bal".
        learning_rate: it was made with.
        degradation_weight: alpha_d of Eq. 5.
        loss: what was minimised.
        diffusion: L_diff of each reference, the concept's first.
        preservation: mean L_pres of the references that were held; 0 in the warm-up.
        attention: L_attn, mean over the pictures.
        worst: index of the reference that was improved; None in the warm-up.
    """

    step: int
    total_steps: int
    phase: str
    learning_rate: float
    degradation_weight: float
    loss: float
    diffusion: tuple[float, ...]
    preservation: float
    attention: float
    worst: int | None


@dataclass(frozen=True)
class TrainingResult:
    """A tailoring and the reports of the steps that made it."""

    tailoring: Tailoring
    history: tuple[StepReport, ...]


class TrainingDiverged(RuntimeError):
    """A loss or gradient was not finite.

    Attributes:
        step: at which it happened; that step changed nothing.
        result: everything up to the step before.
    """

    def __init__(self, step: int, cause: str, result: TrainingResult):
        super().__init__(f"training stopped at step {step}, where the numbers were no longer finite: {cause}")
        self.step = step
        self.result = result


class _NotFinite(Exception):
    pass


@dataclass(frozen=True)
class _Losses:
    total: Tensor
    diffusion: Tensor
    preservation: Tensor
    attention: Tensor
    worst: int | None


class Training:
    """A training under way. (weights, optimizer, draws) fully determine what the next step leaves.

    Args:
        model: with fresh or loaded LoRA and tokens; they are trained in place.
        references: the concept first, then its components.
    """

    def __init__(self, model: TailorModel, references: Sequence[Reference], config: TailorConfig):
        self.model = model
        self.config = config
        self.class_words = [reference.class_word for reference in references]
        self.resolution = config.resolution or model.family.resolution
        self.pictures = training_pictures(references, self.resolution).to(model.device)
        self.lora = model.lora()
        self.tokens = model.prompts.trained()
        self.momentum: dict[str, Tensor] | None = None
        self.steps_done = 0
        self.optimizer = torch.optim.AdamW(
            [*self.lora.values(), *self.tokens.values()],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
        )
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.precision == torch.float16)

    def phase_of(self, step: int) -> str:
        """The phase of a 1-based step."""
        return WARM_UP if step <= self.config.phase1_train_steps else DS_BAL

    def learning_rate_of(self, step: int) -> float:
        """The learning rate of a 1-based step; each phase has its own."""
        config = self.config
        rate = config.phase1_learning_rate if self.phase_of(step) == WARM_UP else config.phase2_learning_rate
        return rate * len(self.pictures) if config.scale_lr else rate

    def draw(self, step: int) -> StepDraws:
        """The random numbers of a step."""
        return draw_step(
            self.config,
            step,
            batch=len(self.pictures),
            resolution=self.resolution,
            latent_shape=latent_shape(self.model.autoencoder, self.resolution),
            timesteps=self.model.schedule.timesteps,
            device=self.model.device,
        )

    def step(self, draws: StepDraws | None = None) -> StepReport:
        """Make one optimisation step, with the given draws or with those of the seed.

        Raises:
            TrainingDiverged: and leaves everything as it was before the step.
        """
        step = self.steps_done + 1
        draws = (draws or self.draw(step)).to(self.model.device)
        rate = self.learning_rate_of(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.phase_of(step) == DS_BAL and self.momentum is None:
            self.momentum = {name: parameter.detach().clone() for name, parameter in self.lora.items()}

        try:
            losses = self.losses(step, draws)
            self._descend(losses.total)
        except _NotFinite as error:
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingDiverged(step, str(error), self.result(())) from error
        if self.momentum is not None:
            update_momentum(self.momentum, self.lora, self.config.ema_decay)
        self.steps_done = step
        return StepReport(
            step=step,
            total_steps=self.config.total_steps,
            phase=self.phase_of(step),
            learning_rate=rate,
            degradation_weight=self._degradation(step),
            loss=losses.total.item(),
            diffusion=tuple(losses.diffusion.tolist()),
            preservation=losses.preservation.item(),
            attention=losses.attention.item(),
            worst=losses.worst,
        )

    def losses(self, step: int, draws: StepDraws) -> _Losses:
        """All losses of a step, with gradients; changes nothing."""
        model, config = self.model, self.config
        images, masks = augment(self.pictures, draws)
        images = degrade(images, masks, draws.pixel_noise, self._degradation(step))
        latents = encode(model.autoencoder, images, draws.latent_noise, model.family.latent_scale)
        _require_finite(latents, "the VAE's latents are not finite; try another VAE or mixed_precision no")
        noisy = model.schedule.add_noise(latents, draws.noise, draws.timesteps)
        target = model.schedule.target(latents, draws.noise, draws.timesteps)

        owners, count = self.pictures.owners, len(self.class_words)
        sizes = shown_sizes(self.pictures, draws)
        small_masks = shrink(masks, latents.shape[-2:])
        with torch.autocast(model.device.type, model.precision, enabled=model.precision != torch.float32):
            prompts = model.prompts.encode()[owners]
            model.capture.start(model.prompts.columns[owners])
            prediction = model.unet(noisy, draws.timesteps, **prompts.conditions(sizes)).sample
        maps = model.capture.mean_map()
        attention = attention_loss(maps, shrink(masks, maps.shape[-2:])[:, 0]).mean()
        errors = masked_error(prediction, target, small_masks)
        diffusion = mean_per_reference(errors, owners, count)
        _require_finite(diffusion, self._likely_cause(step))

        if self.phase_of(step) == WARM_UP:
            total = errors.mean() + config.lambda_attention * attention
            return _Losses(total, diffusion.detach(), torch.zeros(()), attention.detach(), None)
        loss, index = largest(diffusion)
        worst = int(index)
        preservation = self._preservation(worst, noisy, draws.timesteps, prompts, sizes, prediction, small_masks)
        total = loss + config.lambda_preservation * preservation + config.lambda_attention * attention
        return _Losses(total, diffusion.detach(), preservation.detach(), attention.detach(), worst)

    def _preservation(
        self,
        worst: int,
        noisy: Tensor,
        timesteps: Tensor,
        prompts: EncodedPrompts,
        sizes: Tensor,
        prediction: Tensor,
        masks: Tensor,
    ) -> Tensor:
        owners, count = self.pictures.owners, len(self.class_words)
        others = owners != worst
        if not others.any():
            return prediction.new_zeros(())
        model = self.model
        with (
            torch.no_grad(),
            model.capture.paused(),
            torch.autocast(model.device.type, model.precision, enabled=model.precision != torch.float32),
        ):
            steady = functional_call(
                model.unet,
                self.momentum,
                (noisy[others], timesteps[others]),
                prompts[others].conditions(sizes[others]),
            ).sample
        errors = torch.zeros(len(owners), device=model.device)
        errors = errors.masked_scatter(others, masked_error(prediction[others], steady, masks[others]))
        return preserving(mean_per_reference(errors, owners, count), worst)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.lora.values(), self.config.max_grad_norm)
        # with loss scaling an overflow is expected now and then: the scaler skips that update
        if not self.scaler.is_enabled():
            _require_finite(norm, self._likely_cause(self.steps_done + 1))
            for name, rows in self.tokens.items():
                _require_finite(rows.grad, f"the gradient of the {name} tokens; lower the learning rate")
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _degradation(self, step: int) -> float:
        return degradation_weight(step, self.config.total_steps, self.config.alpha, self.config.gamma)

    def _likely_cause(self, step: int) -> str:
        if step == 1:
            return "the MODEL or CLIP given to training already holds NaN, or a LoRA applied to it does"
        if self.model.precision == torch.float16:
            return "16-bit numbers overflowed; set mixed_precision to bf16 or no"
        return f"a learning rate of {self.learning_rate_of(step):g} is probably too high"

    def result(self, history: Iterable[StepReport]) -> TrainingResult:
        """What has been trained so far, copied to the CPU."""
        tailoring = tailoring_of(self.model, self.class_words, self.config, self.steps_done)
        return TrainingResult(tailoring, tuple(history))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later exactly as if training had not stopped."""
        return deepcopy(
            {
                "steps_done": self.steps_done,
                "lora": {name: parameter.detach() for name, parameter in self.lora.items()},
                "tokens": {key: rows.detach() for key, rows in self.tokens.items()},
                "momentum": self.momentum,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a training where `state_dict` was called."""
        state = deepcopy(state)
        self.steps_done = state["steps_done"]
        with torch.no_grad():
            for name, parameter in (*self.lora.items(), *self.tokens.items()):
                parameter.copy_((state["lora"] | state["tokens"])[name])
        self.momentum = state["momentum"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _require_finite(value: Tensor, cause: str) -> None:
    if not math.isfinite(value.detach().float().sum().item()):
        raise _NotFinite(cause)


def train(
    model: TailorModel,
    references: Sequence[Reference],
    config: TailorConfig,
    callback: Callable[[StepReport], bool | None] | None = None,
) -> TrainingResult:
    """Train a concept and its components.

    Args:
        model: from `build_model`; its LoRA and tokens are trained in place.
        references: the concept first, then its components.
        callback: called after every step; training stops when it returns True.

    Returns:
        the tailoring, unfinished (`Tailoring.finished` is False) if the callback stopped it, and all reports.

    Raises:
        TrainingDiverged: a loss or gradient was not finite; carries the result of the steps before.
    """
    training = Training(model, references, config)
    history: list[StepReport] = []
    while training.steps_done < config.total_steps:
        try:
            history.append(training.step())
        except TrainingDiverged as error:
            error.result = training.result(history)
            raise
        if callback is not None and callback(history[-1]):
            break
    return training.result(history)
