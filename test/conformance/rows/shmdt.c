/* Rows 71 and 72: detaching what cannot be detached. */
#include "case.h"

ROW(71, "shmdt of what is not the start of an attach is EINVAL")
{
	int id = new_segment(2 * page_size());
	char *m = MUST(shmat(id, NULL, 0));
	char *plain = MUST(mmap(NULL, page_size(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	EXPECT_ERR(shmdt(m + page_size()), EINVAL);
	EXPECT_ERR(shmdt(NULL), EINVAL);
	EXPECT_ERR(shmdt(plain), EINVAL);
	EXPECT_EQ(fault(plain, false), 0);
	EXPECT_EQ(nattch(id), 1);
	EXPECT_OK(shmdt(m));
	EXPECT_ERR(shmdt(m), EINVAL);
}

ROW(72, "shmdt of an address that is not page-aligned is EINVAL")
{
	char *m = MUST(shmat(new_segment(4096), NULL, 0));
	EXPECT_ERR(shmdt(m + 1), EINVAL);
	EXPECT_ERR(shmdt(m + 4095), EINVAL);
	EXPECT_EQ(fault(m, true), 0);
	EXPECT_OK(shmdt(m));
}
