"""``--user`` as a service uses it: root binds the port and reads the key, and another user serves, who may enter no directory of root's."""

from __future__ import annotations

import shlex

import pytest

from tests.support.pages import output_of, run_on_a_machine, why_no_machine

machine = pytest.mark.skipif(bool(why_no_machine()), reason=why_no_machine() or "-")

APPLICATION = """
import os

def application(environ, start_response):
    mask = os.umask(0)
    os.umask(mask)
    start_response("200 OK", [])
    try:
        os.setuid(0)
        back = "root again"
    except PermissionError:
        back = "for good"
    return [f"{os.getuid()} {os.geteuid()} {os.getgid()} {os.getegid()} {os.getgroups()} {mask:o} {back}".encode()]
"""
STATUS = "curl -sf http://127.0.0.1:80/"


@machine
@pytest.mark.parametrize("workers", ["", "--workers 1"], ids=["single", "master"])
def test_root_binds_and_another_user_serves(workers: str) -> None:
    result = run_on_a_machine(
        [
            "useradd --uid 4321 --user-group visitor",
            "python3 -m venv --without-pip /srv/venv && install_here /srv/venv",
            "mkdir /srv/site && cd /srv/site",
            f"echo {shlex.quote(APPLICATION)} > site_app.py",
            f"/srv/venv/bin/greendaphne {workers} --user visitor --umask 027 --pid /run/site.pid -p 80 site_app > log 2>&1 & server=$!",
            "eventually curl -sf -o /dev/null http://127.0.0.1:80/",
            STATUS,
            "echo",
            "cat /run/site.pid",
            "echo $server",
            "kill $server && wait $server && cat log",
        ]
    )
    group = result.stdout.partition("4321 4321 ")[2].split()[0]
    assert group != "0"
    assert f"4321 4321 {group} {group} [{group}] 27 for good" in output_of(result, STATUS)
    assert output_of(result, "cat /run/site.pid").split() == output_of(result, "echo $server").split()
    assert "Traceback" not in result.stdout
