"""What a plan means to people who move things: maps, shortest paths, demonstrations, figures, pictures, execution."""
