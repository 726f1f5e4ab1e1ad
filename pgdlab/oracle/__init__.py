"""Exact optima, which trainers are measured against: of the discrete problem as it is sampled, with the error stated."""
