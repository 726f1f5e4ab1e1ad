"""Rewards of images in [0, 1], (B, 1, h, w)."""
