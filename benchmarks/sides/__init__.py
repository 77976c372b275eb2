"""The CPU benchmark: one workload, one script a side, one table of parts, one page; run by benchmarks/cpu.py."""
