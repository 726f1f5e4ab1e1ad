"""Penalties: what keeps the tuned policy near the pretrained one."""
