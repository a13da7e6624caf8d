/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/moult: pages of a template, which the host shows in a window of
 * guest-physical addresses, in ordinary anonymous private mappings.
 *
 * Every call takes a pointer to a struct whose first member is its size, so
 * that structs can grow: the kernel takes a shorter struct as if the rest were
 * zero, and a longer one if what it does not know is zero (else -E2BIG).
 *
 * Opening the device takes CAP_SYS_ADMIN in the initial user namespace. The
 * descriptor may be handed to a process that has no capability, for
 * MOULT_ATTACH, which only ever changes the caller's own memory; narrow it with
 * MOULT_RESTRICT before that.
 */
#ifndef _UAPI_LINUX_MOULT_H
#define _UAPI_LINUX_MOULT_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MOULT_MAGIC		0x746c756fu	/* "oult" */
#define MOULT_VERSION		4
#define MOULT_IOC		0xCB

/* More windows than this a guest never has. */
#define MOULT_MAX_WINDOWS	8
/* Ranges in one MOULT_ATTACH. Callers with more call again. */
#define MOULT_MAX_RANGES	65536
/* Page frames in one MOULT_HOLD. */
#define MOULT_MAX_HOLD		(1u << 20)

/* Pages whose bits one MOULT_YOUNG tells. */
#define MOULT_MAX_YOUNG		(1u << 20)

/* struct moult_window.flags */
/*
 * The window's pages have struct page: untouched template pages are for all
 * system calls and for other processes like any page. Without it
 * process_vm_readv, vmsplice, O_DIRECT and reads by /proc/PID/mem and ptrace
 * fail there, core dumps have zeros, and A WRITE BY ANOTHER PROCESS
 * (process_vm_writev, /proc/PID/mem, ptrace) LOSES THE PAGE'S CONTENT: read or
 * write such a page from the process itself first.
 */
#define MOULT_WINDOW_STRUCT_PAGES	(1u << 0)

/* struct moult_attach.flags */
/*
 * Since version 3. Ranges may also lie in private mappings of regular files: the
 * pages are what the caller wrote there in an earlier life. As such copies do, they
 * turn into the file's content again on MADV_DONTNEED; unlike them, also when the
 * file is truncated or its page cache invalidated there.
 */
#define MOULT_ATTACH_FILES	(1u << 0)

/* struct moult_window.source */
#define MOULT_SOURCE_PCI		1	/* BAR 2 of a PCI device 1af4:1110 */
#define MOULT_SOURCE_VIRTIO_PMEM	2
#define MOULT_SOURCE_RANGE		3	/* module parameter */

/**
 * struct moult_window - one range of guest-physical addresses
 * @id: names the window in other calls; stays the same while the device is there
 * @source: MOULT_SOURCE_*
 * @flags: MOULT_WINDOW_*
 * @reserved: zero
 * @gpa: first guest-physical address
 * @length: in bytes, a multiple of the page size
 */
struct moult_window {
	__u32 id;
	__u32 source;
	__u32 flags;
	__u32 reserved;
	__u64 gpa;
	__u64 length;
};

/**
 * struct moult_info - MOULT_INFO: what the driver is and has
 * @size: in: sizeof(struct moult_info)
 * @magic: out: MOULT_MAGIC
 * @version: out: MOULT_VERSION. Only grows; what version N has, N + 1 has
 * @max_ranges: out: MOULT_MAX_RANGES
 * @window_capacity: in: how many entries @windows has room for
 * @window_count: out: how many windows there are; the first
 *	min(capacity, count) are in @windows
 * @windows: in: user address of an array of struct moult_window; may be 0 when
 *	@window_capacity is
 */
struct moult_info {
	__u32 size;
	__u32 magic;
	__u32 version;
	__u32 max_ranges;
	__u32 window_capacity;
	__u32 window_count;
	__u64 windows;
};

/**
 * struct moult_range - pages of a window, and where to show them
 * @va: address in the caller, page aligned
 * @length: in bytes, page aligned, not zero
 * @window_offset: from the window's start, page aligned
 * @prot: PROT_READ, PROT_WRITE, PROT_EXEC bits that the mapping at @va has.
 *	Checked, not set: -EACCES when it has others
 * @window: its id
 */
struct moult_range {
	__u64 va;
	__u64 length;
	__u64 window_offset;
	__u32 prot;
	__u32 window;
};

