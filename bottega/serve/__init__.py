"""A model answers many at once: continuous batching, adapters by name, and an OpenAI-compatible server over it."""
