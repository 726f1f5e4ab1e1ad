"""Training algorithms: one a file, over one base."""
