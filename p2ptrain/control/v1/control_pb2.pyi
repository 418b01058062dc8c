from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("peer", "run", "run_name", "software", "started_s", "time_s", "process_id", "home", "state", "reason", "state_since_s", "round", "rounds", "inner_step", "inner_steps", "pausing", "tokens", "tokens_per_s", "loss_nats", "validation_loss_nats", "slices", "network", "device", "first_sequence", "last_sequence")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    STARTED_S_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_SINCE_S_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    INNER_STEP_FIELD_NUMBER: _ClassVar[int]
    INNER_STEPS_FIELD_NUMBER: _ClassVar[int]
    PAUSING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    run: str
    run_name: str
    software: str
    started_s: float
    time_s: float
    process_id: int
    home: str
    state: str
    reason: str
    state_since_s: float
    round: int
    rounds: int
    inner_step: int
    inner_steps: int
    pausing: Pausing
    tokens: int
    tokens_per_s: float
    loss_nats: float
    validation_loss_nats: float
    slices: _containers.RepeatedCompositeFieldContainer[Slice]
    network: Network
    device: Device
    first_sequence: int
    last_sequence: int
    def __init__(self, peer: _Optional[str] = ..., run: _Optional[str] = ..., run_name: _Optional[str] = ..., software: _Optional[str] = ..., started_s: _Optional[float] = ..., time_s: _Optional[float] = ..., process_id: _Optional[int] = ..., home: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., state_since_s: _Optional[float] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., inner_step: _Optional[int] = ..., inner_steps: _Optional[int] = ..., pausing: _Optional[_Union[Pausing, _Mapping]] = ..., tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., loss_nats: _Optional[float] = ..., validation_loss_nats: _Optional[float] = ..., slices: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., network: _Optional[_Union[Network, _Mapping]] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class Pausing(_message.Message):
    __slots__ = ("is_paused", "is_finishing", "cause", "reason", "until_s", "claim_kept_until_s")
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    IS_FINISHING_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    CLAIM_KEPT_UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    is_paused: bool
    is_finishing: bool
    cause: str
    reason: str
    until_s: float
    claim_kept_until_s: float
    def __init__(self, is_paused: _Optional[bool] = ..., is_finishing: _Optional[bool] = ..., cause: _Optional[str] = ..., reason: _Optional[str] = ..., until_s: _Optional[float] = ..., claim_kept_until_s: _Optional[float] = ...) -> None: ...

class Slice(_message.Message):
    __slots__ = ("slice", "version", "epoch", "is_mine", "owners", "holders", "away", "digest", "loss_nats", "tokens", "moved_s", "parameters")
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    IS_MINE_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MOVED_S_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    slice: str
    version: int
    epoch: int
    is_mine: bool
    owners: _containers.RepeatedScalarFieldContainer[str]
    holders: _containers.RepeatedScalarFieldContainer[str]
    away: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    loss_nats: float
    tokens: int
    moved_s: float
    parameters: int
    def __init__(self, slice: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[int] = ..., is_mine: _Optional[bool] = ..., owners: _Optional[_Iterable[str]] = ..., holders: _Optional[_Iterable[str]] = ..., away: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ..., loss_nats: _Optional[float] = ..., tokens: _Optional[int] = ..., moved_s: _Optional[float] = ..., parameters: _Optional[int] = ...) -> None: ...

class Network(_message.Message):
    __slots__ = ("addresses", "sent_bytes", "received_bytes", "sent_bytes_per_s", "received_bytes_per_s", "month_bytes", "reach", "known_peers")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    MONTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    KNOWN_PEERS_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    sent_bytes: int
    received_bytes: int
    sent_bytes_per_s: float
    received_bytes_per_s: float
    month_bytes: int
    reach: str
    known_peers: int
    def __init__(self, addresses: _Optional[_Iterable[str]] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_bytes_per_s: _Optional[float] = ..., received_bytes_per_s: _Optional[float] = ..., month_bytes: _Optional[int] = ..., reach: _Optional[str] = ..., known_peers: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("name", "threads", "used_percent", "memory_used_bytes", "memory_total_bytes", "temperature_c", "power_w", "process_rss_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    USED_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    PROCESS_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    threads: int
    used_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    temperature_c: float
    power_w: float
    process_rss_bytes: int
    def __init__(self, name: _Optional[str] = ..., threads: _Optional[int] = ..., used_percent: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., temperature_c: _Optional[float] = ..., power_w: _Optional[float] = ..., process_rss_bytes: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("after_sequence", "only_new", "stop_at_present", "kinds")
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    STOP_AT_PRESENT_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    only_new: bool
    stop_at_present: bool
    kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, after_sequence: _Optional[int] = ..., only_new: _Optional[bool] = ..., stop_at_present: _Optional[bool] = ..., kinds: _Optional[_Iterable[str]] = ...) -> None: ...

class EventRecord(_message.Message):
    __slots__ = ("sequence", "time_s", "kind", "line", "json")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time_s: float
    kind: str
    line: str
    json: str
    def __init__(self, sequence: _Optional[int] = ..., time_s: _Optional[float] = ..., kind: _Optional[str] = ..., line: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("duration_s", "reason")
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    duration_s: float
    reason: str
    def __init__(self, duration_s: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishRequest(_message.Message):
    __slots__ = ("duration_s",)
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    duration_s: float
    def __init__(self, duration_s: _Optional[float] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("finish_first",)
    FINISH_FIRST_FIELD_NUMBER: _ClassVar[int]
    finish_first: bool
    def __init__(self, finish_first: _Optional[bool] = ...) -> None: ...

class ActionReply(_message.Message):
    __slots__ = ("sentence", "pausing")
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    PAUSING_FIELD_NUMBER: _ClassVar[int]
    sentence: str
    pausing: Pausing
    def __init__(self, sentence: _Optional[str] = ..., pausing: _Optional[_Union[Pausing, _Mapping]] = ...) -> None: ...

class GetLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetLimitsRequest(_message.Message):
    __slots__ = ("changes", "duration_s")
    class ChangesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.ScalarMap[str, str]
    duration_s: float
    def __init__(self, changes: _Optional[_Mapping[str, str]] = ..., duration_s: _Optional[float] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("key", "value", "origin", "until_s", "help")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    origin: str
    until_s: float
    help: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., origin: _Optional[str] = ..., until_s: _Optional[float] = ..., help: _Optional[str] = ...) -> None: ...

class LimitsReply(_message.Message):
    __slots__ = ("limits", "is_allowed", "reason", "until_s", "problems")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    IS_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNTIL_S_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    is_allowed: bool
    reason: str
    until_s: float
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., is_allowed: _Optional[bool] = ..., reason: _Optional[str] = ..., until_s: _Optional[float] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class WhyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhyReply(_message.Message):
    __slots__ = ("sentence", "state", "is_contributing")
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_CONTRIBUTING_FIELD_NUMBER: _ClassVar[int]
    sentence: str
    state: str
    is_contributing: bool
    def __init__(self, sentence: _Optional[str] = ..., state: _Optional[str] = ..., is_contributing: _Optional[bool] = ...) -> None: ...

class DoctorRequest(_message.Message):
    __slots__ = ("quick",)
    QUICK_FIELD_NUMBER: _ClassVar[int]
    quick: bool
    def __init__(self, quick: _Optional[bool] = ...) -> None: ...

class DoctorReply(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("check", "verdict", "evidence", "remedy")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    check: str
    verdict: str
    evidence: str
    remedy: str
    def __init__(self, check: _Optional[str] = ..., verdict: _Optional[str] = ..., evidence: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class SwarmRequest(_message.Message):
    __slots__ = ("timeout_s",)
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    timeout_s: float
    def __init__(self, timeout_s: _Optional[float] = ...) -> None: ...

class SwarmReply(_message.Message):
    __slots__ = ("run", "slices", "peers", "silent")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    run: str
    slices: _containers.RepeatedCompositeFieldContainer[SwarmSlice]
    peers: _containers.RepeatedCompositeFieldContainer[SwarmPeer]
    silent: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run: _Optional[str] = ..., slices: _Optional[_Iterable[_Union[SwarmSlice, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[SwarmPeer, _Mapping]]] = ..., silent: _Optional[_Iterable[str]] = ...) -> None: ...

class SwarmSlice(_message.Message):
    __slots__ = ("slice", "version", "epoch", "owners", "digests", "digests_version", "tokens", "loss_nats")
    class DigestsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SLICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    slice: str
    version: int
    epoch: int
    owners: _containers.RepeatedScalarFieldContainer[str]
    digests: _containers.ScalarMap[str, str]
    digests_version: int
    tokens: int
    loss_nats: float
    def __init__(self, slice: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[int] = ..., owners: _Optional[_Iterable[str]] = ..., digests: _Optional[_Mapping[str, str]] = ..., digests_version: _Optional[int] = ..., tokens: _Optional[int] = ..., loss_nats: _Optional[float] = ...) -> None: ...

class SwarmPeer(_message.Message):
    __slots__ = ("peer", "slices", "state", "reason", "sent_bytes", "received_bytes", "tokens", "validation_loss_nats", "software", "is_away", "reach")
    PEER_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_NATS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    IS_AWAY_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    peer: str
    slices: _containers.RepeatedScalarFieldContainer[str]
    state: str
    reason: str
    sent_bytes: int
    received_bytes: int
    tokens: int
    validation_loss_nats: float
    software: str
    is_away: bool
    reach: str
    def __init__(self, peer: _Optional[str] = ..., slices: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., tokens: _Optional[int] = ..., validation_loss_nats: _Optional[float] = ..., software: _Optional[str] = ..., is_away: _Optional[bool] = ..., reach: _Optional[str] = ...) -> None: ...
