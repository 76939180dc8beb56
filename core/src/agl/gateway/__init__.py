"""Gateway: the URL that an attempt's LLM calls go through; it forwards them and records each as a span."""
