// SPDX-License-Identifier: GPL-2.0-only
/*
 * MOULT_HOLD: references on page frames, so that they stay what they are while
 * the host acts on their addresses. A frame with one reference more than its
 * mappings explain is not migrated, not collapsed into a huge page, not merged
 * and not reclaimed; and when its owner ends it is not given to anybody else.
 */

#include <linux/highmem.h>
#include <linux/list.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "moult.h"

/* Frames between two looks at signals and the scheduler. */
#define STEP 4096

/**
 * moult_held_alloc() - room for references
 * @capacity: how many
 *
 * Return: NULL when there is no memory.
 */
struct moult_held *moult_held_alloc(u64 capacity)
{
	struct moult_held *held = kvzalloc(struct_size(held, folios, capacity),
					   GFP_KERNEL_ACCOUNT);

	if (held)
		held->capacity = capacity;
	return held;
}

static void wipe(struct folio *folio)
{
	long i;

	/* Somebody else may have it yet: then it is his to free. */
	if (folio_ref_count(folio) > 1)
		return;
	for (i = 0; i < folio_nr_pages(folio); i++)
		clear_highpage(folio_page(folio, i));
}

/**
 * moult_held_drop() - lets go
 * @held: in no list
 * @wiped: first fill with zeros what thereby becomes free
 */
void moult_held_drop(struct moult_held *held, bool wiped)
{
	u64 i;

	for (i = 0; i < held->count; i++) {
		if (wiped)
			wipe(held->folios[i]);
		folio_put(held->folios[i]);
		if (i % STEP == STEP - 1)
			cond_resched();
	}
	kvfree(held);
}

/*
 * Any page may be about to be freed and used anew, so first the reference, then
 * a look at what it is. Only user memory that can move is of interest.
 */
static struct folio *hold_frame(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);
	struct folio *folio;

	if (!page)
		return NULL;
	folio = page_folio(page);
	if (!folio_try_get(folio))
		return NULL;
	if (page_folio(page) == folio && !folio_test_hugetlb(folio) &&
	    !folio_test_slab(folio) &&
	    (folio_test_anon(folio) || folio_test_swapbacked(folio)))
		return folio;
	folio_put(folio);
	return NULL;
}

static int hold_runs(const struct moult_run *runs, u32 count,
		     struct moult_held *held, u64 *bitmap)
{
	u64 at = 0;
	u32 i;

	for (i = 0; i < count; i++) {
		unsigned long pfn = PHYS_PFN(runs[i].gpa);
		unsigned long end = pfn + PHYS_PFN(runs[i].length);

		for (; pfn < end; pfn++, at++) {
			struct folio *folio = hold_frame(pfn);

			if (folio) {
				held->folios[held->count++] = folio;
				bitmap[at / 64] |= 1ULL << (at % 64);
			}
			if (at % STEP == STEP - 1) {
				if (fatal_signal_pending(current))
					return -EINTR;
				cond_resched();
			}
		}
	}
	return 0;
}

/* The number of frames, or an error. */
static s64 count_frames(const struct moult_run *runs, u32 count)
{
	u64 frames = 0;
	u32 i;

	for (i = 0; i < count; i++) {
		if (!runs[i].length ||
		    !PAGE_ALIGNED(runs[i].gpa | runs[i].length) ||
		    runs[i].gpa + runs[i].length < runs[i].gpa)
			return -EINVAL;
		if (PHYS_PFN(runs[i].length) > MOULT_MAX_HOLD - frames)
			return -E2BIG;
		frames += PHYS_PFN(runs[i].length);
	}
	return frames;
}

static int hold(struct moult_file *file, struct moult_hold *call,
		const struct moult_run *runs, u64 frames)
{
	u64 words = DIV_ROUND_UP_ULL(frames, 64);
	struct moult_held *held;
	u64 *bitmap;
	int err;

	held = moult_held_alloc(frames);
	bitmap = kvcalloc(words, sizeof(*bitmap), GFP_KERNEL_ACCOUNT);
	err = held && bitmap ? hold_runs(runs, call->count, held, bitmap) :
			       -ENOMEM;
	if (!err && copy_to_user(u64_to_user_ptr(call->bitmap), bitmap,
				 words * sizeof(*bitmap)))
		err = -EFAULT;
	kvfree(bitmap);
	if (err) {
		if (held)
			moult_held_drop(held, false);
		return err;
	}
	call->held = held->count;
	mutex_lock(&file->lock);
	list_add(&held->node, &file->held);
	mutex_unlock(&file->lock);
	return 0;
}

/**
 * moult_hold() - MOULT_HOLD, with a checked and copied argument
 * @file: gets the references
 * @call: its @held is filled in
 *
 * Return: 0, or an error as moult.h has it; then nothing more is held.
 */
int moult_hold(struct moult_file *file, struct moult_hold *call)
{
	struct moult_run *runs;
	s64 frames;
	int err;

	if (call->flags || call->reserved || !call->count)
		return -EINVAL;
	if (call->count > MOULT_MAX_RANGES)
		return -E2BIG;
	runs = vmemdup_user(u64_to_user_ptr(call->runs),
			    array_size(call->count, sizeof(*runs)));
	if (IS_ERR(runs))
		return PTR_ERR(runs);
	frames = count_frames(runs, call->count);
	err = frames < 0 ? frames : hold(file, call, runs, frames);
	kvfree(runs);
	return err;
}

/**
 * moult_release_held() - lets go of all that MOULT_HOLD took for @file
 * @file: an open file description
 * @wiped: first fill with zeros what thereby becomes free
 */
void moult_release_held(struct moult_file *file, bool wiped)
{
	struct moult_held *held, *next;
	LIST_HEAD(all);

	mutex_lock(&file->lock);
	list_splice_init(&file->held, &all);
	mutex_unlock(&file->lock);
	list_for_each_entry_safe(held, next, &all, node)
		moult_held_drop(held, wiped);
}
