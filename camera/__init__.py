"""The live side: source, analysis, code, generator, compose, sink. Never imports jax, model, export."""
