"""The server as one of several processes: a master with workers, systemd's notifications, processes that are replaced after a while.

``master`` runs for ``--workers``: it owns the listening sockets and starts, watches and replaces workers, each of which is the same
command line begun anew.  ``child`` is one worker as the master sees it, ``link`` the master as a worker sees it; ``control`` is what
they say to each other.  ``systemd`` speaks to the service manager, ``recycling`` ends a process that has done or grown enough.  Server
and command know of all this through ``lifecycle`` alone.

The master is neither patched nor does it import the application, so nothing that an application does can end it.
"""
