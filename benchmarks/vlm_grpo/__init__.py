"""The processes that `benchmarks/vlm_grpo_step.py` lets run in turn, and what they share."""
