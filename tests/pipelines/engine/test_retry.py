"""The shared retry policy: waits, bounds, Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.retry import RetryPolicy, is_transient_http, parse_retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def test_bare_exponential_doubles_up_to_the_cap_and_ends():
    policy = RetryPolicy(attempts=5, base_s=1, cap_s=3, jitter=0)
    assert [policy.delay(n) for n in (1, 2, 3, 4, 5)] == [1, 2, 3, 3, None]


def test_full_jitter_spans_zero_to_the_wait():
    policy = RetryPolicy(attempts=3, base_s=2, cap_s=10, jitter=1)
    assert policy.delay(1, random=lambda: 0.0) == 2
    assert policy.delay(1, random=lambda: 0.75) == 0.5


def test_retry_after_is_never_undercut():
    policy = RetryPolicy(attempts=3, base_s=1, cap_s=10, jitter=1)
    assert policy.delay(1, retry_after=7, random=lambda: 0.0) == 7
    assert policy.delay(1, retry_after=7, random=lambda: 0.5) == 7.5


def test_retry_after_beyond_the_cap_ends_the_tries():
    policy = RetryPolicy(attempts=3, retry_after_cap_s=60)
    assert policy.delay(1, retry_after=61) is None


def test_one_attempt_means_no_retry():
    assert RetryPolicy(attempts=1).delay(1) is None


def test_attempt_zero_is_refused():
    with pytest.raises(ValueError, match="starts at 1"):
        RetryPolicy().delay(0)


@given(st.integers(1, 5000), st.one_of(st.none(), st.floats(0, 1e6)), st.floats(0, 0.999))
def test_waits_are_finite_bounded_and_respect_the_server(attempt, retry_after, draw):
    policy = RetryPolicy(attempts=5000, base_s=0.5, cap_s=30, jitter=1, retry_after_cap_s=100)
    wait = policy.delay(attempt, retry_after, lambda: draw)
    if attempt >= 5000 or (retry_after or 0) > 100:
        assert wait is None
    elif retry_after is None:
        assert 0 <= wait <= 30
    else:
        assert retry_after <= wait <= retry_after + 0.5


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_transient_http(status):
    assert is_transient_http(status)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 410, 451])
def test_permanent_http(status):
    assert not is_transient_http(status)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Wed, 21 Oct 99999999999 07:28:00 GMT"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_parse_retry_after(headers, seconds):
    assert parse_retry_after(headers, NOW) == seconds
