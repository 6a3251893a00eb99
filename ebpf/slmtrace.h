/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The record that every program sends, and the numbers in it.
 *
 * The same numbers stand in slmtrace/capture/layout.py (RingType, FoldClass, FAULT_*, SWITCH_*, IRQ_*), where their
 * meaning is written down; a test compares the two.
 */
#ifndef SLMTRACE_H
#define SLMTRACE_H

/* The ring buffer puts its own 8-byte header before each record. */
struct record {
	u64 ts_ns;
	u16 type;
	u16 cpu;
	u32 tid;
	u64 a;
	u64 b;
	u64 c;
	u64 d;
};
_Static_assert(sizeof(struct record) == 48, "the log's records are 8 + 48 bytes");

enum ring_type {
	RING_FORK = 1,
	RING_EXEC = 2,
	RING_EXIT = 3,
	RING_SWITCH = 4,
	RING_WAKING = 5,
	RING_FAULT = 6,
	RING_SYSCALL = 7,
	RING_FOLD = 8,
	RING_BLOCK_START = 9,
	RING_BLOCK_DONE = 10,
	RING_COMPACTION = 11,
	RING_RECLAIM = 12,
	RING_KHUGEPAGED = 13,
	RING_MIGRATE = 14,
	RING_MALLOC = 15,
	RING_NAME = 16,
	RING_TEXT = 17,
	RING_FILE = 18,
	RING_LOST = 19,
	RING_ALIVE = 20,
	RING_UPROBE = 21,
	RING_IOMMU = 22,
	RING_HTTP = 23,
	RING_PYTHON = 24,
	RING_SPIN = 25,
	RING_FUNCTION = 26,
	RING_DESCRIPTOR = 27,
};

enum fold_class {
	FOLD_ANON_FAULT = 0,
	FOLD_FILE_FAULT = 1,
	FOLD_READ = 2,
	FOLD_ALLOC = 3,
	FOLD_OPEN_STAT = 4,
	FOLD_FUTEX = 5,
	FOLD_OTHER_SYSCALL = 6,
	FOLD_YIELD = 7,
	FOLD_PAGE_CACHE_ADD = 8,
	FOLD_MALLOC = 9,
	FOLD_IPC = 10,
	N_FOLD_CLASSES = 11,
};

enum lost_cause {
	LOST_RING_FULL = 0,
	LOST_THREAD_MAP_FULL = 1,
	LOST_LOG_WRITE = 2,
};

#define SWITCH_IOWAIT (1 << 16)
#define SWITCH_PREEMPTED (1 << 17)
#define SWITCH_REBUILT (1 << 18)

#define IRQ_SOFTIRQ_MASK 0xff
#define IRQ_TIMER (1 << 8)
#define IRQ_HARD_MASK 0xffff0000ULL

#define FAULT_MAJOR (1 << 0)
#define FAULT_FILE (1 << 1)
#define FAULT_KERNEL (1 << 2)
#define FAULT_WRITE (1 << 3)
#define FAULT_INSTRUCTION (1 << 4)
#define FAULT_PROTECTION (1 << 5)
#define FAULT_HUGE (1 << 6)

/* In d of SWITCH: which of the two threads is in the traced tree. */
#define SWITCH_PREV_IN_TREE (1 << 0)
#define SWITCH_NEXT_IN_TREE (1 << 1)

#define NAME_OF_OUTSIDER 1

#define HTTP_REQUEST 1
#define HTTP_BODY 2

#endif
