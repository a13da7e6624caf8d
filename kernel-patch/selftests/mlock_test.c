// SPDX-License-Identifier: GPL-2.0-only
/* Locked memory and template pages. */
#include "moult_test.h"

static int lock_all(void *unused)
{
	char *va = map_attached(16, 1, RW);

	(void)unused;
	if (mlockall(MCL_CURRENT | MCL_FUTURE) || !pages_hold_pattern(va, 16, 1))
		return 1;
	va[0] = 1;
	va = map_pages(16, RW);
	return attach(va, 16, 1, RW) == -EOPNOTSUPP ? 0 : 2;
}

int main(void)
{
	char *va;

	setup();
	va = map_attached(16, 1, RW);
	CHECK_EQ(mlock(va, 16 * PAGE), 0, "mlock of template pages answers");
	CHECK(pages_hold_pattern(va, 16, 1), "and keeps the content");
	CHECK(window_intact(1, 16), "and the window");
	va[PAGE] = 1;
	CHECK_EQ(va[PAGE], 1, "they can be written");
	CHECK_EQ(munlock(va, 16 * PAGE), 0, "munlock");
	CHECK_EQ(munmap(va, 16 * PAGE), 0, "munmap");

	va = map_attached(16, 1, PROT_READ);
	CHECK_EQ(mlock(va, 16 * PAGE), 0, "mlock of a read-only mapping");
	CHECK(pages_hold_pattern(va, 16, 1), "keeps the content");

	va = map_pages(16, RW);
	CHECK_EQ(mlock(va, 16 * PAGE), 0, "(mlock)");
	CHECK_EQ(attach(va, 16, 1, RW), -EOPNOTSUPP, "attach to locked memory is refused");
	CHECK_EQ(run_child(lock_all, NULL), 0, "mlockall with template pages");
	return finish();
}
