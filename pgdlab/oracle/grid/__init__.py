"""Exact optima of chains of one or two dimensions under any reward, on a grid."""
