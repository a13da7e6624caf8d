// SPDX-License-Identifier: GPL-2.0-only
/* The first write copies; the window never changes. */
#include "moult_test.h"

#include <string.h>

int main(void)
{
	char *a, *b;
	uint64_t half;

	setup();
	a = map_attached(16, 1, RW);
	b = map_attached(16, 1, RW);
	memset(a + 3 * PAGE, 0xaa, PAGE);
	CHECK(page_holds(a + 3 * PAGE, 0xaaaaaaaaaaaaaaaaUL), "a write is seen by the writer");
	CHECK(pages_hold_pattern(b, 16, 1), "and by no other mapping");
	CHECK(pages_hold_pattern(a, 3, 1) && pages_hold_pattern(a + 4 * PAGE, 12, 5), "nor in neighbour pages");
	CHECK(window_intact(1, 16), "and does not reach the window");

	a[5 * PAGE + 100] = 1;
	memcpy(&half, a + 5 * PAGE + 104, 8);
	CHECK_EQ(half, PATTERN(6), "a write of one byte keeps the rest of the page");
	CHECK_EQ(__atomic_fetch_add((uint64_t *)(a + 6 * PAGE), 1, __ATOMIC_SEQ_CST), PATTERN(7),
		 "an atomic operation sees the template's value");
	CHECK_EQ(*(uint64_t *)(a + 6 * PAGE), PATTERN(7) + 1, "and changes the copy");

	b = map_attached(2, 1, PROT_READ);
	CHECK(killed_by(run_child(write_byte, b), SIGSEGV), "a read-only mapping stays read-only");
	b = map_attached(2, 1, PROT_READ);
	CHECK(pages_hold_pattern(b, 2, 1), "and readable");

	/* The kernel's own writes copy too. */
	a = map_attached(2, 1, RW);
	int pipes[2];
	if (pipe(pipes) || write(pipes[1], "x", 1) != 1)
		die("pipe");
	CHECK_EQ(read(pipes[0], a + 10, 1), 1, "a system call writes into a template page");
	CHECK(a[10] == 'x' && window_intact(1, 2), "which copies it");
	return finish();
}
