"""Molecules: what a generated graph means to a chemist. RDKit does the chemistry."""
