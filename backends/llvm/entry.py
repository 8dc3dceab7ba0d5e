"""The short way into a model: one C function from the caller's arrays to the result.

A call of a small model spends more time in Python than in its kernels, most of all where other work
has emptied the caches in between. So programs that run on their caller's thread get a builtin
function, made of `@cnnir.enter`: it looks at the arrays as numpy's C headers describe them, notes
their addresses in a frame, runs the kernels and has the result copied. What it cannot take as it is
(another type, dtype, shape or stride, a large array at the end of a page), and a run that met bad
data, it declines by returning None: the caller goes the long way, which tells what is wrong.

A run that takes longer than HOLD lets the GIL go meanwhile. Then, and when the result is made,
other threads may come: those find the entry busy, and decline. The code belongs to the process,
since a builtin may outlive the program it enters: `close` shuts it and waits until nobody is
inside.

The table that an entry works with, in words of 8 bytes: 0 busy, 1 closed, 2 inputs, 3 native
function, 4 its context, 5 the context's inputs, 6 error words (i32), 7 how many, 8 a callable that
makes the result, 9 numpy.ndarray, 10 PyObject_CallNoArgs, 11 Py_NewRef, 12 None, 13
PyEval_SaveThread or 0, 14 PyEval_RestoreThread; from 16 on eight words an input: 0 dtype, 1 rank,
2 its sizes, 3 bytes, 4 the frame's own array for it, or 0.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sysconfig
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.engine import Engine, build
from cnnir.backends.llvm.frame import PAGE, Frame
from cnnir.backends.llvm.program import SLACK
from cnnir.backends.llvm.target import CpuTarget
from cnnir.tensortype import TensorType

HOLD = 100e-6
"""Seconds, by estimate, that a run may hold the GIL: before anybody could miss it."""

_CONTIGUOUS, _ALIGNED = 0x1, 0x100  # numpy's flags
# Bytes from the start of an array object: PyObject_HEAD and PyArrayObject_fields.
_TYPE, _DATA, _RANK, _SIZES, _DTYPE, _FLAGS = 8, 16, 24, 32, 56, 64
_FASTCALL = 0x80  # METH_FASTCALL

_TEXT = """
define ptr @cnnir.enter(ptr %self, ptr %arguments, i64 %count) nounwind {{
entry:
  %table.p = getelementptr i8, ptr %self, i64 {data}
  %table = load ptr, ptr %table.p
  %busy = load i64, ptr %table
  %closed.p = getelementptr i64, ptr %table, i64 1
  %closed = load i64, ptr %closed.p
  %inputs.p = getelementptr i64, ptr %table, i64 2
  %inputs = load i64, ptr %inputs.p
  %surplus = sub i64 %count, %inputs
  %shut = or i64 %busy, %closed
  %wrong = or i64 %shut, %surplus
  %open = icmp eq i64 %wrong, 0
  br i1 %open, label %look, label %decline
look:
  %addresses.p = getelementptr i64, ptr %table, i64 5
  %addresses = load ptr, ptr %addresses.p
  %ndarray.p = getelementptr i64, ptr %table, i64 9
  %ndarray = load ptr, ptr %ndarray.p
  br label %test
test:
  %i = phi i64 [ 0, %look ], [ %i1, %note ]
  %more = icmp ult i64 %i, %inputs
  br i1 %more, label %array, label %run
array:
  %argument.p = getelementptr ptr, ptr %arguments, i64 %i
  %argument = load ptr, ptr %argument.p
  %type.p = getelementptr i8, ptr %argument, i64 {type}
  %type = load ptr, ptr %type.p
  %exact = icmp eq ptr %type, %ndarray
  br i1 %exact, label %fields, label %decline
fields:
  %words = mul i64 %i, 8
  %at = add i64 %words, 16
  %wanted = getelementptr i64, ptr %table, i64 %at
  %wanted.dtype = load ptr, ptr %wanted
  %wanted.rank.p = getelementptr i64, ptr %wanted, i64 1
  %wanted.rank = load i64, ptr %wanted.rank.p
  %dtype.p = getelementptr i8, ptr %argument, i64 {dtype}
  %dtype = load ptr, ptr %dtype.p
  %flags.p = getelementptr i8, ptr %argument, i64 {flags}
  %flags = load i32, ptr %flags.p
  %rank.p = getelementptr i8, ptr %argument, i64 {rank}
  %rank32 = load i32, ptr %rank.p
  %rank = sext i32 %rank32 to i64
  %good = and i32 %flags, {good}
  %usual = icmp eq i32 %good, {good}
  %typed = icmp eq ptr %dtype, %wanted.dtype
  %ranked = icmp eq i64 %rank, %wanted.rank
  %fits = and i1 %typed, %ranked
  %fine = and i1 %fits, %usual
  br i1 %fine, label %shape, label %decline
shape:
  %sizes.p = getelementptr i8, ptr %argument, i64 {sizes}
  %sizes = load ptr, ptr %sizes.p
  %wanted.sizes.p = getelementptr i64, ptr %wanted, i64 2
  %wanted.sizes = load ptr, ptr %wanted.sizes.p
  br label %axis
axis:
  %k = phi i64 [ 0, %shape ], [ %k1, %compare ]
  %within = icmp ult i64 %k, %rank
  br i1 %within, label %compare, label %slack
compare:
  %size.p = getelementptr i64, ptr %sizes, i64 %k
  %size = load i64, ptr %size.p
  %wanted.size.p = getelementptr i64, ptr %wanted.sizes, i64 %k
  %wanted.size = load i64, ptr %wanted.size.p
  %k1 = add i64 %k, 1
  %same = icmp eq i64 %size, %wanted.size
  br i1 %same, label %axis, label %decline
slack:
  %data.p = getelementptr i8, ptr %argument, i64 {data}
  %data = load ptr, ptr %data.p
  %bytes.p = getelementptr i64, ptr %wanted, i64 3
  %bytes = load i64, ptr %bytes.p
  %begin = ptrtoint ptr %data to i64
  %end = add i64 %begin, %bytes
  %before = sub i64 %end, 1
  %on.page = and i64 %before, {page_mask}
  %spare = icmp ult i64 %on.page, {page_limit}
  br i1 %spare, label %note, label %cramped
cramped:
  %own.p = getelementptr i64, ptr %wanted, i64 4
  %own = load ptr, ptr %own.p
  %large = icmp eq ptr %own, null
  br i1 %large, label %decline, label %copy
copy:
  %copied = call ptr @memcpy(ptr %own, ptr %data, i64 %bytes)
  br label %note
note:
  %address = phi ptr [ %data, %slack ], [ %own, %copy ]
  %address.p = getelementptr ptr, ptr %addresses, i64 %i
  store ptr %address, ptr %address.p
  %i1 = add i64 %i, 1
  br label %test
run:
  store i64 1, ptr %table
  %function.p = getelementptr i64, ptr %table, i64 3
  %function = load ptr, ptr %function.p
  %context.p = getelementptr i64, ptr %table, i64 4
  %context = load ptr, ptr %context.p
  %save.p = getelementptr i64, ptr %table, i64 13
  %save = load ptr, ptr %save.p
  %short = icmp eq ptr %save, null
  br i1 %short, label %hold, label %let
hold:
  call void %function(ptr %context)
  br label %done
let:
  %restore.p = getelementptr i64, ptr %table, i64 14
  %restore = load ptr, ptr %restore.p
  %state = call ptr %save()
  call void %function(ptr %context)
  call void %restore(ptr %state)
  br label %done
done:
  %errors.p = getelementptr i64, ptr %table, i64 6
  %errors = load ptr, ptr %errors.p
  %steps.p = getelementptr i64, ptr %table, i64 7
  %steps = load i64, ptr %steps.p
  br label %step
step:
  %s = phi i64 [ 0, %done ], [ %s1, %word ]
  %seen = phi i32 [ 0, %done ], [ %seen1, %word ]
  %left = icmp ult i64 %s, %steps
  br i1 %left, label %word, label %told
word:
  %word.p = getelementptr i32, ptr %errors, i64 %s
  %error = load i32, ptr %word.p
  store i32 0, ptr %word.p
  %seen1 = or i32 %seen, %error
  %s1 = add i64 %s, 1
  br label %step
told:
  %well = icmp eq i32 %seen, 0
  br i1 %well, label %make, label %release
make:
  %maker.p = getelementptr i64, ptr %table, i64 8
  %maker = load ptr, ptr %maker.p
  %invoke.p = getelementptr i64, ptr %table, i64 10
  %invoke = load ptr, ptr %invoke.p
  %result = call ptr %invoke(ptr %maker)
  store i64 0, ptr %table
  ret ptr %result
release:
  store i64 0, ptr %table
  br label %decline
decline:
  %none.p = getelementptr i64, ptr %table, i64 12
  %none = load ptr, ptr %none.p
  %refer.p = getelementptr i64, ptr %table, i64 11
  %refer = load ptr, ptr %refer.p
  %refused = call ptr %refer(ptr %none)
  ret ptr %refused
}}

