"""The client side of the ACME protocol (RFC 8555).  certbot's ``acme`` does signed requests, nonces, problem documents and key objects.

:class:`Authority` has one method per request; each waits for the network only.  Each method blocks while pieces of the answer arrive within
:data:`READ_TIMEOUT` and its body within :data:`TOTAL_TIMEOUT` seconds.  It raises :class:`AuthorityError`, whose text is one line of
bounded length.  Type and size of all data from the authority are checked before use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Any, Final, NamedTuple

import requests
from acme import client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.b64 import b64encode
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256, ES384, ES512, RS256
from josepy.jwk import JWKEC, JWKRSA
from josepy.util import ComparableECKey, ComparableRSAKey
from requests.adapters import HTTPAdapter

from ..core.version import __version__
from ..net.tls.pem import NO_EXTENSION, PrivateKey
from .options import AcmeError, AcmeOptions

#: Seconds for the connection, and between two pieces of an answer.
CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 30.0
#: Seconds for the body of an answer, and its maximum size in bytes: a long chain takes 20 KiB.
TOTAL_TIMEOUT: Final = 60.0
MAX_ANSWER: Final = 1024 * 1024
#: Attempts for a request whose nonce is refused.  acme makes two, which is too few for an authority of several servers that do not share
#: their nonces.
NONCE_TRIES: Final = 6
#: The longest text from an authority that is passed on, in characters.
_MAX_TEXT: Final = 500
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

#: The problems (RFC 8555 section 6.7) that are temporary faults of the authority.
_OUTAGES: Final = frozenset({"serverInternal", "badNonce"})

#: Signature algorithms of account keys by the size of their curve (RFC 7518 section 3.4).
_CURVES: Final = {256: ES256, 384: ES384, 521: ES512}


class AuthorityError(AcmeError):
    """The authority refused, was unreachable, or sent an invalid answer.

    :param code: the kind of problem without its URN, such as ``rateLimited``; empty where there is none.
    :param outage: whether the authority is unreachable or out of order.
    :param retry_after: seconds that the authority asks the client to wait, where it does.
    """

    def __init__(self, text: str, *, code: str = "", outage: bool = False, retry_after: float | None = None) -> None:
        super().__init__(one_line(text))
        self.code = code
        self.outage = outage
        self.retry_after = retry_after


class Answer(NamedTuple):
    """A JSON object, the URL of the object that it describes, and the seconds until the next request is useful."""

    content: dict[str, Any]
    url: str
    retry_after: float | None


class Renewal(NamedTuple):
    """The suggested time of a renewal (RFC 9773 section 4.2); times are seconds since the epoch, ``ask_again`` is a duration."""

    start: float
    end: float
    explanation: str
    ask_again: float | None


class _Payload(JSONDeSerializable):
    """A JSON object to send; acme sends its own empty object as no content at all."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def to_partial_json(self) -> dict[str, Any]:
        return self._content

    @classmethod
    def from_json(cls, jobj: Any) -> _Payload:
        return cls(jobj)


class _Network(client.ClientNetwork):
    """acme's requests with limits; also keeps the last answer, because acme does not pass on ``Retry-After`` of errors."""

    last: requests.Response | None = None

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        if not url.startswith("https://"):
            raise errors.ClientError(f"{url!r} is not https")
        self.last = None
        # A redirect could lead to plain HTTP, and a signature is for one URL (RFC 8555 section 6.4).
        kwargs["allow_redirects"] = False
        kwargs["timeout"] = (CONNECT_TIMEOUT, READ_TIMEOUT)
        kwargs["hooks"] = {"response": _read_bounded}
        self.last = super()._send_request(method, url, *args, **kwargs)
        if self.last.is_redirect:
            raise errors.ClientError(f"{url} redirects to {self.last.headers['Location']}, which is not followed")
        return self.last

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for left in range(NONCE_TRIES - 1, -1, -1):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce" or not left:
                    raise
                # Other nonces of the same age are likely to be refused as well.
                self._nonces.clear()
        raise AssertionError("not reached")


