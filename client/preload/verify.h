/*
 * The library made for tests checks an object after each transaction, when all entries are applied
 * and the lock is not yet released; it traps where an invariant does not hold. manager doctor and
 * client/plane's Verify say more, of an object at rest.
 */
#ifndef IPCSPACE_VERIFY_H
#define IPCSPACE_VERIFY_H

#ifdef IPCSPACE_VERIFY
struct handle;
void verify(struct handle *h, uint64_t committed);
#define VERIFY(h, committed) verify(h, committed)
#else
#define VERIFY(h, committed) ((void)0)
#endif

#endif
