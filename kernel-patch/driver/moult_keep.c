// SPDX-License-Identifier: GPL-2.0-only
/*
 * MOULT_KEEP and MOULT_LIST: the memory of a process that ends stays as it is,
 * so that a host can give it back after the process has gone and made room for
 * another. What the host was not told of, or did not take, is filled with zeros.
 */

#include <linux/dcache.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "moult.h"

/* References that one MOULT_LIST takes at the most. */
#define MAX_LISTED 16384

/* Address spaces of one open file: the processes of one function. */
#define MAX_KEPT 256

/* How often one call waits for pages that are being moved, a moment each time. */
#define MAX_WAITS 4096

struct moult_kept {
	struct list_head node;
	struct mm_struct *mm;
};

/**
 * struct walk - looks for frames that one address space has for itself
 * @own_file: nobody but this address space has the file that is mapped there
 * @wipe: fill them with zeros, and take no references
 * @held: takes the references
 * @runs: of frames
 * @count: of @runs that are filled in
 * @capacity: of @runs
 * @frames: in @runs
 * @moving: after -EAGAIN: where a page is being moved; to be gone on with
 * @waits: for such pages
 */
struct walk {
	bool own_file;
	bool wipe;
	struct moult_held *held;
	struct moult_run *runs;
	u32 count;
	u32 capacity;
	u64 frames;
	unsigned long moving;
	u32 waits;
};

static bool is_own(const struct walk *walk, struct page *page)
{
	struct folio *folio = page_folio(page);
	bool once = !folio_test_large(folio) &&
		    !atomic_read(&page->_mapcount);

	if (PageHWPoison(page) || folio_test_ksm(folio))
		return false;
	if (folio_test_anon(folio))
		return once || PageAnonExclusive(page);
	return once && walk->own_file && folio_test_swapbacked(folio);
}

static void add_run(struct walk *walk, unsigned long pfn, unsigned long count)
{
	struct moult_run *last = walk->runs + walk->count - 1;

	walk->frames += count;
	if (walk->count && last->gpa + last->length == PFN_PHYS(pfn)) {
		last->length += PFN_PHYS(count);
		return;
	}
	walk->runs[walk->count++] = (struct moult_run){
		.gpa = PFN_PHYS(pfn),
		.length = PFN_PHYS(count),
	};
}

/* The entry's lock is held, so the page is the process's until its reference is. */
static void take(struct walk *walk, struct page *page, unsigned long count)
{
	unsigned long i;

	if (!is_own(walk, page))
		return;
	if (walk->wipe) {
		for (i = 0; i < count; i++)
			clear_highpage(page + i);
		return;
	}
	folio_get(page_folio(page));
	walk->held->folios[walk->held->count++] = page_folio(page);
	add_run(walk, page_to_pfn(page), count);
}

/* A wipe has nobody who would try again. */
static int stop_at(struct walk *walk, unsigned long address)
{
	if (walk->wipe && walk->waits >= MAX_WAITS)
		return 0;
	walk->moving = address;
	return -EAGAIN;
}

static int take_pte(pte_t *ptep, unsigned long address, void *data)
{
	pte_t pte = moult_ptep_get(ptep);
	struct page *page;

	if (moult_pte_moving(pte))
		return stop_at(data, address);
	if (!pte_present(pte) || pte_special(pte))
		return 0;
	/* Neither a window's page nor another device's. */
	page = pfn_to_online_page(pte_pfn(pte));
	if (page)
		take(data, page, 1);
	return 0;
}

static int take_huge(pmd_t *pmdp, unsigned long address, unsigned long end,
		     void *data)
{
	if (!pmd_present(*pmdp))
		return stop_at(data, address);
	take(data, pmd_page(*pmdp), HPAGE_PMD_NR);
	return 0;
}

static const struct moult_walk take_walk = {
	.pte = take_pte,
	.huge = take_huge,
};

/*
 * A file without a name, which only mappings of this address space have open:
 * shared memory, a memfd.
 */
static bool owns_file(struct vm_area_struct *vma)
{
	struct file *file = vma->vm_file;
	struct vm_area_struct *other;
	long mappings = 0;
	VMA_ITERATOR(vmi, vma->vm_mm, 0);

	if (!file || file_inode(file)->i_nlink || d_count(file->f_path.dentry) != 1)
		return false;
	for_each_vma(vmi, other)
		mappings += other->vm_file == file;
	return file_count(file) == mappings;
}

/* Another reference than ours: the process, or one that shares its memory. */
static bool in_use(const struct mm_struct *mm)
{
	return atomic_read(&mm->mm_users) > 1;
}

static bool has_room(const struct walk *walk)
{
	return walk->wipe || (walk->capacity - walk->count >= PTRS_PER_PTE &&
			      walk->held->capacity - walk->held->count >= PTRS_PER_PTE);
}

/*
 * From @address on; what was moved meanwhile is looked at when that is over.
 * Whoever moves a page does not wait for the mmap lock.
 */
static int walk_step(struct mm_struct *mm, struct walk *walk,
		     unsigned long *address, unsigned long end)
{
	int err = moult_step(mm, *address, end, &take_walk, walk, address);

	if (err == -EAGAIN && walk->waits < MAX_WAITS) {
		walk->waits++;
		*address = walk->moving;
		usleep_range(100, 500);
		err = 0;
	}
	return err;
}

/*
 * Goes on at *@cursor, until all is done, which makes that 0, or there is no
 * room. The lock is taken as a writer's, because entries may not go meanwhile.
 */
