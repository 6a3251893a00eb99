/*
 * Report slow allocator calls of a process: an LD_PRELOAD shim in front of whatever allocator comes next.
 *
 * A call below the threshold costs two reads of the cycle counter. A slow one becomes one SLOT record in an mmap'ed
 * raw log, so that SIGKILL loses nothing; nothing on that path allocates. The log is made at the first slow call.
 *
 * Built with -DSLOT_BYTES, -DSLOT_KIND_MALLOC, -DHEADER_BYTES, -DLOST_OFFSET and -DHEADER_JSON (the header's JSON
 * without its last brace), which come from capture/layout.py.
 * Reads SLMTRACE_MALLOC_DIR (where logs go) and SLMTRACE_MALLOC_THRESHOLD_NS.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

#define LOG_RECORDS 16384
#define MAX_LOGS 256
#define PATH_BYTES 4096
#define BOOTSTRAP_BYTES (256 << 10)
#define CALIBRATION_NS 50000
/* After this long, two clock reads 100 ns apart misjudge the counter's rate by less than 1e-4. */
#define SETTLED_NS 1000000

/* The order of MALLOC_OPS in capture/layout.py. */
enum op { OP_MALLOC, OP_CALLOC, OP_REALLOC, OP_FREE, OP_POSIX_MEMALIGN, OP_ALIGNED_ALLOC, OP_MEMALIGN };

struct record {
	uint64_t start_ns;
	uint64_t end_ns;
	int64_t size_bytes;
	int64_t pointer;
	uint32_t tid;
	uint32_t op;
	uint32_t id;
	uint16_t used;
	_Atomic uint16_t kind; /* last: a record without it reads as empty */
};
_Static_assert(sizeof(struct record) == SLOT_BYTES, "a record is as long as capture/layout.py says");

struct log {
	char header[LOST_OFFSET];
	_Atomic uint64_t n_lost;
	_Atomic uint64_t n_used; /* rows given out: each log counts its own, so that a late thread cannot hit a used row */
	char rest[HEADER_BYTES - LOST_OFFSET - 16];
	struct record records[LOG_RECORDS];
};
_Static_assert(offsetof(struct log, records) == HEADER_BYTES, "records follow the header");

static struct {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void (*free)(void *);
	int (*posix_memalign)(void **, size_t, size_t);
	void *(*aligned_alloc)(size_t, size_t);
	void *(*memalign)(size_t, size_t);
} next;

static _Atomic int resolved; /* 0: not yet, 1: at it, 2: done */
static char bootstrap[BOOTSTRAP_BYTES] __attribute__((aligned(16)));
static _Atomic size_t bootstrap_used;

static char log_dir[PATH_BYTES];
static uint64_t threshold_ns;
/* UINT64_MAX until the constructor has run, and for ever when there is nowhere to report to. */
static _Atomic uint64_t threshold_ticks = UINT64_MAX;
static double ns_per_tick = 1.0;

static struct log *_Atomic current_log;
static _Atomic pid_t log_owner; /* the process that current_log belongs to: a fork child has none yet */
static _Atomic uint64_t n_unreported; /* lost while there was no log to count them in */
static _Atomic pid_t opener; /* the process that is opening a log; a fork child takes it over */
static int n_logs;

struct instant {
	uint64_t ns;
	uint64_t ticks;
};

static struct instant load;

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
#elif defined(__aarch64__)
	uint64_t value;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
	return value;
#else
	return now_ns();
#endif
}

/* Read both clocks at once: the tightest of three brackets, since one may be preempted. */
static struct instant read_instant(void)
{
	struct instant best = {0};
	uint64_t best_width = UINT64_MAX;

	for (int i = 0; i < 3; i++) {
		uint64_t before = ticks(), ns = now_ns(), width = ticks() - before;

		if (width < best_width) {
			best = (struct instant){ns, before + width / 2};
			best_width = width;
		}
	}
	return best;
}

/* ---- finding the next allocator ------------------------------------------------------------------------------- */

static void resolve(void)
{
	int expected = 0;

	if (!atomic_compare_exchange_strong(&resolved, &expected, 1))
		return; /* dlsym itself allocates: such calls are served from the bootstrap arena */
	next.malloc = dlsym(RTLD_NEXT, "malloc");
	next.calloc = dlsym(RTLD_NEXT, "calloc");
	next.realloc = dlsym(RTLD_NEXT, "realloc");
	next.free = dlsym(RTLD_NEXT, "free");
	next.posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
	next.aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
	next.memalign = dlsym(RTLD_NEXT, "memalign");
	atomic_store(&resolved, 2);
}

static inline int is_resolved(void)
{
	if (UNLIKELY(atomic_load_explicit(&resolved, memory_order_acquire) != 2))
		resolve();
	return atomic_load_explicit(&resolved, memory_order_acquire) == 2;
}

