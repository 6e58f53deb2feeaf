"""Mutation testing: ``python -m tests.mutation`` changes one expression of the server at a time and runs the tests that concern it.

:mod:`.mutants` makes the mutants, :mod:`.plan` names the tests of each module, :mod:`.run` runs tests in a copy of the tree,
:mod:`.results` keeps the verdicts, :mod:`.equivalents` lists the mutants that behave like the original.
"""
