"""Keyed noise, trajectories of the denoising MDP, and how much of them at once."""
