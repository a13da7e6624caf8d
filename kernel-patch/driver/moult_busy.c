// SPDX-License-Identifier: GPL-2.0-only
/* Who uses pages of a window? */

#include <linux/mm.h>
#include <linux/sched.h>

#include "moult.h"

/*
 * Of each page's references one is the device's own, one is each mapping's, and
 * what is left over someone has pinned. The mappings are read first: an entry
 * that goes in between then counts as a pin, and none is missed.
 */
static void count_references(unsigned long first, unsigned long end,
			     struct moult_extent *extent)
{
	unsigned long pfn;

	for (pfn = first; pfn < end; pfn++) {
		struct page *page = pfn_to_page(pfn);
		int mapped = atomic_read(&page->_mapcount);
		int references;

		smp_rmb(); /* see above */
		references = page_ref_count(page) - 1;
		extent->mapped += mapped;
		if (references > mapped)
			extent->pinned++;
		if (!(pfn & 0xfff))
			cond_resched();
	}
}

/**
 * moult_count_users() - who uses pages of a window?
 * @window: with moult_windows_lock held
 * @extent: a checked part of it; gets the counts
 *
 * Return: 0; without struct pages also -EINTR, -ENOMEM, or -EAGAIN if a process
 * kept its memory map locked.
 */
int moult_count_users(struct moult_window_state *window,
		      struct moult_extent *extent)
{
	unsigned long first = PHYS_PFN(window->info.gpa + extent->offset);
	unsigned long end = first + PHYS_PFN(extent->length);

	extent->mapped = 0;
	extent->pinned = 0;
	if (!(window->info.flags & MOULT_WINDOW_STRUCT_PAGES))
		return moult_scan_entries(first, end, &extent->mapped);
	count_references(first, end, extent);
	return 0;
}
