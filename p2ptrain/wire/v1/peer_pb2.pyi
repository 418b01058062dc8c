from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Signed(_message.Message):
    __slots__ = ("body", "signer", "signature")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    signer: str
    signature: bytes
    def __init__(self, body: _Optional[bytes] = ..., signer: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("run", "peer", "ready", "joining", "protocol", "expires_s", "leaving", "capacity", "fixed", "changed_s", "away", "instance", "halvings", "draw", "invite", "withdrawn")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    JOINING_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_S_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    HALVINGS_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    INVITE_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    run: str
    peer: str
    ready: _containers.RepeatedScalarFieldContainer[str]
    joining: _containers.RepeatedScalarFieldContainer[str]
    protocol: int
    expires_s: float
    leaving: _containers.RepeatedScalarFieldContainer[str]
    capacity: Capacity
    fixed: bool
    changed_s: float
    away: bool
    instance: int
    halvings: int
    draw: int
    invite: str
    withdrawn: bool
    def __init__(self, run: _Optional[str] = ..., peer: _Optional[str] = ..., ready: _Optional[_Iterable[str]] = ..., joining: _Optional[_Iterable[str]] = ..., protocol: _Optional[int] = ..., expires_s: _Optional[float] = ..., leaving: _Optional[_Iterable[str]] = ..., capacity: _Optional[_Union[Capacity, _Mapping]] = ..., fixed: _Optional[bool] = ..., changed_s: _Optional[float] = ..., away: _Optional[bool] = ..., instance: _Optional[int] = ..., halvings: _Optional[int] = ..., draw: _Optional[int] = ..., invite: _Optional[str] = ..., withdrawn: _Optional[bool] = ...) -> None: ...

class Capacity(_message.Message):
    __slots__ = ("max_slices", "tokens_per_s", "uplink_mbps", "downlink_mbps", "way")
    MAX_SLICES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    UPLINK_MBPS_FIELD_NUMBER: _ClassVar[int]
    DOWNLINK_MBPS_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    max_slices: int
    tokens_per_s: float
    uplink_mbps: float
    downlink_mbps: float
    way: str
    def __init__(self, max_slices: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., uplink_mbps: _Optional[float] = ..., downlink_mbps: _Optional[float] = ..., way: _Optional[str] = ...) -> None: ...

class BlobRef(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("peer", "tokens", "loss_nats", "parts", "uplink_mbps", "downlink_mbps")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    UPLINK_MBPS_FIELD_NUMBER: _ClassVar[int]
    DOWNLINK_MBPS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    tokens: int
    loss_nats: float
    parts: _containers.RepeatedCompositeFieldContainer[BlobRef]
    uplink_mbps: float
    downlink_mbps: float
    def __init__(self, peer: _Optional[str] = ..., tokens: _Optional[int] = ..., loss_nats: _Optional[float] = ..., parts: _Optional[_Iterable[_Union[BlobRef, _Mapping]]] = ..., uplink_mbps: _Optional[float] = ..., downlink_mbps: _Optional[float] = ...) -> None: ...

class PartResult(_message.Message):
    __slots__ = ("part", "average", "contributors", "contributor_numbers")
    PART_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTOR_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    part: int
    average: BlobRef
    contributors: _containers.RepeatedScalarFieldContainer[str]
    contributor_numbers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, part: _Optional[int] = ..., average: _Optional[_Union[BlobRef, _Mapping]] = ..., contributors: _Optional[_Iterable[str]] = ..., contributor_numbers: _Optional[_Iterable[int]] = ...) -> None: ...

class Ballot(_message.Message):
    __slots__ = ("epoch", "attempt", "members")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    attempt: int
    members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[int] = ..., attempt: _Optional[int] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("run", "slice", "version", "previous", "digest", "published_digest", "update", "results", "contributions", "owners", "tokens", "weight")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    run: str
    slice: str
    version: int
    previous: bytes
    digest: bytes
    published_digest: bytes
    update: BlobRef
    results: _containers.RepeatedCompositeFieldContainer[PartResult]
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    owners: _containers.RepeatedScalarFieldContainer[str]
    tokens: int
    weight: int
    def __init__(self, run: _Optional[str] = ..., slice: _Optional[str] = ..., version: _Optional[int] = ..., previous: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., published_digest: _Optional[bytes] = ..., update: _Optional[_Union[BlobRef, _Mapping]] = ..., results: _Optional[_Iterable[_Union[PartResult, _Mapping]]] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., owners: _Optional[_Iterable[str]] = ..., tokens: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("peer", "signature", "invite")
    PEER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    INVITE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    signature: bytes
    invite: str
    def __init__(self, peer: _Optional[str] = ..., signature: _Optional[bytes] = ..., invite: _Optional[str] = ...) -> None: ...

class CastVote(_message.Message):
    __slots__ = ("value_sha256", "vote")
    VALUE_SHA256_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    value_sha256: bytes
    vote: Vote
    def __init__(self, value_sha256: _Optional[bytes] = ..., vote: _Optional[_Union[Vote, _Mapping]] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("value", "ballot", "votes")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    ballot: Ballot
    votes: _containers.RepeatedCompositeFieldContainer[Vote]
    def __init__(self, value: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., votes: _Optional[_Iterable[_Union[Vote, _Mapping]]] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("ballot", "value")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    value: bytes
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., value: _Optional[bytes] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("contribution", "accepted", "previous_sha256", "beside")
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SHA256_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    contribution: Contribution
    accepted: Proposal
    previous_sha256: bytes
    beside: int
    def __init__(self, contribution: _Optional[_Union[Contribution, _Mapping]] = ..., accepted: _Optional[_Union[Proposal, _Mapping]] = ..., previous_sha256: _Optional[bytes] = ..., beside: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("contribution", "previous_sha256")
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SHA256_FIELD_NUMBER: _ClassVar[int]
    contribution: Contribution
    previous_sha256: bytes
    def __init__(self, contribution: _Optional[_Union[Contribution, _Mapping]] = ..., previous_sha256: _Optional[bytes] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("revision", "contributions", "reducers", "checkers")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    REDUCERS_FIELD_NUMBER: _ClassVar[int]
    CHECKERS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    reducers: _containers.RepeatedScalarFieldContainer[int]
    checkers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, revision: _Optional[int] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., reducers: _Optional[_Iterable[int]] = ..., checkers: _Optional[_Iterable[int]] = ...) -> None: ...

class RoundMessage(_message.Message):
    __slots__ = ("run", "slice", "version", "ballot", "ready", "plan", "result", "proposal", "vote", "committed", "offer")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    run: str
    slice: str
    version: int
    ballot: Ballot
    ready: Ready
    plan: Plan
    result: PartResult
    proposal: bytes
    vote: CastVote
    committed: Certificate
    offer: Offer
    def __init__(self, run: _Optional[str] = ..., slice: _Optional[str] = ..., version: _Optional[int] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., result: _Optional[_Union[PartResult, _Mapping]] = ..., proposal: _Optional[bytes] = ..., vote: _Optional[_Union[CastVote, _Mapping]] = ..., committed: _Optional[_Union[Certificate, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("refusal",)
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    def __init__(self, refusal: _Optional[str] = ...) -> None: ...

class EntrustRequest(_message.Message):
    __slots__ = ("run", "slice", "version", "previous_sha256", "cut_off", "contribution", "invite")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_SHA256_FIELD_NUMBER: _ClassVar[int]
    CUT_OFF_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    INVITE_FIELD_NUMBER: _ClassVar[int]
    run: str
    slice: str
    version: int
    previous_sha256: bytes
    cut_off: bool
    contribution: Contribution
    invite: str
    def __init__(self, run: _Optional[str] = ..., slice: _Optional[str] = ..., version: _Optional[int] = ..., previous_sha256: _Optional[bytes] = ..., cut_off: _Optional[bool] = ..., contribution: _Optional[_Union[Contribution, _Mapping]] = ..., invite: _Optional[str] = ...) -> None: ...

class EntrustReply(_message.Message):
    __slots__ = ("refusal",)
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    def __init__(self, refusal: _Optional[str] = ...) -> None: ...

class DelegateNews(_message.Message):
    __slots__ = ("run", "slice", "version", "cut_off_within_s", "tokens")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CUT_OFF_WITHIN_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    run: str
    slice: str
    version: int
    cut_off_within_s: float
    tokens: int
    def __init__(self, run: _Optional[str] = ..., slice: _Optional[str] = ..., version: _Optional[int] = ..., cut_off_within_s: _Optional[float] = ..., tokens: _Optional[int] = ...) -> None: ...

class HeadsRequest(_message.Message):
    __slots__ = ("run", "have", "held")
    class HaveEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class HeldEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    run: str
    have: _containers.ScalarMap[str, int]
    held: _containers.ScalarMap[str, bytes]
    def __init__(self, run: _Optional[str] = ..., have: _Optional[_Mapping[str, int]] = ..., held: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class HeadsReply(_message.Message):
    __slots__ = ("refusal", "certificates", "more", "rivals", "behind")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    RIVALS_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    more: bool
    rivals: _containers.RepeatedScalarFieldContainer[str]
    behind: _containers.RepeatedCompositeFieldContainer[Behind]
    def __init__(self, refusal: _Optional[str] = ..., certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., more: _Optional[bool] = ..., rivals: _Optional[_Iterable[str]] = ..., behind: _Optional[_Iterable[_Union[Behind, _Mapping]]] = ...) -> None: ...

class Behind(_message.Message):
    __slots__ = ("slice", "version", "value_sha256")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_SHA256_FIELD_NUMBER: _ClassVar[int]
    slice: str
    version: int
    value_sha256: bytes
    def __init__(self, slice: _Optional[str] = ..., version: _Optional[int] = ..., value_sha256: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class SliceStatus(_message.Message):
    __slots__ = ("slice", "version", "epoch", "owners", "digests", "tokens", "loss_nats", "owned")
    class DigestsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    OWNED_FIELD_NUMBER: _ClassVar[int]
    slice: str
    version: int
    epoch: int
    owners: _containers.RepeatedScalarFieldContainer[str]
    digests: _containers.ScalarMap[int, str]
    tokens: int
    loss_nats: float
    owned: bool
    def __init__(self, slice: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[int] = ..., owners: _Optional[_Iterable[str]] = ..., digests: _Optional[_Mapping[int, str]] = ..., tokens: _Optional[int] = ..., loss_nats: _Optional[float] = ..., owned: _Optional[bool] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("refusal", "peer", "state", "reason", "slices", "sent_bytes", "received_bytes", "tokens", "software", "validation_loss_nats", "reach", "unlisted", "time_s")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    UNLISTED_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    peer: str
    state: str
    reason: str
    slices: _containers.RepeatedCompositeFieldContainer[SliceStatus]
    sent_bytes: int
    received_bytes: int
    tokens: int
    software: str
    validation_loss_nats: float
    reach: str
    unlisted: bool
    time_s: float
    def __init__(self, refusal: _Optional[str] = ..., peer: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., slices: _Optional[_Iterable[_Union[SliceStatus, _Mapping]]] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., tokens: _Optional[int] = ..., software: _Optional[str] = ..., validation_loss_nats: _Optional[float] = ..., reach: _Optional[str] = ..., unlisted: _Optional[bool] = ..., time_s: _Optional[float] = ...) -> None: ...

class ManifestRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ManifestReply(_message.Message):
    __slots__ = ("refusal", "manifest")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    manifest: str
    def __init__(self, refusal: _Optional[str] = ..., manifest: _Optional[str] = ...) -> None: ...

class TokenizerRequest(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class TokenizerReply(_message.Message):
    __slots__ = ("size_bytes", "data")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    data: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
