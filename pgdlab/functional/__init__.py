"""Pure maths: every function states its equation and its source."""
