"""Masks from words: Grounding DINO finds boxes, Segment Anything outlines what is in them."""
