/*
 * A libcupti for tests: it keeps the records it is given in the buffers that the recorder provides, and hands them over
 * when flushed, as CUPTI does.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef void (*requested_fn)(uint8_t **, size_t *, size_t *);
typedef void (*completed_fn)(void *, uint32_t, uint8_t *, size_t, size_t);

static requested_fn requested;
static completed_fn completed;
static uint8_t *buffer;
static size_t size, used;
static uint32_t enabled[256];
static size_t n_enabled;
static size_t n_dropped, n_flushes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int cuptiGetVersion(uint32_t *version)
{
	*version = 130001;
	return 0;
}

/* Ten seconds ahead of CLOCK_MONOTONIC. */
int cuptiGetTimestamp(uint64_t *timestamp)
{
	*timestamp = monotonic_ns() + 10000000000u;
	return 0;
}

int cuptiGetCallbackName(int domain, uint32_t cbid, const char **name)
{
	static const char *const driver[] = {"cuInit", "cuMemAlloc_v2", "cuLaunchKernel", "cuStreamSynchronize_ptsz"};
	static const char *const runtime[] = {"cudaMalloc_v3020", "cudaLaunchKernel_v7000"};
	const char *const *names = domain == 1 ? driver : runtime;

	if (cbid < 1 || cbid > (domain == 1 ? 4u : 2u))
		return 1;
	*name = names[cbid - 1];
	return 0;
}

int cuptiGetResultString(int result, const char **text)
{
	*text = result == 39 ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED" : "CUPTI_ERROR_UNKNOWN";
	return 0;
}

int cuptiSetThreadIdType(int type)
{
	return type == 1 ? 0 : 1;
}

struct subscriber_params {
	size_t struct_bytes;
	const char *name;
	char *old_name;
	size_t old_name_bytes;
};

int cuptiSubscribe_v2(void **subscriber, void *callback, void *userdata, struct subscriber_params *params)
{
	const char *holder = getenv("FAKE_CUPTI_HOLDER");

	(void)subscriber, (void)callback, (void)userdata;
	if (!holder)
		return 0;
	strncpy(params->old_name, holder, params->old_name_bytes - 1);
	return 39;
}

int cuptiUnsubscribe(void *subscriber)
{
	(void)subscriber;
	return 0;
}

int cuptiActivityRegisterCallbacks(requested_fn on_requested, completed_fn on_completed)
{
	requested = on_requested;
	completed = on_completed;
	return 0;
}

int cuptiActivitySetAttribute(int attribute, size_t *bytes, void *value)
{
	(void)attribute, (void)bytes, (void)value;
	return 0;
}

int cuptiActivityEnable(int kind)
{
	enabled[n_enabled++] = (uint32_t)kind;
	return 0;
}

int cuptiActivityEnableDriverApi(uint32_t cbid, uint8_t enable)
{
	enabled[n_enabled++] = (uint32_t)enable << 16 | cbid;
	return 0;
}

int cuptiActivityEnableRuntimeApi(uint32_t cbid, uint8_t enable)
{
	enabled[n_enabled++] = (uint32_t)enable << 24 | cbid;
	return 0;
}

static size_t record_bytes(const uint8_t *record)
{
	switch (*(const uint32_t *)record) {
	case 1:
	case 22:
		return 96;
	case 2:
		return 88;
	case 4:
	case 5:
		return 40;
	case 10:
		return 216;
	case 52:
		return 72;
	default:
		return 56;
	}
}

int cuptiActivityGetNextRecord(uint8_t *records, size_t valid_bytes, void **record)
{
	uint8_t *next = *record ? (uint8_t *)*record + record_bytes(*record) : records;

	if (next >= records + valid_bytes)
		return 1;
	*record = next;
	return 0;
}

int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream, size_t *dropped)
{
	(void)context, (void)stream;
	*dropped = n_dropped;
	n_dropped = 0;
	return 0;
}

static void hand_over(void)
{
	if (buffer)
		completed(NULL, 0, buffer, size, used);
	buffer = NULL;
}

int cuptiActivityFlushAll(uint32_t flag)
{
	(void)flag;
	while (getenv("FAKE_CUPTI_HANGS"))
		pause();
	pthread_mutex_lock(&lock);
	hand_over();
	n_flushes++;
	pthread_mutex_unlock(&lock);
	return 0;
}

/* What a test does in CUPTI's place. */
void fake_record(const uint8_t *record, size_t bytes)
{
	size_t max_records;

	pthread_mutex_lock(&lock);
	if (buffer && used + bytes > size)
		hand_over();
	if (!buffer) {
		requested(&buffer, &size, &max_records);
		used = 0;
	}
	memcpy(buffer + used, record, bytes);
	used += bytes;
	pthread_mutex_unlock(&lock);
}

size_t fake_flushes(void)
{
	size_t n;

	pthread_mutex_lock(&lock);
	n = n_flushes;
	pthread_mutex_unlock(&lock);
	return n;
}

void fake_drop(size_t n)
{
	n_dropped += n;
}

size_t fake_enabled(uint32_t *out)
{
	memcpy(out, enabled, n_enabled * sizeof(enabled[0]));
	return n_enabled;
}
