// SPDX-License-Identifier: GPL-2.0-only
/* madvise() over template pages does what it does to anonymous memory. */
#include "moult_test.h"

static int child_wipes(void *va)
{
	return page_holds(va, 0) ? 0 : 1;
}

int main(void)
{
	char *va;

	setup();
	va = map_attached(16, 1, RW);
	va[0] = 1;
	CHECK_EQ(madvise(va, 8 * PAGE, MADV_DONTNEED), 0, "MADV_DONTNEED");
	CHECK(page_holds(va, 0), "a copied page reads as zero");
	CHECK(page_holds(va + 3 * PAGE, 0), "an untouched template page reads as zero");
	CHECK(pages_hold_pattern(va + 8 * PAGE, 8, 9), "the rest is unharmed");
	va[3 * PAGE] = 1;
	CHECK(window_intact(1, 16), "and the window");
	CHECK_EQ(attach(va + 5 * PAGE, 1, 40, RW), 0, "an emptied, untouched page can be attached again");

	va = map_attached(16, 1, RW);
	va[0] = 1;
	CHECK_EQ(madvise(va, 16 * PAGE, MADV_FREE), 0, "MADV_FREE");
	CHECK(pages_hold_pattern(va + PAGE, 15, 2), "template pages are kept, which it allows");
	va[2 * PAGE] = 5;
	CHECK_EQ(va[2 * PAGE], 5, "a write after it stays");
	CHECK(window_intact(1, 16), "and the window is as before");

	CHECK_EQ(madvise(va, 16 * PAGE, MADV_COLD), 0, "MADV_COLD");
	CHECK_EQ(madvise(va, 16 * PAGE, MADV_PAGEOUT), 0, "MADV_PAGEOUT");
	CHECK(pages_hold_pattern(va + 3 * PAGE, 13, 4), "change nothing");
	madvise(va, 16 * PAGE, MADV_MERGEABLE);
	CHECK(pages_hold_pattern(va + 3 * PAGE, 13, 4), "nor does MADV_MERGEABLE");
	madvise(va, 16 * PAGE, MADV_UNMERGEABLE);
	CHECK_EQ(madvise(va, 16 * PAGE, MADV_POPULATE_READ), 0, "MADV_POPULATE_READ");
	CHECK_EQ(madvise(va, 16 * PAGE, MADV_POPULATE_WRITE), 0, "MADV_POPULATE_WRITE");
	CHECK(pages_hold_pattern(va + 3 * PAGE, 13, 4), "copies with the right content");

	va = map_attached(4, 1, RW);
	CHECK_EQ(madvise(va, 4 * PAGE, MADV_WIPEONFORK), 0, "MADV_WIPEONFORK");
	CHECK_EQ(run_child(child_wipes, va), 0, "a child gets zeros");
	CHECK(pages_hold_pattern(va, 4, 1), "the parent keeps its pages");

	va = map_attached(4, 1, RW);
	CHECK_EQ(madvise(va, 4 * PAGE, MADV_DONTDUMP), 0, "MADV_DONTDUMP");
	if (!has_struct_pages())
		CHECK(madvise(va, 4 * PAGE, MADV_DODUMP) == -1 && errno == EINVAL,
		      "known difference without struct pages: MADV_DODUMP is refused");
	else
		CHECK_EQ(madvise(va, 4 * PAGE, MADV_DODUMP), 0, "MADV_DODUMP");
	return finish();
}
