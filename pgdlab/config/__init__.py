"""What a run is made of: groups and experiments, their schema, and run folders."""