/* The arena is handed out once and never reused, so it is zero, as calloc needs. A length stands before each block. */
static void *bootstrap_alloc(size_t alignment, size_t size)
{
	size_t head = alignment < 16 ? 16 : alignment;
	size_t need = (size + head + 31) & ~(size_t)15;
	size_t offset;
	char *block;

	if (size > BOOTSTRAP_BYTES || head > BOOTSTRAP_BYTES)
		goto full;
	offset = atomic_fetch_add(&bootstrap_used, need);
	if (offset + need > BOOTSTRAP_BYTES)
		goto full;
	block = (char *)(((uintptr_t)(bootstrap + offset) + sizeof(size_t) + head - 1) & ~(uintptr_t)(head - 1));
	((size_t *)block)[-1] = size;
	return block;
full:
	errno = ENOMEM;
	return NULL;
}

static inline int is_bootstrap(const void *pointer)
{
	return (const char *)pointer >= bootstrap && (const char *)pointer < bootstrap + BOOTSTRAP_BYTES;
}

/* ---- the raw log ---------------------------------------------------------------------------------------------- */

/* The caller holds `opener`. Static buffers, because the target's thread may have a small stack. */
static int write_header(int fd, pid_t pid, uint64_t start_ns)
{
	static const char json[] = HEADER_JSON;
	static char header[HEADER_BYTES];

	_Static_assert(sizeof(json) + 64 < LOST_OFFSET, "the header fits before the live counters");
	memset(header, 0, sizeof(header));
	snprintf(header, LOST_OFFSET, "%s,\"pid\":%d,\"start_ns\":%llu}\n", json, (int)pid, (unsigned long long)start_ns);
	return pwrite(fd, header, sizeof(header), 0) == (ssize_t)sizeof(header);
}

static struct log *create_log(pid_t pid)
{
	static char path[PATH_BYTES + 64];
	uint64_t start_ns = now_ns();
	void *log = MAP_FAILED;
	int fd;

	snprintf(path, sizeof(path), "%s/malloc.%d.%llu.bin", log_dir, (int)pid, (unsigned long long)start_ns);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return NULL;
	/* Blocks are reserved now: a store into a hole of a full disk would be SIGBUS in the target. */
	if (posix_fallocate(fd, 0, sizeof(struct log)) == 0 && write_header(fd, pid, start_ns))
		log = mmap(NULL, sizeof(struct log), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	else
		unlink(path);
	/* Closed at once: the target may close and reuse any descriptor that it does not know. */
	close(fd);
	return log == MAP_FAILED ? NULL : log;
}

/* Give this process a new log; NULL while another thread is at it, and when that failed for good. */
static struct log *open_log(pid_t pid)
{
	pid_t holder = atomic_load(&opener);
	struct log *log;

	/* A holder with another pid is what fork copied of the parent's thread: it will never let go. */
	if (holder == pid || !atomic_compare_exchange_strong(&opener, &holder, pid))
		return NULL;
	if (atomic_load(&log_owner) != pid)
		n_logs = 0;
	log = n_logs < MAX_LOGS ? create_log(pid) : NULL;
	if (log) {
		n_logs++;
		atomic_store(&current_log, log);
		atomic_store(&log_owner, pid);
	} else {
		atomic_store(&threshold_ticks, UINT64_MAX);
	}
	atomic_store(&opener, 0);
	return log;
}

static struct record *take_row(struct log *log)
{
	uint64_t row = log ? atomic_fetch_add(&log->n_used, 1) : LOG_RECORDS;

	return row < LOG_RECORDS ? &log->records[row] : NULL;
}

static struct record *next_record(pid_t pid)
{
	struct log *log = atomic_load(&log_owner) == pid ? atomic_load(&current_log) : open_log(pid);
	struct record *record = take_row(log);
	uint64_t n_late;

