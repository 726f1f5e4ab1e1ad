"""Training runs held against the exact optimum of their problem."""
