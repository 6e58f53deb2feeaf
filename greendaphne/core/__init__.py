"""The vocabulary of all packages of greendaphne: requests, streams, errors, causes, grammar.

The package knows neither sockets nor applications.  It imports the standard library and gevent.
"""
