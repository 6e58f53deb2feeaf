"""When a certificate is renewed, when to try again, and when to worry: arithmetic on times, nothing else.

All times are seconds since the epoch (UTC), durations seconds.  A certificate is renewed once a third of its lifetime is left, a little
earlier by chance, or when the authority says (ARI, RFC 9773).  Below half of that window something is wrong and is said loudly.
"""

from __future__ import annotations

import random
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

#: The part of a certificate's lifetime in which it is renewed: 30 days of 90, 2 of 6.
WINDOW: Final = 1 / 3
#: The part of the window by which the renewal may come earlier, so that not all certificates of a day are renewed in one minute.
JITTER: Final = 1 / 10
#: A certificate is renewed at most once in this time, or in a part of its own lifetime if that is shorter: a clock that is years wrong
#: must not use up what the authority allows in a week.
MIN_AGE: Final = DAY

#: A first failure is followed by a second try after this time, which doubles up to the maximum.  Let's Encrypt allows five failed
#: validations of a name in an hour.
RETRY_FIRST: Final = 5 * MINUTE
RETRY_MAX: Final = 12 * HOUR
#: The same where the authority could not be reached or is out of order, which costs nobody anything.
OUTAGE_FIRST: Final = 1 * MINUTE
OUTAGE_MAX: Final = 1 * HOUR
#: No try is put off for much longer than this part of what is left of a certificate's life, except by the authority's own word.
_PATIENCE: Final = 1 / 8

#: How often the authority is asked for its opinion on a certificate: bounds for what it suggests (RFC 9773 section 4.3.2).
ARI_DEFAULT: Final = 6 * HOUR
ARI_MIN: Final = MINUTE
ARI_MAX: Final = DAY

#: The longest time for which an authority's ``Retry-After`` is followed; limits are for a week at most.  What is remembered to be further
#: ahead comes from a clock that was wrong.
WAIT_MAX: Final = 8 * DAY

#: How often a certificate in danger, or a file that cannot be used, is reported.
REPORT_INTERVAL: Final = DAY


def renewal_time(not_before: float, not_after: float, serial: int, suggested: float | None = None) -> float:
    """When to renew a certificate.

    :param serial: its serial number, which also stands for chance, so that all processes agree.
    :param suggested: what the authority suggests; followed unless it is so late that something must be wrong.
    """
    window = (not_after - not_before) * WINDOW
    if suggested is not None:
        return min(suggested, panic_time(not_before, not_after))
    return not_after - window * (1 + JITTER * random.Random(serial).random())


def pick(start: float, end: float, serial: int) -> float:
    """A time between ``start`` and ``end``, the same whenever it is asked for (RFC 9773 section 4.2)."""
    return start + (end - start) * random.Random(serial).random() if end > start else start


def panic_time(not_before: float, not_after: float) -> float:
    """From when on a certificate that has not been renewed is in danger: half of the window is over."""
    return not_after - (not_after - not_before) * WINDOW / 2


def earliest_renewal(not_before: float, not_after: float, issued_at: float) -> float:
    """Before this a certificate that was just issued is not renewed, whatever the clock says; see :data:`MIN_AGE`."""
    return issued_at + min(MIN_AGE, (not_after - not_before) * WINDOW / 2)


def retry_delay(failures: int, outage: bool, retry_after: float | None, left: float | None, chance: float) -> float:
    """How long to wait after a failure.

    :param failures: how many there have been in a row, 1 for the first.
    :param outage: whether the authority was out of reach or out of order, as opposed to refusing.
    :param retry_after: what the authority asks for, where it does; that is never undercut.
    :param left: what is left of the certificate's life, ``None`` where there is none.
    :param chance: 0 to 1; spreads the tries of several servers.
    """
    first, longest = (OUTAGE_FIRST, OUTAGE_MAX) if outage else (RETRY_FIRST, RETRY_MAX)
    delay = min(first * 2.0 ** min(failures - 1, 20), longest)
    if left is not None and left > 0:
        delay = min(delay, max(first, left * _PATIENCE))
    # Within the longest, because that is what the documentation promises.
    delay = min(delay * (1 + chance / 5), longest)
    return min(delay if retry_after is None else max(delay, retry_after), WAIT_MAX)


def is_ahead(then: float, now: float) -> bool:
    """Whether a time that is remembered is still to come, and can be right; see :data:`WAIT_MAX`."""
    return now < then <= now + WAIT_MAX
