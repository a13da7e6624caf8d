// SPDX-License-Identifier: GPL-2.0-only
/*
 * From one page table of a process to the next. Modules have no
 * walk_page_range(), and apply_to_existing_page_range() takes no huge entries.
 */

#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>

#include "compat.h"
#include "moult.h"

/**
 * moult_mm_of() - the address space of a process
 * @nr: in the caller's pid namespace
 *
 * Return: for mmput(); NULL if there is no such process, or it has none.
 */
struct mm_struct *moult_mm_of(pid_t nr)
{
	struct pid *pid = find_get_pid(nr);
	struct task_struct *task = get_pid_task(pid, PIDTYPE_TGID);
	struct mm_struct *mm = task ? get_task_mm(task) : NULL;

	if (task)
		put_task_struct(task);
	put_pid(pid);
	return mm;
}

/**
 * moult_apply() - calls a function for the entries that one page table has
 * @mm: its lock is held
 * @address: where the first is
 * @length: of what they map; all of it is one table's
 * @fn: gets them, but for empty ones; never gives -EINVAL
 * @data: for @fn
 *
 * The table may have gone: since 6.6 khugepaged takes away those of files' huge
 * pages with no mmap lock, see retract_page_tables(). To the kernel that is
 * -EINVAL. There are no entries then.
 *
 * Return: 0, or what @fn returned.
 */
int moult_apply(struct mm_struct *mm, unsigned long address,
		unsigned long length, pte_fn_t fn, void *data)
{
	int err = apply_to_existing_page_range(mm, address, length, fn, data);

	return err == -EINVAL ? 0 : err;
}

/* So is one that is being moved as a whole; it is not present meanwhile. */
static bool is_huge(pmd_t pmd)
{
	return pmd_present(pmd) ? pmd_trans_huge(pmd) :
				  is_pmd_migration_entry(pmd);
}

/**
 * moult_step() - looks at what one page table has, or one huge entry
 * @mm: its lock is held for writing: munmap() may take the mapping away first
 *	and its entries later, with the lock only read-held
 * @address: where
 * @end: of the mapping that is there, or less
 * @walk: what to do
 * @data: for @walk
 * @next: out: the end of what the table covers, or of the hole without one
 *
 * Return: 0, or what a function of @walk returned.
 */
int moult_step(struct mm_struct *mm, unsigned long address, unsigned long end,
	       const struct moult_walk *walk, void *data, unsigned long *next)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmdp;
	pmd_t pmd;

	*next = pgd_addr_end(address, end);
	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return 0;
	p4d = p4d_offset(pgd, address);
	*next = p4d_addr_end(address, end);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return 0;
	pud = pud_offset(p4d, address);
	*next = pud_addr_end(address, end);
	if (pud_none(*pud) || pud_leaf(*pud) || pud_bad(*pud))
		return 0;
	pmdp = pmd_offset(pud, address);
	*next = pmd_addr_end(address, end);
	pmd = READ_ONCE(*pmdp);
	if (is_huge(pmd) && walk->huge) {
		spinlock_t *lock = pmd_lock(mm, pmdp);
		int err = 0;

		/*
		 * Who splits it needs no mmap lock, but this one. And what was
		 * split stays so: to make it huge again takes the mmap lock.
		 */
		pmd = *pmdp;
		if (is_huge(pmd))
			err = walk->huge(pmdp, address, *next, data);
		spin_unlock(lock);
		if (err)
			return err;
	}
	if (!pmd_present(pmd) || pmd_leaf(pmd) || pmd_bad(pmd))
		return 0;
	return moult_apply(mm, address, *next - address, walk->pte, data);
}
