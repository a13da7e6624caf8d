// SPDX-License-Identifier: GPL-2.0-only
/* Holes in mappings of template pages. */
#include "moult_test.h"

int main(void)
{
	char *va, *again;

	setup();
	va = map_attached(1024, 1, RW);
	CHECK_EQ(munmap(va + 100 * PAGE, 700 * PAGE), 0, "the middle goes");
	CHECK(pages_hold_pattern(va, 100, 1), "what is before stays");
	CHECK(pages_hold_pattern(va + 800 * PAGE, 224, 801), "what is behind stays");
	CHECK(killed_by(run_child(read_byte, va + 300 * PAGE), SIGSEGV), "the hole is one");
	again = mmap(va + 100 * PAGE, 700 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(again == va + 100 * PAGE, "it can be mapped again");
	/* Where it begins as a huge page does, a read would show one, in the way of the attach. */
	madvise(again, 700 * PAGE, MADV_NOHUGEPAGE);
	CHECK(page_holds(again, 0) && page_holds(again + 699 * PAGE, 0), "and is zero");
	CHECK_EQ(attach(again + PAGE, 10, 500, RW), 0, "and be attached again");
	CHECK(pages_hold_pattern(again + PAGE, 10, 500), "with other pages");
	again = mmap(va, 1024 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(page_holds(again + 50 * PAGE, 0) && page_holds(again + 900 * PAGE, 0), "mapping over it replaces all");
	return finish();
}
