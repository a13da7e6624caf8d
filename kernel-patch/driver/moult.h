/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _MOULT_H
#define _MOULT_H

#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/types.h>
#include <linux/workqueue.h>
#include <uapi/linux/moult.h>

/**
 * struct moult_window_state - a window while its device is there
 * @node: in moult_windows
 * @info: as user space sees it
 * @name: of the resource, shown in /proc/iomem
 * @pgmap: of the struct pages, if info.flags has MOULT_WINDOW_STRUCT_PAGES
 * @attached: bit 0: pages were attached, and no MOULT_DETACH of all of it
 *	since; the module stays loaded while it is set
 */
struct moult_window_state {
	struct list_head node;
	struct moult_window info;
	char name[24];
	struct dev_pagemap pgmap;
	unsigned long attached;
};

/**
 * struct moult_file - one open file description
 * @restriction: what MOULT_RESTRICT left; restriction.length 0 means everything.
 *	moult_windows_lock
 * @lock: of what is below
 * @held: of struct moult_held
 * @kept: of address spaces, @kept_count of them; see moult_keep.c
 * @late: when it was closed too early; see moult_late.c, and so @late_node and
 *	@patience_ends, in jiffies
 */
struct moult_file {
	struct moult_extent restriction;
	struct mutex lock;
	struct list_head held;
	struct list_head kept;
	u32 kept_count;
	struct delayed_work late;
	struct list_head late_node;
	unsigned long patience_ends;
};

/**
 * struct moult_held - references that one call took
 * @node: in moult_file.held
 * @count: of folios; there is room for @capacity
 * @folios: MOULT_HOLD: one for each frame, so a large one may be there more than once
 */
struct moult_held {
	struct list_head node;
	u64 count;
	u64 capacity;
	struct folio *folios[];
};

/**
 * struct moult_walk - what to do with the entries that a walk meets
 * @pte: with the table's lock held, of all entries; anything but 0 ends the
 *	walk, but it is never -EINVAL
 * @huge: of a huge entry, with its lock held, and what of it is walked over;
 *	as @pte. NULL: pass it by
 *
 * Entries are not present while their page is moved, which is also how a huge
 * page is split: see moult_pte_moving().
 */
struct moult_walk {
	pte_fn_t pte;
	int (*huge)(pmd_t *pmdp, unsigned long address, unsigned long end,
		    void *data);
};

/* The page is the process's yet, and will soon have an ordinary entry again. */
static inline bool moult_pte_moving(pte_t pte)
{
	return is_swap_pte(pte) && is_migration_entry(pte_to_swp_entry(pte));
}

/*
 * Taken before any mmap lock. Readers attach; writers add and remove windows,
 * and detach, so that no attach is under way when a detach gives its answer.
 */
extern struct rw_semaphore moult_windows_lock;
extern struct list_head moult_windows;

/* moult_window.c */
struct moult_window_state *moult_window_add(u32 source, u64 gpa, u64 length);
void moult_window_remove(struct moult_window_state *window);
struct moult_window_state *moult_window_find(u32 id);
int moult_window_check(const struct moult_window_state *window, u64 offset,
		       u64 length);
void moult_window_mark_attached(struct moult_window_state *window);

/* moult_attach.c: the whole call; takes moult_windows_lock */
int moult_attach(struct moult_file *file, void __user *argument);

/* moult_hold.c */
int moult_hold(struct moult_file *file, struct moult_hold *call);
struct moult_held *moult_held_alloc(u64 capacity);
void moult_held_drop(struct moult_held *held, bool wiped);
void moult_release_held(struct moult_file *file, bool wiped);

/* moult_keep.c */
int moult_keep(struct moult_file *file, const struct moult_keep *call);
int moult_list(struct moult_file *file, struct moult_list *call);
void moult_release_kept(struct moult_file *file, bool wipe);
bool moult_kept_in_use(struct moult_file *file);
bool moult_keeps(struct moult_file *file, const struct mm_struct *mm);

/* moult_walk.c */
struct mm_struct *moult_mm_of(pid_t nr);
int moult_apply(struct mm_struct *mm, unsigned long address,
		unsigned long length, pte_fn_t fn, void *data);
int moult_step(struct mm_struct *mm, unsigned long address, unsigned long end,
	       const struct moult_walk *walk, void *data, unsigned long *next);

/* moult_young.c */
int moult_young(struct moult_young *call);

/* moult_late.c */
void moult_late_add(struct moult_file *file);
void moult_late_yield(const struct mm_struct *mm);
int moult_late_init(void);
void moult_late_exit(void);

/* moult_busy.c: with moult_windows_lock held; fills in the counts */
int moult_count_users(struct moult_window_state *window,
		      struct moult_extent *extent);

/* moult_scan.c: entries of all processes that show page frames [first, end) */
int moult_scan_entries(unsigned long first, unsigned long end, u64 *mapped);

/* Where windows come from. */
int moult_pci_register(void);
void moult_pci_unregister(void);
int moult_virtio_register(void);
void moult_virtio_unregister(void);
int moult_range_register(void);
void moult_range_unregister(void);

#endif /* _MOULT_H */
