"""Tests with applications of today, in the environment of requirements-modern.txt: ``make test-modern``.

The main run of the tests leaves this folder out, for what it imports is not in the main environment.  The modules import nothing of
``tests`` outside of this folder.
"""
