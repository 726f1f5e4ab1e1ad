"""The tasks of run.py: one a file, each with a main(cfg)."""
