"""Floor 2: any Hugging Face model loaded, laid out, scored, tuned, merged and sampled."""
