/* What attach.c, piece.c, mapping.c, marks.c and fork.c share: the pieces of segments
 * that are mapped. */
#ifndef IPCSPACE_ATTACH_H
#define IPCSPACE_ATTACH_H

#include "object.h"
#include "session.h"

/* piece.state. Whoever changes it from one to another by compare-and-swap has
 * the piece: so shmat and shmdt of other threads, which take no lock, and the
 * calls in mapping.c count each piece once. */
enum { PIECE_FREE, PIECE_TAKEN, PIECE_LIVE };

/* One mapping of a segment. The kernel counts mappings, not calls of shmat:
 * an attach that is cut in pieces counts as many, for good (shm_open). */
struct piece {
	uint32_t state;
	uint32_t id;
	uintptr_t addr;
	size_t length;
	size_t offset; /* into the segment */
	uint64_t serial;
	uint64_t size; /* of the segment */
	uint64_t attach; /* which call of shmat made it, or what it was cut from or copied from */
	int prot;
	uint32_t marks;
};

/* What else the kernel keeps of a mapping, and cuts it for. */
enum {
	MARK_NOT_FORKED = 1 << 0,
	MARK_LOCKED = 1 << 1,
	MARK_ON_FAULT = 1 << 2,
	MARK_NOT_DUMPED = 1 << 3,
	MARK_RANDOM = 1 << 4,
	MARK_SEQUENTIAL = 1 << 5,
	MARK_HUGE = 1 << 6,
	MARK_NOT_HUGE = 1 << 7,
	MARK_SEALED = 1 << 8,
	MARK_KEY = 0xf << 12,	   /* of pkey_mprotect */
	MARK_POLICY = 0x7ff << 20, /* of mbind, by which two can be told apart; 0: none */
};

static inline size_t whole_pages(size_t length)
{
	return (length + PAGE - 1) & ~(PAGE - 1);
}

/* How many there are: where it is 0, nothing has to be looked at. */
extern OURS uint32_t pieces_live;

/* A free piece, TAKEN now. NULL: there are no more. */
struct piece *piece_take(void);
/* The rest of it is filled in. */
void piece_publish(struct piece *p);
/* The live piece after p, or the first. */
struct piece *piece_next(struct piece *p);
/* Frees it and counts it out. False: somebody else has done so. */
bool piece_count_out(struct piece *p);
/* A segment marked for destruction goes with its last attach: to be called when
 * one was counted out and unmapped. */
void tell_if_doomed(uint32_t id, uint64_t serial);
/* Both, for one that is not mapped any more. */
void piece_gone(struct piece *p);

/* This process's count for a segment; NULL: no room for another segment. With
 * the control lock held. */
struct abi_use *use_of(uint64_t serial);
static inline void use_add(struct abi_use *use, uint32_t n)
{
	__atomic_fetch_add(&use->count, n, __ATOMIC_ACQ_REL);
}

/* With the control lock held, until attach_include: no other thread is inside
 * shmat or shmdt without the lock. */
void attach_exclude(void);
void attach_include(void);
/* In a child: there are no other threads. */
void attach_alone(void);

bool piece_overlaps(const struct piece *p, uintptr_t addr, size_t length);
bool piece_inside(const struct piece *p, uintptr_t addr, size_t length);
/* One mapping of the segment more, as shm_open() counts it. */
void count_in(uint64_t serial);
/* The piece at addr; or NULL, and *next is where the next one begins, if it does
 * before that. */
struct piece *piece_at(uintptr_t addr, uintptr_t *next);
/* Cuts p at addr if that lies inside: two mappings from here on. */
void piece_cut(struct piece *p, uintptr_t addr);
/* Cuts those that lie across an end of a range. */
void pieces_cut(uintptr_t addr, size_t length);

/* Whether what p stands for has become part of a mapping next to it: the kernel
 * grows one of the same attach, if all is alike. (It joins no two that are there,
 * for each counts: vma_merge_new_range and vma_merge_existing_range in mm/vma.c.) */
bool piece_joins(const struct piece *p);

/* How much of a range is mapped, from its beginning. */
size_t mapped_part(uintptr_t addr, size_t length);

/* Whether a call on a range concerns a segment at all. A look without the
 * lock: who maps and unmaps one range at once has no order to keep. */
bool concerns_pieces(uintptr_t addr, size_t length);
/* The lock under which a call follows what it does to segments. */
void pieces_follow(void);
void pieces_followed(void);

/* The program unmapped, or mapped something else over, a range. */
void pieces_unmapped(uintptr_t addr, size_t length);
/* A child does not have what was not to be forked: takes it out of its page
 * before, and out of the list in the child. */
void pieces_left_out(struct abi_session_page *page);
void pieces_forked(void);

#endif
