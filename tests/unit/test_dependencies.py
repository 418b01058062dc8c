"""Every package that p2ptrain brings along is pinned; an audit that could not ask says so."""

from tests.support.dependencies import installed_versions, pinned_versions, verdict


def test_every_package_that_is_needed_is_pinned() -> None:
    needed = installed_versions()
    assert {"torch", "hivemind", "cryptography", "multidict", "msgpack"} <= set(needed)
    assert sorted(set(needed) - set(pinned_versions())) == []


def test_what_could_not_be_looked_up_does_not_count_as_sound() -> None:
    good = {"name": "a", "version": "1", "vulns": []}
    assert verdict([good, good])[0] == 0
    assert verdict([good, {"name": "b", "skip_reason": "not found on PyPI"}])[0] == 3
    assert "1 of 2" in verdict([good, {"name": "b", "skip_reason": "not found on PyPI"}])[1]
    bad = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    status, said = verdict([good, bad, {"name": "b", "skip_reason": "not found on PyPI"}])
    assert status == 1
    assert "PYSEC-1" in said
