"""From what trajectories earned and cost to what each action is compared by."""
