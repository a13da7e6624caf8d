// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which entries show a window that has no struct pages? Nothing counts them, so
 * the page tables of all processes are looked through.
 */

#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "compat.h"
#include "moult.h"

/* How long one process may hold its mmap lock before we give up. */
#define LOCK_PATIENCE (2 * HZ)

struct count {
	unsigned long first;
	unsigned long end;
	u64 mapped;
};

static int count_pte(pte_t *ptep, unsigned long address, void *data)
{
	struct count *count = data;
	pte_t pte = moult_ptep_get(ptep);

	if (pte_present(pte) && pte_special(pte) &&
	    pte_pfn(pte) >= count->first && pte_pfn(pte) < count->end)
		count->mapped++;
	return 0;
}

/* Beside template entries a mapping may have huge pages of its own: not these. */
static const struct moult_walk count_walk = { .pte = count_pte };

static int count_vma(struct vm_area_struct *vma, struct count *count)
{
	unsigned long address = vma->vm_start;

	while (address < vma->vm_end) {
		int err = moult_step(vma->vm_mm, address, vma->vm_end,
				     &count_walk, count, &address);

		if (err)
			return err;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

/*
 * For writing, although nothing is written: munmap() may take the mapping away
 * first and its entries later, with the lock only read-held. And by its own
 * name, since 6.12 has no mmap_write_trylock(), and the bookkeeping of a writer
 * is for those who change something.
 */
static int lock_mm(struct mm_struct *mm)
{
	unsigned long deadline = jiffies + LOCK_PATIENCE;

	while (!down_write_trylock(&mm->mmap_lock)) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (time_after(jiffies, deadline))
			return -EAGAIN;
		usleep_range(100, 500);
	}
	return 0;
}

static int count_mm(struct mm_struct *mm, struct count *count)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, 0);
	int err = lock_mm(mm);

	if (err)
		return err;
	for_each_vma(vmi, vma) {
		/*
		 * Nothing but an attach sets this on memory without a file; in
		 * mappings of files others may, and have other page frames.
		 */
		if (!(vma->vm_flags & VM_MIXEDMAP) ||
		    (vma->vm_file ? !!(vma->vm_flags & VM_SHARED) :
				    !vma_is_anonymous(vma)))
			continue;
		err = count_vma(vma, count);
		if (err)
			break;
	}
	up_write(&mm->mmap_lock);
	return err;
}

/* An address space that was found to show pages, so as not to count it twice. */
struct seen {
	struct list_head node;
	struct mm_struct *mm;
};

static bool was_seen(const struct list_head *seen, const struct mm_struct *mm)
{
	const struct seen *entry;

	list_for_each_entry(entry, seen, node)
		if (entry->mm == mm)
			return true;
	return false;
}

/* Processes may share memory without being threads of one: clone(CLONE_VM). */
static int count_once(struct mm_struct *mm, struct count *count,
		      struct list_head *seen)
{
	u64 before = count->mapped;
	struct seen *entry;
	int err;

	if (was_seen(seen, mm))
		return 0;
	err = count_mm(mm, count);
	if (err || count->mapped == before)
		return err;
	entry = kmalloc(sizeof(*entry), GFP_KERNEL);
	if (!entry)
		return -ENOMEM;
	mmgrab(mm);
	entry->mm = mm;
	list_add(&entry->node, seen);
	return 0;
}

/*
 * The address space of the first task with a pid of *nr or more, which is put
 * in *nr; NULL in *mm if it has none of its own. False when there is no such task.
 */
static bool next_mm(pid_t *nr, struct mm_struct **mm)
{
	struct task_struct *task;
	struct pid *pid;

	*mm = NULL;
	rcu_read_lock();
	pid = find_ge_pid(*nr, &init_pid_ns);
	if (!pid) {
		rcu_read_unlock();
		return false;
	}
	*nr = pid_nr_ns(pid, &init_pid_ns);
	task = pid_task(pid, PIDTYPE_PID);
	/* A thread's leader stands for it, unless that has exited already. */
	if (task && (thread_group_leader(task) ||
		     READ_ONCE(task->group_leader->mm) != READ_ONCE(task->mm)))
		*mm = get_task_mm(task);
	rcu_read_unlock();
	return true;
}

static int count_mapped(struct count *count)
{
	struct seen *entry, *next;
	struct mm_struct *mm;
	LIST_HEAD(seen);
	pid_t nr;
	int err = 0;

	for (nr = 1; !err && next_mm(&nr, &mm); nr++) {
		if (mm) {
			err = count_once(mm, count, &seen);
			mmput(mm);
		}
		cond_resched();
	}
	list_for_each_entry_safe(entry, next, &seen, node) {
		mmdrop(entry->mm);
		kfree(entry);
	}
	return err;
}

int moult_scan_entries(unsigned long first, unsigned long end, u64 *mapped)
{
	struct count count = { .first = first, .end = end };
	int err = count_mapped(&count);

	*mapped = count.mapped;
	return err;
}
