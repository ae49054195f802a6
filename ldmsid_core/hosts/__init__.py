"""Frozen Stable Diffusion hosts through diffusers, and sampling."""
