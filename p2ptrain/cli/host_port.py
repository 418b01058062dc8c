"""``HOST:PORT`` as people type it."""

from p2ptrain.errors import UsageError


def host_and_port(option: str, text: str, *, example: str) -> tuple[str, int]:
    """The two parts of ``text``; an IPv6 address stands in brackets.

    Args:
        option: with its dashes, for the message.
        text: what was given.
        example: of something that works.

    Raises:
        UsageError: it is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not is_bracketed):
        raise UsageError(f"{option} {text} is not HOST:PORT; choose for example {example}")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"{option} {text}: {port or 'nothing'} is not a port; choose 0 to 65535, for example {example}"
        )
    return host.strip("[]"), int(port)
