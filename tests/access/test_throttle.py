from __future__ import annotations

from appliance.access.throttle import ADDRESSES, EACH_S, NAMES, TRIES, Throttle
from tests.access.test_limits import Clock


def test_an_address_has_some_tries_and_then_one_at_a_time() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for n in range(TRIES):
        assert throttle.wait("192.0.2.1") == 0
        throttle.failed("192.0.2.1", b"%d" % n)
    assert 0 < throttle.wait("192.0.2.1") <= EACH_S
    assert throttle.wait("192.0.2.2") == 0
    clock.now += EACH_S
    assert throttle.wait("192.0.2.1") == 0
    throttle.failed("192.0.2.1", b"next")
    assert throttle.wait("192.0.2.1") > 0


def test_the_same_wrong_key_again_and_again_counts_once() -> None:
    """Of a client that nobody told of its new key: its neighbours behind one address go on."""
    throttle = Throttle(Clock())
    for n in range(TRIES - 1):
        for _ in range(50):
            throttle.failed("192.0.2.1", b"%d" % (n // 2))
    assert throttle.wait("192.0.2.1") == 0


def test_an_ipv6_client_is_its_network_and_a_mapped_address_is_ipv4() -> None:
    throttle = Throttle(Clock())
    for i in range(TRIES):
        throttle.failed(f"2001:db8::{i:x}%eth0", b"%d" % i)
    assert throttle.wait("2001:db8::ffff:1") > 0
    assert throttle.wait("2001:db8:0:1::1") == 0
    for i in range(TRIES):
        throttle.failed("::ffff:192.0.2.1", b"%d" % i)
    assert throttle.wait("192.0.2.1") > 0


def test_the_tables_are_bounded_and_forget_the_oldest() -> None:
    throttle = Throttle(Clock())
    for i in range(TRIES):
        throttle.failed("192.0.2.1", b"%d" % i)
    for i in range(ADDRESSES):
        throttle.failed(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", b"")
    assert throttle.wait("192.0.2.1") == 0
    assert len(throttle._table) == ADDRESSES
    for i in range(NAMES + 1):
        throttle.right("192.0.2.1", f"key-{i}")
    assert not throttle.known("192.0.2.1", "key-0")
    assert throttle.known("192.0.2.1", f"key-{NAMES}")
