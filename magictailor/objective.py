"""The loss of one optimisation step, and its gradients in as many parts as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.func import functional_call

from .attention import attention_loss
from .balancing import largest, masked_error, mean_per_reference, min_max_weights, preserving_weights
from .config import TailorConfig
from .degradation import degrade
from .draws import StepDraws
from .latents import encode
from .model import TailorModel
from .references import TrainingPictures, augment, shown_sizes, shrink
from .tokens import EncodedPrompts


@dataclass(frozen=True)
class _Batch:
    """What a step trains on, one entry for each picture: (B, ...)."""

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    masks: Tensor
    small_masks: Tensor
    owners: Tensor
    sizes: Tensor

    def __getitem__(self, chosen: Tensor) -> _Batch:
        return _Batch(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


@dataclass(frozen=True)
class _Losses:
    """One value for each picture, (B,), without gradients."""

    diffusion: Tensor
    preservation: Tensor
    attention: Tensor


@dataclass(frozen=True)
class Losses:
    """The parts of a step's loss.

    Attributes:
        total: what is minimised, ().
        diffusion: L_diff of each reference, (N,).
        preservation: mean L_pres of the references that are held, ().
        attention: L_attn, mean over the pictures, ().
        worst: index of the reference that is improved; None in the warm-up.
        latents: sum of the latents, (), finite if they all are.
    """

    total: Tensor
    diffusion: Tensor
    preservation: Tensor
    attention: Tensor
    worst: int | None
    latents: Tensor


class Objective:
    """What MagicTailor minimises: mean L_diff in the warm-up, min-max and preserving in DS-Bal, L_attn in both.

    Args:
        pictures: of all references, on the model's device.
        count: N, number of references.
        config: gives the weights of the parts, and whether pictures are taken one at a time.
    """

    def __init__(self, model: TailorModel, pictures: TrainingPictures, count: int, config: TailorConfig):
        self.model, self.pictures, self.count, self.config = model, pictures, count, config

    def losses(
        self,
        draws: StepDraws,
        degradation: float,
        momentum: Mapping[str, Tensor] | None,
        backward: Callable[[Tensor], None],
    ) -> Losses:
        """Compute the losses and call `backward` on parts that add up to the total.

        Args:
            degradation: alpha_d of Eq. 5.
            momentum: the averaged LoRA of DS-Bal; None in the warm-up.
            backward: takes a loss (); not to be called for gradients when they are switched off.
        """
        model, config = self.model, self.config
        batch, latents = self._batch(draws, degradation)
        with model.autocast():
            prompts = model.prompts()
        leaves = prompts.detached()
        count, owners = self.count, batch.owners
        chunks = torch.arange(len(owners), device=model.device).split(1 if config.low_memory else len(owners))
        worst = self._worst(batch, prompts, chunks) if momentum is not None and len(chunks) > 1 else None

        parts, total = [], torch.zeros((), device=model.device)
        for chunk in chunks:
            piece = batch[chunk]
            prediction, attention = self._watched(piece, leaves)
            diffusion = masked_error(prediction, piece.target, piece.small_masks)
            preservation = torch.zeros_like(diffusion)
            if momentum is None:
                loss = diffusion.sum() / len(owners)
            else:
                if worst is None:
                    worst = int(largest(mean_per_reference(diffusion.detach(), owners, count)))
                preservation = self._preservation(worst, momentum, piece, prompts, prediction)
                minimised = min_max_weights(owners, worst, count)[chunk] * diffusion
                held = preserving_weights(owners, worst, count)[chunk] * preservation
                loss = minimised.sum() + config.lambda_preservation * held.sum()
            loss = loss + config.lambda_attention * attention.sum() / len(owners)
            backward(loss)
            total = total + loss.detach()
            parts.append(_Losses(diffusion.detach(), preservation.detach(), attention.detach()))
        if torch.is_grad_enabled():
            prompts.backward(leaves)

        diffusion, preservation, attention = (
            torch.cat([getattr(part, f.name) for part in parts]) for f in fields(_Losses)
        )
        held = torch.zeros(()) if worst is None else (preserving_weights(owners, worst, count) * preservation).sum()
        per_reference = mean_per_reference(diffusion, owners, count)
        return Losses(total, per_reference, held, attention.mean(), worst, latents.sum())

    def _batch(self, draws: StepDraws, degradation: float) -> tuple[_Batch, Tensor]:
        model = self.model
        images, masks = augment(self.pictures, draws)
        images = degrade(images, masks, draws.pixel_noise, degradation)
        size = 1 if self.config.low_memory else len(images)
        latents = torch.cat(
            [
                encode(model.autoencoder, some, noise, model.family.latent_scale)
                for some, noise in zip(images.split(size), draws.latent_noise.split(size), strict=True)
            ]
        )
        batch = _Batch(
            noisy=model.schedule.add_noise(latents, draws.noise, draws.timesteps),
            target=model.schedule.target(latents, draws.noise, draws.timesteps),
            timesteps=draws.timesteps,
            masks=masks,
            small_masks=shrink(masks, latents.shape[-2:]),
            owners=self.pictures.owners,
            sizes=shown_sizes(self.pictures, draws),
        )
        return batch, latents

    def _watched(self, batch: _Batch, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        """The U-Net's prediction and L_attn of each picture."""
        model = self.model
        model.capture.start(model.prompts.columns[batch.owners])
        with model.autocast():
            conditions = prompts.conditions(batch.sizes, batch.owners)
            prediction = model.unet(batch.noisy, batch.timesteps, **conditions).sample
        maps = model.capture.mean_map()
        return prediction, attention_loss(maps, shrink(batch.masks, maps.shape[-2:])[:, 0])

    def _worst(self, batch: _Batch, prompts: EncodedPrompts, chunks: Sequence[Tensor]) -> int:
        """Which reference has the largest L_diff, where no more than a chunk fits into memory at a time."""
        errors = []
        with torch.no_grad(), self.model.capture.paused(), self.model.autocast():
            for chunk in chunks:
                piece = batch[chunk]
                conditions = prompts.conditions(piece.sizes, piece.owners)
                prediction = self.model.unet(piece.noisy, piece.timesteps, **conditions).sample
                errors.append(masked_error(prediction, piece.target, piece.small_masks))
        return int(largest(mean_per_reference(torch.cat(errors), batch.owners, self.count)))

    def _preservation(
        self, worst: int, momentum: Mapping[str, Tensor], batch: _Batch, prompts: EncodedPrompts, prediction: Tensor
    ) -> Tensor:
        """L_pres of each picture; the momentum U-Net runs only on those that are held."""
        held = (batch.owners != worst).nonzero().flatten()
        errors = torch.zeros(len(batch.owners), device=self.model.device)
        if len(held) == 0:
            return errors
        others = batch[held]
        with torch.no_grad(), self.model.capture.paused(), self.model.autocast():
            conditions = prompts.conditions(others.sizes, others.owners)
            steady = functional_call(self.model.unet, momentum, (others.noisy, others.timesteps), conditions).sample
        return errors.index_put((held,), masked_error(prediction[held], steady, others.small_masks))
