"""The command line, without ComfyUI: `python -m magictailor`."""
