/*
 * Record a process's CUDA activity with CUPTI. The driver loads this library inside cuInit (CUDA_INJECTION64_PATH), so
 * every kind is enabled before the first context; none is switched afterwards, because that kills a process whose CUDA
 * graphs live.
 *
 * CUPTI writes its records straight into the mmap'ed log, whose blocks a thread of ours prepares ahead: a window pays
 * for the records alone, and SIGKILL loses none that CUPTI had written. Completed buffers are read once, to look up the
 * strings that records point to. Nothing here calls Python or takes a lock of the target.
 *
 * Built with -D numbers, HEADER_JSON (the header's JSON without its last brace) and RARE_FUNCTIONS from
 * capture/layout.py, capture/cupti.py and capture/cuda_calls.py. Reads SLMTRACE_CUDA (calls, light or deep),
 * SLMTRACE_CUDA_RAW (where logs go) and SLMTRACE_CUPTI (the libcupti to use when none is loaded).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define PAGE_BYTES 4096u
#define BUFFER_BLOCK_BYTES (4u << 20)
#define SLOTS_BLOCK_BYTES (256u << 10)
#define N_SPARES 2
#define PATH_BYTES 4096
#define MAX_TEXT_BYTES 2000
#define TEXT_BYTES 40
#define N_SYMBOLS 65536 /* a power of two; a process has a few thousand distinct kernels at most */
#define CLOCK_READS 32
/* A process killed with SIGKILL loses at most this much of what no window's end had flushed. */
#define FLUSH_INTERVAL_NS 1000000000u
/* A flush that takes longer at the process's end is abandoned: CUPTI must not keep a program from ending. */
#define EXIT_TIMEOUT_NS 5000000000u
#define LAST_CALLBACK_ID 4096

/* CUPTI's numbers (cupti_activity.h, cupti_result.h of CUDA 13). */
enum { CUPTI_SUCCESS = 0, CUPTI_ERROR_MULTIPLE_SUBSCRIBERS = 39 };
enum { FLUSH_COMPLETED = 0, FLUSH_FORCED = 1 };
enum { ATTR_ZEROED_OUT_BUFFER = 5 };
enum { THREAD_ID_SYSTEM = 1 };
enum { DOMAIN_DRIVER = 1, DOMAIN_RUNTIME = 2 };

enum tier { TIER_CALLS, TIER_LIGHT, TIER_DEEP };
static const char *const tier_names[] = {"calls", "light", "deep"};

enum {
	KIND_MEMCPY = 1,
	KIND_MEMSET = 2,
	KIND_DRIVER = 4,
	KIND_RUNTIME = 5,
	KIND_CONCURRENT_KERNEL = 10,
	KIND_MARKER = 12,
	KIND_OVERHEAD = 17,
	KIND_MEMCPY2 = 22,
	KIND_SYNCHRONIZATION = 38,
	KIND_GRAPH_TRACE = 51,
	KIND_JIT = 52,
};

struct block {
	uint64_t magic;
	uint64_t kind;
	uint64_t block_bytes;
	uint64_t used_bytes;
	uint64_t n_records;
	uint64_t offset; /* in the log */
	uint64_t unused[2];
	uint8_t payload[];
};
_Static_assert(sizeof(struct block) == BLOCK_HEADER_BYTES, "a block's header is as long as capture/cupti.py says");

struct slot {
	union {
		struct {
			uint64_t start_ns;
			uint64_t end_ns;
			int64_t a;
			int64_t b;
			uint32_t tid;
			uint32_t name;
		};
		char text[TEXT_BYTES];
	};
	uint32_t id;
	uint16_t used;
	uint16_t kind;
};
_Static_assert(sizeof(struct slot) == SLOT_BYTES, "a record is as long as capture/layout.py says");

struct subscriber_params {
	size_t struct_bytes;
	const char *name;
	char *old_name;
	size_t old_name_bytes;
};

