"""Fields and paths that follow a law: data of the project's own solvers, residuals, and the same solved again."""
