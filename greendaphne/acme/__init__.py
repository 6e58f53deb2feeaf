"""Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt: the endpoint kinds ``le:``, ``lets:`` and ``acme:``.

A directory holds one PEM file for each host name; an empty file means "please issue".  What has to be known of names stands in
:mod:`.names`, of files in :mod:`.store`, of times in :mod:`.schedule`.  :mod:`.authority` speaks the protocol and :mod:`.issuing` makes one
certificate with it; both block, and run in a native thread.  :mod:`.manager` has a greenlet for each directory that decides what to do and
when, :mod:`.contexts` serves certificates and challenges, :mod:`.service` is what a server has of all this, and ``python -m
greendaphne.acme`` is for the operator.

certbot's ``acme`` is imported by :mod:`.authority` alone, and only where an endpoint needs it.
"""

from __future__ import annotations

from .options import AcmeError, AcmeOptions, read_hmac_key

__all__ = ["AcmeError", "AcmeOptions", "read_hmac_key"]