static struct {
	int (*GetVersion)(uint32_t *version);
	int (*GetTimestamp)(uint64_t *timestamp);
	int (*GetCallbackName)(int domain, uint32_t cbid, const char **name);
	int (*GetResultString)(int result, const char **text);
	int (*SetThreadIdType)(int type);
	int (*Subscribe_v2)(void **subscriber, void *callback, void *userdata, struct subscriber_params *params);
	int (*Unsubscribe)(void *subscriber);
	int (*ActivityRegisterCallbacks)(void (*requested)(uint8_t **, size_t *, size_t *),
					 void (*completed)(void *, uint32_t, uint8_t *, size_t, size_t));
	int (*ActivitySetAttribute)(int attribute, size_t *size, void *value);
	int (*ActivityEnable)(int kind);
	int (*ActivityEnableDriverApi)(uint32_t cbid, uint8_t enable);
	int (*ActivityEnableRuntimeApi)(uint32_t cbid, uint8_t enable);
	int (*ActivityFlushAll)(uint32_t flag);
	int (*ActivityGetNextRecord)(uint8_t *buffer, size_t valid_bytes, void **record);
	int (*ActivityGetNumDroppedRecords)(void *context, uint32_t stream, size_t *dropped);
} cupti;

/* The functions of all tiers but the deep one, by the beginning of their names. CUPTI does not report the driver's call
 * inside one of the runtime, so both names of each are there. */
static const char *const rare_functions[] = {RARE_FUNCTIONS};

/* CUPTI asks for buffers while it holds locks of its own, so `spare_lock` is never held around a call of CUPTI. */
static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t slot_lock = PTHREAD_MUTEX_INITIALIZER; /* slots and symbols */
static pthread_mutex_t grow_lock = PTHREAD_MUTEX_INITIALIZER; /* of the log's length; taken last */
static pthread_cond_t keeper_wakeup, flush_done; /* with `spare_lock` */
static pid_t owner; /* the process that recording was started in */
static bool is_recording;
static int log_fd = -1;
static uint8_t *log_header;
static uint64_t log_bytes;
static struct block *spares[N_SPARES];
static unsigned int n_spares;
static struct block *slots;
static uint64_t symbols[N_SYMBOLS];
static unsigned int n_symbols;
static uint32_t last_string_id;
static bool is_ending, is_full; /* no more spare blocks */
static bool has_buffers; /* CUPTI asked for one: CUDA is up */
static bool has_keeper;
static bool is_flush_wanted, is_last_flush_wanted, is_last_flush_done;
static char *(*demangle)(const char *, char *, size_t *, int *);

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void add_to_header(size_t offset, uint64_t n)
{
	__atomic_fetch_add((uint64_t *)(log_header + offset), n, __ATOMIC_RELAXED);
}

