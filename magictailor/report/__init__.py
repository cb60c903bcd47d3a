"""Pictures of a training and of what a tailoring sees."""
