// SPDX-License-Identifier: GPL-2.0-only
/*
 * MOULT_ATTACH: read-only entries for window pages in anonymous private
 * mappings of the caller. The mapping keeps vm_ops == NULL, so that it is
 * anonymous memory for everyone: a write fault copies the page, MADV_DONTNEED
 * brings zeros. In a private mapping of a file the same entry stands for a copy
 * that was written there; absent pages go on coming from the file.
 *
 * With struct pages an entry is what vm_insert_page() would make: an ordinary
 * one, that holds a reference and a mapping of the page. So the kernel's copy
 * on write has a page to copy from, get_user_pages() one to give out, and the
 * page's counts say who uses it. Pages of a device are on no LRU and charged to
 * nobody, and reclaim, migration, KSM and khugepaged leave them alone.
 *
 * Without, an entry is special: the kernel sees no page behind it.
 */

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "compat.h"
#include "moult.h"

/*
 * Mappings that cannot take template pages.
 * VM_LOCKED: a locked page is in RAM, and a write to it never waits.
 * VM_SHADOW_STACK: read-only entries mean something else there.
 * VM_SEALED: its owner forbade changes to what it shows.
 * VM_DROPPABLE: its pages may turn to zeros at any time; templates have none.
 */
#define REFUSED_FLAGS                                                          \
	(VM_SHARED | VM_MAYSHARE | VM_IO | VM_PFNMAP | VM_DONTEXPAND |         \
	 VM_HUGETLB | VM_LOCKED | MOULT_VM_SHADOW_STACK | MOULT_VM_SEALED |    \
	 MOULT_VM_DROPPABLE)

/**
 * struct batch - one call under way
 * @mm: the caller's, locked for writing
 * @ranges: copied from the caller
 * @windows: of each range; NULL before validation
 * @flags: MOULT_ATTACH_*
 * @marked: the ranges whose mapping got VM_MIXEDMAP from this call; windows
 *	without struct pages only
 * @count: of ranges
 * @begun: ranges whose mapping is prepared, from the first on
 * @current_done: bytes of the last begun range that are installed
 */
struct batch {
	struct mm_struct *mm;
	struct moult_range *ranges;
	struct moult_window_state **windows;
	unsigned long *marked;
	u32 flags;
	u32 count;
	u32 begun;
	u64 current_done;
};

/* What install_pte() needs of one range. */
struct cursor {
	unsigned long pfn;
	pgprot_t prot;
	bool pages;
};

static int install_pte(pte_t *ptep, unsigned long address, void *data)
{
	struct cursor *cursor = data;
	pte_t pte;

	if (!pte_none(moult_ptep_get(ptep)))
		return -EEXIST;
	pte = pte_mkold(pte_wrprotect(pfn_pte(cursor->pfn, cursor->prot)));
	if (cursor->pages) {
		struct page *page = pfn_to_page(cursor->pfn);

		/* What removing or copying the entry takes off or adds. */
		get_page(page);
		atomic_inc(&page->_mapcount);
	} else {
		pte = pte_mkspecial(pte);
	}
	/* The entry was empty, so no TLB knows this address. */
	set_pte_at(current->mm, address, ptep, pte);
	cursor->pfn++;
	return 0;
}

static int refuse_pte(pte_t *ptep, unsigned long address, void *data)
{
	return pte_none(moult_ptep_get(ptep)) ? 0 : -EEXIST;
}

/*
 * Can the two megabytes around @address have page table entries? There may be
 * a huge page, the huge zero page, or one that is being migrated, on which
 * apply_to_page_range() would warn.
 */
static int check_no_huge(struct mm_struct *mm, unsigned long address,
			 bool *table)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t pmd;

	*table = false;
	if (pgd_none(*pgd))
		return 0;
	if (pgd_bad(*pgd))
		return -EEXIST;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return 0;
	if (p4d_bad(*p4d))
		return -EEXIST;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud))
		return 0;
	if (pud_leaf(*pud) || pud_bad(*pud))
		return -EEXIST;
	pmd = READ_ONCE(*pmd_offset(pud, address));
	if (pmd_none(pmd))
		return 0;
	if (!pmd_present(pmd) || pmd_leaf(pmd) || pmd_bad(pmd))
		return -EEXIST;
	*table = true;
	return 0;
}

/*
 * The reverse mapping object of anonymous memory is made by the first write
 * fault. Where there is none, nothing was ever written, and so fork() copies no
 * entries and a core dump leaves the mapping out; here something was written,
 * in another life of the process. A module cannot make that object other than
 * by such a fault; the page is thrown away.
 */