/* Give the pages of a block from `used_bytes` on back to the file system. */
static void free_pages(const struct block *block, uint64_t used_bytes)
{
	uint64_t kept_bytes = (used_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

	fallocate(log_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(block->offset + kept_bytes),
		  (off_t)(block->block_bytes - kept_bytes));
}

/* Append a block to the log, its bytes allocated: a store into a hole of a full file system would be a SIGBUS. One at a
 * time, so that a reader who goes from block to block never meets one that was not finished. */
static struct block *make_block(uint64_t kind, uint64_t block_bytes)
{
	struct block *block = MAP_FAILED;

	pthread_mutex_lock(&grow_lock);
	if (!posix_fallocate(log_fd, (off_t)log_bytes, (off_t)block_bytes))
		block = mmap(NULL, block_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, (off_t)log_bytes);
	if (block != MAP_FAILED) {
		block->kind = kind;
		block->block_bytes = block_bytes;
		block->offset = log_bytes;
		block->magic = BLOCK_MAGIC;
		log_bytes += block_bytes;
	}
	pthread_mutex_unlock(&grow_lock);
	return block == MAP_FAILED ? NULL : block;
}

/* Every caller of what touches slots or symbols holds `slot_lock`. */
static struct slot *next_slot(void)
{
	if (!slots || slots->used_bytes + 2 * sizeof(struct slot) > slots->block_bytes - sizeof(struct block)) {
		struct block *fresh = make_block(BLOCK_SLOTS, SLOTS_BLOCK_BYTES);

		if (!fresh) {
			add_to_header(LOST_OFFSET, 1);
			return NULL;
		}
		slots = fresh;
	}
	struct slot *slot = (struct slot *)(slots->payload + slots->used_bytes);

	slots->used_bytes += sizeof(struct slot);
	return slot;
}

static void write_slot(struct slot record)
{
	struct slot *slot = next_slot();
	uint16_t kind = record.kind;

	if (!slot)
		return;
	record.kind = 0;
	*slot = record;
	/* Last: a record without its kind reads as empty. */
	__atomic_store_n(&slot->kind, kind, __ATOMIC_RELEASE);
}

static uint32_t write_text(const char *text)
{
	size_t length = strnlen(text, MAX_TEXT_BYTES);
	uint32_t id = ++last_string_id;

	for (size_t start = 0; start < length; start += TEXT_BYTES) {
		struct slot record = {.id = id, .kind = SLOT_TEXT};

		record.used = (uint16_t)(length - start < TEXT_BYTES ? length - start : TEXT_BYTES);
		memcpy(record.text, text + start, record.used);
		write_slot(record);
	}
	return id;
}

static void write_note(const char *topic, const char *text)
{
	uint64_t ns = now_ns();

	pthread_mutex_lock(&slot_lock);
	write_slot((struct slot){.start_ns = ns, .end_ns = ns, .tid = (uint32_t)syscall(SYS_gettid),
				 .name = write_text(topic), .id = write_text(text), .kind = SLOT_NOTE});
	pthread_mutex_unlock(&slot_lock);
}

/* Say whether the key is new, and remember it. A full table calls everything known, and the name stays unknown. */
static bool is_new_symbol(uint64_t key)
{
	uint64_t place = (key * 0x9E3779B97F4A7C15u) >> 48;

	if (n_symbols > N_SYMBOLS / 4 * 3)
		return false;
	for (;; place = (place + 1) % N_SYMBOLS) {
		if (symbols[place] == key)
			return false;
		if (!symbols[place]) {
			symbols[place] = key;
			n_symbols++;
			return true;
		}
	}
}

static void write_symbol(uint64_t key, const char *text)
{
	write_slot((struct slot){.a = (int64_t)key, .name = write_text(text), .kind = SLOT_SYMBOL});
}

static void name_string(uint64_t pointer)
{
	const char *text = (const char *)(uintptr_t)pointer;
	char *plain = NULL;
	int status = 0;

	if (!pointer || !is_new_symbol(pointer))
		return;
	if (demangle && text[0] == '_' && text[1] == 'Z')
		plain = demangle(text, NULL, NULL, &status);
	write_symbol(pointer, plain ? plain : text);
	free(plain);
}

static void name_function(int domain, uint32_t cbid)
{
	uint64_t key = CALLBACK_KEY | (uint64_t)domain << 32 | cbid;
	const char *name = NULL;

	if (is_new_symbol(key) && cupti.GetCallbackName(domain, cbid, &name) == CUPTI_SUCCESS && name)
		write_symbol(key, name);
}

static uint64_t word_at(const uint8_t *record, size_t offset)
{
	uint64_t word;

	memcpy(&word, record + offset, sizeof(word));
	return word;
}

static void name_record(const uint8_t *record)
{
	uint64_t first = word_at(record, 0);

	switch ((uint32_t)first) {
	case KIND_CONCURRENT_KERNEL:
		name_string(word_at(record, KERNEL_NAME_OFFSET));
		break;
	case KIND_MARKER:
		name_string(word_at(record, MARKER_NAME_OFFSET));
		name_string(word_at(record, MARKER_DOMAIN_OFFSET));
		break;
	case KIND_DRIVER:
		name_function(DOMAIN_DRIVER, (uint32_t)(first >> 32));
		break;
	case KIND_RUNTIME:
		name_function(DOMAIN_RUNTIME, (uint32_t)(first >> 32));
		break;
	}
}

static void on_buffer_requested(uint8_t **buffer, size_t *size, size_t *max_records)
{
	struct block *block = NULL;

	pthread_mutex_lock(&spare_lock);
	if (n_spares)
		block = spares[--n_spares];
	has_buffers = true;
	pthread_cond_signal(&keeper_wakeup);
	pthread_mutex_unlock(&spare_lock);
	if (!block)
		block = make_block(BLOCK_BUFFER, BUFFER_BLOCK_BYTES);
	/* Without a buffer CUPTI drops records, and counts them. */
	*buffer = block ? block->payload : NULL;
	*size = block ? BUFFER_BLOCK_BYTES - sizeof(struct block) : 0;
	*max_records = 0;
}

static void on_buffer_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid_bytes)
{
	struct block *block = (struct block *)(buffer - sizeof(struct block));
	uint64_t begin_ns = now_ns();
	size_t dropped = 0;
	void *record = NULL;

	(void)size;
	if (!buffer)
		return;
	pthread_mutex_lock(&slot_lock);
	while (valid_bytes && cupti.ActivityGetNextRecord(buffer, valid_bytes, &record) == CUPTI_SUCCESS) {
		name_record(record);
		block->n_records++;
	}
	pthread_mutex_unlock(&slot_lock);
	if (cupti.ActivityGetNumDroppedRecords(context, stream, &dropped) == CUPTI_SUCCESS)
		add_to_header(LOST_OFFSET, dropped);
	add_to_header(COUNT_OFFSET, block->n_records);
	/* A complete block without records keeps the length of its header's smallest payload: one empty word. */
	block->used_bytes = valid_bytes ? valid_bytes : sizeof(uint64_t);
	free_pages(block, sizeof(struct block) + block->used_bytes);
	munmap(block, BUFFER_BLOCK_BYTES);
	add_to_header(COST_OFFSET, now_ns() - begin_ns);
}

