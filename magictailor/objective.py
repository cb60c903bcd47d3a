"""The loss of one optimisation step, and its gradients in as many parts as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .attention_loss import attention_loss
from .backbones.protocol import Backbone, Prompts
from .balancing import DS_BAL, WARM_UP, balance, masked_error, mean_per_reference
from .config import TailorConfig
from .degradation import degrade
from .draws import StepDraws
from .pictures import TrainingPictures, augment, shown_sizes, shrink


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

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, chosen: Tensor) -> _Batch:
        return _Batch(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


@dataclass(frozen=True)
class Losses:
    """The parts of a step's loss.

    Attributes:
        total: what is minimised, ().
        diffusion: L_diff of each reference, (N,).
        preservation: mean L_pres of the references that are held, ().
        attention: L_attn, mean over the pictures, ().
        latents: sum of the latents, (), finite if they all are.
    """

    total: Tensor
    diffusion: Tensor
    preservation: Tensor
    attention: Tensor
    latents: Tensor


class Objective:
    """What MagicTailor minimises.

        sum(w_diff * L_diff) + lambda_pres * sum(w_pres * L_pres) + lambda_attn * mean(L_attn)

    with the weights of `balancing.balance`: mean L_diff in the warm-up, min-max and preserving in DS-Bal.

    Args:
        pictures: of all references, on the backbone's device.
        count: N, number of references.
        config: gives the weights of the parts, and whether pictures are taken one at a time.
    """

    def __init__(self, model: Backbone, pictures: TrainingPictures, count: int, config: TailorConfig) -> None:
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
        config, owners = self.config, self.pictures.owners
        batch, latents = self._batch(draws, degradation)
        prompts = self.model.reference_prompts()
        leaves = prompts.detached()
        chunks = torch.arange(len(batch), device=owners.device).split(1 if config.low_memory else len(batch))
        if momentum is None:
            weights = balance(batch.noisy.new_zeros(len(batch)), owners, self.count, WARM_UP)
        elif len(chunks) > 1:
            errors = torch.cat([self._diffusion(batch[chunk], prompts) for chunk in chunks])
            weights = balance(errors, owners, self.count, DS_BAL)
        else:
            weights = None

        total, parts = torch.zeros((), device=owners.device), []
        for chunk in chunks:
            piece = batch[chunk]
            prediction, l_attn = self._predicted(piece, leaves)
            l_diff = masked_error(prediction, piece.target, piece.small_masks)
            if weights is None:
                weights = balance(l_diff.detach(), owners, self.count, DS_BAL)
            w_diff, w_pres = (w[chunk] for w in weights)
            l_pres = self._preservation(w_pres, momentum, piece, prompts, prediction)
            loss = (
                (w_diff * l_diff).sum()
                + config.lambda_preservation * (w_pres * l_pres).sum()
                + config.lambda_attention * l_attn.sum() / len(batch)
            )
            backward(loss)
            total = total + loss.detach()
            parts.append([part.detach() for part in (l_diff, w_pres * l_pres, l_attn)])
        if torch.is_grad_enabled():
            prompts.backward(leaves)

        diffusion, held, attention = (torch.cat(part) for part in zip(*parts, strict=True))
        per_reference = mean_per_reference(diffusion, owners, self.count)
        return Losses(total, per_reference, held.sum(), attention.mean(), latents.sum())

    def _batch(self, draws: StepDraws, degradation: float) -> tuple[_Batch, Tensor]:
        model = self.model
        images, masks = augment(self.pictures, draws)
        images = degrade(images, masks, draws.pixel_noise, degradation)
        size = 1 if self.config.low_memory else len(images)
        latents = torch.cat(
            [
                model.encode(some, noise)
                for some, noise in zip(images.split(size), draws.latent_noise.split(size), strict=True)
            ]
        )
        noisy, target = model.noised(latents, draws.noise, draws.timesteps)
        batch = _Batch(
            noisy=noisy,
            target=target,
            timesteps=draws.timesteps,
            masks=masks,
            small_masks=shrink(masks, latents.shape[-2:]),
            owners=self.pictures.owners,
            sizes=shown_sizes(self.pictures, draws),
        )
        return batch, latents

    def _predicted(self, batch: _Batch, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """The network's prediction, and L_attn of each picture."""
        prediction = self.model.predict(
            batch.noisy,
            batch.timesteps,
            prompts,
            sizes=batch.sizes,
            owners=batch.owners,
            watch=self.model.token_columns()[batch.owners],
        )
        maps = prediction.maps
        assert maps is not None
        return prediction.answer, attention_loss(maps, shrink(batch.masks, maps.shape[-2:])[:, 0])

    @torch.no_grad()
    def _diffusion(self, batch: _Batch, prompts: Prompts) -> Tensor:
        """L_diff of each picture, ahead of the pass with gradients, where not all pictures fit into memory at once."""
        prediction = self.model.predict(
            batch.noisy, batch.timesteps, prompts, sizes=batch.sizes, owners=batch.owners
        ).answer
        return masked_error(prediction, batch.target, batch.small_masks)

    def _preservation(
        self,
        weights: Tensor,
        momentum: Mapping[str, Tensor] | None,
        batch: _Batch,
        prompts: Prompts,
        prediction: Tensor,
    ) -> Tensor:
        """L_pres of each picture; the momentum network runs only on those that are held, whose weight is not 0."""
        errors = torch.zeros_like(weights)
        if momentum is None:
            return errors
        held = weights.nonzero().flatten()
        if len(held) == 0:
            return errors
        others = batch[held]
        with torch.no_grad():
            steady = self.model.predict(
                others.noisy, others.timesteps, prompts, sizes=others.sizes, owners=others.owners, lora=momentum
            ).answer
        return errors.index_put((held,), masked_error(prediction[held], steady, others.small_masks))