static int prepare_anon_vma(struct batch *batch, struct vm_area_struct *vma,
			    unsigned long address)
{
	bool no_huge = vma->vm_flags & VM_NOHUGEPAGE;
	bool table;
	int err = check_no_huge(batch->mm, address, &table);

	if (!err && table)
		err = moult_apply(batch->mm, address, PAGE_SIZE, refuse_pte,
				  NULL);
	if (err)
		return err;
	/* Two megabytes would be a lot to throw away. */
	if (!no_huge)
		moult_vm_flags_set(vma, VM_NOHUGEPAGE);
	err = moult_fault_in(batch->mm, address);
	if (!no_huge)
		moult_vm_flags_clear(vma, VM_NOHUGEPAGE);
	if (!err)
		moult_zap(vma, address, PAGE_SIZE);
	return err;
}

/*
 * A private mapping of /dev/zero is anonymous, but has a file; one of a driver
 * may look the same and own its entries. Both are rare. A DAX file's pages may
 * come in entries of two megabytes.
 */
static bool takes_pages(struct vm_area_struct *vma, u32 flags)
{
	const struct inode *inode;

	if (!vma->vm_file)
		return vma_is_anonymous(vma);
	inode = file_inode(vma->vm_file);
	return (flags & MOULT_ATTACH_FILES) && !vma_is_anonymous(vma) &&
	       S_ISREG(inode->i_mode) && !IS_DAX(inode);
}

static int check_vma(struct vm_area_struct *vma, const struct moult_range *range,
		     u32 flags)
{
	unsigned long access = vma->vm_flags & VM_ACCESS_FLAGS;
	unsigned long wanted = 0;

	if (!takes_pages(vma, flags))
		return -EOPNOTSUPP;
	if ((vma->vm_flags & REFUSED_FLAGS) || userfaultfd_armed(vma))
		return -EOPNOTSUPP;
	if (range->prot & PROT_READ)
		wanted |= VM_READ;
	if (range->prot & PROT_WRITE)
		wanted |= VM_WRITE;
	if (range->prot & PROT_EXEC)
		wanted |= VM_EXEC;
	return access == wanted ? 0 : -EACCES;
}

static struct vm_area_struct *range_vma(struct batch *batch, u32 index)
{
	const struct moult_range *range = &batch->ranges[index];
	struct vm_area_struct *vma = find_vma(batch->mm, range->va);

	if (!vma || vma->vm_start > range->va ||
	    vma->vm_end < range->va + range->length)
		return NULL;
	return vma;
}

static int install_range(struct batch *batch, u32 index)
{
	const struct moult_range *range = &batch->ranges[index];
	struct moult_window_state *window = batch->windows[index];
	struct vm_area_struct *vma = range_vma(batch, index);
	unsigned long address = range->va;
	unsigned long end = address + range->length;
	struct cursor cursor = {
		.pfn = PHYS_PFN(window->info.gpa + range->window_offset),
		.prot = vma->vm_page_prot,
		.pages = window->info.flags & MOULT_WINDOW_STRUCT_PAGES,
	};
	int err;

	if (!cursor.pages && !(vma->vm_flags & VM_MIXEDMAP))
		__set_bit(index, batch->marked);
	/* Also if there is no flag to set: it keeps faults out. See compat.h. */
	moult_vm_flags_set(vma, cursor.pages ? 0 : VM_MIXEDMAP);
	batch->begun = index + 1;
	batch->current_done = 0;

	if (!vma->anon_vma) {
		err = prepare_anon_vma(batch, vma, address);
		if (err)
			return err;
	}
	while (address < end) {
		unsigned long next = pmd_addr_end(address, end);
		unsigned long first = cursor.pfn;
		bool table;

		err = check_no_huge(batch->mm, address, &table);
		if (!err)
			err = apply_to_page_range(batch->mm, address,
						  next - address, install_pte,
						  &cursor);
		batch->current_done += PFN_PHYS(cursor.pfn - first);
		if (cursor.pages)
			moult_add_rss(batch->mm, cursor.pfn - first);
		if (err)
			return err;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		address = next;
	}
	return 0;
}

/* Takes back all that install_range() did. Nothing else can have come there. */
static void roll_back(struct batch *batch)
{
	u32 index;

	for (index = 0; index < batch->begun; index++) {
		struct vm_area_struct *vma = range_vma(batch, index);
		bool last = index + 1 == batch->begun;
		u64 length = last ? batch->current_done :
				    batch->ranges[index].length;

		if (length)
			moult_zap(vma, batch->ranges[index].va, length);
	}
	/* Only now: entries of later ranges may have been in the same mapping. */
	for (index = 0; index < batch->begun; index++)
		if (test_bit(index, batch->marked))
			moult_vm_flags_clear(range_vma(batch, index),
					     VM_MIXEDMAP);
}

