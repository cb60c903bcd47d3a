"""How the toy town is tailored and drawn, found on the pairs called TUNING."""

SETTINGS = {
    "phase1_train_steps": 150,
    "phase2_train_steps": 100,
    "phase1_learning_rate": 1e-3,
    "phase2_learning_rate": 1e-3,
    "resolution": 64,
    "lora_rank": 16,
    "lambda_attention": 0.3,
}
SAMPLER_STEPS = 25
GUIDANCE = 3.0
