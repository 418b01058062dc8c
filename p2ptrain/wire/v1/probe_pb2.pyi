from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class UploadRequest(_message.Message):
    __slots__ = ("ballast",)
    BALLAST_FIELD_NUMBER: _ClassVar[int]
    ballast: bytes
    def __init__(self, ballast: _Optional[bytes] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("received_bytes",)
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    def __init__(self, received_bytes: _Optional[int] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("wanted_bytes",)
    WANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    wanted_bytes: int
    def __init__(self, wanted_bytes: _Optional[int] = ...) -> None: ...

class DownloadReply(_message.Message):
    __slots__ = ("ballast",)
    BALLAST_FIELD_NUMBER: _ClassVar[int]
    ballast: bytes
    def __init__(self, ballast: _Optional[bytes] = ...) -> None: ...
