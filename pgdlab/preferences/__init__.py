"""Preferences: pairs of samples, who says which is better, and the scores that explain it."""
