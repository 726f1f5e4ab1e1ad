"""Networks that diffusers does not have."""
