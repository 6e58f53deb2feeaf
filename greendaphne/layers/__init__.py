"""Channel layers whose ``receive(block=True)`` really waits."""
