/*
 * The kernel, without a libc: raw system calls, atomics, and the few memory
 * functions that the compiler may call. The library lives in processes of any
 * libc, or of a libc older than itself, so it binds to none.
 */
#ifndef IPCSPACE_SYS_H
#define IPCSPACE_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asm/unistd.h>
#include <linux/errno.h>

#ifndef __NR_mseal /* of Linux 6.10, the same number everywhere */
#define __NR_mseal 462
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define EXPORT __attribute__((visibility("default")))
/* A variable of another file: without it the compiler asks where it is first. */
#define OURS __attribute__((visibility("hidden")))

/* Returns -errno on failure, as the kernel does. */
#if defined(__x86_64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
static inline void cpu_relax(void)
{
	__builtin_ia32_pause();
}
#elif defined(__aarch64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}
static inline void cpu_relax(void)
{
	__asm__ volatile("yield");
}
#else
#error "no system call for this CPU"
#endif

#define SYS(n, a, b, c, d, e, f)                                               \
	sys6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define SYS0(n) SYS(n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) SYS(n, a, 0, 0, 0, 0, 0)
#define SYS2(n, a, b) SYS(n, a, b, 0, 0, 0, 0)
#define SYS3(n, a, b, c) SYS(n, a, b, c, 0, 0, 0)
#define SYS4(n, a, b, c, d) SYS(n, a, b, c, d, 0, 0)
#define SYS5(n, a, b, c, d, e) SYS(n, a, b, c, d, e, 0)
#define SYS6(n, a, b, c, d, e, f) SYS(n, a, b, c, d, e, f)

/* An address or a small negative errno, as mmap returns it. */
static inline bool is_error(long r)
{
	return (unsigned long)r >= -4095UL;
}

/* Words of shared memory. */
static inline uint64_t load64(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline uint32_t load32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void store64(uint64_t *p, uint64_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline void store32(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline bool cas64(uint64_t *p, uint64_t old, uint64_t new)
{
	return __atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}
static inline bool cas32(uint32_t *p, uint32_t old, uint32_t new)
{
	return __atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE);
}
/* Two neighbours at once, the first at a multiple of 16 bytes. (x86-64-v2 has the instruction:
 * every CPU since 2006.) */
static inline bool cas_pair(uint64_t *p, const uint64_t old[2], const uint64_t new[2])
{
	struct {
		uint64_t word[2];
	} *pair = (void *)p;
	uint64_t low = old[0], high = old[1];
	bool done;

#if defined(__x86_64__)
	__asm__ volatile("lock cmpxchg16b %1"
			 : "=@ccz"(done), "+m"(*pair), "+a"(low), "+d"(high)
			 : "b"(new[0]), "c"(new[1])
			 : "memory");
#else
	uint32_t lost;

	__asm__ volatile("1: ldaxp %0, %1, %3\n\t"
			 "cmp %0, %4\n\t"
			 "ccmp %1, %5, #0, eq\n\t"
			 "b.ne 2f\n\t"
			 "stlxp %w2, %6, %7, %3\n\t"
			 "cbnz %w2, 1b\n"
			 "2:"
			 : "=&r"(low), "=&r"(high), "=&r"(lost), "+Q"(*pair)
			 : "r"(old[0]), "r"(old[1]), "r"(new[0]), "r"(new[1])
			 : "cc", "memory");
	done = low == old[0] && high == old[1];
#endif
	return done;
}
static inline void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The memory functions that gcc expects even of a freestanding program. */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

static inline bool same_text(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Constants of the kernel's interface that no freestanding header has. */
#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define MAP_SHARED 1
#define MAP_PRIVATE 2
#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20
#define MAP_NORESERVE 0x4000
#define MAP_POPULATE 0x8000
#define MAP_FIXED_NOREPLACE 0x100000
#define MADV_DONTFORK 10
#define MADV_DOFORK 11
#define MADV_DONTDUMP 16
#define MADV_WIPEONFORK 18
#define MREMAP_MAYMOVE 1
#define PAGE 4096UL

#define AT_FDCWD (-100)
#define O_CLOEXEC 02000000
#define SOL_SOCKET 1
#define CLONE_VM 0x100
#define CLONE_NEWIPC 0x08000000

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_CMP_REQUEUE 4
#define FUTEX_PRIVATE_FLAG 128

struct timespec64 {
	int64_t tv_sec;
	int64_t tv_nsec;
};

static inline long futex_wait(uint32_t *word, uint32_t value, const struct timespec64 *timeout)
{
	return SYS4(__NR_futex, word, FUTEX_WAIT, value, timeout);
}
static inline long futex_wake(uint32_t *word, int n)
{
	return SYS3(__NR_futex, word, FUTEX_WAKE, n);
}

/* A time-out that is never reached. With one, FUTEX_WAIT returns EINTR after
 * a handler ran whether or not it was set with SA_RESTART; without one the
 * kernel would restart it (kernel/futex/waitwake.c). */
extern OURS const struct timespec64 far_future;

extern const char *gnu_get_libc_version(void) __attribute__((weak));

/* A function of the vDSO, NULL: it has none of that name. */
void *vdso_function(const char *name);

/* time(2), as fast as this process has it. */
extern OURS int64_t (*clock_seconds)(int64_t *);

/* Seconds since 1970, as the kernel's ktime_get_real_seconds. */
static inline int64_t now_seconds(void)
{
	return clock_seconds(NULL);
}
/* Nanoseconds since 1970, in a second that now_seconds has seen begin; and of
 * CLOCK_MONOTONIC. */
int64_t now_real(void);
int64_t now_monotonic(void);
/* Nanoseconds of CLOCK_BOOTTIME, by which processes' start times count. A system
 * call: a fresh child pays more for the pages of libc's way. */
int64_t now_boot(void);

#endif
