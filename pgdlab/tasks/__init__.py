"""What run.py can do: one task a file, each with a main(cfg)."""
