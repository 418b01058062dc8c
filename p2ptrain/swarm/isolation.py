"""Whether anybody sees this peer from outside; a pure decision on what was seen and when.

What a peer stores itself says nothing: hivemind's ``store`` answers True when nobody else took the record (measured
during a cut). So only others count: that one of them answers or calls, and that it finds our claim when it looks.
"""

from dataclasses import dataclass, replace

QUIET_S = 15.0
"""Nobody answered or called for so long: three probes, each of which had 4 s for an answer."""
UNSEEN_S = 24.0
"""All that answer have missed our claim for so long; a record takes a few seconds to spread. A probe comes every 5 s,
so that this and ``QUIET_S`` are known within half a minute."""
PROBE_EVERY_S = 5.0
_ASLEEP_S = 3 * PROBE_EVERY_S
"""No look for so long: this process was suspended, and silence proves nothing yet."""
_RETRY_AT_MOST_S = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of being seen; times are monotonic seconds."""

    looked_s: float
    """When it was last judged."""
    contact_s: float
    """When somebody last answered us or called us."""
    unseen_since_s: float | None = None
    """Since when everybody that answers misses our claim; None: somebody sees it, or nobody was asked."""
    probes_failed: int = 0
    """In a row, with not one answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether we are cut off, and why."""

    is_isolated: bool
    reason: str = ""


def probed(evidence: Evidence, *, answers: int, sees_us: bool | None, now_s: float) -> Evidence:
    """After asking some others.

    Args:
        evidence: so far.
        answers: how many answered.
        sees_us: whether one of those that take part in the run has our claim; None if none of those answered.
        now_s: monotonic time.
    """
    if not answers:
        return replace(evidence, probes_failed=evidence.probes_failed + 1)
    unseen = evidence.unseen_since_s
    if sees_us is not None:
        unseen = None if sees_us else now_s if unseen is None else unseen
    return replace(evidence, contact_s=now_s, unseen_since_s=unseen, probes_failed=0)


def judged(evidence: Evidence, *, heard_s: float, num_addresses: int, now_s: float) -> tuple[Evidence, Verdict]:
    """The verdict at ``now_s``.

    Args:
        evidence: so far.
        heard_s: when somebody else last called us.
        num_addresses: addresses and peers that could be asked; with none there is nobody to be cut off from.
        now_s: monotonic time.
    """
    contact_s = max(evidence.contact_s, heard_s)
    unseen = evidence.unseen_since_s
    if now_s - evidence.looked_s > _ASLEEP_S:
        contact_s, unseen = now_s, None
    evidence = replace(evidence, looked_s=now_s, contact_s=contact_s, unseen_since_s=unseen)
    if num_addresses == 0:
        return evidence, Verdict(is_isolated=False)
    if now_s - contact_s > QUIET_S:
        reason = (
            f"nobody has answered or called for {now_s - contact_s:.0f} s, {num_addresses} known addresses are tried;"
            " check this machine's network. Training goes on, alone"
        )
        return evidence, Verdict(is_isolated=True, reason=reason)
    if unseen is not None and now_s - unseen > UNSEEN_S:
        reason = (
            f"others answer, but for {now_s - unseen:.0f} s none of them has found our claim; is this machine's clock"
            " right? Training goes on, alone"
        )
        return evidence, Verdict(is_isolated=True, reason=reason)
    return evidence, Verdict(is_isolated=False)


def pause_s(evidence: Evidence, chance: float) -> float:
    """Until the next probe: while nobody answers, from a second doubled up to a dozen, spread by a third.

    Args:
        evidence: so far.
        chance: a random number in [0, 1), so that peers that lost the network together do not come back as one.
    """
    if not evidence.probes_failed:
        return PROBE_EVERY_S
    longest_s = min(_RETRY_AT_MOST_S, 2.0 ** min(evidence.probes_failed, 10))
    return longest_s * (1 - chance / 3)
