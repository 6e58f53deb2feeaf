"""The directory that the installation puts at the end of Python's path: it has a ``daphne`` for processes that have none."""
