#!/usr/bin/env python
"""Run the chat site of ``../chat`` as a deployment on this machine: Redis, two servers and three workers, until Ctrl-C.

The processes are those that a process manager would run; see README.rst.  Their output goes to this terminal.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SITE = Path(__file__).resolve().parent.parent / "chat"
WORKERS = 3
#: Seconds for Redis and each server to start, and for each process to end before it is killed; a server gives open requests 30 seconds.
START_LIMIT = 10
END_LIMIT = 40
#: The longest path of a UNIX socket on Linux, in bytes.
SOCKET_PATH_LIMIT = 107


def main():
    parser = argparse.ArgumentParser(description="Run the chat site on Redis with two servers and three workers.")
    parser.add_argument("--directory", type=Path, default=Path("parlour-data"), help="directory for the database and the uploads")
    parser.add_argument("--ports", type=int, nargs=2, default=[8000, 8001], help="the ports of the two servers")
    options = parser.parse_args()
    redis_server = shutil.which("redis-server")
    if redis_server is None:
        sys.exit("redis-server is missing: apt-get install redis-server")
    directory = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    redis_socket = directory / "redis.sock"
    if len(os.fsencode(redis_socket)) > SOCKET_PATH_LIMIT:
        sys.exit(f"The path of {redis_socket} is too long for a socket; choose a shorter --directory.")
    os.environ.update(
        CHAT_LAYER="redis",
        CHAT_REDIS=f"unix://{redis_socket}?db=0",
        CHAT_DATABASE=f"{directory}/chat.sqlite3",
        CHAT_MEDIA=f"{directory}/media",
    )
    # From here on a signal ends the processes, whatever this script is doing.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(0))
    # In the order of their start; they are ended in reverse order.
    processes = {}
    try:
        redis = [redis_server, "--port", "0", "--unixsocket", str(redis_socket), "--save", "", "--loglevel", "warning"]
        start(processes, "redis-server", redis)
        wait_for(socket.AF_UNIX, str(redis_socket), processes["redis-server"])
        manage = [sys.executable, "manage.py"]
        if subprocess.run([*manage, "demo"], cwd=SITE, check=False).returncode:
            sys.exit(1)
        for number in range(1, WORKERS + 1):
            start(processes, f"worker {number}", [*manage, "runworker"])
        for number, port in enumerate(options.ports, 1):
            start(processes, f"server {number}", [sys.executable, "-m", "greendaphne", "-p", str(port), "chat.asgi:channel_layer"])
            wait_for(socket.AF_INET, ("127.0.0.1", port), processes[f"server {number}"])
        first, second = options.ports
        # Two names of one machine, so that a browser can be logged in as a different user at each.
        print(f"Open http://127.0.0.1:{first}/ and http://localhost:{second}/; Ctrl-C ends it.")
        while True:
            print(f"redis-server is process {processes['redis-server'].pid}.", flush=True)
            while processes["redis-server"].poll() is None:
                for name, process in processes.items():
                    if process.poll() is not None:
                        sys.exit(f"{name} has ended with code {process.returncode}.")
                time.sleep(0.2)
            print("redis-server has ended and is restarted.", flush=True)
            start(processes, "redis-server", redis)
            time.sleep(1)
    finally:
        for name in reversed(processes):
            end(name, processes[name])


def start(processes, name, command):
    # In its own session: Ctrl-C reaches only this script, which ends the others gracefully.
    processes[name] = subprocess.Popen(command, cwd=SITE, start_new_session=True)


def wait_for(family, address, process):
    """Wait until ``process`` listens on ``address``."""
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit and process.poll() is None:
        with socket.socket(family) as sock:
            try:
                sock.connect(address)
                return
            except OSError:
                time.sleep(0.05)
    sys.exit(f"Nothing listens on {address}.")


def end(name, process):
    process.terminate()
    try:
        process.wait(END_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"{name} does not end and is killed.", file=sys.stderr)
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
