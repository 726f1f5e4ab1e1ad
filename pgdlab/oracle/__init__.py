"""Exact optima, to hold trainers against: for the discrete problem as it is sampled, with the error stated."""
