"""The directory that the installation puts at the end of Python's path: it has a module ``daphne`` for environments without daphne."""
