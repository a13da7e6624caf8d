// SPDX-License-Identifier: GPL-2.0-only
/* Windows from a module parameter, where no device tells of them. */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "moult.h"

static char *window;
module_param(window, charp, 0444);
MODULE_PARM_DESC(window,
		 "Guest-physical ranges as ADDRESS,SIZE[;ADDRESS,SIZE...], outside of RAM; K, M, G, T are understood");

static struct moult_window_state *added[MOULT_MAX_WINDOWS];

static int add_from_text(const char *text, struct moult_window_state **result)
{
	u64 gpa, size;
	char *end;

	gpa = memparse(text, &end);
	if (end == text || *end != ',')
		return -EINVAL;
	text = end + 1;
	size = memparse(text, &end);
	if (end == text || *end)
		return -EINVAL;
	*result = moult_window_add(MOULT_SOURCE_RANGE, gpa, size);
	return PTR_ERR_OR_ZERO(*result);
}

void moult_range_unregister(void)
{
	int i;

	for (i = 0; i < MOULT_MAX_WINDOWS && added[i]; i++) {
		moult_window_remove(added[i]);
		added[i] = NULL;
	}
}

int moult_range_register(void)
{
	char *copy, *rest, *text;
	int count = 0;
	int err = 0;

	if (!window)
		return 0;
	copy = rest = kstrdup(window, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	while (!err && (text = strsep(&rest, ";"))) {
		struct moult_window_state *result = NULL;

		err = count < MOULT_MAX_WINDOWS ? add_from_text(text, &result) : -ENOSPC;
		if (err)
			pr_err("window=%s: no usable window: %pe\n", text, ERR_PTR(err));
		else
			added[count++] = result;
	}
	kfree(copy);
	if (err)
		moult_range_unregister();
	return err;
}