/* Read CUPTI's clock between two reads of ours, and keep the tightest of several. */
static void write_clock_read(void)
{
	struct slot best = {.name = CLOCK_CUPTI, .kind = SLOT_CLOCK};
	uint64_t narrowest_ns = UINT64_MAX;

	for (int i = 0; i < CLOCK_READS; i++) {
		uint64_t before_ns = now_ns(), after_ns, value;

		if (cupti.GetTimestamp(&value) != CUPTI_SUCCESS)
			return;
		after_ns = now_ns();
		if (after_ns - before_ns < narrowest_ns) {
			narrowest_ns = after_ns - before_ns;
			best.start_ns = before_ns;
			best.end_ns = after_ns;
			best.a = (int64_t)value;
		}
	}
	pthread_mutex_lock(&slot_lock);
	write_slot(best);
	pthread_mutex_unlock(&slot_lock);
}

static void flush(uint32_t flag)
{
	write_clock_read();
	cupti.ActivityFlushAll(flag);
}

/* Have what CUPTI has collected handed over; called by the instrument when a window has ended. The keeper does it: a
 * flush takes locks of CUPTI, and a thread of the target must never wait for them. */
EXPORT void slmtrace_cuda_flush(void)
{
	if (!is_recording || owner != getpid())
		return;
	pthread_mutex_lock(&spare_lock);
	is_flush_wanted = true;
	pthread_cond_signal(&keeper_wakeup);
	pthread_mutex_unlock(&spare_lock);
}

