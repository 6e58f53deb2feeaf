r"""The endpoint kinds ``le:``, ``lets:`` and ``acme:``, which add certificates from an authority to another endpoint.

``le:<directory>:<endpoint>`` uses Let's Encrypt, ``lets:<directory>:<endpoint>`` its staging environment, whose certificates browsers do
not trust, and ``acme:<directory URL>:<directory>:<endpoint>`` any other, such as ``acme:https\://ca.example\:9000/acme/acme/directory:…``.
Importing this module registers the kinds.
"""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Final

from ..net.endpoints import Endpoint, EndpointError, Kind, Parameter, path, register
from ..net.tls.endpoints import TLSEndpoint
from .contexts import AcmeContexts

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING: Final = "https://acme-staging-v02.api.letsencrypt.org/directory"

#: Names to use instead of a URL, whose colons need quoting in an endpoint's string.
AUTHORITIES: Final = {
    "letsencrypt": LETS_ENCRYPT,
    "letsencrypt-staging": LETS_ENCRYPT_STAGING,
    "google": "https://dv.acme-v02.api.pki.goog/directory",
    "zerossl": "https://acme.zerossl.com/v2/DV90",
}


def directory_url(text: str) -> str:
    """Convert an authority's directory URL, or one of the names in :data:`AUTHORITIES`."""
    url = AUTHORITIES.get(text, text)
    if url in ("https", "http"):
        raise EndpointError(f"The colons of an authority's URL need a backslash each in an endpoint: acme:{url}\\://….")
    if not url.startswith("https://") or len(url) == len("https://"):
        raise ValueError(f"must be a URL that begins with https:// or one of {', '.join(sorted(AUTHORITIES))}")
    return url


def _make(description: str, url: str, directory: str, inner: Endpoint) -> Endpoint:
    try:
        _import_library()
    except ImportError as error:
        raise EndpointError(
            f"Endpoint {description!r} needs the package {error.name}, which is not installed: pip install 'greendaphne[acme]'."
        ) from None
    return TLSEndpoint(description, inner, AcmeContexts(directory, url))


def _import_library() -> None:
    """Import certbot's library: at start-up, because it may be missing and importing it while serving would block the hub."""
    name = f"{__package__}.authority"
    if name not in sys.modules:
        importlib.import_module(name)
        # The library has tens of thousands of objects.  Without this, they trigger a full collection at the first certificate.
        gc.collect()


def _le(description: str, directory: str, inner: Endpoint) -> Endpoint:
    return _make(description, LETS_ENCRYPT, directory, inner)


def _lets(description: str, directory: str, inner: Endpoint) -> Endpoint:
    return _make(description, LETS_ENCRYPT_STAGING, directory, inner)


_DIRECTORY = Parameter("directory", path)

register(Kind("le", (_DIRECTORY,), _le, wraps=True))
register(Kind("lets", (_DIRECTORY,), _lets, wraps=True))
register(Kind("acme", (Parameter("url", directory_url), _DIRECTORY), _make, wraps=True))
