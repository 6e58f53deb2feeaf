"""Assembles one server from its parts, starts and stops it.

The package may import all others except ``server`` and the command.
"""
