/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What all programs share: the ring, the state of each traced thread, emitting and folding.
 *
 * An event of at least THRESHOLD_NS is emitted. A shorter one is added to its thread's slot of its class, and the slot
 * is emitted as one FOLD record when it spans more than FOLD_SPAN_NS, when its file changes, and when the thread ends.
 *
 * Folded time is own time on a CPU: without time off the CPU inside the event, and without the events nested in it
 * (a fault in a system call, a system call in malloc).
 *
 * Parameters: RING_PAGES, MAX_THREADS, MAX_FILES, MAX_PROGRAMS, THRESHOLD_NS, and offsets OFF_* found in the kernel's
 * BTF and tracefs.
 */
#include <linux/ptrace.h>
#include <asm/page.h>

#define FOLD_SPAN_NS 1000000ULL
#define FOLD_COUNT_MAX 0xffffff
/* A power of two, so that a mask keeps the verifier sure of the index. */
#define N_FOLD_SLOTS 16

#define READ_KERNEL(type, pointer, offset)                                                       \
	({                                                                                       \
		type value_ = 0;                                                                 \
		bpf_probe_read_kernel(&value_, sizeof(value_), (void *)(pointer) + (offset));    \
		value_;                                                                          \
	})

/* A field of a tracepoint's record; OFF_<event>_<field> comes from its format file. */
#define FIELD(type, event, name) (*(type *)((void *)ctx + OFF_##event##_##name))

struct fold {
	u64 first_ns;
	u64 last_ns;
	u64 own_ns;
	u64 size_bytes;
	u64 inode;
	u32 device;
	u32 count;
};

/* An event in flight; start_ns is 0 when there is none. */
struct frame {
	u64 start_ns;
	u64 off_ns; /* the thread's off_ns when it began */
	u64 inner_ns; /* on-CPU time of the events nested in it */
	u64 key; /* address, system call number, allocator function */
	u64 argument;
	u64 inode;
	u32 device;
	u32 n_iowaits; /* the thread's n_iowaits when it began */
	u32 flags;
	u32 unused;
};

struct thread {
	u64 off_ns; /* time spent off the CPU so far */
	u64 left_ns; /* when it last left a CPU */
	u64 exec_ns; /* what the scheduler had accounted to it by then */
	u32 is_off; /* it left and was not seen to come back */
	u32 is_unseen; /* it came back unseen: it is known to run by what it does */
	u32 tgid;
	u32 n_iowaits;
	struct frame fault;
	struct frame syscall;
	struct frame malloc;
	struct fold folds[N_FOLD_SLOTS];
};

struct file_key {
	u64 inode;
	u32 device;
	u32 tgid; /* in the queue: who touched it first; 0 in the map */
};

enum counter {
	COUNTER_SEEN = 0, /* records that should reach the log */
	COUNTER_RING_FULL = 1,
	COUNTER_THREAD_MAP_FULL = 2,
	N_COUNTERS = 3,
};

BPF_RINGBUF_OUTPUT(ring, RING_PAGES);
BPF_HASH(threads, u32, struct thread, MAX_THREADS);
BPF_ARRAY(empty_thread, struct thread, 1);
BPF_PERCPU_ARRAY(counters, u64, N_COUNTERS);
BPF_HASH(files, struct file_key, u8, MAX_FILES);
BPF_QUEUE(new_files, struct file_key, MAX_FILES);
/* Set when the recording ends, for to take a program away from a tracepoint takes the kernel tens of milliseconds. */
BPF_ARRAY(is_over, u32, 1);

