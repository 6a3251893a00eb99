"""The values of maps that the collector reads or writes, laid out as in ebpf/common.h."""

from __future__ import annotations

import ctypes

_N_FOLD_SLOTS = 16


class Fold(ctypes.Structure):
    """struct fold."""

    _fields_ = [
        ("first_ns", ctypes.c_uint64),
        ("last_ns", ctypes.c_uint64),
        ("own_ns", ctypes.c_uint64),
        ("size_bytes", ctypes.c_uint64),
        ("inode", ctypes.c_uint64),
        ("device", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
    ]


class Frame(ctypes.Structure):
    """struct frame."""

    _fields_ = [
        ("start_ns", ctypes.c_uint64),
        ("off_ns", ctypes.c_uint64),
        ("inner_ns", ctypes.c_uint64),
        ("key", ctypes.c_uint64),
        ("argument", ctypes.c_uint64),
        ("inode", ctypes.c_uint64),
        ("device", ctypes.c_uint32),
        ("n_iowaits", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    ]


class Thread(ctypes.Structure):
    """struct thread."""

    _fields_ = [
        ("off_ns", ctypes.c_uint64),
        ("left_ns", ctypes.c_uint64),
        ("exec_ns", ctypes.c_uint64),
        ("is_off", ctypes.c_uint32),
        ("is_unseen", ctypes.c_uint32),
        ("tgid", ctypes.c_uint32),
        ("n_iowaits", ctypes.c_uint32),
        ("fault", Frame),
        ("syscall", Frame),
        ("malloc", Frame),
        ("folds", Fold * _N_FOLD_SLOTS),
    ]


class FileKey(ctypes.Structure):
    """struct file_key."""

    _fields_ = [("inode", ctypes.c_uint64), ("device", ctypes.c_uint32), ("tgid", ctypes.c_uint32)]