def _read_bounded(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    """Read the body within limits; requests itself has none."""
    deadline = monotonic() + TOTAL_TIMEOUT
    body = bytearray()
    for piece in response.iter_content(16 * 1024):
        body += piece
        if len(body) > MAX_ANSWER:
            response.close()
            raise errors.ClientError(f"an answer is larger than {MAX_ANSWER} bytes")
        if monotonic() > deadline:
            response.close()
            raise errors.ClientError(f"an answer took longer than {TOTAL_TIMEOUT:g} seconds")
    response._content = bytes(body)


class Authority:
    """One ACME server and an account there.

    :meth:`connect` must be called first, and :meth:`sign_in` before every method that changes something.

    :param url: the authority's directory URL.
    """

    def __init__(self, url: str, key: PrivateKey, options: AcmeOptions) -> None:
        self.url = url
        self._options = options
        self._key = _jwk(key)
        # acme annotates a bool, but passes the value to requests, which also accepts a file of authorities.
        verify: Any = options.ca or True
        algorithm = _CURVES[key.curve.key_size] if isinstance(key, ec.EllipticCurvePrivateKey) else RS256
        self._network = _Network(self._key, alg=algorithm, verify_ssl=verify, user_agent=f"greendaphne/{__version__} acme-python")
        self._directory: messages.Directory | None = None
        #: The URL of the terms of service, empty where there are none.
        self.terms_of_service = ""

    def close(self) -> None:
        """Close the connections; call it in the thread that made them."""
        session = self._network.session
        for adapter in session.adapters.values():
            if isinstance(adapter, HTTPAdapter):
                # urllib3 leaves this to the garbage collector, which may run late and in another thread.
                for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
                    for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated itself
                        manager.pools[key].close()
        session.close()

    @property
    def directory(self) -> messages.Directory:
        """The authority's directory of URLs."""
        if self._directory is None:
            raise RuntimeError("connect() was not called")
        return self._directory

    def connect(self) -> None:
        """Fetch the directory.

        :raises AuthorityError: as all methods that send a request.
        """
        with self._translated():
            content = self._network.get(self.url).json()
            missing = [name for name in ("newNonce", "newAccount", "newOrder") if not isinstance(content.get(name), str)]
            if missing:
                raise AuthorityError(f"{self.url} is not an ACME directory: it lacks {', '.join(missing)}", outage=True)
            meta = content.get("meta")
            terms = meta.get("termsOfService") if isinstance(meta, dict) else None
            self.terms_of_service = one_line(terms) if isinstance(terms, str) else ""
            self._directory = messages.Directory.from_json(content)

    def thumbprint(self) -> str:
        """The account key's thumbprint (RFC 7638), a part of the answers to challenges."""
        return b64encode(self._key.thumbprint()).decode()

    def key_authorization(self, token: str) -> str:
        """The key authorization for ``token`` (RFC 8555 section 8.1)."""
        return f"{token}.{self.thumbprint()}"

    def sign_in(self, saved: dict[str, str]) -> dict[str, str]:
        """Use the account that ``saved`` describes, or find or create one; returns the value to save.

        The saved account is used while its options are unchanged; otherwise the account is updated.
        """
        identity = {
            "directory": self.url,
            "thumbprint": self.thumbprint(),
            "email": self._options.email or "",
            "eab": self._options.eab_kid or "",
        }
        url = saved.get("url", "")
        if url and {name: saved.get(name, "") for name in identity} == identity:
            self._use(url)
            return saved
        with self._translated():
            contact = [f"mailto:{address}" for address in identity["email"].split(",") if address]
            account: dict[str, Any] = {"termsOfServiceAgreed": True}
            if contact:
                account["contact"] = contact
            if self._options.eab_kid is not None and self._options.eab_hmac_key is not None:
                account["externalAccountBinding"] = messages.ExternalAccountBinding.from_data(
                    self._key.public_key(), self._options.eab_kid, self._options.eab_hmac_key, self.directory
                )
            self._network.account = None
            response = self._post(self.directory["newAccount"], account)
            url = self._link(response.headers.get("Location"))
            self._use(url)
            if response.status_code == 200 and response.json().get("contact", []) != contact:
                # The account existed, and the authority ignored the contact in the request (RFC 8555 section 7.3.1).
                self._post(url, {"contact": contact})
        return {**identity, "url": url}

    def _use(self, url: str) -> None:
        self._network.account = messages.RegistrationResource(uri=url, body=messages.Registration())

    def new_order(self, host: str, replaces: x509.Certificate | None = None) -> Answer:
        """Order a certificate for ``host``.

        :param replaces: the certificate to be replaced, if this authority issued it (RFC 9773 section 5).
        """
        order: dict[str, Any] = {"identifiers": [{"type": "dns", "value": host}]}
        identifier = None if replaces is None or "renewalInfo" not in self.directory._jobj else certificate_identifier(replaces)
        with self._translated():
            if identifier is not None:
                try:
                    return self._answer(self._post(self.directory["newOrder"], {**order, "replaces": identifier}))
                except (messages.Error, errors.ConflictError) as error:
                    # The certificate is already replaced, or unknown to the authority.
                    if not isinstance(error, errors.ConflictError) and error.typ.rpartition(":")[2] not in ("alreadyReplaced", "malformed"):
                        raise
            return self._answer(self._post(self.directory["newOrder"], order))

    def fetch(self, url: str) -> Answer:
        """Fetch an order or an authorization."""
        with self._translated():
            return self._answer(self._post(url, None), url)

    def accept(self, url: str) -> None:
        """Tell the authority that it can check the challenge ``url``."""
        with self._translated():
            self._post(url, {})

    def finalize(self, url: str, request: x509.CertificateSigningRequest) -> Answer:
        """Submit the certificate signing request."""
        with self._translated():
            csr = b64encode(request.public_bytes(Encoding.DER)).decode()
            return self._answer(self._post(url, {"csr": csr}))

    def download(self, url: str) -> bytes:
        """The certificate and its chain, as PEM."""
        with self._translated():
            return self._post(url, None).content

    def revoke(self, certificate: x509.Certificate, reason: int) -> None:
        """Revoke ``certificate``.

        :param reason: a number of RFC 5280 section 5.3.1.
        """
        with self._translated():
            content = b64encode(certificate.public_bytes(Encoding.DER)).decode()
            self._post(self.directory["revokeCert"], {"certificate": content, "reason": reason})

    def renewal(self, certificate: x509.Certificate) -> Renewal | None:
        """The suggested time to renew ``certificate``; ``None`` where the authority makes no suggestion."""
        base = self.directory._jobj.get("renewalInfo")
        identifier = certificate_identifier(certificate)
        if not isinstance(base, str) or identifier is None:
            return None
        with self._translated():
            response = self._network.get(f"{base.rstrip('/')}/{identifier}")
            content = response.json()
            window = content["suggestedWindow"]
            start, end = _timestamp(window["start"]), _timestamp(window["end"])
            if end < start:
                raise ValueError("the suggested window ends before it starts")
            explanation = one_line(str(content.get("explanationURL") or ""))
            return Renewal(start, end, explanation, retry_after(response.headers.get("Retry-After")))

    def _post(self, url: str, content: dict[str, Any] | None) -> requests.Response:
        payload: Any = None if content is None else _Payload(content)
        return self._network.post(self._link(url), payload, new_nonce_url=self.directory["newNonce"])

    def _answer(self, response: requests.Response, url: str = "") -> Answer:
        content = response.json()
        if not isinstance(content, dict):
            raise ValueError("an answer is not an object")
        return Answer(content, url or self._link(response.headers.get("Location", "")), retry_after(response.headers.get("Retry-After")))

    @staticmethod
    def _link(url: Any) -> str:
        return url if isinstance(url, str) else ""

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn every error into an :class:`AuthorityError`."""
        try:
            yield
        except AuthorityError:
            raise
        except messages.Error as error:
            raise self._refused(error) from None
        except requests.RequestException as error:
            raise AuthorityError(f"{self.url} cannot be reached: {_innermost(error)}", outage=True) from None
        except errors.ClientError as error:
            response = error.args[0] if error.args else None
            if isinstance(response, requests.Response):
                text = f"{response.url} answered {response.status_code} {response.reason}"
            else:
                text = f"{self.url} sent an invalid answer: {error}"
            raise AuthorityError(text, outage=True, retry_after=self._retry_after()) from None
        except Exception as error:  # noqa: BLE001 - the libraries raise many types for an invalid answer
            raise AuthorityError(f"{self.url} sent an invalid answer: {type(error).__name__}: {error}", outage=True) from None

    def _refused(self, error: messages.Error) -> AuthorityError:
        code = str(error.typ).rpartition(":")[2]
        status = 0 if self._network.last is None else self._network.last.status_code
        wait = self._retry_after()
        return AuthorityError(problem(error.to_partial_json()), code=code, outage=code in _OUTAGES or status >= 500, retry_after=wait)

    def _retry_after(self) -> float | None:
        return None if self._network.last is None else retry_after(self._network.last.headers.get("Retry-After"))


def _jwk(key: PrivateKey) -> Any:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in _CURVES:
        return JWKEC(key=ComparableECKey(key))
    if isinstance(key, rsa.RSAPrivateKey):
        return JWKRSA(key=ComparableRSAKey(key))
    raise AcmeError("An account key must be RSA or ECDSA on P-256, P-384 or P-521")


def problem(content: Any) -> str:
    """A problem document (RFC 7807, RFC 8555 section 6.7) as one line."""
    if not isinstance(content, dict):
        return "no reason was given"
    kind = str(content.get("type") or "about:blank").rpartition(":")[2]
    texts = [f"{kind}: {content.get('detail') or content.get('title') or 'no further reason was given'}"]
    subproblems = content.get("subproblems")
    if isinstance(subproblems, (list, tuple)):
        texts += [problem(item.to_partial_json() if isinstance(item, messages.Error) else item) for item in subproblems[:3]]
    return one_line("; ".join(texts))


def one_line(text: str) -> str:
    """``text`` for the log: one line of bounded length."""
    text = _CONTROLS.sub(" ", text).strip()
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"


def retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` field (RFC 9110 section 10.2.3), at least 0; ``None`` for a missing or invalid one."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def certificate_identifier(certificate: x509.Certificate) -> str | None:
    """The identifier of a certificate (RFC 9773 section 4.1); ``None`` for a certificate without its issuer's key identifier."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except NO_EXTENSION:
        return None
    key = extension.value.key_identifier
    if key is None:
        return None
    serial = certificate.serial_number
    # The content of the DER INTEGER, with a leading zero byte where the first bit is set, because that is the sign.
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{b64encode(key).decode()}.{b64encode(number).decode()}"


def _timestamp(text: str) -> float:
    # RFC 3339.  Python 3.10 does not read Z and most fractions.
    text = re.sub(r"\.\d+", "", text)
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)).timestamp()


def _innermost(error: BaseException) -> str:
    """The text of an exception's root cause; requests' own text is a nest of representations."""
    seen = error
    for _ in range(10):
        args = [item for item in seen.args if isinstance(item, BaseException)]
        following = getattr(seen, "reason", None) if isinstance(getattr(seen, "reason", None), BaseException) else None
        inner = following or (args[0] if args else None) or seen.__cause__ or seen.__context__
        if inner is None or inner is seen:
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return str(seen) or type(seen).__name__
