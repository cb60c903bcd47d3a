"""Many trainings at once: what a study asks for, who does it, and what is shown of it."""
