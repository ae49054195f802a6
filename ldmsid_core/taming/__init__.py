"""Taming modules: structure encoder, SFT layers, decoder fusions, attach, checkpoints."""