static struct timespec deadline_in(uint64_t interval_ns)
{
	uint64_t until_ns = now_ns() + interval_ns;

	return (struct timespec){(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
}

static void flush_at_exit(void)
{
	struct timespec until = deadline_in(EXIT_TIMEOUT_NS);
	int waited = 0;

	if (!is_recording || owner != getpid())
		return;
	pthread_mutex_lock(&spare_lock);
	is_ending = true;
	is_last_flush_wanted = has_keeper && has_buffers;
	pthread_cond_signal(&keeper_wakeup);
	while (is_last_flush_wanted && !is_last_flush_done && waited != ETIMEDOUT)
		waited = pthread_cond_timedwait(&flush_done, &spare_lock, &until);
	while (n_spares)
		free_pages(spares[--n_spares], sizeof(struct block));
	pthread_mutex_unlock(&spare_lock);
}

/* Wait for something to do, at most until a flush is due; the caller holds `spare_lock`. */
static bool wait_for_work(const struct timespec *until)
{
	while (!is_flush_wanted && !is_last_flush_wanted && (n_spares == N_SPARES || is_ending || is_full))
		if (pthread_cond_timedwait(&keeper_wakeup, &spare_lock, until) == ETIMEDOUT)
			return false;
	return true;
}

static void add_spare(void)
{
	struct block *fresh = make_block(BLOCK_BUFFER, BUFFER_BLOCK_BYTES);

	pthread_mutex_lock(&spare_lock);
	if (!fresh)
		is_full = true;
	else if (is_ending)
		free_pages(fresh, sizeof(struct block));
	else
		spares[n_spares++] = fresh;
	pthread_mutex_unlock(&spare_lock);
}

/* Keep spare blocks ready, and flush when asked to and every second. CUPTI's own periodic flush (cuptiActivityFlushPeriod)
 * hands over full buffers only. */
static void *keep(void *unused)
{
	struct timespec until = deadline_in(FLUSH_INTERVAL_NS);
	bool is_last = false;

	(void)unused;
	prctl(PR_SET_NAME, "slmtrace-cuda");
	while (!is_last) {
		bool is_due, is_wanted, is_short;

		pthread_mutex_lock(&spare_lock);
		is_due = !wait_for_work(&until);
		is_last = is_last_flush_wanted;
		is_wanted = (is_flush_wanted || is_due) && has_buffers;
		is_flush_wanted = false;
		is_short = n_spares < N_SPARES && !is_ending && !is_full;
		pthread_mutex_unlock(&spare_lock);
		if (is_short)
			add_spare();
		if (is_last || is_wanted)
			flush(is_last ? FLUSH_FORCED : FLUSH_COMPLETED);
		if (is_due)
			until = deadline_in(FLUSH_INTERVAL_NS);
	}
	pthread_mutex_lock(&spare_lock);
	is_last_flush_done = true;
	pthread_cond_signal(&flush_done);
	pthread_mutex_unlock(&spare_lock);
	return NULL;
}

static void start_keeper(void)
{
	pthread_condattr_t attributes;
	sigset_t all, previous;
	pthread_t keeper;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&keeper_wakeup, &attributes);
	pthread_cond_init(&flush_done, &attributes);
	/* The target's signal handlers run on the target's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &previous);
	has_keeper = !pthread_create(&keeper, NULL, keep, NULL);
	if (has_keeper)
		pthread_detach(keeper);
	pthread_sigmask(SIG_SETMASK, &previous, NULL);
}

static bool is_rare(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(rare_functions); i++)
		if (!strncmp(name, rare_functions[i], strlen(rare_functions[i])))
			return true;
	return false;
}

static void enable_rare_functions(int domain, int (*enable)(uint32_t cbid, uint8_t enable))
{
	for (uint32_t cbid = 1; cbid < LAST_CALLBACK_ID; cbid++) {
		const char *name = NULL;

		if (cupti.GetCallbackName(domain, cbid, &name) != CUPTI_SUCCESS || !name)
			return;
		if (is_rare(name)) {
			enable(cbid, 1);
			/* Now, for a killed process hands its last buffers over to nobody. */
			pthread_mutex_lock(&slot_lock);
			name_function(domain, cbid);
			pthread_mutex_unlock(&slot_lock);
		}
	}
}

