"""nginx that answers hello by itself: ``python -m benchmarks.apps.nginx_hello PORT [CERT KEY]``, with the files over TLS."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

_CONFIGURATION = """
daemon off;
master_process off;
pid pid;
error_log /dev/null;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
  keepalive_requests 1000000000;
  server {
    listen 127.0.0.1:%s;
    %s
    default_type text/plain;
    location / { return 200 "Hello, world\\n"; }
  }
}
"""


def program() -> str | None:
    """The path of nginx, which Debian has where users do not look."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def main() -> None:
    """Become nginx."""
    port, *files = sys.argv[1:]
    nginx = program()
    if nginx is None:
        raise SystemExit("nginx is not installed")
    # The directory is small, and left to the system: this process becomes nginx.
    directory = tempfile.mkdtemp(prefix="nginx-hello-")
    tls = f"ssl_certificate {files[0]}; ssl_certificate_key {files[1]};" if files else ""
    path = os.path.join(directory, "nginx.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(_CONFIGURATION % (f"{port} ssl" if files else port, tls))
    os.execv(nginx, [nginx, "-e", "stderr", "-p", directory, "-c", path])


if __name__ == "__main__":
    main()
