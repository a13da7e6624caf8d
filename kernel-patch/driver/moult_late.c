// SPDX-License-Identifier: GPL-2.0-only
/*
 * An open file that ends while a process whose memory it keeps is still ending
 * itself: whoever had it was killed between the kill and the process's end. The
 * memory is wiped once the process is gone, as it would have been, had the file
 * stayed open.
 */

#include <linux/jiffies.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "moult.h"

/* Between two looks whether the process is gone. */
#define LOOK (HZ / 50 + 1)

/* One that is there after that long is not ending: it keeps what it has. */
#define PATIENCE (30 * HZ)

static struct workqueue_struct *late_queue;
static DEFINE_MUTEX(late_lock);
static LIST_HEAD(late_files);	/* late_lock */
static bool leaving;		/* late_lock */

static void look(struct work_struct *work)
{
	struct moult_file *file = container_of(to_delayed_work(work),
					       struct moult_file, late);

	mutex_lock(&late_lock);
	if (moult_kept_in_use(file) && !leaving &&
	    time_before(jiffies, file->patience_ends)) {
		queue_delayed_work(late_queue, &file->late, LOOK);
	} else {
		list_del(&file->late_node);
		moult_release_kept(file, true);
		moult_release_held(file, true);
		kfree(file);
	}
	mutex_unlock(&late_lock);
}

/**
 * moult_late_add() - lets go of all that a file has, wiped, when that is possible
 * @file: nobody else has it any more; it is freed then
 */
void moult_late_add(struct moult_file *file)
{
	INIT_DELAYED_WORK(&file->late, look);
	file->patience_ends = jiffies + PATIENCE;
	mutex_lock(&late_lock);
	list_add_tail(&file->late_node, &late_files);
	queue_delayed_work(late_queue, &file->late, LOOK);
	mutex_unlock(&late_lock);
}

/**
 * moult_late_yield() - an address space is about to be kept by another file
 * @mm: would seem to be in use for ever while it is in two
 */
void moult_late_yield(const struct mm_struct *mm)
{
	struct moult_file *file;

	mutex_lock(&late_lock);
	list_for_each_entry(file, &late_files, late_node) {
		if (!moult_keeps(file, mm))
			continue;
		moult_release_kept(file, false);
		moult_release_held(file, false);
	}
	mutex_unlock(&late_lock);
}

int moult_late_init(void)
{
	late_queue = alloc_workqueue("moult", WQ_UNBOUND, 0);
	return late_queue ? 0 : -ENOMEM;
}

/* No file is open any more. */
void moult_late_exit(void)
{
	struct moult_file *file;

	mutex_lock(&late_lock);
	leaving = true;
	list_for_each_entry(file, &late_files, late_node)
		mod_delayed_work(late_queue, &file->late, 0);
	mutex_unlock(&late_lock);
	destroy_workqueue(late_queue);
}
