// SPDX-License-Identifier: GPL-2.0-only
/*
 * MOULT_YOUNG: which pages of a process were touched since somebody last
 * cleared that? As idle page tracking, which few kernels are built with, and by
 * the same bits: the CPU's in the page tables, and the frame's own mark, which
 * stands for those that reclaim has cleared.
 */

#include <linux/hugetlb_inline.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "moult.h"

/**
 * struct look - at the pages of one span
 * @start: of the span
 * @first: the bit of its first page
 * @bitmap: NULL: only count
 * @clear: what is found
 * @young: how many were
 */
struct look {
	unsigned long start;
	u64 first;
	u64 *bitmap;
	bool clear;
	u64 young;
};

static void note(struct look *look, unsigned long address, unsigned long count)
{
	u64 bit = look->first + PHYS_PFN(address - look->start);

	look->young += count;
	if (!look->bitmap)
		return;
	for (; count; count--, bit++)
		look->bitmap[bit / 64] |= 1ULL << (bit % 64);
}

/* Of the frames that the entry shows, which is locked. No page: a device's. */
static bool test_mark(struct page *page, bool clear)
{
	struct folio *folio;
	bool marked;

	if (!page)
		return false;
	folio = page_folio(page);
	marked = folio_test_referenced(folio);
	if (marked && clear)
		folio_clear_referenced(folio);
	return marked;
}

static int look_pte(pte_t *ptep, unsigned long address, void *data)
{
	struct look *look = data;
	pte_t pte = moult_ptep_get(ptep);
	struct page *page;
	bool marked;

	if (!pte_present(pte)) {
		/* It is not known what its entry was: better one too many. */
		if (moult_pte_moving(pte))
			note(look, address, 1);
		return 0;
	}
	page = pte_special(pte) ? NULL : pfn_to_online_page(pte_pfn(pte));
	marked = test_mark(page, look->clear);
	if (pte_young(pte) || marked)
		note(look, address, 1);
	if (pte_young(pte) && look->clear)
		moult_clear_young(&ptep->pte);
	return 0;
}

static int look_huge(pmd_t *pmdp, unsigned long address, unsigned long end,
		     void *data)
{
	struct look *look = data;
	bool moving = !pmd_present(*pmdp);
	bool young = !moving && pmd_young(*pmdp);
	bool marked = !moving && test_mark(pmd_page(*pmdp), look->clear);

	if (moving || young || marked)
		note(look, address, PHYS_PFN(end - address));
	if (young && look->clear)
		moult_clear_young(&pmdp->pmd);
	return 0;
}

static const struct moult_walk look_walk = {
	.pte = look_pte,
	.huge = look_huge,
};

static int look_vma(struct vm_area_struct *vma, unsigned long address,
		    unsigned long end, struct look *look)
{
	int err = 0;

	if ((vma->vm_flags & (VM_IO | VM_PFNMAP)) || is_vm_hugetlb_page(vma))
		return 0;
	/* For what else it does: no table turns into a huge entry meanwhile. */
	moult_vm_flags_set(vma, VM_NONE);
	while (!err && address < end) {
		err = moult_step(vma->vm_mm, address, end, &look_walk, look,
				 &address);
		if (!err && fatal_signal_pending(current))
			err = -EINTR;
		cond_resched();
	}
	return err;
}

static int look_span(struct mm_struct *mm, const struct moult_span *span,
		     struct look *look)
{
	struct vm_area_struct *vma;
	unsigned long end = span->va + span->length;
	VMA_ITERATOR(vmi, mm, span->va);
	int err = 0;

	look->start = span->va;
	for_each_vma_range(vmi, vma, end) {
		err = look_vma(vma, max(vma->vm_start, look->start),
			       min(vma->vm_end, end), look);
		if (err)
			break;
	}
	look->first += PHYS_PFN(span->length);
	return err;
}

static int look_mm(struct mm_struct *mm, const struct moult_span *spans,
		   u32 count, struct look *look)
{
	int err = mmap_write_lock_killable(mm);
	u32 i;

	if (err)
		return err;
	for (i = 0; i < count && !err; i++) {
		err = look_span(mm, spans + i, look);
		if (!err && fatal_signal_pending(current))
			err = -EINTR;
		cond_resched();
	}
	mmap_write_unlock(mm);
	return err;
}

/* The number of pages, or an error. */
static s64 count_pages(const struct moult_span *spans, u32 count, bool told)
{
	u64 end = 0, pages = 0;
	u32 i;

	for (i = 0; i < count; i++) {
		if (!spans[i].length ||
		    !PAGE_ALIGNED(spans[i].va | spans[i].length) ||
		    spans[i].va < end ||
		    spans[i].va + spans[i].length < spans[i].va)
			return -EINVAL;
		end = spans[i].va + spans[i].length;
		pages += PHYS_PFN(spans[i].length);
		if (told && pages > MOULT_MAX_YOUNG)
			return -E2BIG;
	}
	return pages;
}

static int look_process(struct moult_young *call, const struct moult_span *spans,
			u64 words)
{
	struct look look = { .clear = call->flags & MOULT_YOUNG_CLEAR };
	struct mm_struct *mm = moult_mm_of(call->pid);
	int err = 0;

	if (!mm)
		return -ESRCH;
	if (words) {
		look.bitmap = kvcalloc(words, sizeof(*look.bitmap),
				       GFP_KERNEL_ACCOUNT);
		if (!look.bitmap)
			err = -ENOMEM;
	}
	if (!err)
		err = look_mm(mm, spans, call->count, &look);
	mmput(mm);
	if (!err && words && copy_to_user(u64_to_user_ptr(call->bitmap), look.bitmap,
					  words * sizeof(*look.bitmap)))
		err = -EFAULT;
	kvfree(look.bitmap);
	call->young = look.young;
	return err;
}

/**
 * moult_young() - MOULT_YOUNG, with a copied argument
 * @call: its @young is filled in
 *
 * Return: 0, or an error as moult.h has it.
 */
int moult_young(struct moult_young *call)
{
	struct moult_span *spans;
	s64 pages;
	int err;

	if (call->flags & ~MOULT_YOUNG_CLEAR || call->pid <= 0 || !call->count)
		return -EINVAL;
	if (call->count > MOULT_MAX_RANGES)
		return -E2BIG;
	spans = vmemdup_user(u64_to_user_ptr(call->spans),
			     array_size(call->count, sizeof(*spans)));
	if (IS_ERR(spans))
		return PTR_ERR(spans);
	pages = count_pages(spans, call->count, call->bitmap);
	err = pages < 0 ? pages :
			  look_process(call, spans, call->bitmap ?
					       DIV_ROUND_UP_ULL(pages, 64) : 0);
	kvfree(spans);
	return err;
}