static __always_inline void count(int counter)
{
	u64 *value = counters.lookup(&counter);

	/* An interrupt between load and store has events of its own, which must not be lost from the count. */
	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void emit(u16 type, u32 tid, u64 ts_ns, u64 a, u64 b, u64 c, u64 d)
{
	int zero = 0;
	u32 *over = is_over.lookup(&zero);
	struct record *record;

	if (over && *over)
		return;
	count(COUNTER_SEEN);
	record = ring.ringbuf_reserve(sizeof(struct record));
	if (!record) {
		count(COUNTER_RING_FULL);
		return;
	}
	record->ts_ns = ts_ns;
	record->type = type;
	record->cpu = bpf_get_smp_processor_id();
	record->tid = tid;
	record->a = a;
	record->b = b;
	record->c = c;
	record->d = d;
	/* The collector polls: waking it for each record would cost more than the record. */
	ring.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

/* Emit a record whose c and d are the current thread's name. */
static __always_inline void emit_with_comm(u16 type, u32 tid, u64 a, u64 b)
{
	u64 comm[2] = {};

	bpf_get_current_comm(comm, sizeof(comm));
	emit(type, tid, bpf_ktime_get_ns(), a, b, comm[0], comm[1]);
}

/* Return the state of the current thread if it is in the traced tree. */
static __always_inline struct thread *current_thread(u32 *tid)
{
	struct thread *thread;

	*tid = (u32)bpf_get_current_pid_tgid();
	thread = threads.lookup(tid);
	if (thread && thread->is_off) {
		thread->off_ns += bpf_ktime_get_ns() - thread->left_ns;
		thread->is_off = 0;
		thread->is_unseen = 1;
	}
	return thread;
}

static __always_inline void follow(u32 tid, u32 tgid)
{
	int zero = 0;
	struct thread *thread = empty_thread.lookup(&zero);

	if (!thread)
		return;
	if (threads.update(&tid, thread)) {
		count(COUNTER_SEEN);
		count(COUNTER_THREAD_MAP_FULL);
		return;
	}
	thread = threads.lookup(&tid);
	if (thread)
		thread->tgid = tgid;
}

/* Tell the collector of a file when it is first touched: it looks up the path. */
static __always_inline void announce_file(u32 device, u64 inode)
{
	struct file_key key = {.inode = inode, .device = device};
	u8 known = 1;

	if (!inode || files.lookup(&key))
		return;
	files.update(&key, &known);
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	new_files.push(&key, 0);
}

static __always_inline void emit_fold(struct fold *fold, u32 tid, u32 class)
{
	if (!fold->count)
		return;
	emit(RING_FOLD, tid, fold->first_ns, fold->last_ns,
	     class | (u64)fold->count << 8 | fold->size_bytes << 32,
	     (fold->own_ns & 0xffffffff) | (u64)fold->device << 32, fold->inode);
	fold->count = 0;
}

static __always_inline void emit_folds(struct thread *thread, u32 tid)
{
#pragma unroll
	for (u32 class = 0; class < N_FOLD_CLASSES; class++)
		emit_fold(&thread->folds[class], tid, class);
}

static __always_inline void fold(struct thread *thread, u32 tid, u32 class, u64 start_ns, u64 end_ns, u64 own_ns,
				 u64 size_bytes, u32 device, u64 inode)
{
	struct fold *fold = &thread->folds[class & (N_FOLD_SLOTS - 1)];

	if (start_ns - fold->first_ns > FOLD_SPAN_NS || fold->inode != inode || fold->device != device ||
	    fold->count >= FOLD_COUNT_MAX || (fold->size_bytes + size_bytes) >> 32)
		emit_fold(fold, tid, class);
	if (!fold->count) {
		announce_file(device, inode);
		fold->first_ns = start_ns;
		fold->own_ns = 0;
		fold->size_bytes = 0;
		fold->inode = inode;
		fold->device = device;
	}
	fold->last_ns = end_ns;
	fold->own_ns += own_ns;
	fold->size_bytes += size_bytes;
	fold->count++;
}

static __always_inline void open_frame(struct thread *thread, struct frame *frame, u64 key, u64 argument, u32 flags)
{
	frame->off_ns = thread->off_ns;
	frame->n_iowaits = thread->n_iowaits;
	frame->inner_ns = 0;
	frame->key = key;
	frame->argument = argument;
	frame->inode = 0;
	frame->device = 0;
	frame->flags = flags;
	frame->start_ns = bpf_ktime_get_ns();
}

/* Close a frame, charge the frame around it with its time on the CPU, and return its own time on the CPU. */
static __always_inline u64 close_frame(struct thread *thread, struct frame *frame, u64 now_ns)
{
	u64 wall_ns = now_ns - frame->start_ns;
	u64 off_ns = thread->off_ns - frame->off_ns;
	u64 cpu_ns = off_ns < wall_ns ? wall_ns - off_ns : 0;

	frame->start_ns = 0;
	if (thread->syscall.start_ns)
		thread->syscall.inner_ns += cpu_ns;
	else if (thread->malloc.start_ns)
		thread->malloc.inner_ns += cpu_ns;
	return frame->inner_ns < cpu_ns ? cpu_ns - frame->inner_ns : 0;
}

/* Say whether a frame deserves a record of its own. */
static __always_inline bool is_long(struct thread *thread, struct frame *frame, u64 dur_ns)
{
	return dur_ns >= THRESHOLD_NS || thread->n_iowaits != frame->n_iowaits;
}