/**
 * struct moult_attach - MOULT_ATTACH: show template pages in the caller
 * @size: sizeof(struct moult_attach)
 * @flags: MOULT_ATTACH_*
 * @count: of ranges, 1 to MOULT_MAX_RANGES
 * @failed: out: on an error that one range caused, that range's index; else
 *	the count
 * @ranges: user address of an array of struct moult_range, sorted by @va,
 *	without overlap
 * @attached: out: pages installed; 0 on error
 *
 * All or nothing: after an error the caller's memory is as before.
 *
 * Each range lies in one mapping, which is private, anonymous without a file (see
 * also MOULT_ATTACH_FILES), not hugetlb, not locked, not registered with
 * userfaultfd. No page of the range may be
 * there yet. Pages come read-only whatever the mapping's protection is; a
 * write makes a private copy, as for any anonymous memory.
 *
 * Errors: -EINVAL malformed, unsorted, overlapping or unaligned; -E2BIG too
 * many ranges, or a longer struct than the kernel knows; -ENXIO no such window;
 * -ERANGE outside of the window; -EPERM outside of what MOULT_RESTRICT left;
 * -ENOMEM nothing mapped at @va or only part of it, or no memory for page tables;
 * -EACCES other protection; -EOPNOTSUPP a mapping of a kind that cannot take
 * template pages (copy the content instead); -EEXIST a page is there already;
 * -EINTR a fatal signal.
 */
struct moult_attach {
	__u32 size;
	__u32 flags;
	__u32 count;
	__u32 failed;
	__u64 ranges;
	__u64 attached;
};

/**
 * struct moult_extent - part of a window: MOULT_BUSY, MOULT_DETACH, MOULT_RESTRICT
 * @size: sizeof(struct moult_extent)
 * @window: its id
 * @offset: from the window's start, page aligned
 * @length: in bytes, page aligned, not zero
 * @mapped: out (BUSY, DETACH): page table entries of all processes that show
 *	these pages. A page shown twice counts twice
 * @pinned: out (BUSY, DETACH): pages that something else than a mapping holds,
 *	for example a pipe or a direct read in flight. Always 0 for windows
 *	without struct pages, which nothing can hold
 */
struct moult_extent {
	__u32 size;
	__u32 window;
	__u64 offset;
	__u64 length;
	__u64 mapped;
	__u64 pinned;
};

/**
 * struct moult_run - page frames that follow each other
 * @gpa: guest-physical address of the first, page aligned
 * @length: in bytes, page aligned, not zero
 */
struct moult_run {
	__u64 gpa;
	__u64 length;
};

/**
 * struct moult_hold - MOULT_HOLD: keep page frames what they are
 * @size: sizeof(struct moult_hold)
 * @flags: 0
 * @count: of runs, 1 to MOULT_MAX_RANGES
 * @reserved: 0
 * @runs: user address of an array of struct moult_run, together at most
 *	MOULT_MAX_HOLD frames
 * @bitmap: user address of u64 words with one bit for each frame, in the order of
 *	the runs, from the lowest bit on. Out: whether it is held
 * @held: out: how many are
 *
 * Until MOULT_RELEASE, or the last close of this open file description, the
 * kernel neither moves nor reclaims a held frame, and gives it to nobody else when
 * its owner lets go of it. A close without MOULT_RELEASE fills with zeros the frames
 * that no owner has any more (since version 3). Held are frames of anonymous memory and of tmpfs; what
 * else a frame may be, or become before the call, is for the caller to look up
 * afterwards. Calls add up; a frame may be held more than once.
 *
 * Errors: -EPERM without CAP_SYS_ADMIN, or after MOULT_RESTRICT; -EINVAL
 * malformed or unaligned; -E2BIG too much in one call; -ENOMEM; -EFAULT; -EINTR a
 * fatal signal. After an error no more is held than before.
 */
struct moult_hold {
	__u32 size;
	__u32 flags;
	__u32 count;
	__u32 reserved;
	__u64 runs;
	__u64 bitmap;
	__u64 held;
};

/**
 * struct moult_keep - MOULT_KEEP: keep a process's memory beyond its end
 * @size: sizeof(struct moult_keep)
 * @flags: 0
 * @pid: of the process, in the caller's pid namespace
 * @reserved: 0
 *
 * The process goes on. When it ends, its memory stays as it is, mapped by nobody,
 * until MOULT_RELEASE. The last close of this open file description without
 * that fills with zeros what was the process's alone, if it has ended by then or
 * ends within 30 seconds, unless another open file keeps it meanwhile.
 *
 * Errors: -EPERM without CAP_SYS_ADMIN, or after MOULT_RESTRICT; -EINVAL
 * malformed, or the caller itself; -ESRCH no such process, or it has no memory; -E2BIG
 * too many; -ENOMEM; -EFAULT.
 */
struct moult_keep {
	__u32 size;
	__u32 flags;
	__s32 pid;
	__u32 reserved;
};

/* struct moult_list.index: there is nothing more */
#define MOULT_LIST_END		(~0u)

