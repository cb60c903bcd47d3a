"""The training of MagicTailor (arXiv 2410.13370): one loop, two phases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .backbones.precision import encoding_dtype, has_fused_adam
from .backbones.protocol import Backbone
from .balancing import DS_BAL, WARM_UP, update_momentum
from .config import TailorConfig
from .degradation import degradation_weight
from .draws import StepDraws, draw_step
from .formats.small_references import small_references
from .memory import (
    Choice,
    MemoryPlan,
    Step,
    choose,
    free_memory,
    give_back,
    is_out_of_memory,
    predicted_peak,
    smaller,
)
from .objective import Losses, Objective
from .pictures import training_pictures
from .reference import Reference
from .tailoring import Tailoring, tailoring_of


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        step: 1-based, over both phases.
        total_steps: of both phases.
        phase: "warm-up" or "DS-Bal".
        learning_rate: the LoRA was changed with.
        degradation_weight: alpha_d of Eq. 5.
        loss: what was minimised.
        diffusion: L_diff of each reference, the concept's first.
        preservation: mean L_pres of the references that were held; 0 in the warm-up.
        attention: L_attn, mean over the pictures.
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

    @property
    def worst(self) -> int | None:
        """Index of the reference that was improved; None in the warm-up."""
        return None if self.phase == WARM_UP else self.diffusion.index(max(self.diffusion))


@dataclass(frozen=True)
class TrainingResult:
    """A tailoring and the reports of the steps that made it."""

    tailoring: Tailoring
    history: tuple[StepReport, ...]


class TrainingDiverged(RuntimeError):
    """A loss or gradient was not finite; the training is as it was before that step.

    Attributes:
        step: at which it happened.
    """

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"training stopped at step {step}, where the numbers were no longer finite: {cause}")
        self.step = step


class _NotFinite(Exception):
    pass


class Training:
    """A training under way: `for report in training:` makes one step after the other until all are done.

    (weights, optimizer, draws) fully determine what the next step leaves. Whatever ends the loop, what was learned
    before is whole: see `result`.

    Args:
        model: with fresh or loaded LoRA and tokens; they are trained in place.
        references: the concept first, then its components.
        free: bytes the device has for it; None: as the device says.
        plan: to begin with; None: what `config.memory` and the free bytes come to.

    Attributes:
        memory: the plan by which steps are made, and why. A step that runs out of memory is made again by the next one.
        small_references: what its tailorings carry of the references' pictures.
        steps_done: how many steps it has made.
        history: the reports of these steps.
        whole: False while a step changes what is trained. Whatever ends a step then, the LoRA, the tokens and the
            optimizer belong to different steps, and `state` is of no use.
    """

    def __init__(
        self,
        model: Backbone,
        references: Sequence[Reference],
        config: TailorConfig,
        free: int | None = None,
        plan: MemoryPlan | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.class_words = [reference.class_word for reference in references]
        self.resolution = config.resolution or model.family.resolution
        self.lora = model.lora()
        self.tokens = model.token_rows()
        self.needs = self._needs([len(reference) for reference in references])
        free = free_memory(model.device) if free is None else free
        if plan is None:
            self.memory = choose(config.memory, self.needs, free, self._away)
        else:
            self.memory = Choice(plan, predicted_peak(plan, self.needs), free)
        model.arrange(self.memory.plan)
        self.pictures = training_pictures(references, self.resolution).to(model.device)
        self.small_references = small_references(references)
        self.history: list[StepReport] = []
        self.objective = Objective(model, self.pictures, [len(reference) for reference in references], config)
        self.momentum: dict[str, Tensor] | None = None
        self.steps_done = 0
        self.whole = True
        self.optimizer = torch.optim.AdamW(
            [{"params": list(self.lora.values())}, {"params": list(self.tokens.values())}],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
            fused=has_fused_adam(model.device),
        )
        self.scaler = self._new_scaler()

    def __iter__(self) -> Iterator[StepReport]:
        while self.steps_done < self.config.total_steps:
            yield self.step()

    def phase_of(self, step: int) -> str:
        """The phase of a 1-based step."""
        return WARM_UP if step <= self.config.phase1_train_steps else DS_BAL

    def learning_rate_of(self, step: int) -> float:
        """The LoRA's learning rate in a 1-based step; each phase has its own."""
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
            latent_shape=self.model.latent_shape(self.resolution, self.resolution),
            draw_timesteps=self.model.draw_timesteps,
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
        of_lora, of_tokens = self.optimizer.param_groups
        of_lora["lr"], of_tokens["lr"] = rate, rate * self.config.token_lr_scale
        try:
            losses = self._descended(step, draws)
        except _NotFinite as error:
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingDiverged(step, str(error)) from error
        if self.momentum is not None:
            update_momentum(self.momentum, self.lora, self.config.ema_decay)
        report = StepReport(
            step=step,
            total_steps=self.config.total_steps,
            phase=self.phase_of(step),
            learning_rate=rate,
            degradation_weight=self._degradation(step),
            **losses,
        )
        self.history.append(report)
        self.steps_done = step
        self.whole = True
        return report

    def _descended(self, step: int, draws: StepDraws) -> dict[str, Any]:
        """One update, by a smaller plan where the one before runs out of memory."""
        while True:
            try:
                if self.phase_of(step) == DS_BAL and self.momentum is None:
                    self.momentum = {name: parameter.detach().clone() for name, parameter in self.lora.items()}
                return self._descend(step, draws)
            except (RuntimeError, MemoryError) as error:
                smaller_plan = smaller(self.memory, self.needs, self._away)
                # what is trained has begun to change once it is no longer whole
                if smaller_plan is None or not self.whole or not is_out_of_memory(error):
                    raise
            # only here is nothing left of the step that failed
            self.optimizer.zero_grad(set_to_none=True)
            scale = self.scaler.state_dict()
            self.scaler = self._new_scaler()
            self.scaler.load_state_dict(scale)
            self.memory = smaller_plan
            self.model.arrange(smaller_plan.plan)
            give_back(self.model.device)

    def losses(self, step: int, draws: StepDraws) -> Losses:
        """All losses of a step, without gradients; changes nothing."""
        with torch.no_grad():
            return self._losses(step, draws, lambda loss: None)

    def _losses(self, step: int, draws: StepDraws, backward: Callable[[Tensor], None]) -> Losses:
        momentum = self.momentum if self.phase_of(step) == DS_BAL else None
        return self.objective.losses(draws, self._degradation(step), momentum, backward)

    def _descend(self, step: int, draws: StepDraws) -> dict[str, Any]:
        """One update; what it was made from, as plain numbers."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(step, draws, lambda loss: self.scaler.scale(loss).backward())
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.lora.values(), self.config.max_grad_norm)
        tokens = torch.stack([rows.grad.sum() for rows in self.tokens.values() if rows.grad is not None]).sum()
        # everything a person may want to see comes from the device at once
        numbers = torch.stack(
            [
                n.to(norm.device)
                for n in (losses.latents, losses.total, norm, tokens, losses.preservation, losses.attention)
            ]
            + list(losses.diffusion)
        ).tolist()
        latents, total, norm, tokens, preservation, attention, *diffusion = numbers
        if not math.isfinite(latents):
            raise _NotFinite("the VAE's latents are not finite; try another VAE or mixed_precision no")
        # with loss scaling an overflow of gradients is expected now and then: the scaler skips that update
        if not math.isfinite(total) or not (self.scaler.is_enabled() or math.isfinite(norm + tokens)):
            raise _NotFinite(self._likely_cause(step))
        self.whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {
            "loss": total,
            "diffusion": tuple(diffusion),
            "preservation": preservation,
            "attention": attention,
        }

    @property
    def _away(self) -> bool:
        """Whether weights can be elsewhere than on the device."""
        return self.model.device.type != "cpu"

    def _needs(self, counts: Sequence[int]) -> Step:
        return Step(
            pictures=sum(counts),
            references=len(counts),
            area=(self.resolution / self.model.family.resolution) ** 2,
            width=self.model.precision.itemsize,
            encoding_width=encoding_dtype(self.model.precision).itemsize,
            trained=sum(tensor.numel() for tensor in self.lora.values()),
            weights=self.model.weights(),
            appetite=self.model.family.appetite,
        )

    def _new_scaler(self) -> torch.GradScaler:
        return torch.GradScaler(self.model.device.type, enabled=self.model.precision == torch.float16)

    def _degradation(self, step: int) -> float:
        return degradation_weight(step, self.config.total_steps, self.config.alpha, self.config.gamma)

    def _likely_cause(self, step: int) -> str:
        if step == 1:
            return "the model or its text encoder already held NaN, or a LoRA that was applied to it did"
        if self.model.precision == torch.float16:
            return "16-bit numbers overflowed; set mixed_precision to bf16 or no"
        return f"a learning rate of {self.learning_rate_of(step):g} is probably too high"

    def result(self) -> TrainingResult:
        """What has been trained so far, copied to the CPU."""
        tailoring = tailoring_of(self.model, self.class_words, self.config, self.steps_done, self.small_references)
        return TrainingResult(tailoring, tuple(self.history))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later exactly as if training had not stopped: a copy of `state`."""
        return deepcopy(self.state())

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on, as it is until then.

        Returns:
            steps_done; history: reports; lora, tokens: tensors by name; momentum: the averaged LoRA by name, None in
            the warm-up; optimizer: AdamW's tensors by number of the parameter, the LoRA's before the tokens'; scaler:
            numbers of the loss scaling, empty without.
        """
        return {
            "steps_done": self.steps_done,
            "history": self.history,
            "lora": {name: parameter.detach() for name, parameter in self.lora.items()},
            "tokens": {key: rows.detach() for key, rows in self.tokens.items()},
            "momentum": self.momentum,
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a training where `state_dict` or `state` was called.

        The learning rates, and what else the optimizer is set to, stay those of this training's config.
        """
        state = deepcopy(state)
        self.steps_done = state["steps_done"]
        self.history = state["history"]
        with torch.no_grad():
            for name, parameter in (*self.lora.items(), *self.tokens.items()):
                parameter.copy_((state["lora"] | state["tokens"])[name])
        momentum = state["momentum"]
        self.momentum = momentum and {name: tensor.to(self.model.device) for name, tensor in momentum.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])


def train(
    model: Backbone,
    references: Sequence[Reference],
    config: TailorConfig,
    callback: Callable[[StepReport], bool | None] = lambda report: None,
) -> TrainingResult:
    """Train a concept and its components.

    Args:
        model: from `Family.build`; its LoRA and tokens are trained in place.
        references: the concept first, then its components.
        callback: called after every step; training stops when it returns True.

    Returns:
        the tailoring, unfinished (`Tailoring.finished` is False) if the callback stopped it, and all reports.

    Raises:
        TrainingDiverged: a loss or gradient was not finite. To keep what was learned before, hold a `Training`.
    """
    training = Training(model, references, config)
    for report in training:
        if callback(report):
            break
    return training.result()
