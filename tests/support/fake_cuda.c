/* A libcuda for tests: its functions take as many microseconds as their first argument says, asleep or busy. */
#include <stdint.h>
#include <time.h>
#include <unistd.h>

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int spin(long microseconds)
{
	uint64_t until_ns = monotonic_ns() + (uint64_t)microseconds * 1000;

	while (monotonic_ns() < until_ns)
		;
	return 0;
}

int cuMemAlloc_v2(long microseconds)
{
	return spin(microseconds);
}

int cuMemHostAlloc(long microseconds)
{
	return spin(microseconds);
}

/* Calls another of its functions, as the real one does not. */
int cuModuleLoadData(long microseconds)
{
	return spin(microseconds / 2) + cuMemAlloc_v2(microseconds / 2);
}

int cuStreamSynchronize(long microseconds)
{
	return usleep(microseconds);
}

int cuStreamSynchronize_ptsz(long) __attribute__((alias("cuStreamSynchronize")));

int cuLaunchKernel(long microseconds)
{
	return spin(microseconds);
}
