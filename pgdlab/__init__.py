"""pgdlab: steer diffusion models toward measurable goals with reinforcement learning, and compare the ways honestly."""

__version__ = "0.1.0"
