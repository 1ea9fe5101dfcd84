"""The grace period of leases, with plain numbers as clocks: lease 20 s, a sweep every 1.5 s."""

from api.gateway.lease_grace import LeaseGracePeriod

SERVER_MS = 1_700_000_000_000


def known(now_s: float = 100.0) -> LeaseGracePeriod:
    """A grace period that knows the server's clock and has waited for the workers."""
    patience = LeaseGracePeriod(1.5, 20)
    patience.latest_ms(now_s - 6)
    patience.record_sweep(SERVER_MS - 6000, now_s - 6)
    for ago_s in (4.5, 3, 1.5, 0):
        patience.latest_ms(now_s - ago_s)
        patience.record_sweep(SERVER_MS - int(ago_s * 1000), now_s - ago_s)
    return patience


def test_a_new_gateway_reclaims_no_lease_until_it_knows_the_clock() -> None:
    patience = LeaseGracePeriod(1.5, 20)
    assert patience.latest_ms(0) == 0
    assert patience.record_sweep(SERVER_MS, 0) == 0
    assert [patience.latest_ms(now_s) for now_s in (1.5, 3, 4.9)] == [0, 0, 0]


def test_leases_are_reclaimed_up_to_the_estimated_server_time() -> None:
    assert known().latest_ms(101.5) == SERVER_MS + 1500 + 5000


def test_workers_get_one_heartbeat_of_grace_after_an_outage() -> None:
    patience = known()
    assert patience.latest_ms(104.1) == 0  # not within two sweeps and a second
    assert patience.latest_ms(130) == 0  # and it is still away
    assert patience.record_sweep(SERVER_MS + 31_000, 131) == 0  # being late is no news after an outage
    for now_s, held in ((132.5, True), (135.9, True), (136.1, False)):
        latest_ms = patience.latest_ms(now_s)
        assert (latest_ms == 0) == held
        patience.record_sweep(SERVER_MS + int((now_s - 100) * 1000), now_s)


def test_a_jump_of_the_server_clock_reclaims_no_lease_and_pauses_reclaiming() -> None:
    patience = known()
    latest_ms = patience.latest_ms(101.5)
    assert patience.record_sweep(latest_ms + 600_000, 101.5) == 600
    assert patience.latest_ms(103) == 0
    assert patience.record_sweep(latest_ms + 601_500, 103) == 0
    patience.latest_ms(105)
    patience.record_sweep(latest_ms + 603_500, 105)
    assert patience.latest_ms(106.6) == latest_ms + 603_500 + 1600 + 5000


def test_a_script_delayed_in_the_socket_of_a_stopped_server_pauses_reclaiming() -> None:
    patience = known()
    patience.latest_ms(101.5)
    assert patience.record_sweep(SERVER_MS + 9500, 109.5) == 3
    assert patience.latest_ms(111) == 0


def test_a_clock_that_moves_back_is_followed() -> None:
    patience = known()
    patience.latest_ms(101.5)
    assert patience.record_sweep(SERVER_MS - 600_000, 101.5) == 0
    assert patience.latest_ms(103) == SERVER_MS - 600_000 + 1500 + 5000
