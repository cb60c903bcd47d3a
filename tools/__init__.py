"""Scripts around the pack: get a real ComfyUI, make small weights, render references, run a workflow."""
