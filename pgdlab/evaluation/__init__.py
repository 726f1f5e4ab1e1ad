"""Measuring a policy: fresh samples, metrics, and what they say."""
