"""How the toy town is tailored and drawn.

Found on the first of the pairs called TUNING, by the sum of both fidelities over 8 pictures: 0.75 with learning rates
of 2e-3 and an attention weight of 0.1; 0.98 with 1e-3, 0.99 with 5e-4, 0.93 with 1e-3 and then 3e-4; 0.85 with an
attention weight of 1 instead of 0.3 (at 1e-3); 1.03 with 400 steps instead of 250 (at 5e-4).
"""

SETTINGS = {
    "phase1_train_steps": 250,
    "phase2_train_steps": 150,
    "phase1_learning_rate": 5e-4,
    "phase2_learning_rate": 5e-4,
    "resolution": 64,
    "lora_rank": 16,
    "lambda_attention": 0.3,
}
SAMPLER_STEPS = 25
GUIDANCE = 3.0


def of_steps(steps: int) -> dict[str, float]:
    """The same for another number of steps, shared out between the phases alike."""
    phases = SETTINGS["phase1_train_steps"], SETTINGS["phase2_train_steps"]
    warm_up = round(steps * phases[0] / sum(phases))
    return SETTINGS | {"phase1_train_steps": warm_up, "phase2_train_steps": steps - warm_up}
