"""What a round sends and fetches, from sizes alone: the formula of docs/protocol.md, "Bytes of a round"."""

from collections.abc import Mapping

from p2ptrain.ids import COMMON, SliceId


def averaging_bytes(encoded: int, owners: float, *, is_checked: bool) -> float:
    """What each of a slice's owners sends, and fetches as well, while they average; parts are shared evenly.

    Args:
        encoded: bytes of the slice as the run's codec encodes it.
        owners: 1 at least; a mean over slices may have a fraction.
        is_checked: a second member computes each average, where there are more than two.
    """
    shares = 3 - 4 / owners if is_checked and owners > 2 else 2 - 2 / owners
    return shares * encoded


def round_bytes(encoded: Mapping[SliceId, int], peers: int, *, max_owners: int, is_checked: bool) -> float:
    """What a peer that owns the common part and one slice sends, and fetches as well, in a round of all slices.

    The updates of the other slices are passed on by those who have them, so that on average everybody sends as much as
    it fetches. Not counted are messages (some kilobytes) and the work of peers beyond ``max_owners``, which each owner
    of the common part fetches from a few of them.

    Args:
        encoded: bytes of each slice, as the run's codec encodes it.
        peers: evenly spread over the slices, at least one to each.
        max_owners: that average together.
        is_checked: averages are computed twice.
    """
    numbered = [size for slice_id, size in encoded.items() if slice_id != COMMON]
    owners = min(peers / len(numbered), max_owners)
    of_a_slice = sum(numbered) / len(numbered)
    return (
        averaging_bytes(encoded[COMMON], min(peers, max_owners), is_checked=is_checked)
        + averaging_bytes(round(of_a_slice), owners, is_checked=is_checked)
        + (len(numbered) - 1) * of_a_slice
    )
