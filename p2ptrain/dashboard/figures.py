"""Numbers as people read them on a screen. What is not measured is said so, never shown as 0."""

NOT_MEASURED = "not measured"


def short_count(number: float) -> str:
    """``1234567`` as ``1.23 M``: three digits at most."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{_three(number / size)} {unit}"
    return f"{number:.0f}"


def size(num_bytes: float) -> str:
    """Bytes with a decimal unit, as networks and disks count."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(num_bytes) >= factor:
            return f"{_three(num_bytes / factor)} {unit}"
    return f"{num_bytes:.0f} B"


def memory(num_bytes: float) -> str:
    """Bytes with a binary unit, as memory is sold."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if num_bytes >= factor:
            return f"{_three(num_bytes / factor)} {unit}"
    return f"{num_bytes / 1024:.0f} KiB"


def duration(seconds: float) -> str:
    """A stretch of time in its two largest units: ``8.2 s``, ``3 min 5 s``, ``2 h 10 min``, ``4 d 3 h``."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def age(seconds: float) -> str:
    """A stretch of time in its largest unit, for narrow columns: ``8s``, ``3m``, ``2h``, ``4d``."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def clock(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below an hour."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def nats(loss: float | None, none: str) -> str:
    """A loss, or ``none``."""
    return none if loss is None else f"{loss:.3f}"


def _three(number: float) -> str:
    if abs(number) >= 99.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if abs(number) >= 9.995 else f"{number:.2f}"
