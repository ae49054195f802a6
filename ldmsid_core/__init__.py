"""LDM-SID: dark camera RAW files become photographs with a tamed latent diffusion model."""
