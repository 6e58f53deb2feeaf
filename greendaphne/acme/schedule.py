"""The times of renewals, retries and warnings; pure arithmetic.

All times are seconds since the epoch (UTC), durations are seconds.  A certificate is renewed when a third of its lifetime is left, at a
slightly earlier random time, or when the authority suggests (ARI, RFC 9773).  When half of that third has passed without a renewal, the
certificate is in danger and is reported.
"""

from __future__ import annotations

import random
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

#: The part of a certificate's lifetime in which it is renewed: 30 days of 90, 2 of 6.
WINDOW: Final = 1 / 3
#: The part of the window by which the renewal is moved forward at random, so that certificates of one day are not renewed in one minute.
JITTER: Final = 1 / 10
#: The least time between two renewals of a certificate, or a part of its own lifetime if that is shorter.  Otherwise a clock that is
#: years wrong could exhaust the authority's weekly limits.
MIN_AGE: Final = DAY

#: The delay of the first retry, which doubles up to the maximum.  Let's Encrypt allows five failed validations of a name in an hour.
RETRY_FIRST: Final = 5 * MINUTE
RETRY_MAX: Final = 12 * HOUR
#: The same for an authority that is unreachable or out of order; such attempts do not count against its limits.
OUTAGE_FIRST: Final = 1 * MINUTE
OUTAGE_MAX: Final = 1 * HOUR
#: A retry is delayed at most by about this part of a certificate's remaining life, unless the authority requests more.
_PATIENCE: Final = 1 / 8

#: Seconds between two requests for a suggested renewal time: the default, and bounds for the authority's value (RFC 9773 section 4.3.2).
ARI_DEFAULT: Final = 6 * HOUR
ARI_MIN: Final = MINUTE
ARI_MAX: Final = DAY

#: The longest ``Retry-After`` that is followed; authorities' limits are for a week at most.  A stored time further ahead comes from a
#: wrong clock.
WAIT_MAX: Final = 8 * DAY

#: Seconds between two reports of a certificate in danger or of an unusable file.
REPORT_INTERVAL: Final = DAY


def renewal_time(not_before: float, not_after: float, serial: int, suggested: float | None = None) -> float:
    """The time to renew a certificate.

    :param serial: its serial number, used as the seed of the random part, so that all processes agree.
    :param suggested: the authority's suggestion; followed unless it is later than :func:`panic_time`.
    """
    window = (not_after - not_before) * WINDOW
    if suggested is not None:
        return min(suggested, panic_time(not_before, not_after))
    return not_after - window * (1 + JITTER * random.Random(serial).random())


def pick(start: float, end: float, serial: int) -> float:
    """A time between ``start`` and ``end``, always the same for a serial number (RFC 9773 section 4.2)."""
    return start + (end - start) * random.Random(serial).random() if end > start else start


def panic_time(not_before: float, not_after: float) -> float:
    """The time from which a certificate without renewal is in danger: half of the window has passed."""
    return not_after - (not_after - not_before) * WINDOW / 2


def earliest_renewal(not_before: float, not_after: float, issued_at: float) -> float:
    """The earliest renewal of a certificate issued at ``issued_at``, for each time that the clock may show; see :data:`MIN_AGE`."""
    return issued_at + min(MIN_AGE, (not_after - not_before) * WINDOW / 2)


def retry_delay(failures: int, outage: bool, retry_after: float | None, left: float | None, chance: float) -> float:
    """The delay after a failure.

    :param failures: the number of failures in a row, 1 for the first.
    :param outage: whether the authority was unreachable or out of order, rather than refusing.
    :param retry_after: the authority's ``Retry-After``, if any; the delay is never shorter.
    :param left: the rest of the certificate's life, ``None`` without a certificate.
    :param chance: 0 to 1; spreads the attempts of several servers.
    """
    first, longest = (OUTAGE_FIRST, OUTAGE_MAX) if outage else (RETRY_FIRST, RETRY_MAX)
    delay = min(first * 2.0 ** min(failures - 1, 20), longest)
    if left is not None and left > 0:
        delay = min(delay, max(first, left * _PATIENCE))
    # At most the longest delay, as documented.
    delay = min(delay * (1 + chance / 5), longest)
    return min(delay if retry_after is None else max(delay, retry_after), WAIT_MAX)


def is_ahead(then: float, now: float) -> bool:
    """Whether the stored time ``then`` is in the future and plausible; see :data:`WAIT_MAX`."""
    return now < then <= now + WAIT_MAX