declare ptr @memcpy(ptr, ptr, i64)
"""


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("text", ctypes.c_char_p),
    )


class _Native:
    """`@cnnir.enter` as a method of C, made once a process and never freed."""

    def __init__(self, cache: ObjectCache | None) -> None:
        text = _TEXT.format(
            type=_TYPE,
            data=_DATA,
            rank=_RANK,
            sizes=_SIZES,
            dtype=_DTYPE,
            flags=_FLAGS,
            good=_CONTIGUOUS | _ALIGNED,
            page_mask=PAGE - 1,
            page_limit=PAGE - SLACK,
        )
        self.engine: Engine = build([text], ["cnnir.enter"], CpuTarget.host(""), cache, jobs=1)
        address = self.engine.address("cnnir.enter")
        self.method = _Method(b"enter", address, _FASTCALL, b"A model's result, or None.")
        self.words = [
            id(np.ndarray),
            _address("PyObject_CallNoArgs"),
            _address("Py_NewRef"),
            id(None),
        ]
        self.lets_go = [_address("PyEval_SaveThread"), _address("PyEval_RestoreThread")]
        make = ctypes.pythonapi.PyCFunction_NewEx
        make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        make.restype = ctypes.py_object
        self._make = make

    def bound(self, table: np.ndarray) -> Callable[..., Any]:
        """The builtin function of a table, which it keeps alive."""
        builtin: Callable[..., Any] = self._make(ctypes.addressof(self.method), table, None)
        return builtin


def _address(name: str) -> int:
    """Of a function of Python's."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


