// SPDX-License-Identifier: GPL-2.0-only
/* Code runs from template pages. The window's last page begins with: mov eax, 42; ret. */
#include "moult_test.h"

int main(void)
{
	const int rx = PROT_READ | PROT_EXEC;
	int (*code)(void);
	char *va;

	setup();
	va = map_attached(1, window_pages() - 1, rx);
	memcpy(&code, &va, sizeof(code));
	CHECK_EQ(code(), 42, "code in a template page runs");
	CHECK_EQ(mprotect(va, PAGE, RW), 0, "make it writable");
	va[1] = 43;
	CHECK_EQ(mprotect(va, PAGE, rx), 0, "and executable again");
	CHECK_EQ(code(), 43, "patched code runs");
	va = map_attached(1, window_pages() - 1, rx);
	memcpy(&code, &va, sizeof(code));
	CHECK_EQ(code(), 42, "others still run the template's");
	va = map_attached(1, window_pages() - 1, PROT_READ);
	memcpy(&code, &va, sizeof(code));
	CHECK(killed_by(run_child((int (*)(void *))(void (*)(void))code, NULL), SIGSEGV),
	      "without PROT_EXEC it does not");
	return finish();
}
