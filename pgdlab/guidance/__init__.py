"""Steering without training: the base's weights stay as they are."""
