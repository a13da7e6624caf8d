/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All that differs between kernel versions. The driver is written for the
 * newest; older ones are fitted here, and nowhere else.
 */
#ifndef _MOULT_COMPAT_H
#define _MOULT_COMPAT_H

#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/version.h>

/*
 * Since 6.3 vm_flags has accessors. They also keep out faults that take only
 * the VMA's lock (since 6.4), so call moult_vm_flags_set() before looking at
 * page tables, even if the flag is set already.
 */
static inline void moult_vm_flags_set(struct vm_area_struct *vma,
				      unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

static inline void moult_vm_flags_clear(struct vm_area_struct *vma,
					unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_clear(vma, flags);
#else
	vma->vm_flags &= ~flags;
#endif
}

/* What a module may call to empty a part of one VMA. */
static inline void moult_zap(struct vm_area_struct *vma, unsigned long start,
			     unsigned long length)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	zap_page_range_single(vma, start, length, NULL);
#else
	zap_page_range(vma, start, length);
#endif
}

/*
 * Fault in one page for writing whatever the mapping's protection is, keeping
 * the mmap lock. 6.5 dropped the argument that gives back the VMAs.
 */
static inline int moult_fault_in(struct mm_struct *mm, unsigned long address)
{
	const unsigned int flags = FOLL_WRITE | FOLL_FORCE;
	long got;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	got = get_user_pages_remote(mm, address, 1, flags, NULL, NULL);
#else
	got = get_user_pages_remote(mm, address, 1, flags, NULL, NULL, NULL);
#endif
	return got == 1 ? 0 : got < 0 ? got : -ENOMEM;
}

/*
 * Pages that are no one's anonymous memory count as file pages of a process;
 * whoever removes an entry takes them off again. 6.2 made the counters per CPU.
 * add_mm_counter() also calls a trace helper that modules cannot reach.
 */
static inline void moult_add_rss(struct mm_struct *mm, long pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	percpu_counter_add(&mm->rss_stat[MM_FILEPAGES], pages);
#else
	atomic_long_add(pages, &mm->rss_stat.count[MM_FILEPAGES]);
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define moult_ptep_get(ptep) ptep_get(ptep)
#else
#define moult_ptep_get(ptep) (*(ptep))
#endif

/*
 * What x86's ptep_test_and_clear_young() does, which modules cannot call; and
 * like that it leaves the TLB alone: an entry there that is used on does not set
 * the bit again, until it goes.
 */
#define moult_clear_young(entry) \
	clear_bit(_PAGE_BIT_ACCESSED, (unsigned long *)(entry))

/* Mapping kinds that older kernels, or other configurations, do not have. */
#ifdef VM_SHADOW_STACK
#define MOULT_VM_SHADOW_STACK VM_SHADOW_STACK
#else
#define MOULT_VM_SHADOW_STACK VM_NONE
#endif

#ifdef VM_DROPPABLE
#define MOULT_VM_DROPPABLE VM_DROPPABLE
#else
#define MOULT_VM_DROPPABLE VM_NONE
#endif

#ifdef VM_SEALED
#define MOULT_VM_SEALED VM_SEALED
#else
#define MOULT_VM_SEALED VM_NONE
#endif

#endif /* _MOULT_COMPAT_H */
