"""Rewards of molecules: an invalid one is worth 0, and an oracle that fails on a valid one is not measured."""