static void note_failure(const char *what, int result)
{
	const char *reason = NULL;
	char text[200];

	cupti.GetResultString(result, &reason);
	snprintf(text, sizeof(text), "%s: %s", what, reason ? reason : "unknown error");
	write_note("cuda_unavailable", text);
}

static void enable_kind(int kind)
{
	char text[40];
	int result = cupti.ActivityEnable(kind);

	snprintf(text, sizeof(text), "kind %d", kind);
	if (result != CUPTI_SUCCESS)
		note_failure(text, result);
}

/* Everything here happens before the first context, and nothing of it is ever taken back. What costs is not how many
 * records there are but what CUPTI does at every launch for a kind: on an H100, 1.2 us for kernels and 2 us for
 * synchronisation, whose waits are in the calls as well. Whoever does without kernels must do without copies too: with
 * those alone, graph traces or not, replaying a captured CUDA graph fails with cudaErrorLaunchFailure (CUPTI 13.0,
 * driver 580). */
static void enable_kinds(enum tier tier)
{
	static const int always[] = {KIND_OVERHEAD, KIND_JIT, KIND_MARKER};

	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		enable_kind(always[i]);
	if (tier != TIER_CALLS) {
		enable_kind(KIND_CONCURRENT_KERNEL);
		enable_kind(KIND_MEMCPY);
		enable_kind(KIND_MEMCPY2);
		enable_kind(KIND_MEMSET);
	}
	if (tier == TIER_LIGHT)
		enable_kind(KIND_GRAPH_TRACE);
	if (tier == TIER_DEEP) {
		enable_kind(KIND_SYNCHRONIZATION);
		enable_kind(KIND_DRIVER);
		enable_kind(KIND_RUNTIME);
	} else {
		enable_rare_functions(DOMAIN_DRIVER, cupti.ActivityEnableDriverApi);
		enable_rare_functions(DOMAIN_RUNTIME, cupti.ActivityEnableRuntimeApi);
	}
}

/* Say whether another tool uses CUPTI in this process, and write down its name. */
static bool is_taken(void)
{
	char holder[256] = "";
	struct subscriber_params params = {sizeof(params), "slmtrace", holder, sizeof(holder)};
	void *subscriber = NULL;
	int result;

	if (!cupti.Subscribe_v2)
		return false;
	result = cupti.Subscribe_v2(&subscriber, NULL, NULL, &params);
	if (result == CUPTI_SUCCESS)
		cupti.Unsubscribe(subscriber);
	if (result != CUPTI_ERROR_MULTIPLE_SUBSCRIBERS)
		return false;
	write_note("cuda_unavailable", "CUPTI is in use by another tool");
	write_note("cupti_holder", holder[0] ? holder : "its name is unknown");
	return true;
}

