"""Environments, and how many of them are stepped side by side."""
