"""What every part of the server may use: grammar, turns and rates.  Nothing in here knows a socket or an application."""
