"""Which fields may be trailers of a response (RFC 9110 section 6.5.1)."""

from __future__ import annotations

import pytest

from greendaphne.core.message import ResponseError, check_sent_trailers

FRAMING = "content-length transfer-encoding host trailer connection te upgrade keep-alive proxy-connection"
CONTENT = "content-encoding content-type content-range cache-control set-cookie date"
CONTROL = "age expires location pragma retry-after vary warning expect max-forwards range"
AUTHENTICATION = "authorization proxy-authorization www-authenticate proxy-authenticate"


@pytest.mark.parametrize("name", f"{FRAMING} {CONTENT} {CONTROL} {AUTHENTICATION} :status".split())
def test_refused_trailers(name: str) -> None:
    for spelling in (name, name.title(), name.upper()):
        with pytest.raises(ResponseError, match=f"^the field {spelling} cannot be a trailer$"):
            check_sent_trailers([(b"x-sum", b"1"), (spelling.encode(), b"1")])


def test_trailers() -> None:
    check_sent_trailers([(b"X-Sum", b"1"), (b"etag", b'"a"'), (b"server-timing", b"a;dur=1"), (b"Digest", b"sha-256=0")])
