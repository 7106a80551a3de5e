#include "sys.h"

/* Or the compiler would turn memcpy into a call of memcpy. */
#pragma GCC optimize("no-tree-loop-distribute-patterns")

#define CLOCK_REALTIME 0
#define CLOCK_MONOTONIC 1
#define CLOCK_REALTIME_COARSE 5
#define CLOCK_BOOTTIME 7

const struct timespec64 far_future = {INT64_C(1) << 40, 0};

/* The process's libc has a clock without a system call (vDSO), mostly. */
extern int clock_gettime(int clock, struct timespec64 *ts) __attribute__((weak));

static struct timespec64 now(int clock)
{
	struct timespec64 ts = {0, 0};

	if (likely(clock_gettime != NULL))
		clock_gettime(clock, &ts);
	else
		SYS2(__NR_clock_gettime, clock, &ts);
	return ts;
}

/* time(2) as the kernel does it, which says the second of its last tick. */
static int64_t by_clock(int64_t *unused)
{
	(void)unused;
	return now(CLOCK_REALTIME_COARSE).tv_sec;
}

/* Looks for the fastest way at the first call. libc's time() would be found by
 * the loader, at every start of a program. */
static int64_t first_seconds(int64_t *unused)
{
	int64_t (*time)(int64_t *) = (int64_t(*)(int64_t *))vdso_function("__vdso_time");

	if (time == NULL)
		time = by_clock;
	__atomic_store_n(&clock_seconds, time, __ATOMIC_RELAXED);
	return time(unused);
}

int64_t (*clock_seconds)(int64_t *) = first_seconds;

#define SECOND INT64_C(1000000000)
#define TICK INT64_C(12000000) /* more than the longest of the kernel's clock */

static int64_t nanoseconds(int clock)
{
	struct timespec64 ts = now(clock);

	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* time(2) says the second of the last tick, which may be the one before. What
 * happens until the next tick is put into the last microseconds of that, in order:
 * who came last to a segment is told by these times. What did happen in those
 * makes room, by being put closer together. */
int64_t now_real(void)
{
	const int64_t room = TICK / 1000 + 2;
	int64_t t = nanoseconds(CLOCK_REALTIME), late = t % SECOND, begun = t - late;
	int64_t early = SECOND - late;

	if (unlikely(early < 2 * room))
		return t - (2 * room - early) / 2;
	if (likely(late >= TICK) || now_seconds() * SECOND >= begun)
		return t;
	return begun - 1 - (TICK - late) / 1000;
}

int64_t now_monotonic(void)
{
	return nanoseconds(CLOCK_MONOTONIC);
}

int64_t now_boot(void)
{
	struct timespec64 ts = {0, 0};

	SYS2(__NR_clock_gettime, CLOCK_BOOTTIME, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Sixteen bytes at any address. */
typedef struct {
	uint64_t half[2];
} __attribute__((packed, aligned(1), may_alias)) any128;
typedef uint64_t any64 __attribute__((aligned(1), may_alias));
typedef uint32_t any32 __attribute__((aligned(1), may_alias));

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	char *d = to;
	const char *s = from;

	if (n <= 16) {
		if (n >= 8) {
			any64 head = *(const any64 *)s, tail = *(const any64 *)(s + n - 8);

			*(any64 *)d = head;
			*(any64 *)(d + n - 8) = tail;
		} else if (n >= 4) {
			any32 head = *(const any32 *)s, tail = *(const any32 *)(s + n - 4);

			*(any32 *)d = head;
			*(any32 *)(d + n - 4) = tail;
		} else {
			while (n--)
				*(volatile char *)d++ = *s++;
		}
		return to;
	}
#if defined(__x86_64__)
	if (n >= 512) {
		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		return to;
	}
#endif
	any128 tail = *(const any128 *)(s + n - 16);

	for (size_t i = 0; i + 16 < n; i += 16)
		*(any128 *)(d + i) = *(const any128 *)(s + i);
	*(any128 *)(d + n - 16) = tail;
	return to;
}

void *memset(void *to, int c, size_t n)
{
	uint64_t bytes = (uint8_t)c * UINT64_C(0x0101010101010101);
	any128 both = {{bytes, bytes}};
	char *d = to;

	if (n >= 16) {
		for (size_t i = 0; i + 16 < n; i += 16)
			*(any128 *)(d + i) = both;
		*(any128 *)(d + n - 16) = both;
		return to;
	}
	while (n--)
		*(volatile char *)d++ = (char)c;
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}
