"""What this project claims, as commands."""