static bool find_functions(void *library)
{
	static const struct {
		const char *name;
		void **place;
	} functions[] = {
		{"cuptiGetVersion", (void **)&cupti.GetVersion},
		{"cuptiGetTimestamp", (void **)&cupti.GetTimestamp},
		{"cuptiGetCallbackName", (void **)&cupti.GetCallbackName},
		{"cuptiGetResultString", (void **)&cupti.GetResultString},
		{"cuptiSetThreadIdType", (void **)&cupti.SetThreadIdType},
		{"cuptiUnsubscribe", (void **)&cupti.Unsubscribe},
		{"cuptiActivityRegisterCallbacks", (void **)&cupti.ActivityRegisterCallbacks},
		{"cuptiActivitySetAttribute", (void **)&cupti.ActivitySetAttribute},
		{"cuptiActivityEnable", (void **)&cupti.ActivityEnable},
		{"cuptiActivityEnableDriverApi", (void **)&cupti.ActivityEnableDriverApi},
		{"cuptiActivityEnableRuntimeApi", (void **)&cupti.ActivityEnableRuntimeApi},
		{"cuptiActivityFlushAll", (void **)&cupti.ActivityFlushAll},
		{"cuptiActivityGetNextRecord", (void **)&cupti.ActivityGetNextRecord},
		{"cuptiActivityGetNumDroppedRecords", (void **)&cupti.ActivityGetNumDroppedRecords},
	};

	for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
		if (!(*functions[i].place = dlsym(library, functions[i].name)))
			return false;
	*(void **)&cupti.Subscribe_v2 = dlsym(library, "cuptiSubscribe_v2");
	return true;
}

/* A process must not hold two libcuptis: take the one that is mapped, else the one that Python packages bring. */
static void *find_cupti(void)
{
	const char *named = getenv("SLMTRACE_CUPTI");
	void *library = dlopen("libcupti.so." CUPTI_MAJOR, RTLD_NOW | RTLD_NOLOAD);

	if (!library && named && *named)
		library = dlopen(named, RTLD_NOW);
	if (!library)
		library = dlopen("libcupti.so." CUPTI_MAJOR, RTLD_NOW);
	return library;
}

static bool open_log(const char *tier, uint32_t version)
{
	const char *directory = getenv("SLMTRACE_CUDA_RAW");
	char path[PATH_BYTES];

	if (!directory)
		return false;
	snprintf(path, sizeof(path), "%s/cuda.%d.%llu.bin", directory, getpid(), (unsigned long long)now_ns());
	log_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (log_fd < 0 || posix_fallocate(log_fd, 0, HEADER_BYTES))
		return false;
	log_header = mmap(NULL, HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, 0);
	if (log_header == MAP_FAILED)
		return false;
	log_bytes = HEADER_BYTES;
	snprintf((char *)log_header, LOST_OFFSET, "%s,\"cupti_version\":%u,\"pid\":%d,\"tier\":\"%s\"}\n", HEADER_JSON,
		 version, getpid(), tier);
	return true;
}

static void start(enum tier tier)
{
	void *library = find_cupti();
	uint32_t version = 0;
	uint8_t yes = 1;
	size_t size = sizeof(yes);
	int result;

	if (library && find_functions(library))
		cupti.GetVersion(&version);
	if (!open_log(tier_names[tier], version))
		return;
	if (!version) {
		write_note("cuda_unavailable", "the process has no libcupti.so." CUPTI_MAJOR);
		return;
	}
	if (is_taken())
		return;
	library = dlopen("libstdc++.so.6", RTLD_NOW);
	if (library)
		*(void **)&demangle = dlsym(library, "__cxa_demangle");
	cupti.SetThreadIdType(THREAD_ID_SYSTEM);
	cupti.ActivitySetAttribute(ATTR_ZEROED_OUT_BUFFER, &size, &yes);
	result = cupti.ActivityRegisterCallbacks(on_buffer_requested, on_buffer_completed);
	if (result != CUPTI_SUCCESS) {
		note_failure("registering", result);
		return;
	}
	owner = getpid();
	is_recording = true;
	start_keeper();
	enable_kinds(tier);
	atexit(flush_at_exit);
}

/* The CUDA driver calls this inside cuInit; what it returns is ignored. */
EXPORT int InitializeInjection(void)
{
	static bool has_started;
	const char *name = getenv("SLMTRACE_CUDA");

	for (size_t i = 0; name && i < ARRAY_SIZE(tier_names) && !has_started; i++) {
		if (!strcmp(name, tier_names[i])) {
			has_started = true;
			start((enum tier)i);
		}
	}
	return 1;
}
