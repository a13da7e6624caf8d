// SPDX-License-Identifier: GPL-2.0-only
/* The list of windows, and struct pages for them. */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "moult.h"

static bool struct_pages = true;
module_param(struct_pages, bool, 0444);
MODULE_PARM_DESC(struct_pages,
		 "Give window pages a struct page, at 1/64 of the window in RAM (default: on)");

DECLARE_RWSEM(moult_windows_lock);
LIST_HEAD(moult_windows);
static u32 next_id;

/* The unit in which struct pages can be made. */
#define MOULT_ALIGN (1ULL << SUBSECTION_SHIFT)

static int check_place(u64 gpa, u64 length)
{
	u64 end;

	if (!length || !IS_ALIGNED(gpa, MOULT_ALIGN) ||
	    !IS_ALIGNED(length, MOULT_ALIGN) ||
	    check_add_overflow(gpa, length, &end))
		return -EINVAL;
	/* An entry with address bits that the CPU does not have is a fault of its own kind. */
	if (end - 1 > (1ULL << boot_cpu_data.x86_phys_bits) - 1)
		return -ERANGE;
	/*
	 * Showing RAM that the kernel uses to a process would be the end of
	 * all protection, and struct pages for it are there already.
	 */
	if (region_intersects(gpa, length, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return -EBUSY;
	return 0;
}

static void shift_mapcounts(const struct moult_window_state *window, int by)
{
	unsigned long pfn = PHYS_PFN(window->info.gpa);
	unsigned long end = pfn + PHYS_PFN(window->info.length);

	for (; pfn < end; pfn++) {
		atomic_add(by, &pfn_to_page(pfn)->_mapcount);
		if (!(pfn & 0xfff))
			cond_resched();
	}
}

/*
 * One mapping more than there is, always: so the kernel never sees a first or
 * last one, whose accounting (NR_FILE_MAPPED) is for pages that it manages.
 * _mapcount starts at -1, so it then is the number of real mappings.
 */
static int add_struct_pages(struct moult_window_state *window)
{
	struct dev_pagemap *pgmap = &window->pgmap;
	void *mapped;

	pgmap->type = MEMORY_DEVICE_GENERIC;
	pgmap->range.start = window->info.gpa;
	pgmap->range.end = window->info.gpa + window->info.length - 1;
	pgmap->nr_range = 1;
	/*
	 * Not the devm_ variety: if the device goes while pages are in use,
	 * the struct pages have to outlive it.
	 */
	mapped = memremap_pages(pgmap, NUMA_NO_NODE);
	if (IS_ERR(mapped))
		return PTR_ERR(mapped);
	shift_mapcounts(window, 1);
	return 0;
}

/**
 * moult_window_add() - a device offers a window
 * @source: MOULT_SOURCE_*
 * @gpa: start, aligned to 2 MiB
 * @length: in bytes, a multiple of 2 MiB
 *
 * Return: the window, or an ERR_PTR.
 */
struct moult_window_state *moult_window_add(u32 source, u64 gpa, u64 length)
{
	struct moult_window_state *window, *other;
	unsigned int count = 0;
	int err = check_place(gpa, length);

	if (err)
		return ERR_PTR(err);
	window = kzalloc(sizeof(*window), GFP_KERNEL);
	if (!window)
		return ERR_PTR(-ENOMEM);
	window->info.source = source;
	window->info.gpa = gpa;
	window->info.length = length;

	down_write(&moult_windows_lock);
	list_for_each_entry(other, &moult_windows, node)
		count++;
	if (count >= MOULT_MAX_WINDOWS) {
		err = -ENOSPC;
		goto unlock;
	}
	window->info.id = next_id;
	snprintf(window->name, sizeof(window->name), "moult window %u", next_id);
	if (!request_mem_region(gpa, length, window->name)) {
		err = -EBUSY;
		goto unlock;
	}
	if (struct_pages) {
		err = add_struct_pages(window);
		if (err)
			goto release;
		window->info.flags |= MOULT_WINDOW_STRUCT_PAGES;
	}
	next_id++;
	list_add_tail(&window->node, &moult_windows);
	up_write(&moult_windows_lock);
	pr_info("window %u: %#llx, %llu MiB, %s struct pages\n", window->info.id,
		gpa, length >> 20,
		window->info.flags & MOULT_WINDOW_STRUCT_PAGES ? "with" : "without");
	return window;

release:
	release_mem_region(gpa, length);
unlock:
	up_write(&moult_windows_lock);
	kfree(window);
	return ERR_PTR(err);
}

/**
 * moult_window_remove() - its device is going away
 * @window: from moult_window_add()
 *
 * A device cannot refuse to go. Page table entries that still show the window
 * then read whatever the machine has at these addresses; but struct pages in
 * use must not be freed, so they and the window's addresses stay taken.
 */
void moult_window_remove(struct moult_window_state *window)
{
	struct moult_extent all = {
		.window = window->info.id,
		.length = window->info.length,
	};
	int err;

	down_write(&moult_windows_lock);
	list_del(&window->node);
	err = moult_count_users(window, &all);
	if (err || all.mapped || all.pinned) {
		pr_err("window %u is gone while in use: %llu entries show it, %llu pages are held; its %llu MiB of addresses stay reserved\n",
		       window->info.id, all.mapped, all.pinned,
		       window->info.length >> 20);
		up_write(&moult_windows_lock);
		return;
	}
	if (window->info.flags & MOULT_WINDOW_STRUCT_PAGES) {
		shift_mapcounts(window, -1);
		memunmap_pages(&window->pgmap);
	}
	release_mem_region(window->info.gpa, window->info.length);
	if (window->attached)
		module_put(THIS_MODULE);
	up_write(&moult_windows_lock);
	kfree(window);
}

/* With moult_windows_lock held. */
struct moult_window_state *moult_window_find(u32 id)
{
	struct moult_window_state *window;

	list_for_each_entry(window, &moult_windows, node)
		if (window->info.id == id)
			return window;
	return NULL;
}

/* Is this a page-aligned, non-empty part of the window? */
int moult_window_check(const struct moult_window_state *window, u64 offset,
		       u64 length)
{
	u64 end;

	if (!length || !PAGE_ALIGNED(offset) || !PAGE_ALIGNED(length))
		return -EINVAL;
	if (check_add_overflow(offset, length, &end) ||
	    end > window->info.length)
		return -ERANGE;
	return 0;
}

/*
 * With moult_windows_lock held for reading, from an ioctl, whose open file
 * holds the module: so __module_get() is never the first reference.
 */
void moult_window_mark_attached(struct moult_window_state *window)
{
	if (!test_and_set_bit(0, &window->attached))
		__module_get(THIS_MODULE);
}