_native: _Native | None = None
_native_lock = threading.Lock()


def _functions(cache: ObjectCache | None) -> _Native:
    global _native
    with _native_lock:
        if _native is None:
            _native = _Native(cache)
    return _native


def possible() -> bool:
    """Whether this Python and this numpy keep arrays as `@cnnir.enter` expects; asks an array."""
    if platform.python_implementation() != "CPython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    array = np.zeros((3, 5), np.float32)[:2]

    def field(offset: int, kind: Any) -> Any:
        return kind.from_address(id(array) + offset).value

    pointer, sizes = ctypes.c_void_p, field(_SIZES, ctypes.c_void_p)
    return (
        ctypes.sizeof(pointer) == 8
        and type(array).__basicsize__ >= _FLAGS + 4
        and field(_TYPE, pointer) == id(np.ndarray)
        and field(_DATA, pointer) == array.ctypes.data
        and field(_RANK, ctypes.c_int) == 2
        and bool(sizes)
        and (ctypes.c_int64 * 2).from_address(sizes)[:] == [2, 5]
        and field(_DTYPE, pointer) == id(np.dtype(np.float32))
        and field(_FLAGS, ctypes.c_int) == array.flags.num
    )


_ENTRIES: weakref.WeakSet[Entry] = weakref.WeakSet()


def _reopen() -> None:
    """In a forked process nobody is inside: threads that were have stayed with the parent."""
    for entry in _ENTRIES:
        entry.vacate()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen)


class Entry:
    """A program's builtin: `enter(*arrays)` gives the output (a tuple of several), or None."""

    def __init__(
        self,
        frame: Frame,
        run: int,
        inputs: Sequence[TensorType],
        cache: ObjectCache | None,
        seconds: float = 0.0,
    ) -> None:
        """frame: for this entry alone, all outputs of it small. run: address of `f(context)`, which
        takes so many seconds, by estimate. cache: where code is kept."""
        native, context = _functions(cache), frame.context
        self._frame, self._make = frame, frame.maker()
        self._table = table = np.zeros(16 + 8 * len(inputs), np.uint64)
        table[2:15] = (
            len(inputs),
            run,
            context.address,
            context.inputs.ctypes.data,
            context.errors.ctypes.data,
            len(context.errors),
            id(self._make),
            *native.words,
            *(native.lets_go if seconds > HOLD else (0, 0)),
        )
        self._sizes = [np.array(type.shape, np.int64) for type in inputs]
        for number, (type, sizes) in enumerate(zip(inputs, self._sizes, strict=True)):
            own = frame.own_input(number)
            row = (id(type.numpy), type.rank, sizes.ctypes.data, type.nbytes, own)
            table[16 + 8 * number : 21 + 8 * number] = row
        self.enter = native.bound(table)
        _ENTRIES.add(self)

    def vacate(self) -> None:
        """Note that nobody is inside."""
        self._table[0] = 0

    def close(self) -> None:
        """Let nobody in any more, and wait until nobody is inside."""
        self._table[1] = 1
        while self._table[0]:
            time.sleep(20e-6)
