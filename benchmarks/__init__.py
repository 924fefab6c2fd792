"""What this project costs and what it is worth: `python -m benchmarks.NAME [--json FILE] [--quick]`.

NAME: trial_overhead, throughput, search, scale or gpu. docs/performance.md says what came out; results/ keeps the
figures with their hardware, versions and commit.
"""