static int walk_mm(struct mm_struct *mm, struct walk *walk, u64 *cursor)
{
	struct vm_area_struct *vma;
	unsigned long address = *cursor;
	VMA_ITERATOR(vmi, mm, address);
	int err = mmap_write_lock_killable(mm);

	if (err)
		return err;
	for_each_vma(vmi, vma) {
		walk->own_file = owns_file(vma);
		address = max(address, vma->vm_start);
		while (address < vma->vm_end) {
			if (!has_room(walk))
				goto out;
			err = walk_step(mm, walk, &address, vma->vm_end);
			if (!err && !walk->wipe && fatal_signal_pending(current))
				err = -EINTR;
			if (err)
				goto out;
			cond_resched();
		}
	}
	address = 0;
out:
	mmap_write_unlock(mm);
	*cursor = address;
	return err;
}

/**
 * moult_keep() - MOULT_KEEP, with a checked argument
 * @file: gets the reference
 * @call: names the process
 *
 * Return: 0, or an error as moult.h has it.
 */
int moult_keep(struct moult_file *file, const struct moult_keep *call)
{
	struct moult_kept *kept;
	struct mm_struct *mm;
	int err = 0;

	if (call->flags || call->reserved || call->pid <= 0)
		return -EINVAL;
	kept = kzalloc(sizeof(*kept), GFP_KERNEL_ACCOUNT);
	if (!kept)
		return -ENOMEM;
	mm = moult_mm_of(call->pid);
	if (!mm || mm == current->mm) {
		err = mm ? -EINVAL : -ESRCH;
		goto out;
	}
	kept->mm = mm;
	mutex_lock(&file->lock);
	if (file->kept_count < MAX_KEPT) {
		list_add_tail(&kept->node, &file->kept);
		file->kept_count++;
	} else {
		err = -E2BIG;
	}
	mutex_unlock(&file->lock);
	if (!err) {
		moult_late_yield(mm);
		return 0;
	}
out:
	if (mm)
		mmput(mm);
	kfree(kept);
	return err;
}

static struct mm_struct *nth_kept(struct moult_file *file, u32 index)
{
	struct moult_kept *kept;

	list_for_each_entry(kept, &file->kept, node)
		if (!index--)
			return kept->mm;
	return NULL;
}

static int list_from(struct moult_file *file, struct moult_list *call,
		     struct walk *walk)
{
	struct mm_struct *mm;
	int err = 0;

	while (!err && has_room(walk)) {
		mm = nth_kept(file, call->index);
		if (!mm) {
			call->index = MOULT_LIST_END;
			break;
		}
		if (in_use(mm))
			return -EBUSY;
		err = walk_mm(mm, walk, &call->cursor);
		if (!err && !call->cursor)
			call->index++;
	}
	return err;
}

/**
 * moult_list() - MOULT_LIST, with a checked argument
 * @file: has kept memory, and gets references on its frames
 * @call: where to go on; filled in
 *
 * Return: 0, or an error as moult.h has it; then nothing more is held.
 */
int moult_list(struct moult_file *file, struct moult_list *call)
{
	struct walk walk = { .capacity = call->capacity };
	int err;

	if (call->flags || call->reserved || call->capacity < PTRS_PER_PTE)
		return -EINVAL;
	if (call->capacity > MOULT_MAX_RANGES)
		return -E2BIG;
	walk.held = moult_held_alloc(MAX_LISTED);
	walk.runs = kvmalloc_array(call->capacity, sizeof(*walk.runs),
				   GFP_KERNEL_ACCOUNT);
	err = walk.held && walk.runs ? 0 : -ENOMEM;
	mutex_lock(&file->lock);
	if (!err)
		err = list_from(file, call, &walk);
	if (!err && copy_to_user(u64_to_user_ptr(call->runs), walk.runs,
				 array_size(walk.count, sizeof(*walk.runs))))
		err = -EFAULT;
	if (!err) {
		list_add(&walk.held->node, &file->held);
		walk.held = NULL;
	}
	mutex_unlock(&file->lock);
	call->count = walk.count;
	call->frames = walk.frames;
	kvfree(walk.runs);
	if (walk.held)
		moult_held_drop(walk.held, false);
	return err;
}

/**
 * moult_release_kept() - lets go of all that MOULT_KEEP kept for @file
 * @file: an open file description
 * @wipe: first fill what is still there with zeros, unless it is in use
 */
void moult_release_kept(struct moult_file *file, bool wipe)
{
	struct moult_kept *kept, *next;
	struct walk walk = { .wipe = true };
	LIST_HEAD(all);
	u64 cursor = 0;

	mutex_lock(&file->lock);
	list_splice_init(&file->kept, &all);
	file->kept_count = 0;
	mutex_unlock(&file->lock);
	list_for_each_entry_safe(kept, next, &all, node) {
		/* Killed in the midst of it: what is left is freed as ever. */
		if (wipe && !in_use(kept->mm))
			(void)walk_mm(kept->mm, &walk, &cursor);
		mmput(kept->mm);
		kfree(kept);
	}
}

/**
 * moult_kept_in_use() - whether a process that has some of it has not ended
 * @file: keeps memory
 */
bool moult_kept_in_use(struct moult_file *file)
{
	struct moult_kept *kept;
	bool used = false;

	mutex_lock(&file->lock);
	list_for_each_entry(kept, &file->kept, node)
		used = used || in_use(kept->mm);
	mutex_unlock(&file->lock);
	return used;
}

/**
 * moult_keeps() - whether an address space is among what is kept
 * @file: keeps memory
 * @mm: looked for
 */
bool moult_keeps(struct moult_file *file, const struct mm_struct *mm)
{
	struct moult_kept *kept;
	bool found = false;

	mutex_lock(&file->lock);
	list_for_each_entry(kept, &file->kept, node)
		found = found || kept->mm == mm;
	mutex_unlock(&file->lock);
	return found;
}
