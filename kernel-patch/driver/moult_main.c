// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/moult shows pages of a template, which the host has placed in a window
 * of guest-physical addresses, in ordinary anonymous mappings. See
 * Documentation/moult.rst for why it works the way it does.
 */

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "moult.h"

static int moult_open(struct inode *inode, struct file *filp)
{
	struct moult_file *file;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	INIT_LIST_HEAD(&file->held);
	INIT_LIST_HEAD(&file->kept);
	filp->private_data = file;
	return 0;
}

static int moult_release(struct inode *inode, struct file *filp)
{
	struct moult_file *file = filp->private_data;

	if (moult_kept_in_use(file)) {
		moult_late_add(file);
		return 0;
	}
	/* Kept memory first: its frames are wiped where they are, held or not. */
	moult_release_kept(file, true);
	moult_release_held(file, true);
	kfree(file);
	return 0;
}

/* The first member of every argument is its size. */
static int copy_in(void *to, size_t known, size_t least, void __user *from)
{
	u32 size;

	if (get_user(size, (u32 __user *)from))
		return -EFAULT;
	if (size < least)
		return -EINVAL;
	if (size > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(to, known, from, size);
}

static int moult_info(void __user *argument)
{
	struct moult_window_state *window;
	struct moult_info info;
	struct moult_window __user *to;
	int err = copy_in(&info, sizeof(info), sizeof(info), argument);

	if (err)
		return err;
	info.magic = MOULT_MAGIC;
	info.version = MOULT_VERSION;
	info.max_ranges = MOULT_MAX_RANGES;
	info.window_count = 0;
	to = u64_to_user_ptr(info.windows);
	down_read(&moult_windows_lock);
	list_for_each_entry(window, &moult_windows, node) {
		if (info.window_count < info.window_capacity &&
		    copy_to_user(&to[info.window_count], &window->info,
				 sizeof(window->info)))
			err = -EFAULT;
		info.window_count++;
	}
	up_read(&moult_windows_lock);
	if (!err && copy_to_user(argument, &info, sizeof(info)))
		err = -EFAULT;
	return err;
}

static int get_extent(struct moult_extent *extent, void __user *argument)
{
	return copy_in(extent, sizeof(*extent), sizeof(*extent), argument);
}

static int put_extent(const struct moult_extent *extent, void __user *argument)
{
	return copy_to_user(argument, extent, sizeof(*extent)) ? -EFAULT : 0;
}

static struct moult_window_state *find_extent(const struct moult_extent *extent)
{
	struct moult_window_state *window = moult_window_find(extent->window);
	int err;

	if (!window)
		return ERR_PTR(-ENXIO);
	err = moult_window_check(window, extent->offset, extent->length);
	return err ? ERR_PTR(err) : window;
}

static int moult_busy(void __user *argument)
{
	struct moult_window_state *window;
	struct moult_extent extent;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = get_extent(&extent, argument);
	if (err)
		return err;
	down_read(&moult_windows_lock);
	window = find_extent(&extent);
	err = PTR_ERR_OR_ZERO(window);
	if (!err)
		err = moult_count_users(window, &extent);
	up_read(&moult_windows_lock);
	return err ?: put_extent(&extent, argument);
}

static int moult_detach(void __user *argument)
{
	struct moult_window_state *window;
	struct moult_extent extent;
	bool whole = false;
	int err;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	err = get_extent(&extent, argument);
	if (err)
		return err;
	down_write(&moult_windows_lock);
	window = find_extent(&extent);
	err = PTR_ERR_OR_ZERO(window);
	if (!err)
		err = moult_count_users(window, &extent);
	if (!err && (extent.mapped || extent.pinned))
		err = -EBUSY;
	if (!err)
		whole = extent.length == window->info.length &&
			test_and_clear_bit(0, &window->attached);
	up_write(&moult_windows_lock);
	/* The open file still holds the module. */
	if (whole)
		module_put(THIS_MODULE);
	if (!err || err == -EBUSY)
		err = put_extent(&extent, argument) ?: err;
	return err;
}

static int moult_restrict(struct moult_file *file, void __user *argument)
{
	struct moult_extent *old = &file->restriction;
	struct moult_window_state *window;
	struct moult_extent extent;
	int err = get_extent(&extent, argument);

	if (err)
		return err;
	down_write(&moult_windows_lock);
	window = find_extent(&extent);
	err = PTR_ERR_OR_ZERO(window);
	if (!err && old->length &&
	    (extent.window != old->window || extent.offset < old->offset ||
	     extent.offset + extent.length > old->offset + old->length))
		err = -EPERM;
	if (!err)
		*old = extent;
	up_write(&moult_windows_lock);
	return err;
}

/* May the caller act on other memory than its own? */
static int check_whole(struct moult_file *file)
{
	bool narrowed;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	down_read(&moult_windows_lock);
	narrowed = file->restriction.length;
	up_read(&moult_windows_lock);
	return narrowed ? -EPERM : 0;
}

static int moult_keep_memory(struct moult_file *file, void __user *argument)
{
	struct moult_keep call;
	int err = check_whole(file);

	if (!err)
		err = copy_in(&call, sizeof(call), sizeof(call), argument);
	return err ?: moult_keep(file, &call);
}

static int moult_list_frames(struct moult_file *file, void __user *argument)
{
	struct moult_list call;
	int err = check_whole(file);

	if (!err)
		err = copy_in(&call, sizeof(call), sizeof(call), argument);
	if (!err)
		err = moult_list(file, &call);
	/* Frames that it was not told of stay held, which does no harm. */
	if (!err && copy_to_user(argument, &call, sizeof(call)))
		err = -EFAULT;
	return err;
}

static int moult_hold_frames(struct moult_file *file, void __user *argument)
{
	struct moult_hold call;
	int err = check_whole(file);

	if (!err)
		err = copy_in(&call, sizeof(call), sizeof(call), argument);
	if (!err)
		err = moult_hold(file, &call);
	if (!err && copy_to_user(argument, &call, sizeof(call))) {
		/* Who cannot be told that it holds something shall not. */
		moult_release_held(file, false);
		err = -EFAULT;
	}
	return err;
}

static int moult_find_young(struct moult_file *file, void __user *argument)
{
	struct moult_young call;
	int err = check_whole(file);

	if (!err)
		err = copy_in(&call, sizeof(call), sizeof(call), argument);
	if (!err)
		err = moult_young(&call);
	if (!err && copy_to_user(argument, &call, sizeof(call)))
		err = -EFAULT;
	return err;
}

static long moult_ioctl(struct file *filp, unsigned int command,
			unsigned long argument)
{
	void __user *to = (void __user *)argument;

	switch (command) {
	case MOULT_INFO:
		return moult_info(to);
	case MOULT_ATTACH:
		return moult_attach(filp->private_data, to);
	case MOULT_BUSY:
		return moult_busy(to);
	case MOULT_DETACH:
		return moult_detach(to);
	case MOULT_RESTRICT:
		return moult_restrict(filp->private_data, to);
	case MOULT_HOLD:
		return moult_hold_frames(filp->private_data, to);
	case MOULT_RELEASE:
		moult_release_kept(filp->private_data, false);
		moult_release_held(filp->private_data, false);
		return 0;
	case MOULT_KEEP:
		return moult_keep_memory(filp->private_data, to);
	case MOULT_LIST:
		return moult_list_frames(filp->private_data, to);
	case MOULT_YOUNG:
		return moult_find_young(filp->private_data, to);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations moult_fops = {
	.owner = THIS_MODULE,
	.open = moult_open,
	.release = moult_release,
	.unlocked_ioctl = moult_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice moult_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "moult",
	.fops = &moult_fops,
	.mode = 0600,
};

static int __init moult_init(void)
{
	int err = moult_late_init();

	if (err)
		return err;
	err = moult_range_register();
	if (err)
		goto late;
	err = moult_virtio_register();
	if (err)
		goto range;
	err = moult_pci_register();
	if (err)
		goto virtio;
	err = misc_register(&moult_device);
	if (err)
		goto pci;
	return 0;

pci:
	moult_pci_unregister();
virtio:
	moult_virtio_unregister();
range:
	moult_range_unregister();
late:
	moult_late_exit();
	return err;
}

static void __exit moult_exit(void)
{
	misc_deregister(&moult_device);
	moult_pci_unregister();
	moult_virtio_unregister();
	moult_range_unregister();
	moult_late_exit();
}

module_init(moult_init);
module_exit(moult_exit);

MODULE_DESCRIPTION("Template pages from the host in anonymous mappings");
MODULE_AUTHOR("The Moult authors");
MODULE_LICENSE("GPL");
