"""The live side: source, analysis, code, generator, compose, sink. It never imports jax."""
