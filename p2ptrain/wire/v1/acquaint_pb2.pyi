from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Contact(_message.Message):
    __slots__ = ("peer", "addresses")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    peer: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class AcquaintRequest(_message.Message):
    __slots__ = ("run", "addresses", "hang_up")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    HANG_UP_FIELD_NUMBER: _ClassVar[int]
    run: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    hang_up: bool
    def __init__(self, run: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., hang_up: _Optional[bool] = ...) -> None: ...

class AcquaintReply(_message.Message):
    __slots__ = ("refusal", "sees_you", "addresses", "contacts")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    SEES_YOU_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CONTACTS_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    sees_you: bool
    addresses: _containers.RepeatedScalarFieldContainer[str]
    contacts: _containers.RepeatedCompositeFieldContainer[Contact]
    def __init__(self, refusal: _Optional[str] = ..., sees_you: _Optional[bool] = ..., addresses: _Optional[_Iterable[str]] = ..., contacts: _Optional[_Iterable[_Union[Contact, _Mapping]]] = ...) -> None: ...
