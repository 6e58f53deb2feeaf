"""asyncio on gevent's hub: asyncio code in any greenlet, and an event loop that shares the hub's thread.

* :mod:`.hub`: installs :class:`~.asyncio_hub.AsyncioHub`, a hub under which each greenlet has its own running loop and current task.
* :mod:`.isolation`: what that hub does, and its self-test; imported with asyncio.
* :mod:`.selector`: :class:`~.selector.HubSelector`, a selector that waits in the hub.
* :mod:`.loop`: :class:`~.loop.HubLoop`, an asyncio event loop that runs in one greenlet.
* :mod:`.tasks`: :class:`~.tasks.Tasks`, tasks with strong references.
* :mod:`.task_names`: what a task is called in logs, and which one runs.
* :mod:`.private` and :mod:`.gevent_names`: every private name of CPython and gevent that the modules above use.

The package imports gevent and the standard library only.  Importing it creates no hub and no event loop; :mod:`.hub` alone
does not import asyncio.
"""
