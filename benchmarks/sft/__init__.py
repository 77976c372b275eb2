"""The supervised-tuning benchmark: one workload, one side a peer, one table; run by benchmarks/cpu_sft.py."""
