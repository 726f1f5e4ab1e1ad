"""Rewards of plans: of paths past walls and blocks."""
