// SPDX-License-Identifier: GPL-2.0-only
/* Moving, shrinking and growing mappings of template pages. */
#include "moult_test.h"

int main(void)
{
	char *va, *to, *room;

	setup();
	va = map_attached(16, 1, RW);
	va[2 * PAGE] = 1;
	room = map_pages(64, PROT_NONE);
	to = mremap(va, 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	CHECK(to == room, "a mapping moves");
	CHECK(pages_hold_pattern(to, 2, 1) && to[2 * PAGE] == 1 && pages_hold_pattern(to + 3 * PAGE, 13, 4),
	      "with template pages and copies");
	to[5 * PAGE] = 1;
	CHECK(window_intact(1, 16), "and copy-on-write");
	CHECK(mremap(to, 16 * PAGE, 8 * PAGE, 0) == to, "it shrinks");
	CHECK(pages_hold_pattern(to + 6 * PAGE, 2, 7), "and keeps the rest");

	/* The next page is taken, so growing means moving. */
	to = mremap(to, 8 * PAGE, 32 * PAGE, MREMAP_MAYMOVE);
	if (to == MAP_FAILED)
		to = NULL;
	CHECK(to != NULL, "it grows by moving, when there is no room behind");
	CHECK(to && pages_hold_pattern(to + 6 * PAGE, 2, 7), "with its content");
	CHECK(to && page_holds(to + 8 * PAGE, 0) && page_holds(to + 31 * PAGE, 0), "and zeros after it");

	room = map_pages(64, PROT_NONE);
	munmap(room, 64 * PAGE);
	va = mmap(room, 8 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK_EQ(attach(va, 8, 1, RW), 0, "attach with room behind");
	to = mremap(va, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
	/*
	 * The kernel extends in place by merging, and merges no VM_MIXEDMAP
	 * mapping. Callers see what they see when memory is short.
	 */
	if (!has_struct_pages())
		CHECK(to == MAP_FAILED && errno == ENOMEM, "known difference without struct pages: ENOMEM");
	else
		CHECK(to == va && page_holds(to + 8 * PAGE, 0), "it grows in place");
	CHECK(pages_hold_pattern(to == MAP_FAILED ? va : to, 8, 1), "and the content stays");

	va = malloc(1 << 20);
	CHECK(va != NULL, "(malloc)");
	va = realloc(va, 8 << 20);
	CHECK(va != NULL, "realloc works beside it");
	return finish();
}
