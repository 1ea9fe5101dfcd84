"""When leases may be called in, decided with clocks that are only numbers: lease 20 s, a sweep every 1.5 s."""

from api.gateway.lease_grace import LeaseGracePeriod

SERVER_MS = 1_700_000_000_000


def known(now_s: float = 100.0) -> LeaseGracePeriod:
    """One that has heard the server, and held for its workers as long as it must."""
    patience = LeaseGracePeriod(1.5, 20)
    patience.latest_ms(now_s - 6)
    patience.record_sweep(SERVER_MS - 6000, now_s - 6)
    for ago_s in (4.5, 3, 1.5, 0):
        patience.latest_ms(now_s - ago_s)
        patience.record_sweep(SERVER_MS - int(ago_s * 1000), now_s - ago_s)
    return patience


def test_a_fresh_gateway_takes_nothing_back_until_it_knows_the_clock() -> None:
    patience = LeaseGracePeriod(1.5, 20)
    assert patience.latest_ms(0) == 0
    assert patience.record_sweep(SERVER_MS, 0) == 0
    assert [patience.latest_ms(now_s) for now_s in (1.5, 3, 4.9)] == [0, 0, 0]


def test_leases_are_called_in_up_to_the_time_it_must_be_there_by_now() -> None:
    assert known().latest_ms(101.5) == SERVER_MS + 1500 + 5000


def test_a_server_that_was_away_gives_workers_a_beat_once_it_is_back() -> None:
    patience = known()
    assert patience.latest_ms(104.1) == 0  # not within two sweeps and a second
    assert patience.latest_ms(130) == 0  # and it is still away
    assert patience.record_sweep(SERVER_MS + 31_000, 131) == 0  # being late is no news after an outage
    for now_s, held in ((132.5, True), (135.9, True), (136.1, False)):
        latest_ms = patience.latest_ms(now_s)
        assert (latest_ms == 0) == held
        patience.record_sweep(SERVER_MS + int((now_s - 100) * 1000), now_s)


def test_a_jump_of_its_clock_takes_no_lease_and_holds() -> None:
    patience = known()
    latest_ms = patience.latest_ms(101.5)
    assert patience.record_sweep(latest_ms + 600_000, 101.5) == 600
    assert patience.latest_ms(103) == 0
    assert patience.record_sweep(latest_ms + 601_500, 103) == 0
    patience.latest_ms(105)
    patience.record_sweep(latest_ms + 603_500, 105)
    assert patience.latest_ms(106.6) == latest_ms + 603_500 + 1600 + 5000


def test_a_script_that_lay_in_the_socket_of_a_stopped_server_holds() -> None:
    patience = known()
    patience.latest_ms(101.5)
    assert patience.record_sweep(SERVER_MS + 9500, 109.5) == 3
    assert patience.latest_ms(111) == 0


def test_a_clock_that_goes_back_is_followed() -> None:
    patience = known()
    patience.latest_ms(101.5)
    assert patience.record_sweep(SERVER_MS - 600_000, 101.5) == 0
    assert patience.latest_ms(103) == SERVER_MS - 600_000 + 1500 + 5000
