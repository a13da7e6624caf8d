// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest's kernel can do at its worst: writes every word of a range of
 * physical addresses, past whoever has it, and reads it back.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/sched.h>

static unsigned long start;
module_param(start, ulong, 0444);
MODULE_PARM_DESC(start, "physical address, page aligned");
static unsigned long length;
module_param(length, ulong, 0444);
MODULE_PARM_DESC(length, "bytes, whole pages");
static unsigned long written;
module_param(written, ulong, 0444);
MODULE_PARM_DESC(written, "bytes that hold what was written");

static u64 word(unsigned long i)
{
	return 0x5c91bb1e00000000ull + i;
}

static int __init scribble_init(void)
{
	u64 *words = memremap(start, length, MEMREMAP_WB);
	unsigned long i, count = length / sizeof(u64);

	if (!words)
		return -ENXIO;
	for (i = 0; i < count; i++) {
		WRITE_ONCE(words[i], word(i));
		if (i % 65536 == 0)
			cond_resched();
	}
	for (i = 0; i < count; i++) {
		if (READ_ONCE(words[i]) == word(i))
			written += sizeof(u64);
		if (i % 65536 == 0)
			cond_resched();
	}
	memunmap(words);
	return 0;
}
module_init(scribble_init);

static void __exit scribble_exit(void)
{
}
module_exit(scribble_exit);

MODULE_DESCRIPTION("Writes over a range of physical addresses");
MODULE_LICENSE("GPL");
