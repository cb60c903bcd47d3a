"""The loss of one optimisation step, and its gradients in as many parts as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from .attention_loss import attention_loss
from .backbones.protocol import Backbone, Prompts
from .balancing import DS_BAL, WARM_UP, balance, masked_error, mean_per_reference
from .config import TailorConfig
from .degradation import degrade
from .draws import StepDraws
from .pictures import TrainingPictures, augment, shown_sizes, shrink

# an autoencoder is busy with so many; taking more at a time saves no time and costs memory
ENCODED_PIXELS = 512 * 512


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


class _Predicted(NamedTuple):
    """The network's prediction (B, C, h, w), and L_diff and L_attn of each picture."""

    answer: Tensor
    diffusion: Tensor
    attention: Tensor


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
        counts: number of pictures of each reference.
        config: gives the weights of the parts.
    """

    def __init__(
        self, model: Backbone, pictures: TrainingPictures, counts: Sequence[int], config: TailorConfig
    ) -> None:
        self.model, self.pictures, self.count, self.config = model, pictures, len(counts), config
        owner = [n for n, size in enumerate(counts) for _ in range(size)]
        self.others = [
            torch.tensor([i for i, other in enumerate(owner) if other != n], dtype=torch.long, device=model.device)
            for n in range(len(counts))
        ]

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
        chunks = self._chunks(torch.arange(len(batch), device=owners.device))
        predicted: list[_Predicted | None] = []
        if momentum is None:
            weights = balance(batch.noisy.new_zeros(len(batch)), owners, self.count, WARM_UP)
            steady = torch.zeros_like(batch.noisy)
        else:
            # which reference is the worst is known when all have been looked at; with gradients, if that many fit
            if len(chunks) == 1 or self.model.plan.checkpointing:
                predicted = [self._predicted(batch[chunk], leaves) for chunk in chunks]
                errors = torch.cat([known.diffusion.detach() for known in predicted if known])
            else:
                errors = torch.cat([self._diffusion(batch[chunk], prompts) for chunk in chunks])
            weights = balance(errors, owners, self.count, DS_BAL)
            steady = self._steady(batch, weights, momentum, prompts)

        total, parts = torch.zeros((), device=owners.device), []
        for number, chunk in enumerate(chunks):
            piece = batch[chunk]
            known = predicted[number] if predicted else None
            if known is None:
                known = self._predicted(piece, leaves)
            else:
                predicted[number] = None
                self.model.watch_again(self._watched(piece))
            w_diff, w_pres = (w[chunk] for w in weights)
            l_pres = w_pres * masked_error(known.answer, steady[chunk], piece.small_masks)
            loss = (
                (w_diff * known.diffusion).sum()
                + config.lambda_preservation * l_pres.sum()
                + config.lambda_attention * known.attention.sum() / len(batch)
            )
            backward(loss)
            total = total + loss.detach()
            parts.append([part.detach() for part in (known.diffusion, l_pres, known.attention)])
            del known, loss, l_pres
        if torch.is_grad_enabled():
            prompts.backward(leaves)

        diffusion, held, attention = (torch.cat(part) for part in zip(*parts, strict=True))
        per_reference = mean_per_reference(diffusion, owners, self.count)
        return Losses(total, per_reference, held.sum(), attention.mean(), latents.sum())

    def _batch(self, draws: StepDraws, degradation: float) -> tuple[_Batch, Tensor]:
        model = self.model
        images, masks = augment(self.pictures, draws)
        images = degrade(images, masks, draws.pixel_noise, degradation)
        size = max(1, ENCODED_PIXELS // images[0, 0].numel())
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

    def _chunks(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Indices of pictures in parts that are taken at a time."""
        return pictures.split(self.model.plan.at_once or max(len(pictures), 1))

    def _watched(self, batch: _Batch) -> Tensor:
        return self.model.token_columns()[batch.owners]

    def _predicted(self, batch: _Batch, prompts: Prompts) -> _Predicted:
        prediction = self.model.predict(
            batch.noisy,
            batch.timesteps,
            prompts,
            sizes=batch.sizes,
            owners=batch.owners,
            watch=self._watched(batch),
        )
        maps = prediction.maps
        assert maps is not None
        return _Predicted(
            prediction.answer,
            masked_error(prediction.answer, batch.target, batch.small_masks),
            attention_loss(maps, shrink(batch.masks, maps.shape[-2:])[:, 0]),
        )

    @torch.no_grad()
    def _diffusion(self, batch: _Batch, prompts: Prompts) -> Tensor:
        """L_diff of each picture, ahead of the pass with gradients, where not all pictures fit into memory at once."""
        prediction = self.model.predict(
            batch.noisy, batch.timesteps, prompts, sizes=batch.sizes, owners=batch.owners
        ).answer
        return masked_error(prediction, batch.target, batch.small_masks)

    @torch.no_grad()
    def _steady(
        self, batch: _Batch, weights: tuple[Tensor, Tensor], momentum: Mapping[str, Tensor], prompts: Prompts
    ) -> Tensor:
        """What the momentum network predicts for the pictures that are held; 0 for the others, which it never sees."""
        held = self._held(*weights)
        steady = torch.zeros_like(batch.noisy)
        # a single reference has no others
        for chunk in self._chunks(held) if len(held) else ():
            piece = batch[chunk]
            answer = self.model.predict(
                piece.noisy, piece.timesteps, prompts, sizes=piece.sizes, owners=piece.owners, lora=momentum
            ).answer
            steady[chunk] = answer.to(steady.dtype)
        return steady

    def _held(self, w_diff: Tensor, w_pres: Tensor) -> Tensor:
        """Indices of the pictures whose weight in L_pres is not 0."""
        counts = {len(pictures) for pictures in self.others}
        if len(counts) == 1:
            # as many whichever reference is the worst, so the choice can stay on the device
            return w_pres.argsort(descending=True, stable=True)[: counts.pop()]
        return self.others[int(self.pictures.owners.take(w_diff.argmax()))]
