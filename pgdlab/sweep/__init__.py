"""Sweeps: many runs of this program, described by a W&B sweep file, on one machine or a Ray cluster."""
