"""Cleaning: steps that reject or rewrite samples, each with its counts and examples (the table is in steps.py)."""
