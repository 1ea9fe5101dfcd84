"""Device time is shared equally, whatever the length of a run."""

from batching.device_share import DeviceShare


def used(run_s: dict[str, float], total_s: float) -> dict[str, float]:
    """Let all models wait all the time for a device with one run at a time; return the device time of each."""
    share, spent = DeviceShare(), dict.fromkeys(run_s, 0.0)
    while sum(spent.values()) < total_s:
        model = share.next_of(run_s)
        share.begin(model)
        share.end(model, run_s[model])
        spent[model] += run_s[model]
    return spent


def test_models_that_always_wait_get_equal_device_time() -> None:
    spent = used({"slow": 2.0, "fast": 0.002, "middle": 0.1}, 60)
    assert all(18 < seconds < 22 for seconds in spent.values()), spent


def test_a_model_that_was_idle_has_no_credit() -> None:
    share = DeviceShare()
    for _ in range(100):
        share.begin("busy")
        share.end("busy", 1.0)
    order = []
    for _ in range(6):
        model = share.next_of(["busy", "new"])
        share.begin(model)
        share.end(model, 1.0)
        order.append(model)
    assert sorted(order) == ["busy"] * 3 + ["new"] * 3


def test_the_first_of_equals_goes_first() -> None:
    assert DeviceShare().next_of(["b", "a"]) == "b"


def test_runs_side_by_side_count_each() -> None:
    share = DeviceShare()
    share.begin("slow")
    for _ in range(10):
        assert share.next_of(["fast"]) == "fast"
        share.begin("fast")
        share.end("fast", 0.01)
    share.end("slow", 0.05)
    assert share.next_of(["fast", "slow"]) == "slow"
