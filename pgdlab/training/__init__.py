"""Training with lightning.Trainer: the module, its optimizer, callbacks, loggers, and the checks before a run."""
