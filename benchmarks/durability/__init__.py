"""What becomes of trainings and files when everything goes wrong; see `__main__`."""
