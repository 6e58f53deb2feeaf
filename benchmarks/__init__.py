"""Benchmarks: greendaphne beside its peers, in one run on one machine.  ``python -m benchmarks`` does everything; see ``README.rst``."""
