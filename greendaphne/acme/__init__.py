"""Certificates from an authority with ACME (RFC 8555), such as Let's Encrypt: the endpoint kinds ``le:``, ``lets:`` and ``acme:``.

A directory holds one PEM file per host name; an empty file requests a certificate.  :mod:`.names` has the rules of host names,
:mod:`.store` of files, :mod:`.schedule` of times.  :mod:`.authority` implements the protocol, and :mod:`.issuing` obtains one certificate
with it; the calls of both block and run in a native thread.  :mod:`.manager` has a greenlet per directory that decides when to issue
and renew, :mod:`.contexts` serves certificates and challenges, :mod:`.service` is the server's interface to the package, and ``python -m
greendaphne.acme`` is the operator's command.

Only :mod:`.authority` imports certbot's ``acme``, and only when an endpoint needs it.
"""

from __future__ import annotations

from .options import AcmeError, AcmeOptions, read_hmac_key

__all__ = ["AcmeError", "AcmeOptions", "read_hmac_key"]
