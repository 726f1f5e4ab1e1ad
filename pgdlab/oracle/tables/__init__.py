"""Finite MDPs, solved exactly, and policy gradients held against them."""
