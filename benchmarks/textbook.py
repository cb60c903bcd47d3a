"""The published recipe written plainly, to compare with: nothing is shared, skipped or fused.

A deep copy of the whole U-Net as momentum model, run on every image; every attention map of 32x32 and below kept; the
text encoder run on one prompt per image, its whole table in the optimizer and all but the new rows put back after each
step. Written from the paper (arXiv 2410.13370) and the
description of its released program; where they differ it follows the paper.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel

from magictailor.backbones.stable_diffusion import UNetFamily
from magictailor.backbones.stable_diffusion.schedule import NoiseSchedule
from magictailor.config import TailorConfig
from magictailor.draws import StepDraws
from magictailor.pictures import TrainingPictures, augment

LARGEST_STORED_MAP = 32 * 32


class StoringAttention:
    """Attention that materialises its probabilities and keeps them when the map is small enough."""

    def __init__(self, store: dict[str, list[Tensor]], place: str):
        self.store, self.place = store, place

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        crosses = encoder_hidden_states is not None
        context = encoder_hidden_states if crosses else hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(context))
        value = attn.head_to_batch_dim(attn.to_v(context))
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        if hidden_states.shape[1] <= LARGEST_STORED_MAP:
            self.store.setdefault(f"{self.place}_{'cross' if crosses else 'self'}", []).append(probabilities)
        mixed = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](mixed))


class Textbook:
    """The recipe's training loop body on one text encoder and an epsilon- or velocity-predicting U-Net.

    Args:
        unet, encoder, autoencoder: ordinary modules; they are changed.
        lora: first values of the LoRA, by peft's names, so that a comparison starts from the same weights.
        prompts: (N, 77) ids of each reference's prompt, new tokens being the last N ids of the extended table.
        columns: (N,) position of each new token in its prompt.
        rows: (N, width) first values of the new tokens.
        device_type, precision: of autocast; float32 means none.
    """

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        encoder: CLIPTextModel,
        autoencoder,
        family: UNetFamily,
        schedule: NoiseSchedule,
        pictures: TrainingPictures,
        config: TailorConfig,
        lora: Mapping[str, Tensor],
        prompts: Tensor,
        columns: Tensor,
        rows: Tensor,
        precision: torch.dtype = torch.float32,
    ):
        self.config, self.pictures, self.family = config, pictures, family
        self.schedule, self.autoencoder, self.precision = schedule, autoencoder, precision
        self.prompts, self.columns = prompts[pictures.owners], columns[pictures.owners]
        self.references = len(prompts)

        self.unet = unet.requires_grad_(False)
        rank = config.lora_rank
        targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.2"]
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        parameters = dict(self.unet.named_parameters())
        self.lora = {name: parameters[name] for name in lora}
        with torch.no_grad():
            for name, value in lora.items():
                self.lora[name].copy_(value)

        self.encoder = encoder.requires_grad_(False)
        body = getattr(encoder, "text_model", encoder)
        old = body.embeddings.token_embedding.weight
        table = torch.nn.Embedding(len(old) + len(rows), old.shape[1], device=old.device)
        with torch.no_grad():
            table.weight.copy_(torch.cat([old, rows]))
        body.embeddings.token_embedding = table
        self.table, self.final_norm = table, body.final_layer_norm
        self.old_rows = old.detach().clone()

        self.stored: dict[str, list[Tensor]] = {}
        self._store_attention(self.unet, self.stored)
        self.momentum: UNet2DConditionModel | None = None
        self.optimizer = torch.optim.AdamW(
            [*self.lora.values(), table.weight],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
        )
        self.steps_done = 0

    def step(self, draws: StepDraws) -> dict[str, Tensor]:
        """One optimisation step; returns the loss and its parts. Gradients stay on the parameters."""
        config, step = self.config, self.steps_done + 1
        balancing = step > config.phase1_train_steps
        for group in self.optimizer.param_groups:
            group["lr"] = config.phase2_learning_rate if balancing else config.phase1_learning_rate
        self.stored.clear()
        if balancing and self.momentum is None:
            self.momentum = copy.deepcopy(self.unet).requires_grad_(False)
            self._store_attention(self.momentum, {})

        with torch.autocast(self.pictures.images.device.type, self.precision, enabled=self.precision != torch.float32):
            parts = self._losses(step, draws, balancing)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_(list(self.lora.values()), config.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.table.weight[: len(self.old_rows)] = self.old_rows
        if self.momentum is not None:
            with torch.no_grad():
                for average, online in zip(self.momentum.parameters(), self.unet.parameters(), strict=True):
                    average.copy_(config.ema_decay * average + (1 - config.ema_decay) * online)
        self.steps_done = step
        return {name: value.detach() for name, value in parts.items()}

    def _losses(self, step: int, draws: StepDraws, balancing: bool) -> dict[str, Tensor]:
        config = self.config
        images, masks = augment(self.pictures, draws)
        weight = config.alpha * (1 - (step / config.total_steps) ** config.gamma)
        images = torch.clamp(images + weight * draws.pixel_noise * (1 - masks), -1, 1)
        with torch.no_grad():
            posterior = self.autoencoder.encode(images).latent_dist
            latents = (posterior.mean.float() + posterior.std.float() * draws.latent_noise) * self.family.latent_scale
        noisy = self.schedule.add_noise(latents, draws.noise, draws.timesteps)
        target = self.schedule.target(latents, draws.noise, draws.timesteps)

        hidden = self.final_norm(self.encoder(self.prompts, output_hidden_states=True).hidden_states[-1])
        prediction = self.unet(noisy, draws.timesteps, hidden).sample
        small = F.interpolate(masks, latents.shape[-2:], mode="area")
        each = ((target * small - prediction.float() * small) ** 2).mean(dim=(1, 2, 3))
        diffusion = torch.stack([each[self.pictures.owners == n].mean() for n in range(self.references)])
        attention = self._attention_loss(masks)

        if not balancing:
            loss = each.mean() + config.lambda_attention * attention
            return {"loss": loss, "diffusion": diffusion, "attention": attention}
        worst = int(diffusion.argmax())
        with torch.no_grad():
            steady = self.momentum(noisy, draws.timesteps, hidden).sample
        held = ((steady.float() * small - prediction.float() * small) ** 2).mean(dim=(1, 2, 3))
        others = [held[self.pictures.owners == n].mean() for n in range(self.references) if n != worst]
        preservation = torch.stack(others).mean()
        loss = diffusion[worst] + config.lambda_preservation * preservation + config.lambda_attention * attention
        return {"loss": loss, "diffusion": diffusion, "attention": attention, "preservation": preservation}

    def _attention_loss(self, masks: Tensor) -> Tensor:
        maps = self.stored["down_cross"] + self.stored["up_cross"]
        coarsest = min(m.shape[1] for m in maps)
        batch = len(self.prompts)
        mean = torch.stack([m.float().unflatten(0, (batch, -1)).mean(1) for m in maps if m.shape[1] == coarsest]).mean(
            0
        )
        side = round(coarsest**0.5)
        losses = []
        for n in range(batch):
            seen = mean[n, :, self.columns[n]].view(side, side)
            wanted = F.interpolate(masks[n : n + 1], (side, side), mode="area")[0, 0]
            losses.append(((seen / seen.max() - wanted) ** 2).mean())
        return torch.stack(losses).mean()

    @staticmethod
    def _store_attention(unet: UNet2DConditionModel, store: dict[str, list[Tensor]]) -> None:
        for name, module in unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                module.set_processor(StoringAttention(store, name.partition("_")[0]))


def textbook_of(training, parts: Sequence[torch.nn.Module]) -> Textbook:
    """The textbook counterpart of a fresh `magictailor.training.Training`, on its own copies of the plain parts.

    Args:
        training: one text encoder, no step made yet.
        parts: U-Net, text encoder and autoencoder with the same weights, without LoRA and new tokens.
    """
    unet, encoder, autoencoder = parts
    model = training.model
    key = model.family.text_encoders[0].key
    return Textbook(
        unet=unet,
        encoder=encoder,
        autoencoder=autoencoder,
        family=model.family,
        schedule=model.schedule,
        pictures=training.pictures,
        config=training.config,
        lora={name: p.detach().clone() for name, p in training.lora.items()},
        prompts=getattr(model.prompts, f"ids_{key}"),
        columns=model.prompts.columns[:, 0],
        rows=model.prompts.rows(key).detach().clone(),
        precision=model.precision,
    )
