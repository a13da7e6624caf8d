// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of the kernel's own that can be told by their content: each begins with a
 * mark and its number. And where the page tables of a process are, found by
 * walking them from their root: /proc/moult-tables has a line "level address" for
 * each of them. /proc/moult-stacks has a line "thread address" for each page of
 * the stacks that its threads have in the kernel.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/proc_fs.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

static unsigned long pages;
module_param(pages, ulong, 0444);
MODULE_PARM_DESC(pages, "of each kind");
static unsigned long kmalloc_mark, vmalloc_mark, large_mark;
module_param(kmalloc_mark, ulong, 0444);
module_param(vmalloc_mark, ulong, 0444);
module_param(large_mark, ulong, 0444);
static int pid;
module_param(pid, int, 0644);
MODULE_PARM_DESC(pid, "whose page tables and stacks are shown");

static void **small, **large;
static char *whole;

/* kmalloc() beyond this is pages, not slab. */
#define LARGE (4 * PAGE_SIZE)

static void put(void *page, u64 mark, u64 number)
{
	u64 *words = page;

	words[0] = mark;
	words[1] = number;
}

static int plant(void)
{
	unsigned long i;

	small = kvcalloc(pages, sizeof(*small), GFP_KERNEL);
	large = kvcalloc(pages / 4, sizeof(*large), GFP_KERNEL);
	whole = vzalloc(pages * PAGE_SIZE);
	if (!small || !large || !whole)
		return -ENOMEM;
	for (i = 0; i < pages; i++) {
		small[i] = kzalloc(PAGE_SIZE, GFP_KERNEL);
		if (!small[i])
			return -ENOMEM;
		put(small[i], kmalloc_mark, i);
		put(whole + i * PAGE_SIZE, vmalloc_mark, i);
	}
	for (i = 0; i < pages / 4 * 4; i++) {
		if (i % 4 == 0)
			large[i / 4] = kzalloc(LARGE, GFP_KERNEL);
		if (!large[i / 4])
			return -ENOMEM;
		put(large[i / 4] + i % 4 * PAGE_SIZE, large_mark, i);
	}
	return 0;
}

static void uproot(void)
{
	unsigned long i;

	for (i = 0; small && i < pages; i++)
		kfree(small[i]);
	for (i = 0; large && i < pages / 4; i++)
		kfree(large[i]);
	kvfree(small);
	kvfree(large);
	vfree(whole);
}

/* Entries of one table, which are numbers with an address and flags. */
static void walk(struct seq_file *to, u64 table, int level)
{
	const u64 *entries = phys_to_virt(table);
	unsigned int i, end = level == 5 || (level == 4 && !pgtable_l5_enabled()) ? 256 : 512;

	seq_printf(to, "%d %llu\n", level, table);
	if (level == 1)
		return;
	for (i = 0; i < end; i++) {
		u64 entry = READ_ONCE(entries[i]);

		if ((entry & _PAGE_PRESENT) && !(level <= 3 && (entry & _PAGE_PSE)))
			walk(to, entry & PTE_PFN_MASK, level - 1);
	}
}

static int show(struct seq_file *to, void *unused)
{
	struct pid *whose = find_get_pid(pid);
	struct task_struct *task = get_pid_task(whose, PIDTYPE_PID);
	struct mm_struct *mm = task ? get_task_mm(task) : NULL;

	if (mm) {
		mmap_write_lock(mm);
		walk(to, virt_to_phys(mm->pgd), pgtable_l5_enabled() ? 5 : 4);
		mmap_write_unlock(mm);
		mmput(mm);
	}
	if (task)
		put_task_struct(task);
	put_pid(whose);
	return mm ? 0 : -ESRCH;
}

/* It stands still: no thread comes or goes, so no stack does. */
static int show_stacks(struct seq_file *to, void *unused)
{
	struct pid *whose = find_get_pid(pid);
	struct task_struct *task = get_pid_task(whose, PIDTYPE_PID);
	struct task_struct *thread;
	unsigned long at;

	if (task) {
		rcu_read_lock();
		for_each_thread(task, thread) {
			const char *stack = task_stack_page(thread);

			for (at = 0; stack && at < THREAD_SIZE; at += PAGE_SIZE) {
				struct page *page = is_vmalloc_addr(stack + at) ? vmalloc_to_page(stack + at) : virt_to_page(stack + at);

				seq_printf(to, "%d %llu\n", thread->pid, (u64)page_to_phys(page));
			}
		}
		rcu_read_unlock();
		put_task_struct(task);
	}
	put_pid(whose);
	return task ? 0 : -ESRCH;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open_size(file, show, NULL, 4 << 20);
}

static int open_stacks(struct inode *inode, struct file *file)
{
	return single_open_size(file, show_stacks, NULL, 1 << 20);
}

static const struct proc_ops ops = {
	.proc_open = open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static const struct proc_ops stack_ops = {
	.proc_open = open_stacks,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

static int __init planter_init(void)
{
	int err = plant();

	if (!err && !proc_create("moult-tables", 0400, NULL, &ops))
		err = -ENOMEM;
	if (!err && !proc_create("moult-stacks", 0400, NULL, &stack_ops)) {
		remove_proc_entry("moult-tables", NULL);
		err = -ENOMEM;
	}
	if (err)
		uproot();
	return err;
}
module_init(planter_init);

static void __exit planter_exit(void)
{
	remove_proc_entry("moult-stacks", NULL);
	remove_proc_entry("moult-tables", NULL);
	uproot();
}
module_exit(planter_exit);

MODULE_DESCRIPTION("Kernel memory that can be told by its content");
MODULE_LICENSE("GPL");
