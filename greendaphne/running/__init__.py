"""One server from its parts: put together, started, stopped.

The package imports everything but ``server`` and the command.
"""
