/*
 * Fail points: between the steps of every operation a test can end or interrupt
 * its thread (test/chaos). They are nothing but in the library made for tests.
 */
#ifndef IPCSPACE_FAIL_H
#define IPCSPACE_FAIL_H

#ifdef IPCSPACE_FAIL_POINTS
#include "sys.h"
/* The test program's; it may raise signals whose handlers call the library. */
extern EXPORT void (*ipcspace_fail_hook)(const char *step);
#define FAIL_POINT(step) (ipcspace_fail_hook ? ipcspace_fail_hook(step) : (void)0)
#else
#define FAIL_POINT(step) ((void)0)
#endif

#endif
