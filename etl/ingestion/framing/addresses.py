"""Where in memory bytes are: a decoded token is a view of the block that it was decoded from. Pure.

A decoder does not say at which byte of its input it found a value. The address of the value says it.
"""

import ctypes
from functools import cached_property
from typing import ClassVar

import msgspec


class _Buffer(ctypes.Structure):
    """`Py_buffer`: https://docs.python.org/3/c-api/buffer.html."""

    _fields_: ClassVar = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int]
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(_Buffer)]
_SIMPLE = 0


class Text:
    """Bytes that were decoded, with a block that begins at one of them. They stay where they are while this lives."""

    def __init__(self, data: bytes, begin: int = 0) -> None:
        self.data = data
        self._begin = begin

    def offset_of(self, token: msgspec.Raw | bytes) -> int | None:
        """Return the byte of the block at which a token begins that is a view of these bytes; None: it is none.

        While these bytes live, no others have an address in them.
        """
        offset = _address(token) - self._address
        return offset - self._begin if 0 <= offset < len(self.data) else None

    @cached_property
    def _address(self) -> int:
        return _address(self.data)


def _address(data: msgspec.Raw | bytes) -> int:
    buffer = _Buffer()
    reference = ctypes.byref(buffer)
    _get(data, reference, _SIMPLE)
    address: int = buffer.buf or 0
    _release(reference)
    return address
