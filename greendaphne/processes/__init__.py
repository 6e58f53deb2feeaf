"""The server as one of several processes: a master with workers, systemd's notifications, processes that are replaced after a while.

``master`` runs for ``--workers``: it owns the listening sockets and starts, watches and replaces workers.  Each worker is a new process
with the same command line.  ``child`` is the master's view of one worker, ``link`` a worker's view of the master; ``control`` is the
protocol between them.  ``systemd`` notifies the service manager, ``recycling`` replaces a process after a number of requests or above a
size.  The server and the command use all of them through the interface in ``lifecycle``.

The master is not patched and does not import the application, so no fault of an application can end it.
"""
