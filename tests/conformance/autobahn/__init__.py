"""The Autobahn test suite itself, ``fuzzingclient``, against an echo in each kind of application; no pytest module.

``test_websocket_conformance.py`` has the suite's cases for every run of the tests.  This package is for the original, which is written
for Python 2.7 and takes half an hour: ``python -m tests.conformance.autobahn --wstest PROGRAM``.
"""
