/* What the files of this program share: a case, and what the referee sees of it. */
#ifndef FAILPOINTS_H
#define FAILPOINTS_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What comes over the victim at its step; LED: its end at an instruction. */
enum action { KILL, STOP, JUMP, NESTED, ACTIONS, LED = ACTIONS };

/* What victim and referee share. */
extern struct shared {
	volatile int step;    /* passes seen by the victim in its operation */
	volatile int reached; /* it came to the step */
	volatile int result;  /* of its operation: 0 or errno, -1: not over */
	volatile int nested;  /* errno of a call of its handler */
	volatile int got;     /* messages that it received whole */
	volatile int helped;  /* the helper's operation is over: errno + 1 */
	volatile int went_on; /* of two helpers */
	volatile int64_t beat; /* of the metronome: now_us */
	volatile int64_t late; /* how late it was with its work in this case */
	char name[64];	       /* of the step */
} *shared;

/* --- operations ------------------------------------------------------------ */

struct scenario {
	const char *name;
	size_t msgmax;		 /* that it needs */
	void (*before)(void);	 /* by the referee */
	int (*help)(void);	 /* by a helper that is in it when the victim begins */
	int sleepers;		 /* of a set: helpers that are asleep in it then */
	bool stopped;		 /* the helper, in its sleep */
	bool cannot_be_led;	 /* it forks, is too long, or its helper needs the hook */
	int (*operate)(void);	 /* by the victim: 0 or errno */
	int error;		 /* that it may end with */
	void (*meanwhile)(void); /* by the referee once the victim is dead, stopped, asleep or over */
	void (*after)(bool happened, bool certain); /* by the referee at the end */
};

/* One kind of objects, each case has one of its own. */
struct family {
	const struct scenario *scenarios;
	size_t count;
	void (*make)(void);
	void (*remove)(void);
	int (*sleepers)(void); /* GETNCNT */
	int (*nested)(void);   /* by the victim's handler: leaves the object as it was */
	int (*again)(void);    /* by a victim that left its operation, as if nothing had been */
	void (*beside)(void);  /* by the referee while the victim is stopped */
	void (*check)(void);   /* by the referee: sleepers, locks and half messages that are left show here */
};
extern const struct family sets, queues, segments;

extern int object; /* of the case, -1: removed */
/* The operation, which waited for what did not come, did not happen. */
void after_removal(bool happened, bool certain);

/* --- processes ------------------------------------------------------------- */

/* A step of the library, in any process of a case. */
void hook(const char *step);
extern const char *stop_at; /* a helper's: the step at which it stops */
extern pid_t self;	    /* the victim, where a child of it may pass the hook, too */

/* Does the operation, with the action at its step, and ends. 33: it was left, and what it did then is right. */
_Noreturn void victim(const struct family *f, const struct scenario *s, enum action a, int step);
#define LEFT 33

/* The victim of single steps, and what leads it to the instruction of that number: its status, -1: it
 * cannot be led. shared->step is how many there were; met: the referee has done what it does meanwhile. */
_Noreturn void led_victim(const struct family *f, const struct scenario *s);
int lead(pid_t pid, long target, const struct scenario *s, bool *met);

extern pid_t helper;
pid_t start_helper(const struct scenario *s);
/* Two helpers sleep in the same operation. */
int two(int (*operation)(void));
/* Where one could go on, so can the other, whatever became of who let them. */
void both_go_on(void);
/* In a sleep, stopped, or at its end. */
bool asleep(pid_t pid);

/* --- time and failures ----------------------------------------------------- */

extern char problem[200]; /* of this case: the first */
extern struct wait {
	int64_t us;	  /* longest call of others in this case, less the next */
	int64_t ready;	  /* the caller was to run and had no CPU */
	const char *what; /* the call */
} worst;

__attribute__((format(printf, 1, 2))) void wrong(const char *format, ...);
int64_t now_us(void);
void nap(long us);

/*
 * How long others may wait: 100 ms, where a process that is to run does run. The metronome wakes up
 * again and again and does some work, and tells how late it is with it here and now: those whom others
 * wait for, the manager above all, have to wait for a CPU like that where there are not enough. In a
 * call of others three such waits follow each other (the victim's or the manager's, that of whom it
 * wakes, the referee's).
 */
#define PATIENCE 100000
#define WAKE_UPS 3
_Noreturn void metronome(void);
int64_t lateness(void);

struct moment {
	int64_t us, ready;
};
struct moment begin(void);
void end(const char *what, struct moment begun);

#define TIMED(call)                                                                                \
	({                                                                                         \
		struct moment begun_ = begin();                                                    \
		long r_ = (call);                                                                  \
		end(#call, begun_);                                                                \
		r_;                                                                                \
	})

/* Waits for what must come true by itself. */
#define SOON(what, condition)                                                                      \
	do {                                                                                       \
		struct moment begun_ = begin();                                                    \
		while (!(condition) && now_us() - begun_.us < 3000000)                             \
			nap(200);                                                                  \
		if (!(condition))                                                                  \
			wrong("%s: not in 3 s", what);                                             \
		else                                                                               \
			end(what, begun_);                                                         \
	} while (0)

#endif
