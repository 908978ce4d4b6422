"""Masking rules: what is hidden in a window. Each rule is one file."""

from stimage.data.sampling.masking._draw import draw_hidden_sites, hide_in_windows
from stimage.data.sampling.masking._registry import MASKINGS, Masking
from stimage.data.sampling.masking._rule import MaskingRule, MaskRandom, hides_a_part

__all__ = ["MASKINGS", "MaskRandom", "Masking", "MaskingRule", "draw_hidden_sites", "hide_in_windows", "hides_a_part"]
