#include "fail.h"

#ifdef IPCSPACE_FAIL_POINTS
void (*ipcspace_fail_hook)(const char *step);
#else
typedef int nothing_in_this_file;
#endif
