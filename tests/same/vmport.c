// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ask VMware's port for its version, as VMware's tools do: it answers whoever has the right words in
// all four registers, which no shell can put there. ffffffff in the first: nobody is there.
#include <stdio.h>
#include <sys/io.h>

int main(void)
{
	unsigned int eax = 0x564d5868, ebx = 0, ecx = 10, edx = 0x5658;

	if (iopl(3) != 0)
		return 1;
	__asm__ volatile("inl %%dx, %%eax" : "+a"(eax), "+b"(ebx), "+c"(ecx), "+d"(edx));
	printf("%08x %08x %08x %08x\n", eax, ebx, ecx, edx);
	return 0;
}
