"""The papers' claims, measured again, and questions of our own: each with an interval and a verdict.

    python -m benchmarks.claims

reads the studies in examples/ and the timings in benchmarks/results/, and writes benchmarks/results/claims.json, the
page on claims, the table of studies and the counts in the README. Nothing is trained. A study that has finished is
added by copying its results.json to examples/reproduction/NAME (`--collect` does it, from unfinished folders too), and
running this again.
"""
