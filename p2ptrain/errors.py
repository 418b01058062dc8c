"""Every error raised on purpose.

    P2PTrainError                 something a person must know; the message says what to do next
    ├── UsageError                what the user gave cannot work; nothing was started or written (exit status 2)
    │   ├── ConfigError           a manifest or profile, with every problem listed
    │   ├── SlicingError          the model cannot be cut into that many slices
    │   ├── DoesNotFit            the memory given is too small for any way to train
    │   ├── DataError             the text of the run is missing or differs from the manifest's
    │   ├── HomeError             a home folder of another run, in use, or with a corrupt checkpoint
    │   ├── IdentityError         a key file that is not a key, or that others can read
    │   ├── NotAdmitted           the run does not let this peer in; the message says how to be let in
    │   ├── NetworkSetupError     no bootstrap answers, or the port is taken
    │   ├── NoPeerRunning         a command for a running peer, and none answers
    │   └── ControlUsageError     a command that makes no sense, or a control socket that must not be used as it is
    ├── ControlError              a running peer cannot do now what it was asked, or does not answer in time
    ├── StorageError              a file could not be written; what was saved before is intact
    ├── NodeDied                  libp2p's daemon has ended under a running peer
    ├── StepBrokenOff             an inner step was given up between two micro-batches: a pause does not wait for it
    ├── OutOfMemory               the device's memory is too small for one window
    ├── NonFiniteUpdate           training produced NaN or infinity; the contribution is withheld
    └── WireError                 bytes from the network that break the protocol
        ├── BadRecord             a directory record with a wrong signature, owner or form
        ├── BadMessage            a message that cannot be decoded, is too large or is not for us
        ├── PeerUnreachable       a peer could not be called, or did not answer in time
        │   └── DialledTooSoon    it was not even dialled, for that failed a moment ago
        └── BlobUnavailable       no holder delivered the bytes with the announced hash in time
            └── AveragesUnavailable  so it is with some averages of a round

Another peer's failure is an outcome of a round, not an exception in our loop: WireErrors stop at the edge.
"""

from collections.abc import Collection


class P2PTrainError(Exception):
    """Root of all errors raised on purpose; the message names the remedy."""


class UsageError(P2PTrainError):
    """What the user gave cannot work; nothing was started or written."""


class ConfigError(UsageError):
    """A manifest or profile is wrong; the message lists every problem."""


class SlicingError(UsageError):
    """The model cannot be cut into that many slices."""


class DoesNotFit(UsageError):
    """The memory given is too small for any way to train; the message says how much would do."""


class DataError(UsageError):
    """The run's text is missing, too short or differs from what the manifest says."""


class HomeError(UsageError):
    """The home folder belongs to another run, is in use, or holds a corrupt checkpoint."""


class IdentityError(UsageError):
    """A key file is not an Ed25519 key, or others can read it."""


class NotAdmitted(UsageError):
    """The run does not let this peer in."""


class NetworkSetupError(UsageError):
    """The network could not be joined: no bootstrap answers, or the port is taken."""


class NoPeerRunning(UsageError):
    """A command is meant for a running peer, and none answers there."""


class ControlUsageError(UsageError):
    """A running peer was asked for what makes no sense, or its control interface cannot be used safely as it is."""


class ControlError(P2PTrainError):
    """A running peer cannot do now what it was asked, or did not answer in time."""


class StorageError(P2PTrainError):
    """A file could not be written, for example because the disk is full; what was saved before is intact."""


class NodeDied(P2PTrainError):
    """libp2p's daemon has ended under a running peer."""


class StepBrokenOff(P2PTrainError):
    """An inner step was given up because nobody wants it any more; nothing was changed."""


class OutOfMemory(P2PTrainError):
    """Memory ran out even with the lightest way to compute; nothing was changed."""


class NonFiniteUpdate(P2PTrainError):
    """Training produced NaN or infinity; the contribution is withheld."""


class WireError(P2PTrainError):
    """Bytes from the network that break the protocol."""


class BadRecord(WireError):
    """A directory record with a wrong signature, owner or form."""


class BadMessage(WireError):
    """A message that cannot be decoded, is too large or is not for us."""


class PeerUnreachable(WireError):
    """A peer could not be called, or did not answer in time."""


class DialledTooSoon(PeerUnreachable):
    """libp2p does not dial a peer again within 5 s of a dial that failed; says nothing of the peer as it is now."""


class BlobUnavailable(WireError):
    """No holder delivered the bytes with the announced hash in time."""


class AveragesUnavailable(BlobUnavailable):
    """So it is with the averages of these parts."""

    def __init__(self, message: str, parts: Collection[int]) -> None:
        super().__init__(message)
        self.parts = parts
