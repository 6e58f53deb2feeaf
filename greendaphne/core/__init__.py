"""The vocabulary that all of greendaphne shares: requests, streams, errors, causes, grammar.

The package knows no socket and no application.  It imports the standard library and gevent.
"""
