"""Tools of the maintainers: packages, their checks, and runs of the tests on each version of Python.  ``make help`` names the targets."""
