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

/* @file is in no list, and nobody else's. */
static void let_go(struct moult_file *file)
{
	moult_release_kept(file, true);
	moult_release_held(file, true);
	kfree(file);
}

static void look(struct work_struct *work)
{
	struct moult_file *file = container_of(to_delayed_work(work),
					       struct moult_file, late);
	bool wait;

	mutex_lock(&late_lock);
	wait = leaving;	/* then it is moult_late_exit()'s */
	if (!wait && moult_kept_in_use(file) &&
	    time_before(jiffies, file->patience_ends)) {
		queue_delayed_work(late_queue, &file->late, LOOK);
		wait = true;
	}
	if (!wait)
		list_del(&file->late_node);
	mutex_unlock(&late_lock);
	/* Not under the lock: there may be much to wipe. */
	if (!wait)
		let_go(file);
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
 * moult_late_yield() - an address space is kept by another file from now on
 * @mm: would seem to be in use for ever while it is in two
 *
 * Of what else the late file has it wipes what nobody uses.
 */
void moult_late_yield(const struct mm_struct *mm)
{
	struct moult_file *file;

	mutex_lock(&late_lock);
	list_for_each_entry(file, &late_files, late_node) {
		if (!moult_keeps(file, mm))
			continue;
		moult_release_kept(file, true);
		moult_release_held(file, true);
	}
	mutex_unlock(&late_lock);
}

int moult_late_init(void)
{
	late_queue = alloc_workqueue("moult", WQ_UNBOUND, 0);
	return late_queue ? 0 : -ENOMEM;
}

/* No file is open any more, and so none becomes late. */
void moult_late_exit(void)
{
	struct moult_file *file, *next;
	LIST_HEAD(files);

	mutex_lock(&late_lock);
	leaving = true;
	list_splice_init(&late_files, &files);
	mutex_unlock(&late_lock);
	list_for_each_entry_safe(file, next, &files, late_node) {
		cancel_delayed_work_sync(&file->late);
		let_go(file);
	}
	/* Waits for those that have left the list. */
	destroy_workqueue(late_queue);
}
