"""Training: pairs, losses, stages, the engine, ablations."""
