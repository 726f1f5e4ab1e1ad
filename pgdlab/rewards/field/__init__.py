"""Rewards of samples that are to follow a law: its residual, and how far they are from being solved again."""
