/* The calling thread's credentials, as the kernel sees them. */
#include "ipcspace.h"

uint32_t creds_epoch;

uint32_t creds_uid(void)
{
	return (uint32_t)SYS0(__NR_geteuid);
}

uint32_t creds_gid(void)
{
	return (uint32_t)SYS0(__NR_getegid);
}

static bool in_groups(uint32_t gid, uint32_t other)
{
	uint32_t groups[256];
	long n = SYS2(__NR_getgroups, 256, groups);

	for (long i = 0; i < n; i++)
		if (groups[i] == gid || groups[i] == other)
			return true;
	return false;
}

bool creds_allow(const struct abi_record *r, uint32_t wanted)
{
	uint32_t uid = creds_uid(), granted = r->mode;

	if (uid == r->cuid || uid == r->uid) {
		granted >>= 6;
	} else {
		uint32_t gid = creds_gid();

		if (gid == r->cgid || gid == r->gid || in_groups(r->cgid, r->gid))
			granted >>= 3;
	}
	return (wanted & ~granted & 7) == 0;
}
