"""Networks, training data and training in JAX."""
