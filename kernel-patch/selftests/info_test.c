// SPDX-License-Identifier: GPL-2.0-only
/* What the driver says about itself, and who may open it. */
#include "moult_test.h"

#include <sys/stat.h>

static int open_as_nobody(void *unused)
{
	(void)unused;
	if (chmod("/dev/moult", 0666) || setuid(65534))
		return 2;
	return open("/dev/moult", O_RDWR) < 0 && errno == EPERM ? 0 : 1;
}

static int attach_as_nobody(void *unused)
{
	char *va = map_pages(4, RW);
	struct moult_extent extent = extent_of(1, 1);

	(void)unused;
	if (setuid(65534))
		return 2;
	if (attach(va, 4, 1, RW) || !pages_hold_pattern(va, 4, 1))
		return 3;
	if (ioctl(device, MOULT_BUSY, &extent) != -1 || errno != EPERM)
		return 4;
	return ioctl(device, MOULT_DETACH, &extent) == -1 && errno == EPERM ? 0 : 5;
}

int main(void)
{
	struct moult_info info = { .size = sizeof(info) };
	struct {
		struct moult_info info;
		uint64_t more;
	} longer = { .info = { .size = sizeof(longer) } };

	setup();
	CHECK_EQ(ioctl(device, MOULT_INFO, &info), 0, "MOULT_INFO answers");
	CHECK_EQ(info.magic, MOULT_MAGIC, "the magic is right");
	CHECK_EQ(info.version, MOULT_VERSION, "the version is right");
	CHECK_EQ(info.max_ranges, MOULT_MAX_RANGES, "the limit is told");
	CHECK(info.window_count > 0, "windows are counted without room for them");
	CHECK(window.length && !(window.length % PAGE), "a window has a length in pages");
	CHECK(window.gpa && !(window.gpa % PAGE), "a window has an aligned address");
	CHECK_EQ(window.reserved, 0, "reserved is zero");

	CHECK_EQ(ioctl(device, MOULT_INFO, &longer), 0, "a longer struct whose rest is zero is taken");
	longer.info.size = sizeof(longer);
	longer.more = 1;
	CHECK(ioctl(device, MOULT_INFO, &longer) == -1 && errno == E2BIG,
	      "a longer struct whose rest means something is refused");
	info.size = 4;
	CHECK(ioctl(device, MOULT_INFO, &info) == -1 && errno == EINVAL, "a short struct is refused");
	CHECK(ioctl(device, MOULT_INFO, NULL) == -1 && errno == EFAULT, "a null argument is refused");
	CHECK(ioctl(device, _IO(MOULT_IOC, 99), NULL) == -1 && errno == ENOTTY, "unknown calls are refused");

	CHECK_EQ(run_child(open_as_nobody, NULL), 0, "opening takes CAP_SYS_ADMIN, whatever the file mode");
	chmod("/dev/moult", 0600);
	CHECK_EQ(run_child(attach_as_nobody, NULL), 0,
		 "who was given a descriptor may attach, but not ask or detach");
	return finish();
}