	if (!record && log) {
		struct log *full = log;

		log = open_log(pid);
		record = take_row(log);
		if (!record) {
			atomic_fetch_add(&full->n_lost, 1);
			return NULL;
		}
	}
	if (!record) {
		atomic_fetch_add(&n_unreported, 1);
		return NULL;
	}
	n_late = atomic_exchange(&n_unreported, 0);
	if (n_late)
		atomic_fetch_add(&log->n_lost, n_late);
	return record;
}

/* ---- the slow path -------------------------------------------------------------------------------------------- */

static double measured_ns_per_tick(struct instant now)
{
	if (now.ns - load.ns < SETTLED_NS || now.ticks <= load.ticks)
		return ns_per_tick;
	return (double)(now.ns - load.ns) / (double)(now.ticks - load.ticks);
}

__attribute__((noinline, cold)) static void report(enum op op, size_t size, const void *pointer, uint64_t start_ticks,
						   uint64_t end_ticks)
{
	int saved_errno = errno;
	struct instant now = read_instant();
	double rate = measured_ns_per_tick(now);
	uint64_t dur_ns = (uint64_t)((double)(end_ticks - start_ticks) * rate);
	uint64_t ago_ns = now.ticks > end_ticks ? (uint64_t)((double)(now.ticks - end_ticks) * rate) : 0;
	struct record *record;

	/* A counter that went back (a move between sockets without a common counter) gives a huge difference. */
	if (dur_ns >= threshold_ns && dur_ns + ago_ns <= now.ns - load.ns) {
		record = next_record((pid_t)syscall(SYS_getpid));
		if (record) {
			record->end_ns = now.ns - ago_ns;
			record->start_ns = now.ns - ago_ns - dur_ns;
			record->size_bytes = (int64_t)size;
			record->pointer = (int64_t)(uintptr_t)pointer;
			record->tid = (uint32_t)syscall(SYS_gettid);
			record->op = op;
			atomic_store_explicit(&record->kind, SLOT_KIND_MALLOC, memory_order_release);
		}
	}
	errno = saved_errno;
}

#define TIMED(op, size, pointer, call)                                                                                 \
	do {                                                                                                           \
		uint64_t start_ticks_ = ticks(), end_ticks_;                                                           \
		call;                                                                                                  \
		end_ticks_ = ticks();                                                                                  \
		if (UNLIKELY(end_ticks_ - start_ticks_ >=                                                              \
			     atomic_load_explicit(&threshold_ticks, memory_order_relaxed)))                            \
			report(op, size, pointer, start_ticks_, end_ticks_);                                           \
	} while (0)

__attribute__((constructor)) static void start(void)
{
	const char *dir = getenv("SLMTRACE_MALLOC_DIR");
	const char *threshold = getenv("SLMTRACE_MALLOC_THRESHOLD_NS");
	struct instant now;

	is_resolved();
	if (!dir || !threshold || strlen(dir) >= sizeof(log_dir))
		return;
	strcpy(log_dir, dir);
	threshold_ns = strtoull(threshold, NULL, 10);
	load = read_instant();
	do {
		now = read_instant();
	} while (now.ns - load.ns < CALIBRATION_NS);
	ns_per_tick = (double)(now.ns - load.ns) / (double)(now.ticks - load.ticks);
	atomic_store(&threshold_ticks, (uint64_t)((double)threshold_ns / ns_per_tick));
}

/* ---- what is interposed --------------------------------------------------------------------------------------- */

EXPORT void *malloc(size_t size)
{
	void *block;

	if (UNLIKELY(!is_resolved()))
		return bootstrap_alloc(16, size);
	TIMED(OP_MALLOC, size, block, block = next.malloc(size));
	return block;
}

EXPORT void *calloc(size_t n, size_t size)
{
	size_t total;
	void *block;

	if (UNLIKELY(!is_resolved())) {
		if (__builtin_mul_overflow(n, size, &total)) {
			errno = ENOMEM;
			return NULL;
		}
		return bootstrap_alloc(16, total);
	}
	TIMED(OP_CALLOC, n * size, block, block = next.calloc(n, size));
	return block;
}

static void *move_from_bootstrap(void *old, size_t size)
{
	size_t old_size = ((size_t *)old)[-1];
	void *block = malloc(size);

	if (block)
		memcpy(block, old, old_size < size ? old_size : size);
	return block;
}

EXPORT void *realloc(void *old, size_t size)
{
	void *block;

	if (UNLIKELY(is_bootstrap(old)))
		return move_from_bootstrap(old, size);
	if (UNLIKELY(!is_resolved()))
		return bootstrap_alloc(16, size); /* nothing but NULL can be ours to move yet */
	TIMED(OP_REALLOC, size, block, block = next.realloc(old, size));
	return block;
}

EXPORT void free(void *block)
{
	if (!block || UNLIKELY(is_bootstrap(block)))
		return;
	if (UNLIKELY(!is_resolved()))
		return;
	TIMED(OP_FREE, 0, block, next.free(block));
}

EXPORT int posix_memalign(void **block, size_t alignment, size_t size)
{
	int error;

	if (UNLIKELY(!is_resolved() || !next.posix_memalign)) {
		*block = bootstrap_alloc(alignment, size);
		return *block ? 0 : ENOMEM;
	}
	TIMED(OP_POSIX_MEMALIGN, size, error ? NULL : *block, error = next.posix_memalign(block, alignment, size));
	return error;
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	void *block;

	if (UNLIKELY(!is_resolved() || !next.aligned_alloc))
		return bootstrap_alloc(alignment, size);
	TIMED(OP_ALIGNED_ALLOC, size, block, block = next.aligned_alloc(alignment, size));
	return block;
}

EXPORT void *memalign(size_t alignment, size_t size)
{
	void *block;

	if (UNLIKELY(!is_resolved() || !next.memalign))
		return bootstrap_alloc(alignment, size);
	TIMED(OP_MEMALIGN, size, block, block = next.memalign(alignment, size));
	return block;
}
