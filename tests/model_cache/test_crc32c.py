"""CRC-32C of parts put together, against that of the whole."""

from __future__ import annotations

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from model_cache.crc32c import combined


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 1 << 20))
def test_it_is_that_of_the_whole(first: bytes, second: bytes, zeros: int) -> None:
    # Long ones as well, of which most is nothing.
    second += bytes(zeros)
    whole = google_crc32c.value(first + second)
    assert combined(google_crc32c.value(first), google_crc32c.value(second), len(second)) == whole