static int check_range(struct batch *batch, const struct moult_file *file,
		       u32 index, u64 lowest)
{
	const struct moult_range *range = &batch->ranges[index];
	const struct moult_extent *only = &file->restriction;
	struct moult_window_state *window;
	struct vm_area_struct *vma;
	u64 end;
	int err;

	if (!range->length || !PAGE_ALIGNED(range->va) ||
	    !PAGE_ALIGNED(range->length) || range->va < lowest ||
	    check_add_overflow(range->va, range->length, &end) ||
	    range->prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC))
		return -EINVAL;
	if (end > TASK_SIZE)
		return -ENOMEM;
	window = moult_window_find(range->window);
	if (!window)
		return -ENXIO;
	err = moult_window_check(window, range->window_offset, range->length);
	if (err)
		return err;
	if (only->length &&
	    (range->window != only->window || range->window_offset < only->offset ||
	     range->window_offset + range->length > only->offset + only->length))
		return -EPERM;
	vma = range_vma(batch, index);
	if (!vma)
		return -ENOMEM;
	batch->windows[index] = window;
	return check_vma(vma, range, batch->flags);
}

/* With moult_windows_lock and the mmap lock held. */
static int attach_batch(struct batch *batch, const struct moult_file *file,
			struct moult_attach *call)
{
	u64 lowest = 0;
	u64 attached = 0;
	u32 index;
	int err;

	for (index = 0; index < batch->count; index++) {
		call->failed = index;
		err = check_range(batch, file, index, lowest);
		if (err)
			return err;
		lowest = batch->ranges[index].va + batch->ranges[index].length;
		if (need_resched())
			cond_resched();
	}
	for (index = 0; index < batch->count; index++) {
		call->failed = index;
		err = install_range(batch, index);
		if (err) {
			roll_back(batch);
			return err;
		}
		attached += PHYS_PFN(batch->ranges[index].length);
	}
	for (index = 0; index < batch->count; index++)
		moult_window_mark_attached(batch->windows[index]);
	call->failed = batch->count;
	call->attached = attached;
	return 0;
}

static int locked_attach(struct batch *batch, const struct moult_file *file,
			 struct moult_attach *call)
{
	int err;

	down_read(&moult_windows_lock);
	err = mmap_write_lock_killable(batch->mm);
	if (!err) {
		err = attach_batch(batch, file, call);
		mmap_write_unlock(batch->mm);
	}
	up_read(&moult_windows_lock);
	return err;
}

static int get_call(struct moult_attach *call, void __user *argument)
{
	u32 size;
	int err;

	if (get_user(size, (u32 __user *)argument))
		return -EFAULT;
	if (size < sizeof(*call))
		return -EINVAL;
	if (size > PAGE_SIZE)
		return -E2BIG;
	err = copy_struct_from_user(call, sizeof(*call), argument, size);
	if (err)
		return err;
	if ((call->flags & ~MOULT_ATTACH_FILES) || !call->count)
		return -EINVAL;
	return call->count > MOULT_MAX_RANGES ? -E2BIG : 0;
}

int moult_attach(struct moult_file *file, void __user *argument)
{
	struct batch batch = { .mm = current->mm };
	struct moult_attach call;
	int err = get_call(&call, argument);

	if (err)
		return err;
	call.attached = 0;
	call.failed = call.count;
	batch.flags = call.flags;
	batch.count = call.count;
	batch.ranges = vmemdup_user(u64_to_user_ptr(call.ranges),
				    array_size(call.count, sizeof(*batch.ranges)));
	if (IS_ERR(batch.ranges))
		return PTR_ERR(batch.ranges);
	batch.windows = kvcalloc(call.count, sizeof(*batch.windows),
				 GFP_KERNEL_ACCOUNT);
	batch.marked = bitmap_zalloc(call.count, GFP_KERNEL_ACCOUNT);
	err = batch.windows && batch.marked ?
		      locked_attach(&batch, file, &call) : -ENOMEM;
	bitmap_free(batch.marked);
	kvfree(batch.windows);
	kvfree(batch.ranges);
	/* Pages that are attached stay so: a caller that made its own argument unwritable knows. */
	if (copy_to_user(argument, &call, sizeof(call)))
		return -EFAULT;
	return err;
}
