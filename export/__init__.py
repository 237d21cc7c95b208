"""From a training run to a checked, hashed bundle."""
