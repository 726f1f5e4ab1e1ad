"""From run folders to tables, statistics and one page."""
