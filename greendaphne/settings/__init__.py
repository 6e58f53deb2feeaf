"""Options: the table, the command line, the environment, the configuration file and the help text.

The command reads options before gevent patches the process, so these modules import nothing that gevent must patch first.
"""
