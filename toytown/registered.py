"""Importing this makes the toy town known to the library, in processes of a batch too: for `imports` of a study."""

from magictailor import backbones

from .model import family

family(backbones)
