from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CallBackRequest(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: int
    def __init__(self, port: _Optional[int] = ...) -> None: ...

class CallBackReply(_message.Message):
    __slots__ = ("refusal", "ip", "port", "could_dial")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    COULD_DIAL_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    ip: str
    port: int
    could_dial: bool
    def __init__(self, refusal: _Optional[str] = ..., ip: _Optional[str] = ..., port: _Optional[int] = ..., could_dial: _Optional[bool] = ...) -> None: ...

class PunchRequest(_message.Message):
    __slots__ = ("ip", "port")
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    ip: str
    port: int
    def __init__(self, ip: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class PunchReply(_message.Message):
    __slots__ = ("refusal", "ip", "port")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    ip: str
    port: int
    def __init__(self, refusal: _Optional[str] = ..., ip: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
