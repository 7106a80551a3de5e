/* What attach.c, mapping.c and fork.c share: the pieces of segments that are
 * mapped. All of it with the control lock held. */
#ifndef IPCSPACE_ATTACH_H
#define IPCSPACE_ATTACH_H

#include "object.h"
#include "session.h"

#define PAGE 4096UL

/* One mapping of a segment. The kernel counts mappings, not calls of shmat:
 * an attach that is cut in pieces counts as many, for good (shm_open). */
struct piece {
	uintptr_t addr;
	size_t length; /* 0: free */
	size_t offset; /* into the segment */
	uint64_t serial;
	uint64_t size; /* of the segment */
	uint32_t id;
	int prot;
	bool not_forked; /* MADV_DONTFORK */
};

/* How many there are: where it is 0, nothing has to be looked at. */
extern uint32_t pieces_live;

struct piece *piece_new(void);
/* The piece after p, or the first. */
struct piece *piece_next(struct piece *p);
/* It is not mapped any more. */
void piece_gone(struct piece *p);
struct abi_use *use_of(uint64_t serial);

/* The program unmapped, or mapped something else over, a range. */
void pieces_unmapped(uintptr_t addr, size_t length);
/* A child does not have what was not to be forked: takes it out of its page
 * before, and out of the list in the child. */
void pieces_left_out(struct abi_session_page *page);
void pieces_forked(void);

#endif
