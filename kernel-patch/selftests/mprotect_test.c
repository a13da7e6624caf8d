// SPDX-License-Identifier: GPL-2.0-only
/* Protection changes over template pages. */
#include "moult_test.h"

int main(void)
{
	char *va;

	setup();
	va = map_attached(8, 1, PROT_READ);
	CHECK_EQ(mprotect(va, 8 * PAGE, RW), 0, "read-only to writable");
	va[PAGE] = 1;
	CHECK(window_intact(1, 8), "a write then copies");
	CHECK(pages_hold_pattern(va + 2 * PAGE, 6, 3), "the rest still shows the window");

	CHECK_EQ(mprotect(va, 8 * PAGE, PROT_NONE), 0, "to no access");
	CHECK(killed_by(run_child(read_byte, va + 3 * PAGE), SIGSEGV), "it is enforced");
	CHECK_EQ(mprotect(va, 8 * PAGE, PROT_READ), 0, "and back");
	CHECK(pages_hold_pattern(va + 2 * PAGE, 6, 3), "the content is there again");
	CHECK_EQ(va[PAGE], 1, "the copy too");
	CHECK(killed_by(run_child(write_byte, va + 3 * PAGE), SIGSEGV), "and read-only");

	CHECK_EQ(mprotect(va + 2 * PAGE, 2 * PAGE, RW), 0, "of the middle, which splits the mapping");
	va[2 * PAGE] = 1;
	CHECK(pages_hold_pattern(va + 3 * PAGE, 5, 4), "neighbours keep their content");
	CHECK(killed_by(run_child(write_byte, va + 5 * PAGE), SIGSEGV), "and their protection");

	va = map_pages(4, PROT_NONE);
	CHECK_EQ(attach(va, 4, 1, PROT_NONE), 0, "attach to a mapping without access");
	CHECK(killed_by(run_child(read_byte, va), SIGSEGV), "shows nothing");
	CHECK_EQ(mprotect(va, 4 * PAGE, RW), 0, "until access is given");
	CHECK(pages_hold_pattern(va, 4, 1), "then the content is there");
	va[0] = 1;
	CHECK(window_intact(1, 4), "and copy-on-write");
	return finish();
}
