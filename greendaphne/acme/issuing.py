"""Obtains one certificate in a greenlet, from the order to the PEM text (RFC 8555 section 7.4).

:func:`obtain` waits between requests in the hub, and makes each request and each computation in a native thread.  It always withdraws
the challenges that it has opened.  It does not write the certificate; :mod:`.manager` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import gevent
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ..net.tls import pem
from .authority import Answer, Authority, AuthorityError, one_line, problem
from .challenges import Challenges
from .store import private_bytes

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for the authority to check a challenge, and to issue the certificate.
VALIDATION_TIMEOUT: Final = 120.0
ISSUE_TIMEOUT: Final = 120.0
#: Seconds before the first check of the status, doubled after each check; then the longest pause, and the longest accepted Retry-After.
FIRST_LOOK: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
_LONGEST_RETRY_AFTER: Final = 60.0
#: The common name is optional and has at most 64 characters (RFC 5280 appendix A.1).
_MAX_COMMON_NAME: Final = 64


class Run(Protocol):
    """Calls a function in a native thread; see :class:`.threads.NativeThread`."""

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """Return the result of ``function``."""


class Refused(AuthorityError):
    """The authority processed the request and refused it; ``challenge`` is the kind that failed, empty where none did."""

    challenge: str = ""


def obtain(
    run: Run, authority: Authority, challenges: Challenges, host: str, kinds: Sequence[str], replaces: x509.Certificate | None = None
) -> bytes:
    """Obtain a certificate for ``host``; returns its key, the certificate and its chain as PEM.

    :param kinds: the challenges that the server can answer, in order of preference.
    :param replaces: the certificate to be replaced.
    :raises AuthorityError: on failure; :class:`Refused` where the authority has processed the request and refused it.
    :raises AcmeError: where a challenge cannot be written.
    """
    order = run(authority.new_order, host, replaces)
    names = order.content.get("authorizations")
    if not isinstance(names, list) or not order.url:
        raise AuthorityError(f"{authority.url} sent an invalid answer: an order without authorizations", outage=True)
    for url in names:
        _authorize(run, authority, challenges, host, kinds, str(url))
    key, request = run(key_and_request, host)
    order = _wait(run, authority, order.url, ("pending",), VALIDATION_TIMEOUT)
    if order.content.get("status") == "ready":
        order = run(authority.finalize, str(order.content.get("finalize")), request)._replace(url=order.url)
    if order.content.get("status") in ("ready", "processing"):
        order = _wait(run, authority, order.url, ("ready", "processing"), ISSUE_TIMEOUT)
    if order.content.get("status") != "valid":
        raise Refused(f"the authority refused the order: {problem(order.content.get('error'))}")
    chain = run(authority.download, str(order.content.get("certificate")))
    return run(checked, authority.url, host, key, chain)


def _authorize(run: Run, authority: Authority, challenges: Challenges, host: str, kinds: Sequence[str], url: str) -> None:
    """Prove control of ``host``, unless the authority still holds an earlier proof valid."""
    authorization = run(authority.fetch, url).content
    status = authorization.get("status")
    if status == "valid":
        return
    if status != "pending":
        # It belongs to an order that the authority reuses; the next order has a new authorization.
        raise Refused(f"the authority has an authorization for {host} that is {one_line(str(status))}")
    offered = authorization.get("challenges")
    by_kind = {str(item.get("type")): item for item in offered if isinstance(item, dict)} if isinstance(offered, list) else {}
    kind = next((kind for kind in kinds if kind in by_kind), None)
    if kind is None:
        raise Refused(one_line(f"the authority offers {' and '.join(by_kind) or 'nothing'} to prove control of {host}, not {kinds[0]}"))
    token = str(by_kind[kind].get("token"))
    key_authorization = authority.key_authorization(token)
    run(challenges.offer, kind, host, token, key_authorization)
    try:
        logger.debug("Answering %s for %s", kind, host)
        run(authority.accept, str(by_kind[kind].get("url")))
        result = _wait(run, authority, url, ("pending", "processing"), VALIDATION_TIMEOUT).content
    finally:
        # Not in the thread, which may be busy when this greenlet is killed; removing two files takes little time.
        challenges.withdraw(kind, host, token)
    if result.get("status") != "valid":
        refused = Refused(f"the authority could not confirm it with {kind}: {_challenge_problem(result, kind)}")
        refused.challenge = kind
        raise refused


def _challenge_problem(authorization: dict[str, Any], kind: str) -> str:
    offered = authorization.get("challenges")
    for item in offered if isinstance(offered, list) else ():
        if isinstance(item, dict) and item.get("type") == kind and item.get("error"):
            return problem(item["error"])
    return f"the authorization is {one_line(str(authorization.get('status')))}"


def _wait(run: Run, authority: Authority, url: str, while_in: tuple[str, ...], timeout: float) -> Answer:
    """Fetch ``url`` until its status is not in ``while_in``."""
    deadline = monotonic() + timeout
    pause = FIRST_LOOK
    while True:
        answer = run(authority.fetch, url)
        if answer.content.get("status") not in while_in:
            return answer
        if answer.retry_after:
            pause = max(pause, min(answer.retry_after, _LONGEST_RETRY_AFTER))
        if monotonic() + pause > deadline:
            status = one_line(str(answer.content.get("status")))
            raise AuthorityError(f"{authority.url} has not decided within {timeout:g} seconds: still {status}", outage=True)
        gevent.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def key_and_request(host: str) -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateSigningRequest]:
    """Create a key (ECDSA, P-256) and the signed request for its certificate (RFC 2986)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, host)] if len(host) <= _MAX_COMMON_NAME else []
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(subject))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, request


def checked(url: str, host: str, key: ec.EllipticCurvePrivateKey, chain: bytes) -> bytes:
    """Return key, certificate and chain as one PEM text, after a check that they are for this key and host.

    :raises AuthorityError: where they are not.
    """
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        right = pem.public_bytes(certificates[0]) == public and host in pem.dns_names(certificates[0])
    except Exception:  # noqa: BLE001 - a malformed certificate raises many types
        raise AuthorityError(f"{url} sent a certificate that is malformed", outage=True) from None
    if not right:
        raise AuthorityError(f"{url} sent a certificate for another key or host", outage=True)
    return private_bytes(key) + b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
