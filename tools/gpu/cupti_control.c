/*
 * The least that recording with CUPTI can cost: enables the kinds of CUPTI_CONTROL_KINDS, takes the buffers and throws
 * their records away. The CUDA driver loads this library inside cuInit (CUDA_INJECTION64_PATH), as it does slmtrace's.
 *
 * CUPTI_CONTROL_ATTRIBUTES are attribute=value pairs (cupti_activity.h, CUpti_ActivityAttribute) to set before; both
 * variables are lists with commas. Prints on stderr what CUPTI refused. Usage: tools/gpu/overhead.py, variant cupti.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES (4u << 20)
/* CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER, _MEM_ALLOCATION_TYPE_HOST_PINNED, _PER_THREAD_ACTIVITY_BUFFER: their
 * values are bytes, those of the others size_t. */
#define IS_BYTE(attribute) ((attribute) == 5 || (attribute) == 8 || (attribute) == 9)

static void on_requested(uint8_t **buffer, size_t *size, size_t *max_records)
{
	*buffer = aligned_alloc(8, BUFFER_BYTES);
	*size = *buffer ? BUFFER_BYTES : 0;
	*max_records = 0;
}

static void on_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid_bytes)
{
	(void)context, (void)stream, (void)size, (void)valid_bytes;
	free(buffer);
}

static void tell(const char *what, const char *which, int result)
{
	if (result)
		fprintf(stderr, "cupti_control: %s %s: CUPTI error %d\n", what, which, result);
}

static void set_attributes(void *library, const char *pairs)
{
	int (*set)(int, size_t *, void *) = (int (*)(int, size_t *, void *))dlsym(library, "cuptiActivitySetAttribute");
	char *text = strdup(pairs), *rest = text, *pair;

	while ((pair = strsep(&rest, ","))) {
		char *value = strchr(pair, '=');
		int attribute = atoi(pair);
		size_t number, bytes = IS_BYTE(attribute) ? sizeof(uint8_t) : sizeof(size_t);

		if (!value)
			continue;
		number = strtoull(value + 1, NULL, 10);
		tell("attribute", pair, set(attribute, &bytes, &number));
	}
	free(text);
}

static void enable_kinds(void *library, const char *kinds)
{
	int (*enable)(int) = (int (*)(int))dlsym(library, "cuptiActivityEnable");
	char *text = strdup(kinds), *rest = text, *kind;

	while ((kind = strsep(&rest, ",")))
		if (*kind)
			tell("kind", kind, enable(atoi(kind)));
	free(text);
}

__attribute__((visibility("default"))) int InitializeInjection(void)
{
	const char *path = getenv("CUPTI_CONTROL_LIBRARY"), *kinds = getenv("CUPTI_CONTROL_KINDS");
	const char *attributes = getenv("CUPTI_CONTROL_ATTRIBUTES");
	void *library = dlopen(path ? path : "libcupti.so.13", RTLD_NOW);
	void (*registered)(void *, void *);

	if (!library || !kinds) {
		fprintf(stderr, "cupti_control: %s\n", library ? "no kinds" : dlerror());
		return 1;
	}
	if (attributes)
		set_attributes(library, attributes);
	*(void **)&registered = dlsym(library, "cuptiActivityRegisterCallbacks");
	registered((void *)on_requested, (void *)on_completed);
	enable_kinds(library, kinds);
	return 1;
}