/**
 * struct moult_list - MOULT_LIST: page frames that kept memory alone has
 * @size: sizeof(struct moult_list)
 * @flags: 0
 * @index: in: 0 at first, then as it came out. Out: MOULT_LIST_END when this was all
 * @reserved: 0
 * @cursor: in: 0 at first, then as it came out
 * @runs: user address of an array of struct moult_run
 * @capacity: of @runs; at least 512, at most MOULT_MAX_RANGES
 * @count: out: how many are filled in. In no order; no frame is there twice
 * @frames: out: frames in these
 *
 * The frames are held as MOULT_HOLD does: anonymous memory that no other process
 * maps, and shared memory without a name that none has mapped or open.
 *
 * Errors: -EPERM as for MOULT_KEEP; -EINVAL malformed; -E2BIG; -EBUSY a process that
 * has this memory has not ended; -EAGAIN the kernel has been moving a page of it for about a second;
 * -ENOMEM; -EFAULT; -EINTR a fatal signal. After an error no more is held than before.
 */
struct moult_list {
	__u32 size;
	__u32 flags;
	__u32 index;
	__u32 reserved;
	__u64 cursor;
	__u64 runs;
	__u32 capacity;
	__u32 count;
	__u64 frames;
};

/* struct moult_young.flags */
#define MOULT_YOUNG_CLEAR	(1u << 0)	/* from now on they count as not touched */

/**
 * struct moult_span - pages of a process that follow each other
 * @va: address there, page aligned
 * @length: in bytes, page aligned, not zero
 */
struct moult_span {
	__u64 va;
	__u64 length;
};

/**
 * struct moult_young - MOULT_YOUNG: which pages of a process were touched?
 * @size: sizeof(struct moult_young)
 * @flags: MOULT_YOUNG_*
 * @pid: of the process, in the caller's pid namespace
 * @count: of spans, 1 to MOULT_MAX_RANGES
 * @spans: user address of an array of struct moult_span, rising by @va, without
 *	overlap; where nothing is mapped nothing is touched
 * @bitmap: user address of u64 words with one bit for each page, in the order of
 *	the spans, from the lowest bit on. Out: whether it was touched. Together at
 *	most MOULT_MAX_YOUNG pages. 0: not wanted; then spans may be of any length
 * @young: out: how many were
 *
 * Touched is what is mapped and was read, written or executed since that was last
 * cleared: what /proc/PID/smaps adds up as Referenced, page by page. What a fault brought in
 * was touched; what fork() copied, or MOULT_ATTACH showed, was not yet. A huge page is touched,
 * and cleared, as a whole; of two spans in one call that share it, the first gets the answer.
 * hugetlb and device mappings are passed by. A page that the kernel is moving just then (compaction,
 * or a huge page that is split) counts as touched, and is not cleared.
 *
 * Two things make a page look untouched that is not. TLBs are left alone, as the
 * kernel's own idle page tracking does: an entry that is in use there sets no mark until it was evicted.
 * And when the kernel looks for memory it clears marks itself. In turn MOULT_YOUNG_CLEAR,
 * like /proc/PID/clear_refs, lets pages look older to the kernel, shared ones also to others that have them.
 *
 * Errors: -EPERM without CAP_SYS_ADMIN, or after MOULT_RESTRICT; -EINVAL malformed,
 * unsorted, overlapping or unaligned; -E2BIG too much in one call; -ESRCH no such process, or it has no memory;
 * -ENOMEM; -EFAULT; -EINTR a fatal signal. After one of the last three some may be cleared.
 */
struct moult_young {
	__u32 size;
	__u32 flags;
	__s32 pid;
	__u32 count;
	__u64 spans;
	__u64 bitmap;
	__u64 young;
};

/* Cheap, no capability. */
#define MOULT_INFO	_IO(MOULT_IOC, 0)

#define MOULT_ATTACH	_IO(MOULT_IOC, 1)

/*
 * Who uses these pages? Takes CAP_SYS_ADMIN too. With struct pages the answer
 * is exact, and quick. For a window without, the page tables of all processes
 * are looked through: exact for processes that are frozen or gone, but one that
 * is in the middle of fork() may hide its child.
 * -EAGAIN: a process kept its memory map locked for too long; try again.
 */
#define MOULT_BUSY	_IO(MOULT_IOC, 2)

/*
 * The same, but -EBUSY (and the counts) if one is not zero. After success the
 * host may replace the content. No attach is under way meanwhile. The driver
 * cannot be unloaded between an attach to a window and a successful
 * MOULT_DETACH of that whole window.
 */
#define MOULT_DETACH	_IO(MOULT_IOC, 3)

/*
 * From now on this open file description attaches only pages of this part.
 * Can be narrowed again, never widened (-EPERM).
 */
#define MOULT_RESTRICT	_IO(MOULT_IOC, 4)

/* Since version 2. */
#define MOULT_HOLD	_IO(MOULT_IOC, 5)

/* Lets go of all that this open file description holds and keeps. Takes no argument. */
#define MOULT_RELEASE	_IO(MOULT_IOC, 6)

/* Since version 3. */
#define MOULT_KEEP	_IO(MOULT_IOC, 7)
#define MOULT_LIST	_IO(MOULT_IOC, 8)

/* Since version 4. */
#define MOULT_YOUNG	_IO(MOULT_IOC, 9)

#endif /* _UAPI_LINUX_MOULT_H */
