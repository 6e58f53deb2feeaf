"""How greendaphne is built and what it needs; every lower bound stands here and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """The version, read rather than imported: the dependencies are not there yet when a package is built."""
    text = (HERE / "greendaphne" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("greendaphne/__init__.py states no version")
    return match.group(1)


def description() -> str:
    """The README, where there is one."""
    readme = HERE / "README.rst"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# A bound is the first version with the security fixes, or the interface, that the server relies on.
REQUIREMENTS = [
    "asgiref>=1.1.2",  # Channels 1 needs 1.1, Django 3 and later need 3
    "cryptography>=46",
    "docopt-ng>=0.9",
    "gevent>=26.9,<27",  # greendaphne.aio uses private names, which greendaphne/aio/gevent_names.py lists
    "gevent-websocket>=0.10.1",
    "h2>=4.4.1,<5",  # duplicate Host, Content-Length and CR/LF checks; http2.engine uses members that are not documented
    "httptools>=0.9",
    "pyOpenSSL>=26",
    "tomli>=2; python_version < '3.11'",  # tomllib came with Python 3.11
    "websockets>=16.1; python_version < '3.11'",  # 17 needs Python 3.11
    "websockets>=17; python_version >= '3.11'",
]

EXTRAS = {
    "channels1": ["asgiref>=1.1.2,<2"],  # the channel-layer interface of Channels 1; 2 is another one
    "redis": ["redis>=5", "msgpack>=1"],
    "metrics": ["prometheus_client>=0.22"],
    "acme": ["acme>=5", "josepy>=2"],
    "test": [
        "Django==2.2.28; python_version < '3.12'",
        "dnspython>=2.7",
        "circus>=0.19",
        "docutils>=0.21",
        "httpx>=0.28",
        "hypothesis>=6.100",
        "mypy>=1.19",
        "prometheus_client>=0.22",
        "pytest>=9",
        "pytest-xdist>=3.8",
        "pytest-django>=4.14; python_version < '3.12'",
        "requests>=2.32.4",
        "ruff>=0.14",
        "supervisor>=4.3",
        "types-docutils>=0.21",
        "types-gevent>=25.9",  # gevent has no type hints of its own
        "websocket-client>=1.8",
    ],
}

setup(
    name="greendaphne",
    version=version(),
    description="A gevent protocol server for ASGI channel layers: HTTP/1.1, HTTP/2 and WebSocket on one port",
    long_description=description(),
    long_description_content_type="text/x-rst",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    packages=find_packages(include=["greendaphne", "greendaphne.*"]),
    package_data={"": ["py.typed", "static/*", "templates/*"]},
    python_requires=">=3.10,<3.15",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["greendaphne = greendaphne.cli:main"],
        "pytest11": ["greendaphne = greendaphne.pytest_plugin"],
    },
    zip_safe=False,
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Environment :: Web Environment",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Typing :: Typed",
    ],
)
