"""The tamed decoder run layer by layer and tile by tile, so that frames of any size fit."""
