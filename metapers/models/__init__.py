"""Networks with shared and personal parameters; seam.py is the only door to Flax NNX."""
