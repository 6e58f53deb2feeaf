"""The operator's command for a directory of certificates: ``python -m greendaphne.acme``.

``issue`` and ``renew`` write a request into the directory.  The server that serves from it fulfils the request within a second or two,
because only that server can answer challenges.  ``revoke`` contacts the authority itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import docopt

from ..net.endpoints import EndpointError
from ..net.tls import pem
from ..net.tls.pem import TLSError
from .names import SUFFIX, NameRefused, to_host
from .options import AcmeError, AcmeOptions
from .status import date, statuses
from .store import Store

USAGE: Final = """\
Certificates from an authority: show the state of a directory, request, renew, revoke.

Usage:
  greendaphne.acme status DIRECTORY
  greendaphne.acme issue DIRECTORY NAME...
  greendaphne.acme renew DIRECTORY NAME...
  greendaphne.acme revoke [--reason=WORD] [--authority=URL] [--acme-ca=FILE] [--no-renewal] DIRECTORY NAME
  greendaphne.acme (-h | --help)

status shows the end of every host's certificate and its next renewal, and exits with 1 when one is in danger.
issue makes the running server obtain certificates for the given names.
renew makes the running server replace certificates before they are due.
revoke revokes a certificate and makes the running server replace it.

Options:
  --reason=WORD     unspecified, keyCompromise, affiliationChanged, superseded or cessationOfOperation
                    [default: unspecified]
  --authority=URL   The directory URL of the authority that issued the certificate; only needed for
                    certificates that this server did not obtain.
  --acme-ca=FILE    Trust only the authorities in this PEM file for HTTPS to the authority; by default
                    those that the server trusts.
  --no-renewal      Do not replace the certificate.
"""

#: The reasons of RFC 5280 section 5.3.1 that a certificate's holder may give.
REASONS: Final = {"unspecified": 0, "keyCompromise": 1, "affiliationChanged": 3, "superseded": 4, "cessationOfOperation": 5}

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; an error is one line on standard error."""
    try:
        arguments: dict[str, Any] = docopt.docopt(USAGE, list(sys.argv[1:] if argv is None else argv))
    except docopt.DocoptExit as error:
        print(str(error).strip() or USAGE, file=sys.stderr)
        return EXIT_USAGE
    except SystemExit:
        # docopt has printed the help text.
        return 0
    store = Store(arguments["DIRECTORY"])
    try:
        if not os.path.isdir(store.path):
            raise AcmeError(f"There is no directory {store.path}")
        if arguments["status"]:
            return show(store)
        names = [to_host(name) for name in arguments["NAME"]]
        if arguments["issue"]:
            issue(store, names)
        elif arguments["renew"]:
            renew(store, names)
        else:
            revoke(store, names[0], arguments)
    except (AcmeError, NameRefused, TLSError, EndpointError) as error:
        print(f"greendaphne.acme: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def issue(store: Store, names: Sequence[str]) -> None:
    """Make an empty file for every host without a file, and print the result."""
    made = store.ensure(names)
    entries = store.scan().entries
    for name in names:
        entry = entries.get(name)
        path = os.path.join(store.path, name + SUFFIX)
        if name in made:
            print(f"{name}: asked for; the server that serves from {store.path} obtains the certificate within seconds")
        elif entry is None:
            print(f"{name}: {path} is a link, which is served and never replaced; nothing was done")
        elif entry.problem is not None:
            print(f"{name}: nothing was done: {entry.problem}; correct the file or empty it")
        elif entry.certificate is None:
            print(f"{name}: had been asked for already, and the certificate is not there yet; see status")
        else:
            until = date(entry.certificate.not_after)
            print(f"{name}: has a certificate that is valid until {until}; nothing was done, and renew replaces it")


def renew(store: Store, names: Sequence[str]) -> None:
    """Make the server replace the certificates of ``names``, and print the result."""
    for name in names:
        # Check all names first, so that a wrong name changes nothing.
        _path(store, name)
    entries = store.scan().entries
    for name in names:
        entry = entries.get(name)
        if entry is None:
            print(f"{name}: {_path(store, name)} is a link, which is never replaced; nothing was done")
        elif entry.problem is not None:
            print(f"{name}: nothing was done: {entry.problem}; correct the file or empty it")
        else:
            store.ask_for_renewal(name)
            _print_renewal(store, name)


def _print_renewal(store: Store, name: str) -> None:
    print(f"{name}: renewal asked for; the server that serves from {store.path} replaces the certificate within seconds")


def show(store: Store) -> int:
    """Print the state of every host; returns 1 when one is in danger."""
    snapshot, state = store.scan(), store.state()
    found = statuses(snapshot, state, time.time())
    width = max([len(status.host) for status in found], default=0)
    for status in found:
        if status.expires is None or status.renews is None:
            text = "no certificate yet" if not status.reason else "no usable certificate"
        else:
            text = f"valid until {date(status.expires)}, renewed on {date(status.renews)}"
        danger = "  IN DANGER" if status.danger and status.expires is not None else ""
        retry = "" if status.retry is None else f"; next try on {date(status.retry)}"
        reason = f"  ({status.reason}{retry})" if status.reason else ""
        print(f"{status.host:<{width}}  {text}{danger}{reason}")
    for line in snapshot.refused.values():
        print(line)
    outage = state.records.get("")
    if outage is not None and outage.failures:
        print(f"The authority cannot be reached: {outage.reason}; next try on {date(outage.retry_at)}")
    return EXIT_FAILURE if any(status.danger for status in found) else 0


def revoke(store: Store, host: str, arguments: dict[str, Any]) -> None:
    """Revoke the certificate of ``host`` and request a new one.

    The certificate's own key signs the request (RFC 8555 section 7.6), so this works in each state of the account.
    """
    reason = REASONS.get(arguments["--reason"])
    if reason is None:
        raise AcmeError(f"Reasons are {', '.join(REASONS)}, not {arguments['--reason']!r}")
    path = _path(store, host)
    file = pem.read(path)
    credentials = pem.assemble(file, file)
    state = store.state()
    record = state.records.get(host)
    url = arguments["--authority"] or (record.authority if record is not None else "")
    if not url:
        raise AcmeError(f"The authority that issued the certificate in {path} is unknown; name it with --authority")
    from .authority import Authority
    from .endpoints import directory_url

    try:
        url = directory_url(url)
    except ValueError as error:
        raise AcmeError(f"--authority {error}") from None
    ca = arguments["--acme-ca"]
    if ca is None and state.ca and url == state.authority:
        ca = state.ca
    authority = Authority(url, credentials.key, AcmeOptions(ca=ca))
    try:
        authority.connect()
        authority.revoke(credentials.certificate, reason)
    finally:
        authority.close()
    print(f"{host}: {url} has revoked the certificate {credentials.certificate.serial_number:x} ({arguments['--reason']})")
    if arguments["--no-renewal"]:
        print(f"{host}: the server continues to serve it until {path} is replaced or removed")
    else:
        store.ask_for_renewal(host)
        _print_renewal(store, host)


def _path(store: Store, host: str) -> str:
    path = os.path.join(store.path, host + SUFFIX)
    if not os.path.isfile(path):
        raise AcmeError(f"There is no file {path}")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
