"""Reward modules, and what wraps them."""
