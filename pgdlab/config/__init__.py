"""The configuration of a run: groups and experiments, the schema of their nodes, and run folders."""
