"""Released checkpoints to taming files, and back."""
