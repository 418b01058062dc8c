"""Looking for secrets where they must not be, in every form in which a program would write them."""

import base64
from collections.abc import Mapping
from pathlib import Path

from p2ptrain.identity.keys import load


def secrets_of_key(path: Path) -> list[bytes]:
    """What nobody may see of a key file: its seed, and the whole of it."""
    identity = load(path)
    return [identity.seed(), identity.file_bytes()]


def found_in(places: Mapping[str, bytes], secrets: Mapping[str, bytes]) -> list[str]:
    """``secret in place`` for each that is there."""
    return [
        f"{secret} in {place}"
        for place, text in places.items()
        for secret, raw in secrets.items()
        if any(form in text for form in _forms(raw))
    ]


def _forms(raw: bytes) -> list[bytes]:
    encoded = [base64.b64encode(raw), base64.urlsafe_b64encode(raw), base64.b85encode(raw)]
    # Behind other bytes, base64 has the same letters from the next multiple of three on.
    shifted = [base64.b64encode(raw[start : start + (len(raw) - start) // 3 * 3]) for start in range(3)]
    spelled = [repr(raw)[2:-1].encode(), str(list(raw))[1:-1].encode(), ",".join(map(str, raw)).encode()]
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), *(e.rstrip(b"=") for e in encoded), *shifted, *spelled]
